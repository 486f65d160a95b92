"""CSV and TSV: Arrow parses; when it stumbles, Python's csv module reads again to say where."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from vidcap_cli.errors import TableError
from vidcap_cli.table_text import binary, is_gzip, lines, readable

# Interrupts are answered in one place. While it reads a CSV file, pyarrow would put handlers and a
# thread of its own in between.
pa.enable_signal_handlers(False)

_BLOCK = 4 << 20  # bytes parsed at once; a single row must fit in


def csv_batches(path: Path, schema: pa.Schema, delimiter: str) -> Iterator[pa.RecordBatch]:
    """The rows, all columns as strings."""
    # A file that ends inside quotes is taken by Arrow as it is, the rest of the table in one
    # field: an odd number of quotes is the sign to look closely.
    if _odd_quotes(path):
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


def _odd_quotes(path: Path) -> bool:
    """Whether a CSV file has an odd number of quotes: it may end inside a quoted field."""
    count = 0
    with readable(path), binary(path) as file:
        while block := file.read(_BLOCK):
            count += block.count(b'"')
    return count % 2 == 1


def csv_header(path: Path, delimiter: str) -> list[str]:
    """The names of the columns, from the first line that is not blank."""
    try:
        header = next((row for row in csv.reader(lines(path), delimiter=delimiter) if row), None)
    except csv.Error as error:
        raise TableError(f"{path}: line 1: cannot be read as a table: {error}") from error
    if header is None:
        raise TableError(f"{path}: the file is empty; the first line must name the columns")
    return header


def _find_fault(path: Path, delimiter: str, header: list[str]) -> int:
    """Raise the first fault of a CSV file with its line; the number of data rows if none."""
    reader = csv.reader(lines(path), delimiter=delimiter, strict=True)
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
