"""META: a table of videos, or of ranges of videos, and what its rows are called.

The column of paths names the videos. A row is all of its video, or the range that two columns say
(``start`` and ``end`` unless they are called otherwise), or the several in one column, as scene
detectors write them (``timestamp``): such a table is written out as one of the first kind before
it is captioned (``rundir.clips``). A row's name is its path, with the range if it has one
(``spans.named``): by it results are matched to rows.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.errors import TableError
from vidcap_cli.option_values import NO_RANGES
from vidcap_cli.options import PATH
from vidcap_cli.spans import Span, SpanError, named, span, spans
from vidcap_cli.tables import Table, is_text, open_table, quoted
from vidcap_cli.view.words import count

BOUNDS = ("start", "end")
SCENES = "timestamp"
_LOOKS_LIKE_PATH = (
    "path",
    "video_path",
    "video",
    "videos",
    "file_path",
    "filepath",
    "file",
    "filename",
    "file_name",
    "video_file",
    "relpath",
)


class RangesError(TableError):
    """A table whose columns of ranges hold something else."""


def open_meta(path: Path, column: str = PATH, ranges: str | None = None) -> Table:
    """Open a table of videos, whose paths are in ``column``.

    ``ranges`` names the columns with ranges as ``--ranges`` does; None looks for the usual ones.
    """
    table = replace(open_table(path), path_column=column)
    names = table.schema.names
    if column not in names:
        raise no_paths(table)
    kind = table.schema.field(column).type
    if not is_text(kind) and kind != pa.null():
        raise TableError(f"{path}: the column `{column}` holds {kind}, not text; convert it")
    return replace(table, ranges=find_ranges(table, ranges))


def no_paths(table: Table) -> TableError:
    """What to say of a table without its column of paths."""
    column = table.path_column
    hint = _path_hint(table.schema.names, column)
    return TableError(f"{table.path}: no column is called `{column}`. {hint}")


def find_ranges(table: Table, wanted: str | None) -> tuple[str, ...]:
    """The columns with ranges: those ``wanted``, or the usual ones if they are there."""
    if wanted == NO_RANGES:
        return ()
    if wanted is not None:
        names = tuple(wanted.split(","))
        lacking = [name for name in names if name not in table.schema.names]
        if lacking:
            raise TableError(
                f"{table.path}: no column is called {quoted(lacking)}, as --ranges {wanted} says. "
                f"Columns found: {quoted(table.schema.names)}"
            )
        return names
    if all(_may_hold_times(table.schema, name) for name in BOUNDS):
        return BOUNDS
    return (SCENES,) if SCENES in table.schema.names and _holds_scenes(table) else ()


def _may_hold_times(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_duration(kind)
    return bool(number or is_text(kind) or kind == pa.null())


def _holds_scenes(table: Table) -> bool:
    """Whether the first value of the column is a list of ranges: the word often means a date."""
    for batch in table.batches([SCENES]):
        for value in batch.column(0).to_pylist():
            if value:
                try:
                    return bool(spans(value))
                except SpanError:
                    return False
    return False


def check_questions(table: Table, column: str) -> None:
    """Raise TableError unless ``column`` may hold the questions of rows."""
    if column not in table.schema.names:
        raise TableError(
            f"{table.path}: no column is called `{column}`, as --question-column says. Columns "
            f"found: {quoted(table.schema.names)}"
        )
    kind = table.schema.field(column).type
    if not is_text(kind) and kind != pa.null():
        raise TableError(f"{table.path}: the column `{column}` holds {kind}, not text; convert it")


def row_names(table: Table) -> Iterator[pa.Array]:
    """Yield the names of the rows, or of the scenes that they list.

    All columns are read: a fault in one that only the final table needs should show at once, not
    when the captions are done. Raises as ``with_names`` does.
    """
    for _, names in with_names(table, table.batches()):
        yield names


def row_questions(table: Table, column: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield the names of the rows as ``row_names`` does, each with what ``column`` asks: null where
    that is blank.
    """
    check_questions(table, column)
    for batch, names in with_names(table, table.batches()):
        asked = pc.utf8_trim_whitespace(batch.column(column).cast(pa.string()))
        yield names, pc.if_else(pc.equal(asked, ""), pa.scalar(None, pa.string()), asked)


def with_names(
    table: Table, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Yield ``batches`` of ``table``, each with the names of its rows.

    Raises TableError for a table without rows, a row without a path, and for what is no range.
    """
    row = 0
    for batch, paths in with_paths(table, batches):
        yield batch, names_of(table, batch, paths, row) if table.ranges else paths
        row += len(paths)


def names_of(table: Table, rows: Any, paths: Any, first: int = 0) -> pa.Array:
    """The names of ``rows`` (a batch or a table) of ``table``, whose first is row ``first``."""
    ranges = zip(paths.to_pylist(), spans_of(table, rows, first), strict=True)
    return pa.array([named(path, one) for path, found in ranges for one in found], pa.string())


def spans_of(table: Table, rows: Any, first: int = 0) -> Iterator[list[Span | None]]:
    """By row of a batch of ``table``, whose first is row ``first``, the ranges of its video."""
    if not table.ranges:
        for _ in range(rows.num_rows):
            yield [None]
        return
    columns = [rows.column(name).to_pylist() for name in table.ranges]
    cells = zip(*columns, strict=True)
    for number, values in enumerate(cells, first):
        try:
            found = _spans(values)
        except SpanError as error:
            more = sum(not _are_spans(others) for others in cells)
            it = f"it and {count(more, 'faulty row')} after it" if more else "it"
            raise RangesError(
                f"{table.path}: row {number} (from 0), {quoted(table.ranges)}: {error}; mend {it}, "
                f"or caption whole videos with --ranges {NO_RANGES}"
            ) from error
        yield found


def _spans(cells: Sequence[Any]) -> list[Span | None]:
    return [span(*cells)] if len(cells) == len(BOUNDS) else spans(*cells)


def _are_spans(cells: Sequence[Any]) -> bool:
    try:
        _spans(cells)
    except SpanError:
        return False
    return True


def with_paths(
    table: Table, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Yield ``batches`` of ``table``, each with its paths as strings.

    A table without rows or a row without path raises.
    """
    row = 0
    for batch in batches:
        column = batch.column(table.path_column).cast(pa.string())
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
        first = pc.index(blank, True).as_py()
        if first >= 0:
            more = blank.true_count - 1
            so = f", and so {'has' if more == 1 else 'have'} {count(more, 'row')} after it"
            raise TableError(
                f"{table.path}: row {row + first} (from 0) has an empty "
                f"`{table.path_column}`{so if more else ''}; "
                f"fill it in or delete the row{'s' if more else ''}"
            )
        row += len(column)
        yield batch, column
    if row == 0:
        raise TableError(f"{table.path}: the table has a header but no rows; add the videos")


def separator_hint(names: Sequence[str]) -> str:
    """What to say of the columns ``names`` that are one, where another mark separates them."""
    if len(names) != 1 or not {";", "\t"} & {*names[0]}:
        return ""
    mark = ";" if ";" in names[0] else "tabulator"
    return f"its columns seem to be separated by {mark!r}: write it with commas, or as .tsv"


def _path_hint(names: Sequence[str], column: str) -> str:
    if hint := separator_hint(names):
        return hint[0].upper() + hint[1:]
    if len(names) == 1 and re.search(r"\.[a-zA-Z0-9]{2,4}$", names[0]):
        return f"The first line names the columns: write the line {column} before `{names[0]}`"
    plain = {name.strip().lower(): name for name in names}
    likely = next((plain[word] for word in _LOOKS_LIKE_PATH if word in plain), None)
    found = quoted(names) if names else "none"
    if column != PATH:
        return f"Columns found: {found}; name the one with the videos with --path-column"
    if likely is not None:
        return (
            f"Columns found: {found}; rename `{likely}` to `path` if it names the videos, or "
            f"say --path-column {shlex.quote(likely)}"
        )
    return (
        f"Columns found: {found}; rename the one that names the videos to `path`, or say "
        "--path-column NAME"
    )
