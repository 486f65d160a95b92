"""Part files: the finished rows of a run, in a fixed schema, as Parquet or CSV.

A rank commits a part at most ``--flush-seconds`` after its oldest row finished. One planned row
can be in several parts (a retry, a resumed run); ``merge`` decides between them. In CSV every
text is quoted and null is an empty unquoted field, so null and "" stay apart.
"""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vidcap_cli.rundir import atomic_write

OK = "ok"
FAILED_STATUSES = (
    "decode_error",
    "decode_timeout",
    "missing_file",
    "oom",
    "empty",
    "model_error",
    "crashed",
    "rejected",
)

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        ("path", pa.string()),
        ("text", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        ("error", pa.string()),
        ("finish_reason", pa.string()),
        ("flags", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("new_tokens", pa.int32()),
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("decode_s", pa.float32()),
        ("infer_s", pa.float32()),
        ("attempts", pa.int32()),
        ("rank", pa.int32()),
        ("reader", pa.string()),
        ("model", pa.string()),
        ("prompt", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one planned row.

    ``text`` is null unless ``status`` is ok. ``flags`` are words joined by commas. ``frames``,
    ``height`` and ``width`` (pixels) are what the model saw; ``decode_s`` and ``infer_s`` are
    seconds; ``attempts`` counts the launches that took the row up; ``reader`` read the frames.
    """

    row_id: int
    path: str
    status: str
    text: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    flags: str | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    decode_s: float | None = None
    infer_s: float | None = None
    attempts: int = 1
    rank: int | None = None
    reader: str | None = None
    model: str | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        if (self.status == OK) != (self.text is not None):
            raise ValueError(f"row {self.row_id}: a caption goes with the status ok, and only then")


def write_part(path: Path, results: Sequence[Result]) -> None:
    """Commit ``results`` as one part file, in the format its suffix names."""
    table = pa.Table.from_pylist([asdict(result) for result in results], schema=SCHEMA)
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        pq.write_table(table, buffer, compression="zstd")
    else:
        pacsv.write_csv(table, buffer)
    atomic_write(path, buffer.getvalue())


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part file (all columns, or those named) in the schema's types.

    Raises pyarrow.ArrowInvalid when the file is not a part file.
    """
    if path.suffix == ".parquet":
        # Not read_table, which takes a folder named like rank=3 for a column.
        table = pq.ParquetFile(path).read(columns=list(columns) if columns else None)
    else:
        table = pacsv.read_csv(
            path,
            # A row must fit into a block; errors and captions are far shorter than this.
            read_options=pacsv.ReadOptions(block_size=1 << 24),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=SCHEMA,
                include_columns=list(columns) if columns else None,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    names = list(columns) if columns else SCHEMA.names
    return table.select(names).cast(pa.schema([SCHEMA.field(name) for name in names]))
