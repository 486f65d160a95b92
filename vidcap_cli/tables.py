"""Tables as they are read: CSV, TSV, Parquet and JSON Lines, batch by batch, and JSON.

What is read is what was written: CSV and TSV values are the exact strings ("001" stays "001", an
empty field stays empty), Parquet and JSON keep their types. Blank lines are no rows. All but
Parquet may be compressed with gzip. A JSON file that is one array is held in memory whole. Every
fault of a table is a ``TableError`` that names the file, the place (a line counted from 1, or a
row counted from 0 without the header) and the remedy. ``table_writer`` is the other way.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from vidcap_cli.errors import TableError
from vidcap_cli.options import PATH
from vidcap_cli.view.words import absent, quoted_here

# Interrupts are answered in one place. While it reads a CSV file, pyarrow would put handlers and a
# thread of its own in between.
pa.enable_signal_handlers(False)

READABLE = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
}
GZIP = ".gz"
READABLE_WORDS = f"{', '.join(READABLE)}, and all but Parquet with {GZIP}"

ROWS = 65_536
_JSON_ROWS = 8_192
_SHOWN = 40  # characters of a value
_BUFFER = 1 << 20  # bytes of a Parquet column in memory: row groups may be of any size
_HIGH = bytes(range(0x80, 0x100))  # what is no ASCII
_BLOCK = 4 << 20  # bytes of CSV parsed at once; a single row must fit in
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
            batches = _json_batches(self.path, self.schema)
        else:
            batches = _csv_batches(self.path, self.schema, DELIMITERS[self.form])
        for batch in batches:
            yield batch.select(names)


def table_form(path: Path) -> str | None:
    """The format of the table that ``path`` is by its name, None when it is none."""
    form = READABLE.get(Path(bare_name(path)).suffix.lower())
    return None if form == "parquet" and is_gzip(path) else form


def is_gzip(path: Path) -> bool:
    """Whether the file is compressed with gzip, by its name."""
    return path.suffix.lower() == GZIP


def bare_name(path: Path) -> str:
    """The name of a file as it was before gzip."""
    return path.stem if is_gzip(path) else path.name


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
    with _readable(path):
        if form == "parquet":
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
        elif form == "jsonl":
            schema = _json_schema(path)
        else:
            header = _csv_header(path, DELIMITERS[form])
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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the readers raise on a damaged file into a ``TableError``."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError, zlib.error) as error:
        detail = str(error).splitlines()[0]
        raise TableError(
            f"{path}: cannot be read, the file looks damaged or is not what its name says: {detail}"
        ) from error


def _parquet_batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    with _readable(path), pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=names)


# CSV: Arrow parses; when it stumbles, Python's csv module reads the file again to say where.


def _csv_batches(path: Path, schema: pa.Schema, delimiter: str) -> Iterator[pa.RecordBatch]:
    # A file that ends inside quotes is taken by Arrow as it is, the rest of the table in one
    # field: an odd number of quotes is the sign to look closely.
    if odd_quotes(path):
        _find_fault(path, delimiter, schema.names)
    try:
        # By a stream of our own: pyarrow tells gzip by a suffix in lower case only.
        yield from pacsv.open_csv(
            pa.input_stream(path, compression="gzip" if is_gzip(path) else None),
            read_options=pacsv.ReadOptions(block_size=_BLOCK),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(column_types=schema, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        # Arrow calls a file that ends with its header, without a newline, empty.
        if not _find_fault(path, delimiter, schema.names):
            return
        raise TableError(f"{path}: cannot be read as a table: {error}") from error


def _binary(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a table, without compression."""
    return gzip.open(path) if is_gzip(path) else path.open("rb")


def odd_quotes(path: Path) -> bool:
    """Whether a CSV file has an odd number of quotes: it may end inside a quoted field."""
    count = 0
    with _readable(path), _binary(path) as file:
        while block := file.read(_BLOCK):
            count += block.count(b'"')
    return count % 2 == 1


def _csv_header(path: Path, delimiter: str) -> list[str]:
    try:
        header = next((row for row in csv.reader(_lines(path), delimiter=delimiter) if row), None)
    except csv.Error as error:
        raise TableError(f"{path}: line 1: cannot be read as a table: {error}") from error
    if header is None:
        raise TableError(f"{path}: the file is empty; the first line must name the columns")
    return header


def _find_fault(path: Path, delimiter: str, header: list[str]) -> int:
    """Raise the first fault of a CSV file with its line; the number of data rows if none."""
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    count = 0
    start = 1
    try:
        for row in reader:
            if row and len(row) != len(header):
                raise TableError(
                    f"{path}: line {start} (row {count - 1}) has {len(row)} fields where the "
                    f"header has {len(header)}; quote values that contain {delimiter!r}"
                )
            count += bool(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{path}: the row that begins on line {start} cannot be read ({error}); a quote that "
            "is never closed does this, and so does a file that was cut short"
        ) from error
    return count - 1


def _lines(path: Path) -> Iterator[str]:
    with (
        _readable(path),
        _binary(path) as data,
        io.TextIOWrapper(data, "utf-8-sig", "surrogateescape", newline="") as file,
    ):
        for number, line in enumerate(file, 1):
            if not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
                raise TableError(f"{path}: line {number} is not UTF-8. {_conversion(path)}")
            yield line


def _conversion(path: Path) -> str:
    """How to make a table UTF-8, from the encoding that its bytes show."""
    copy = path.with_name(f"utf8-{path.name}")
    convert = f"iconv -f {{}} -t UTF-8 {quoted_here(path)} > {quoted_here(copy)}"
    guess = _encoding(path)
    if guess is None:
        command = convert.format("ENCODING")
        return f"Save it as UTF-8, or convert it from the encoding that it has: {command}"
    name, of = guess
    return f"It looks like {name}{of}; convert it: {convert.format(name)}"


def _encoding(path: Path) -> tuple[str, str] | None:
    """The encoding of a text that is not UTF-8, and whose it is, if its bytes show one.

    Letters of Western Europe stand alone among ASCII; what GB 2312 has are pairs of such bytes.
    """
    with _binary(path) as file:
        data = file.read(_BLOCK)
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "UTF-16", ""
    data = data.rstrip(_HIGH) if len(data) == _BLOCK else data  # it may end within a letter
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    if not runs:
        return None
    if all(length % 2 == 0 for length in runs) and _decodes(data, "gb2312"):
        return "GB18030", " (Chinese)"
    if sum(length == 1 for length in runs) > len(runs) / 2 and _decodes(data, "cp1252"):
        return "WINDOWS-1252", " (Western Europe)"
    return None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


# JSON: Arrow's own reader turns strings that look like dates into dates, so Python reads.
# Arrow writes a Parquet file with columns nested deeper than this, but cannot read it again.
_DEEPEST = 100
_JSON_FAULTS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


def _json_rows(path: Path) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Yield the objects in lists, with the place of each."""
    objects = _json_array(path) if _is_array(path) else _json_lines(path)
    while block := list(islice(objects, _JSON_ROWS)):
        for place, row in block:
            if not isinstance(row, dict):
                raise TableError(f"{path}: {place} is not a JSON object {{...}}; mend it")
        yield [place for place, _ in block], [row for _, row in block]


def _is_array(path: Path) -> bool:
    """Whether a file with the suffix json is one array; else it has an object a line."""
    return (
        _is_json(path)
        and next((line.lstrip()[0] for line in _lines(path) if line.strip()), "") == "["
    )


def _is_json(path: Path) -> bool:
    return Path(bare_name(path)).suffix.lower() == ".json"


def _json_array(path: Path) -> Iterator[tuple[str, Any]]:
    yield from ((f"item {number}", row) for number, row in enumerate(_whole_array(path), 1))


def _whole_array(path: Path) -> list[Any]:
    text = "".join(_lines(path))
    try:
        rows: list[Any] = json.loads(text)
    except ValueError as error:
        raise TableError(f"{path}: is not JSON: {error}; mend it") from error
    except RecursionError as error:
        raise TableError(_too_deep(path, "an item")) from error
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            remedy = "mend it"
            if _is_json(path):
                remedy += "; a table is an array of objects, or has one object a line"
            raise TableError(f"{path}: line {number} is not JSON: {error}; {remedy}") from error
        except RecursionError as error:
            raise TableError(_too_deep(path, f"line {number}")) from error


def _json_schema(path: Path) -> pa.Schema:
    """The columns in order of first appearance, in the types that hold every row's value."""
    schema = pa.schema([])
    for places, rows in _json_rows(path):
        names = dict.fromkeys(name for row in rows for name in row)
        for name in names:
            try:
                kind = pa.infer_type([row.get(name) for row in rows])
                if _nesting(kind) > _DEEPEST:
                    where = f"the column `{name}`, in one of the {len(rows)} rows from {places[0]}"
                    raise TableError(_too_deep(path, f"{where} on,"))
                field = pa.schema([(name, kind)])
                schema = pa.unify_schemas([schema, field], promote_options="permissive")
            except _JSON_FAULTS as error:
                values = [row.get(name) for row in rows]
                raise TableError(_mixed(path, name, places, values, schema)) from error
    if not schema.names:
        raise TableError(f"{path}: the file is empty; write one JSON object a line")
    return schema


def _nesting(kind: pa.DataType) -> int:
    """How many lists and structs lie in each other; without recursion, which would end early."""
    level, depth = [kind], -1
    while level:
        level = [each.field(i).type for each in level for i in range(each.num_fields)]
        depth += 1
    return depth


def _too_deep(path: Path, where: str) -> str:
    return (
        f"{path}: {where} has lists or objects in more than {_DEEPEST} others; drop them, or write "
        "them as one string"
    )


def _json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for places, rows in _json_rows(path):
        arrays = []
        for field in schema:
            values = [row.get(field.name) for row in rows]
            try:
                arrays.append(pa.array(values, field.type))
            except _JSON_FAULTS as error:
                raise TableError(_mixed(path, field.name, places, values, schema)) from error
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _mixed(
    path: Path, name: str, places: Sequence[str], values: Sequence[Any], schema: pa.Schema
) -> str:
    """Of which value in a column the type is not that of those before it, known from ``schema``."""

    def fits(count: int) -> bool:
        try:
            kind = pa.infer_type(values[:count])
            pa.array(values[:count], kind)
            known = [pa.schema([schema.field(name)])] if name in schema.names else []
            pa.unify_schemas([*known, pa.schema([(name, kind)])], promote_options="permissive")
        except _JSON_FAULTS:
            return False
        return True

    at = bisect_left(range(1, len(values)), x=True, key=lambda count: not fits(count))
    value = repr(values[at])
    value = value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…"
    return (
        f"{path}: {places[at]}: the column `{name}` has a value of another type "
        f"{'than before' if at or name in schema.names else 'than tables have'}: {value}; mend it"
    )


def quoted(names: Iterable[str]) -> str:
    """Names of columns as they stand in a sentence."""
    return ", ".join(f"`{name}`" for name in names)
