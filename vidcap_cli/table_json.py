"""JSON tables: an object a line, or an array of objects, which is held in memory whole.

Arrow's own reader turns strings that look like dates into dates, so Python reads.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from vidcap_cli.errors import TableError
from vidcap_cli.table_text import bare_name, lines

_ROWS = 8_192
_SHOWN = 40  # characters of a value
# Arrow writes a Parquet file with columns nested deeper than this, but cannot read it again.
_DEEPEST = 100
_JSON_FAULTS = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)


def _json_rows(path: Path) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Yield the objects in lists, with the place of each."""
    objects = _json_array(path) if _is_array(path) else _json_lines(path)
    while block := list(islice(objects, _ROWS)):
        for place, row in block:
            if not isinstance(row, dict):
                raise TableError(f"{path}: {place} is not a JSON object {{...}}; mend it")
        yield [place for place, _ in block], [row for _, row in block]


def _is_array(path: Path) -> bool:
    """Whether a file with the suffix json is one array; else it has an object a line."""
    return (
        _is_json(path)
        and next((line.lstrip()[0] for line in lines(path) if line.strip()), "") == "["
    )


def _is_json(path: Path) -> bool:
    return Path(bare_name(path)).suffix.lower() == ".json"


def _json_array(path: Path) -> Iterator[tuple[str, Any]]:
    yield from ((f"item {number}", row) for number, row in enumerate(_whole_array(path), 1))


def _whole_array(path: Path) -> list[Any]:
    text = "".join(lines(path))
    try:
        rows: list[Any] = json.loads(text)
    except ValueError as error:
        raise TableError(f"{path}: is not JSON: {error}; mend it") from error
    except RecursionError as error:
        raise TableError(_too_deep(path, "an item")) from error
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines(path), 1):
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


def json_schema(path: Path) -> pa.Schema:
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


def json_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows, in the types of ``schema``."""
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
