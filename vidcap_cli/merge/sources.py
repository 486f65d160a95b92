"""What ``merge`` is given: run directories, part files and captioned tables, read as results.

A source is one run directory, the part files of one folder, or one table with captions (written
by vidcap, or by the scripts it replaces: META plus a ``text`` column, where an empty text is a
failed row). Every source comes out in the types of ``parts.SCHEMA``, oldest result first. Nothing
here writes, and a file that is damaged is a ``TableError`` with its name.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.errors import DamagedPartError, RunError, TableError, UsageError
from vidcap_cli.merge.columns import STATUS, caption_column
from vidcap_cli.meta import BOUNDS, find_ranges, names_of, separator_hint
from vidcap_cli.option_values import NO_RANGES
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.outputs import default_run_dir
from vidcap_cli.rundir.ledger import RunParts
from vidcap_cli.rundir.parts import SCHEMA, read_part
from vidcap_cli.rundir.paths import RunDir, attempt_of, part_files
from vidcap_cli.rundir.plan import Plan, read_plan
from vidcap_cli.statuses import Status
from vidcap_cli.tables import Table, cut_short, open_table, quoted
from vidcap_cli.view.words import absent

_PART_MARKS = {"row_id", "path", "text", "status", "attempts"}


@dataclass(frozen=True, slots=True)
class Source:
    """One input: the name it was given by, its files in order, and the run they belong to.

    ``given`` is its place among the inputs. ``plan`` is None for tables, and for part files that
    do not lie in their run directory. ``captions`` is the column of a table that holds them,
    ``paths`` the one with the videos, ``ranges`` those with the ranges meant of them.
    """

    name: Path
    given: int
    files: tuple[Path, ...]
    run: RunDir | None = None
    plan: Plan | None = None
    captions: str | None = None
    questions: tuple[str, ...] = ()
    paths: str = PATH
    ranges: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether it is a table with captions."""
        return self.captions is not None

    @property
    def bases(self) -> tuple[str, ...]:
        """The folders that its relative paths start from."""
        if self.plan and not self.is_table:
            return self.plan.bases
        return (str(self.name.absolute().parent), str(Path.cwd()))

    @property
    def overwrites(self) -> bool:
        """Whether the run that it is, or that wrote it, was asked to ``--overwrite-column``."""
        plan = plan_beside(self.name) if self.is_table else self.plan
        return bool(plan and plan.table_options.get("overwrite_column"))

    @property
    def time(self) -> int:
        """When its newest file was written (nanoseconds since the epoch)."""
        return max((file.stat().st_mtime_ns for file in self.files), default=0)


def find_sources(
    inputs: Sequence[Path],
    captions: Sequence[str] = (),
    paths: str | None = None,
    ranges: str | None = None,
) -> list[Source]:
    """Sort out what was given; the same folder, run or table given twice counts once.

    ``captions`` names the columns with captions in tables that vidcap did not write, by default
    that of the runs, or of one of their questions; ``paths`` the one with the videos in tables that
    have it, by default as in the runs; ``ranges`` those with the ranges.
    """
    sources: dict[Path, Source] = {}
    tables: dict[Path, tuple[int, Path]] = {}
    loose: dict[Path, tuple[int, set[str]]] = {}
    for given, path in enumerate(inputs):
        if not path.exists():
            raise UsageError(absent(path))
        real = path.resolve()
        if not path.is_dir():
            if attempt_of(path) is not None:
                loose.setdefault(path.parent, (given, set()))[1].add(path.name)
            else:
                tables.setdefault(real, (given, path))
        elif RunDir(path).is_run:
            sources.setdefault(real, _of_run(RunDir(path), path, given))
        else:
            sources.setdefault(real, _of_parts(path, part_files(path), given))
    for folder, (given, names) in loose.items():
        files = [part for part in part_files(folder) if part.name in names]
        name = files[0] if len(files) == 1 else folder
        sources.setdefault(folder.resolve(), _of_parts(name, files, given))
    columns = captions or (asked_column([*sources.values()]),)
    plans = [source.plan for source in sources.values() if source.plan]
    asked = [name for plan in plans for name in plan.questions]
    named = [paths] if paths else [plan.path_column for plan in plans]
    found = [
        _single(path, given, [*asked, *columns], named, ranges) for given, path in tables.values()
    ]
    return sorted([*sources.values(), *found], key=lambda source: source.given)


def asked_column(sources: Sequence[Source]) -> str:
    """What the runs among ``sources`` were asked to call the captions; ``text`` where they differ.

    A part file by itself does not say it.
    """
    plans = [source.plan for source in sources if source.plan]
    asked = {str(plan.table_options.get("caption_column", TEXT)) for plan in plans}
    return asked.pop() if len(asked) == 1 else TEXT


def _of_run(run: RunDir, name: Path, given: int) -> Source:
    return Source(name, given, tuple(run.part_files()), run, read_plan(run))


def plan_beside(table: Path) -> Plan | None:
    """The plan of the run directory beside its table, if there is one that can be read."""
    run = RunDir(default_run_dir(table))
    with suppress(RunError):
        return read_plan(run) if run.is_run else None
    return None


def _of_parts(name: Path, files: list[Path], given: int) -> Source:
    if not files:
        raise UsageError(
            f"{name}: neither a run directory (no plan.json) nor a folder of part files "
            "(part-*.parquet, part-*.csv); name the run directory or the captioned table"
        )
    folder = files[0].absolute().parent
    run = RunDir(folder.parent)
    if folder.name == run.parts.name and run.is_run:
        return Source(name, given, tuple(files), run, read_plan(run))
    return Source(name, given, tuple(files))


def usual_paths(table: Path, names: Sequence[str], runs: Sequence[str] = ()) -> str:
    """The column with the videos in a table with columns ``names``, where nobody says it.

    It is one of those that ``runs`` call theirs, or what the run beside the table does; else
    ``path``.
    """
    beside = plan_beside(table)
    columns = [*runs, *([beside.path_column] if beside else [])]
    return next((column for column in columns if column in names), PATH)


def _single(
    path: Path, given: int, captions: Sequence[str], paths: Sequence[str], ranges: str | None
) -> Source:
    if path.suffix == ".tmp":
        raise UsageError(f"{path}: a temporary file that was never finished; leave it out")
    table = open_table(path)
    names = table.schema.names
    if set(names) >= _PART_MARKS:
        return Source(path, given, (path,))
    column = caption_column(names, next((n for n in captions if n in names), TEXT))
    videos = usual_paths(path, names, paths)
    if videos in names and column is not None:
        spans = caption_ranges(table, ranges)
        return Source(path, given, (path,), captions=column, paths=videos, ranges=spans)
    if hint := separator_hint(names):
        raise TableError(f"{path}: {hint}")
    raise TableError(
        f"{path}: neither a part file nor a table with captions: it needs the columns "
        f"`{next(iter(paths), PATH)}` and `{captions[-1]}`, found are {quoted(sorted(names))}; "
        "name the one with the captions with --caption-column, the one with the videos with "
        "--path-column"
    )


def caption_ranges(table: Table, wanted: str | None) -> tuple[str, ...]:
    """The columns of the range that a row's caption is about.

    None where a column has lists of ranges: one caption is about the whole video.
    """
    known = wanted == NO_RANGES or set((wanted or "").split(",")) <= set(table.schema.names)
    found = find_ranges(table, wanted if known else None)
    return found if len(found) == len(BOUNDS) else ()


def read_source(source: Source, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the results of a source, oldest first, as ``columns`` of ``parts.SCHEMA``.

    In tables of any length, in the types of ``result_schema``.
    """
    schema = result_schema(columns)
    if source.is_table:
        yield from _table_results(source, schema)
    else:
        for table in _part_results(source, columns):
            yield table.cast(schema)


def result_schema(columns: Sequence[str]) -> pa.Schema:
    """``columns`` of ``parts.SCHEMA``, nullable and with 64-bit offsets for strings.

    A block of long captions may take more than 2 GiB.
    """
    kinds = [(name, SCHEMA.field(name).type) for name in columns]
    return pa.schema(
        [(name, pa.large_string() if kind == pa.string() else kind) for name, kind in kinds]
    )


def _part_results(source: Source, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The results in the parts of a source, compared with the plan where there is one."""
    parts = RunParts(source.run, source.plan) if source.run and source.plan else None
    for file in source.files:
        try:
            yield parts.read(file, columns) if parts else read_part(file, columns)
        except DamagedPartError as error:
            remedy = (
                "repeat the command of its run, which does its rows again, or " if parts else ""
            )
            raise TableError(
                f"{error}; {remedy}leave it out: move it elsewhere and merge again (rows without "
                "another result are then missing)"
            ) from error


def _table_results(source: Source, schema: pa.Schema) -> Iterator[pa.Table]:
    assert source.captions is not None
    table = open_table(source.name)
    if fault := cut_short(table):
        raise TableError(f"{source.name}: {fault}")
    columns = {PATH: source.paths, TEXT: source.captions}
    asked = [name for name in source.questions if name in table.schema.names]
    if asked:
        columns[TEXT] = asked[0]
    if STATUS in table.schema.names:
        rest = {name: f"caption_{name}" for name in schema.names if name not in columns}
        columns |= {n: column for n, column in rest.items() if column in table.schema.names}
    table = replace(table, path_column=source.paths, ranges=source.ranges)
    row = 0
    for batch in table.batches(list(dict.fromkeys([*columns.values(), *asked, *source.ranges]))):
        results = _batch_results(table, pa.Table.from_batches([batch]), columns, schema)
        if source.ranges:
            names = names_of(table, batch, batch.column(source.paths), row)
            place = schema.get_field_index(PATH)
            results = results.set_column(place, schema.field(PATH), names.cast(pa.large_string()))
        if asked and "answers" not in columns:
            place = schema.get_field_index("answers")
            answers = _answers(batch.select(asked))
            results = results.set_column(place, schema.field("answers"), answers)
        row += batch.num_rows
        done = pc.not_equal(results["status"], Status.MISSING)
        for name in asked:  # some questions of a row that is missing may be answered
            done = pc.or_(done, pc.invert(_blank(batch.column(name).cast(pa.large_string()))))
        yield results.filter(done)


def _answers(captions: pa.RecordBatch) -> pa.Array:
    """Columns with captions, named as the questions are, as parts have the answers."""
    rows = (
        json.dumps({name: {"text": text or None} for name, text in row.items()}, ensure_ascii=False)
        for row in captions.to_pylist()
    )
    return pa.array(rows, pa.large_string())


def _batch_results(
    table: Table, batch: pa.Table, columns: dict[str, str], schema: pa.Schema
) -> pa.Table:
    """The results in a batch of a captioned table, missing rows among them."""
    found: dict[str, pa.ChunkedArray] = {}
    try:
        for name, column in columns.items():
            values = batch[column]
            if table.form in ("csv", "tsv"):
                values = pc.if_else(pc.equal(values, ""), None, values)
            found[name] = values.cast(schema.field(name).type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(f"{table.path}: the column `{column}` cannot be read: {error}") from error
    text = found["text"]
    blank = _blank(text)
    status = found.get("status", pa.chunked_array([[Status.OK] * len(text)], pa.large_string()))
    is_ok = pc.fill_null(pc.equal(status, Status.OK), False)
    status = pc.if_else(pc.and_(is_ok, blank), Status.EMPTY, status)
    found["text"] = pc.if_else(pc.equal(status, Status.OK), text, None)
    found["status"] = pc.fill_null(status, Status.MISSING)
    arrays = [
        found.get(name, pa.nulls(batch.num_rows, schema.field(name).type)) for name in schema.names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _blank(texts: pa.Array | pa.ChunkedArray) -> Any:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
