"""Part files: the finished rows of a run, in a fixed schema, as Parquet or CSV.

A rank commits a part at most ``--flush-seconds`` after its oldest row finished. One planned row
can be in several parts (a retry, a resumed run); ``merge`` decides between them. In CSV every
text is quoted and null is an empty unquoted field, so null and "" stay apart.

A part carries the SHA-256 of its own bytes, those of the digest counted as zeros: it is verified
wherever the file was copied and whatever it is called now. Parquet has it among the key-value
metadata of the footer; CSV in a last column, ``checksum``, of the last row. Other programs read
either as any other file. Parts of older versions have no checksum and are read without.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vidcap_cli.atomic import atomic_write
from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.statuses import Status

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
        ("logprob", pa.float32()),
        ("answers", pa.string()),
    ]
)


CHECKSUM = "checksum"  # its column in CSV
_KEY = "vidcap-part-checksum"  # and its key in Parquet
_REQUIRED = ("row_id", "status")
_MARK = b"vidcap-part-sha256:"
_DIGITS = 64
_UNSEALED = _MARK + b"0" * _DIGITS


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one planned row.

    ``text`` is null unless ``status`` is ok. ``flags`` are words joined by commas. ``frames``,
    ``height`` and ``width`` (pixels) are what the model saw; ``decode_s`` and ``infer_s`` are
    seconds; ``attempts`` counts the launches that took the row up; ``reader`` read the frames;
    ``logprob`` is the mean log-probability of the text's tokens, see ``engine.Generated``.
    ``answers`` is a JSON object: where questions have names, what was said to each of them, also
    where another has no answer (``rank.said.as_json``). The text, its end and its confidence are
    then those of the first, ``new_tokens`` and ``flags`` those of all.
    """

    row_id: int
    path: str
    status: Status
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
    logprob: float | None = None
    answers: str | None = None

    def __post_init__(self) -> None:
        if (self.status == Status.OK) != (self.text is not None):
            raise ValueError(f"row {self.row_id}: a caption goes with the status ok, and only then")


def write_part(path: Path, results: Sequence[Result], by_way_of: Path | None = None) -> None:
    """Commit ``results`` as one part file, in the format its suffix names.

    ``by_way_of`` as in ``atomic.committing``.

    Raises FileExistsError instead of replacing a part that was committed before.
    """
    columns = {name: [getattr(one, name) for one in results] for name in SCHEMA.names}
    commit_part(path, pa.table(columns, schema=SCHEMA), by_way_of)


def commit_part(path: Path, table: pa.Table, by_way_of: Path | None = None) -> None:
    """The same for results that are the rows of a table in the types of ``SCHEMA``."""
    if path.exists():
        raise FileExistsError(f"{path}: this part exists already; a part is never replaced")
    contents = part_bytes(table, path.suffix.removeprefix("."))
    atomic_write(path, contents, replace=False, by_way_of=by_way_of)


def part_bytes(table: pa.Table, form: str) -> bytes:
    """The contents of a part with the rows of ``table``, which is in the types of ``SCHEMA``."""
    buffer = io.BytesIO()
    if form == "parquet":
        with pq.ParquetWriter(
            buffer, SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({_KEY: _UNSEALED.decode()})
    else:
        if table.num_rows:  # a header alone has nothing to protect
            seal = pa.array([None] * (table.num_rows - 1) + [_UNSEALED.decode()], pa.string())
            table = table.append_column(CHECKSUM, seal)
        pacsv.write_csv(table, buffer)
    return _sealed(buffer.getvalue())


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part file (all columns of ``SCHEMA``, or those named) in the schema's types.

    A column that the file lacks is null and one too many is left out, so parts of older and newer
    versions are read; ``row_id`` and ``status`` must be there, in every row.

    Raises DamagedPartError when the checksum is not that of the contents or the file is no part,
    and RunError when the disk does not give it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: this part cannot be read: {error.strerror}") from error
    is_csv = path.suffix == ".csv"
    names = list(columns) if columns else SCHEMA.names
    try:
        verified = _verify(data, is_csv=is_csv)
        if is_csv and not verified:
            _check_whole(data)
        table = (_parse_csv if is_csv else _parse_parquet)(data, names)
        if not verified:
            table.validate(full=True)
    except (pa.ArrowException, ValueError, KeyError, OSError, MemoryError, OverflowError) as error:
        detail = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedPartError(path, f"this part is damaged ({detail})") from error
    return table


def set_aside(part: Path) -> Path:
    """Rename a damaged part so that it no longer counts, and return its new name."""
    names = (f"{part.name}.damaged{number or ''}" for number in count())
    kept = next(path for name in names if not (path := part.with_name(name)).exists())
    return part.rename(kept)


def _parse_parquet(data: bytes, names: list[str]) -> pa.Table:
    # Not read_table, which takes a folder named like rank=3 for a column.
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        there = file.schema_arrow.names
        _check_names(there)
        found = file.read(columns=[name for name in (*_REQUIRED, *names) if name in there])
        rows = file.metadata.num_rows
    return _typed(
        {name: found[name] if name in there else pa.nulls(rows) for name in (*_REQUIRED, *names)},
        names,
    )


def _parse_csv(data: bytes, names: list[str]) -> pa.Table:
    _check_names(next(csv.reader([data[: data.find(b"\n")].decode()])))
    wanted = [*_REQUIRED, *(name for name in names if name not in _REQUIRED)]
    found = pacsv.read_csv(
        pa.BufferReader(data),
        # A row must fit into a block; errors and captions are far shorter than this.
        read_options=pacsv.ReadOptions(block_size=1 << 24),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=SCHEMA,
            include_columns=wanted,
            include_missing_columns=True,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return _typed({name: found[name] for name in wanted}, names)


def _check_names(there: Sequence[str]) -> None:
    lacking = [name for name in _REQUIRED if name not in there]
    if lacking:
        raise ValueError(f"it has no column {' and no column '.join(lacking)}")


def _typed(columns: dict[str, pa.ChunkedArray | pa.Array], names: list[str]) -> pa.Table:
    """The columns ``names`` in the types of ``SCHEMA``; those required must have no nulls."""
    for name in _REQUIRED:
        if columns[name].null_count:
            raise ValueError(f"a row has no {name}")
    arrays = [columns[name].cast(SCHEMA.field(name).type) for name in names]
    return pa.Table.from_arrays(arrays, schema=pa.schema([SCHEMA.field(name) for name in names]))


def _sealed(data: bytes) -> bytes:
    """``data`` with its digest in the place kept for it."""
    place = data.rfind(_UNSEALED) + len(_MARK)
    if place < len(_MARK):
        return data
    return data[:place] + hashlib.sha256(data).hexdigest().encode() + data[place + _DIGITS :]


def _verify(data: bytes, *, is_csv: bool) -> bool:
    """Whether ``data`` carries a checksum; raises ValueError when it does and does not match.

    Two signs tell that there was one, so that no single blow makes a sealed part pass for one of
    an older version: the name of its place, and the mark before the digest.
    """
    if is_csv:
        header, last = data[: data.find(b"\n")], data[-(len(_UNSEALED) + 3) :]
        signs = [header.endswith(CHECKSUM.encode() + b'"'), _MARK in last]
        start = len(data) - len(last)
    else:
        start = max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        signs = [_KEY.encode() in data[start:], _MARK in data[start:]]
    if not any(signs):
        return False
    place = data.rfind(_MARK, start) + len(_MARK)
    view = memoryview(data)
    digest = hashlib.sha256(view[:place])
    digest.update(b"0" * _DIGITS)
    digest.update(view[place + _DIGITS :])
    if not all(signs) or digest.hexdigest().encode() != data[place : place + _DIGITS]:
        raise ValueError("its checksum is not that of its contents")
    return True


def _check_whole(data: bytes) -> None:
    """Raise ValueError when a CSV file without checksum ends inside a row."""
    if not data.endswith((b"\n", b"\r")) or data.count(b'"') % 2:
        raise ValueError("its last row is not finished, the file was cut short")
