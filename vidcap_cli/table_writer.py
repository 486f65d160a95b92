r"""Tables as they are written: CSV, TSV, Parquet and JSON Lines, batch by batch.

CSV with minimal quoting and "\n" line ends; every value is read again as it was. A table appears
under its name only when it is whole and on the disk. What JSON has no value for becomes its text
there (dates, bytes), or null (NaN and the infinities).
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.atomic import committing
from vidcap_cli.errors import TableError
from vidcap_cli.tables import DELIMITERS, is_binary, is_text

WRITABLE = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl"}


def output_form(path: Path, form: str | None = None) -> str:
    """The format to write ``path`` in: ``form``, or else what the suffix says."""
    if path.suffix.lower() == ".gz":
        raise TableError(
            f"{path}: vidcap writes no .gz; leave that out, or name a .parquet file, which is "
            "compressed"
        )
    found = form or WRITABLE.get(path.suffix.lower())
    if found is None and path.is_dir():
        raise TableError(f"{path}: is a folder; name a file in it, such as {path / 'captions.csv'}")
    if found is None or found not in WRITABLE.values():
        other = f", not {form or path.suffix!r}" if form or path.suffix else ""
        raise TableError(
            f"{path}: vidcap writes {', '.join(WRITABLE)}{other}; "
            "choose one of them or name the format with --format"
        )
    return found


@contextmanager
def writing(
    path: Path, schema: pa.Schema, form: str, before: Callable[[Path], None] | None = None
) -> Iterator[Callable[[pa.Table], None]]:
    """Hand out a function that appends a table to ``path``, which appears when the block ends.

    ``before`` that happens it is called with the file that is about to take the place.
    """
    with committing(path) as temporary:
        with _appending(path, temporary, schema, form) as append:
            yield append
        if before:
            before(temporary)


@contextmanager
def _appending(
    path: Path, temporary: Path, schema: pa.Schema, form: str
) -> Iterator[Callable[[pa.Table], None]]:
    """The function that appends to ``temporary``, in ``form``; the file is whole when it ends."""
    if form == "parquet":
        try:
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                yield writer.write_table
        except pa.ArrowNotImplementedError as error:  # an empty struct, for one
            raise TableError(f"{path}: Parquet has no such type ({error}); write CSV") from error
    elif form == "jsonl":
        with temporary.open("wb") as file:
            yield lambda table: _write_lines(file, table)
    else:
        delimiter = DELIMITERS[form]
        with temporary.open("wb") as file:
            header = [pa.chunked_array([[name]], pa.large_string()) for name in schema.names]
            file.write(_csv_lines(header, delimiter))

            def append(table: pa.Table) -> None:
                if table.num_rows:
                    file.write(_csv_lines([_text(c) for c in table.columns], delimiter))

            yield append


def _write_lines(file: BinaryIO, table: pa.Table) -> None:
    """Append an object for each row."""
    for row in table.to_pylist():
        line = json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False)
        file.write(line.encode() + b"\n")


def jsonable(value: Any) -> Any:
    """``value`` as JSON can have it."""
    if isinstance(value, dict):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return _spell(value)


def _csv_lines(columns: Sequence[pa.ChunkedArray], delimiter: str) -> bytes:
    """The rows of large_string columns as CSV, quoted where a reader needs it."""
    fields = []
    for column in columns:
        needs = _holds_any(column, f'"\r\n{delimiter}')
        if len(columns) == 1:
            # Without quotes a row with a single empty field would be a blank line.
            needs = pc.or_(needs, pc.equal(column, ""))
        if pc.any(needs).as_py():
            inner = pc.replace_substring(column, '"', '""')
            fields.append(pc.if_else(needs, _join(['"', inner, '"'], ""), column))
        else:
            fields.append(column)
    lines = _join([_join(fields, delimiter), ""], "\n").combine_chunks()
    # The values of a string array lie one after the other: that buffer is the text of the file.
    return bytes(lines.buffers()[2])


def _holds_any(column: pa.ChunkedArray, characters: str) -> pa.ChunkedArray:
    """Whether each string has one of ``characters``, which are ASCII; many times a regex."""
    found = []
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        holds = np.zeros(len(chunk), np.bool_)
        if len(chunk) and values is not None:
            bounds = np.frombuffer(offsets, np.int64, len(chunk) + 1, 8 * chunk.offset)
            text = np.frombuffer(values, np.uint8, bounds[-1] - bounds[0], bounds[0])
            special = np.zeros(len(text), np.bool_)
            for code in characters.encode():
                special |= text == code
            places = np.flatnonzero(special) + bounds[0]
            holds[np.searchsorted(bounds, places, side="right") - 1] = True
        found.append(pa.array(holds))
    return pa.chunked_array(found, pa.bool_())


def _join(fields: Sequence[pa.ChunkedArray | str], separator: str) -> pa.ChunkedArray:
    # The kernel does not mix the widths of string types, and a bare str is a narrow one.
    wide = [pa.scalar(f, pa.large_string()) if isinstance(f, str) else f for f in fields]
    return pc.binary_join_element_wise(*wide, pa.scalar(separator, pa.large_string()))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as the strings a CSV file holds; null is the empty string."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _text(column.cast(kind.value_type))
    if is_text(kind) and not is_binary(kind):
        text = column.cast(pa.large_string())
    elif pa.types.is_floating(kind):
        # Arrow writes 30.0 as "30"; a reader that infers types should find a float again.
        digits = column.cast(pa.large_string())
        text = pc.replace_substring_regex(digits, r"^(-?\d+)$", r"\1.0")
    elif pa.types.is_nested(kind) or is_binary(kind):
        text = pa.chunked_array([[_spell(v) for v in column.to_pylist()]], pa.large_string())
    else:
        try:
            text = column.cast(pa.large_string())
        except pa.ArrowNotImplementedError:
            text = pa.chunked_array([[_spell(v) for v in column.to_pylist()]], pa.large_string())
    return pc.fill_null(text, "")


def _spell(value: Any) -> str | None:
    """A value without a CSV form of its own: JSON for lists and structs, else its text."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
