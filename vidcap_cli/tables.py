"""Tables as they are read: CSV, TSV, Parquet and JSON Lines, batch by batch, and JSON.

What is read is what was written: CSV and TSV values are the exact strings ("001" stays "001", an
empty field stays empty), Parquet and JSON keep their types. Blank lines are no rows. All but
Parquet may be compressed with gzip. Every fault of a table is a ``TableError`` that names the file,
the place (a line counted from 1, or a row counted from 0 without the header) and the remedy.
``table_writer`` is the other way.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.errors import TableError
from vidcap_cli.options import PATH
from vidcap_cli.table_csv import csv_batches, csv_header
from vidcap_cli.table_json import json_batches, json_schema
from vidcap_cli.table_text import GZIP, bare_name, is_gzip, readable
from vidcap_cli.view.words import absent

READABLE = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
}
READABLE_WORDS = f"{', '.join(READABLE)}, and all but Parquet with {GZIP}"

ROWS = 65_536
_BUFFER = 1 << 20  # bytes of a Parquet column in memory: row groups may be of any size
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table on the disk; its header has been read, its rows not yet.

    In a table of videos ``path_column`` is the one that names them, ``ranges`` those of the start
    and the end of what is meant of each, or the one with a list of such pairs, or none.
    """

    path: Path
    form: str
    schema: pa.Schema
    path_column: str = PATH
    ranges: tuple[str, ...] = ()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, all columns or those named, in batches of any length."""
        names = list(columns) if columns is not None else self.schema.names
        if self.form == "parquet":
            batches = _parquet_batches(self.path, names)
        elif self.form == "jsonl":
            batches = json_batches(self.path, self.schema)
        else:
            batches = csv_batches(self.path, self.schema, DELIMITERS[self.form])
        for batch in batches:
            yield batch.select(names)


def table_form(path: Path) -> str | None:
    """The format of the table that ``path`` is by its name, None when it is none."""
    form = READABLE.get(Path(bare_name(path)).suffix.lower())
    return None if form == "parquet" and is_gzip(path) else form


def cut_short(table: Table) -> str:
    """What to say of a CSV file whose last line is not ended, as every program that writes CSV
    does; empty for others. Of gzip and JSON the readers notice it.
    """
    if table.form not in DELIMITERS or is_gzip(table.path):
        return ""
    with table.path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 1))
        if file.read(1) in (b"\n", b"\r"):
            return ""
    return (
        "the last row is not finished, the file seems to be cut short; restore it, delete that "
        "row, or end its line if it is whole"
    )


def open_table(path: Path) -> Table:
    """Read what the header or footer of the table at ``path`` says."""
    form = table_form(path)
    if form is None:
        raise TableError(
            f"{path}: unknown kind of table {path.suffix!r}; "
            f"vidcap reads {READABLE_WORDS}: convert or rename it"
        )
    if not path.is_file():
        raise TableError(absent(path, "file"))
    with readable(path):
        if form == "parquet":
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
        elif form == "jsonl":
            schema = json_schema(path)
        else:
            header = csv_header(path, DELIMITERS[form])
            schema = pa.schema([(name, pa.string()) for name in header])
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise TableError(
            f"{path}: the column {quoted(twice)} is there more than once; rename or drop one"
        )
    return Table(path, form, schema)


def hashes(strings: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Python's 64-bit hashes: equal strings have equal ones within this process."""
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    values = strings.to_numpy(zero_copy_only=False)
    return np.fromiter(map(hash, values), np.int64, len(values))


def regroup(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of exactly ``rows`` rows; the last may be shorter."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        rest = batch
        while count + rest.num_rows >= rows:
            pending.append(rest.slice(0, rows - count))
            yield pa.Table.from_batches(pending)
            rest = rest.slice(rows - count)
            pending, count = [], 0
        if rest.num_rows:
            pending.append(rest)
            count += rest.num_rows
    if pending:
        yield pa.Table.from_batches(pending)


def selectable(schema: pa.Schema) -> pa.Schema:
    """``schema`` with strings for string views, of which Arrow cannot select any."""
    fields = [
        field.with_type(pa.large_string()) if pa.types.is_string_view(field.type) else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def is_binary(kind: pa.DataType) -> bool:
    """Whether values of ``kind`` are bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values of ``kind`` can be read as strings."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    # Some writers of Parquet leave strings unmarked: they come as binary.
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or is_binary(kind)
    )


def _parquet_batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    with readable(path), pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=names)


def quoted(names: Iterable[str]) -> str:
    """Names of columns as they stand in a sentence."""
    return ", ".join(f"`{name}`" for name in names)
