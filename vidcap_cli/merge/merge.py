"""Merge: planned rows and results become one table and an account of every row.

The rows are META's, in META's order and types; each gets the best of its results, or the status
"missing". Results of the same plan are matched by ``row_id``; parts without their run directory
by ``row_id`` as well, provided that their path is META's; captioned tables and runs of another
table by ``path``, letter by letter, for every row with that path, or where there is none by the
file that it means.

A caption beats a failure. Among equals ``prefer`` decides:

* ``newest`` (default): within a run the later attempt; between inputs the one whose newest file
  was written later, and of two written at the same time the one named later; within a table the
  later row.
* ``oldest``: the reverse of that.
* ``first``: the input that was named first, and within it the older one.
* ``longest``: the longest caption, of equal ones the newest.

Inputs are only read. Outputs appear whole or not at all, when everything has been read. Memory is
bounded whatever the number of rows and results: they lie in temporary files beside the output,
which have no name and so leave nothing behind.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.addresses import is_remote, named, resolve
from vidcap_cli.disk import check_output
from vidcap_cli.errors import RunChangedError, TableError, UsageError
from vidcap_cli.merge import answers
from vidcap_cli.merge.account import Account, Reconciliation
from vidcap_cli.merge.choosing import choose
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.matching import Results, match, read_results
from vidcap_cli.merge.replacing import Replaced, says_more
from vidcap_cli.merge.sidecars import RANGES, Sidecars
from vidcap_cli.merge.sources import Source, asked_column, caption_ranges, find_sources
from vidcap_cli.merge.spill import Ints
from vidcap_cli.meta import names_of, open_meta, with_paths
from vidcap_cli.options import NO_RANGES, PATH, TEXT, Prefer, Sidecar
from vidcap_cli.remote.table import base_of
from vidcap_cli.rundir.changes import bases_now, located
from vidcap_cli.rundir.parts import SCHEMA
from vidcap_cli.rundir.paths import RunDir, attempt_of
from vidcap_cli.rundir.places import Places, read_finished
from vidcap_cli.rundir.plan import TABLE, Reading, fingerprint_of, open_clips
from vidcap_cli.statuses import Status
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import ROWS, Table, open_table, regroup


@dataclass(frozen=True, slots=True)
class _Target:
    """The planned rows; ``rows`` is None until they are counted.

    ``bases`` are the folders that relative paths start from.
    """

    table: Table
    identity: str
    rows: int | None
    bases: tuple[str, ...]
    notes: tuple[str, ...] = ()


def merge(
    inputs: Sequence[Path],
    out: Path,
    *,
    meta: Path | None = None,
    path_column: str | None = None,
    ranges: str | None = None,
    prefer: Prefer = "newest",
    all_columns: bool = False,
    caption_column: str | None = None,
    overwrite_column: bool = False,
    prefix: str = "",
    suffix: str = "",
    strip_prefix: bool = False,
    trim_to_sentence: bool = False,
    relative_to: Path | None = None,
    sidecar: Sidecar | None = None,
    overwrite_sidecars: bool = False,
    missing: Path | None = None,
    form: str | None = None,
    limit: int | None = None,
    only_paths: bool = False,
    before: Callable[[Path], None] | None = None,
) -> Reconciliation:
    """Write the captions in ``inputs`` beside META's columns to ``out``.

    The rows are those of ``meta``, or else of the table that the run directories among the inputs
    were planned from; with ``limit`` only the first of them. ``path_column`` names the paths in
    ``meta`` and in captioned tables, by default as in the runs, or ``path``; ``ranges`` is the same
    for the columns of ranges (``meta.open_meta``). ``form`` is csv, tsv, parquet or jsonl, by
    default what the suffix of ``out`` says. ``all_columns`` adds what else is known about a result.
    The captions are called ``caption_column``, by default as all runs were asked to call them, or
    as the questions of the runs that have names;
    ``overwrite_column`` leaves out columns of META that have a name of those added, as do runs that
    were asked to, and the tables that they wrote. ``missing``
    gets META's other columns of the rows without a caption. The paths of videos are written
    relative to ``relative_to``, and what ``missing`` gets is as it was. ``sidecar`` and
    ``overwrite_sidecars`` are about files beside the videos (``Sidecars``); RunError tells, once
    the table is there, which of these cannot be written. For the rest see ``Edits``: captions are
    compared and chosen as they were written. With ``only_paths`` the rows are those that the first
    of the inputs, a run, has planned, whatever became of META; of its columns there is `path`.
    ``before`` the table appears at ``out`` it is called with the file that will be it; without it
    what is at ``out`` is kept under another name, unless all its captions are in ``inputs``.
    """
    if prefer not in get_args(Prefer):
        raise UsageError(f"--prefer {prefer}: choose one of {', '.join(get_args(Prefer))}")
    out_form = output_form(out, form)
    missing_form = output_form(missing) if missing else ""
    edits = Edits(prefix, suffix, strip_prefix, trim_to_sentence)
    sources = find_sources([named(path) for path in inputs], caption_column, path_column, ranges)
    questions = answers.questions_of(sources, caption_column or TEXT)
    sources = [replace(source, questions=questions) for source in sources]
    columns = CaptionColumns(
        TEXT if questions else caption_column or asked_column(sources),
        overwrite=overwrite_column or any(source.overwrites for source in sources),
        everything=all_columns,
        questions=questions,
    )
    target = (
        _only_paths(sources[0])
        if only_paths
        else _find_target(sources, meta and named(meta), path_column, ranges)
    )
    _check_outputs([out, *([missing] if missing else [])], sources, target)
    columns.check(target.table)
    sidecars = _sidecars(target, sidecar, overwrite=overwrite_sidecars)
    kept, schema = columns.kept(target.table.schema), columns.added(target.table.schema)
    replaced = [Replaced(out, not before and says_more(out, sources, columns, edits))]
    if missing:
        rows = says_more(missing, sources, columns, edits, kept.names)
        replaced.append(Replaced(missing, rows))
    account = Account()
    results = read_results(sources, ("row_id", PATH, *columns.results))
    with ExitStack() as opened:
        opened.enter_context(_returned_memory())
        matches = opened.enter_context(
            match(
                results,
                target.table,
                target.rows,
                target.identity,
                bases=target.bases,
                folder=out.parent,
                block=ROWS,
            )
        )
        write = opened.enter_context(writing(out, schema, out_form, before or replaced[0].keep))
        write_missing = (
            opened.enter_context(writing(missing, kept, missing_form, replaced[1].keep))
            if missing
            else None
        )
        start = 0
        for block in regroup(_checked(target.table, kept.names), ROWS):
            if limit is not None and start >= limit and not matches.need_all_rows:
                break
            for first, count in matches.pieces(start, block.num_rows):
                piece = block.slice(first - start, count)
                names = _names(piece, target, first)
                found = matches.of(first, names, limit)
                rows = piece if limit is None else piece.slice(0, max(0, limit - first))
                if not rows.num_rows:
                    continue
                choice = choose(found, first, rows.num_rows, matches.given(found), prefer)
                added = _columns(found, choice.best, columns.results)
                written = _written(added, columns, edits)
                moved = _relative(rows, target, relative_to) if relative_to else rows
                write(pa.Table.from_arrays([*moved.columns, *written], schema=schema))
                sidecars.write(_paths(rows, target), pa.table(written, names=columns.names))
                if write_missing:
                    write_missing(rows.filter(pc.not_equal(added[1], Status.OK)))
                account.add(first, names.slice(0, rows.num_rows), choice, added[1:4])
            start += block.num_rows
        else:
            if matches.rows not in (None, start):
                raise TableError(
                    f"{target.table.path}: has {start} rows where {matches.rows} were planned; it "
                    "changed while it was read: merge again"
                )
        matches.rest(start)
    sidecars.check(out)
    return account.reconciliation(
        out,
        missing,
        unmatched=matches.unmatched.tally,
        mismatched=matches.mismatched.tally,
        notes=(
            *target.notes,
            *_other_options(sources),
            *_left_out(sources),
            *_not_whole(results),
            *matches.notes(),
            *sidecars.notes(),
            *(note for one in replaced for note in one.notes()),
        ),
    )


@contextmanager
def _returned_memory() -> Iterator[None]:
    """Let pyarrow allocate with jemalloc, where it was built with that.

    mimalloc, its default, keeps for every thread what that has freed: twice the memory at the peak.
    """
    before = pa.default_memory_pool()
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _checked(table: Table, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The columns ``names`` of META; a row without a path raises."""
    for batch, _ in with_paths(table, table.batches(names)):
        yield batch


def _sidecars(target: _Target, kind: Sidecar | None, *, overwrite: bool) -> Sidecars:
    if kind and target.table.ranges:
        raise UsageError(RANGES)
    return Sidecars(kind, target.bases, overwrite)


def _paths(rows: pa.Table, target: _Target) -> pa.ChunkedArray:
    return rows[target.table.path_column].cast(pa.string())


def _relative(rows: pa.Table, target: _Target, folder: Path) -> pa.Table:
    """``rows`` with paths relative to ``folder``; those of other places stay."""
    start = folder.absolute()

    def moved(path: str) -> str:
        found = resolve(path, target.bases)
        return path if is_remote(found) else os.path.relpath(found, start)

    column = target.table.path_column
    kind = rows.schema.field(column).type
    paths = pa.array(map(moved, _paths(rows, target).to_pylist()), pa.string()).cast(kind)
    return rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), paths)


def _names(rows: pa.Table, target: _Target, first: int) -> pa.ChunkedArray:
    paths = _paths(rows, target)
    if not target.table.ranges:
        return paths
    return pa.chunked_array([names_of(target.table, rows, paths, first)])


def _columns(results: pa.Table, best: Ints, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """The added columns of the rows whose best results these are; -1 is a missing row."""
    index = pa.array(best, mask=best < 0)
    columns = [results[name].take(index).cast(SCHEMA.field(name).type) for name in names]
    columns[1] = pc.fill_null(columns[1], Status.MISSING)
    return columns


def _written(
    added: list[pa.ChunkedArray], columns: CaptionColumns, edits: Edits
) -> list[pa.ChunkedArray]:
    """The columns of the table: captions edited, and those of each question apart."""
    if not columns.questions:
        return [edits.apply(added[0], flags=added[3]), *added[1:]]
    last = added if columns.everything else added[:-1]
    return [*answers.columns(added[-1], columns.questions, edits), *last[1:]]


def _find_target(
    sources: Sequence[Source], meta: Path | None, path_column: str | None, ranges: str | None
) -> _Target:
    planned = [source for source in sources if source.plan is not None]
    if meta is not None:
        if not meta.is_file():
            raise UsageError(f"--meta {meta}: there is no such table; check the spelling")
        of_run = None if path_column or ranges else _planned_from(meta, planned)
        return of_run or _of_table(meta, planned, path_column, ranges)
    if not planned:
        raise UsageError(
            "part files and captioned tables alone do not say which rows were planned: name the "
            "table of videos with --meta"
        )
    if len({source.plan.fingerprint for source in planned if source.plan}) > 1:
        names = ", ".join(str(source.name) for source in planned)
        raise UsageError(
            f"{names}: these runs were made from different tables; say with --meta which table's "
            "rows the result should have"
        )
    return _planned_rows(planned)


def _planned_from(meta: Path, planned: Sequence[Source]) -> _Target | None:
    """The rows of a run that was planned from just this table, read and cut as it was then."""
    seen: dict[Reading, str] = {}
    for source in planned:
        assert source.plan is not None
        plan = source.plan
        if plan.reading not in seen:
            seen[plan.reading] = fingerprint_of(meta, TABLE, plan.reading)
        if seen[plan.reading] == plan.fingerprint:
            return _rows_of_run(source, meta)
    return None


def _rows_of_run(source: Source, meta: Path) -> _Target:
    """The rows of a run of ``meta``, which has not changed since."""
    plan, run = source.plan, source.run
    assert plan
    assert run
    if plan.clips_digest:
        table = open_clips(run, plan.path_column, plan.clips_digest)
    else:
        table = open_meta(meta, plan.path_column, ",".join(plan.ranges) or NO_RANGES)
    return _Target(table, plan.identity, plan.rows, bases_now(plan, meta.absolute()))


def _of_table(
    meta: Path, planned: Sequence[Source], path_column: str | None, ranges: str | None
) -> _Target:
    """The rows of a table as it is; unless it is named, the column of paths is that of a run."""
    names = open_table(meta).schema.names
    columns = (source.plan.path_column for source in planned if source.plan)
    column = path_column or next((name for name in columns if name in names), PATH)
    table = open_meta(meta, column, ranges)
    table = replace(table, ranges=caption_ranges(table, ranges))
    identity = fingerprint_of(meta, TABLE, Reading(column, table.ranges))
    bases = (base_of(meta.absolute()), str(Path.cwd()))
    return _Target(table, identity, None, bases)


def _planned_rows(planned: Sequence[Source]) -> _Target:
    """META as it was when the runs were planned, or what the plan kept of it."""
    changed = None
    for source in planned:
        assert source.plan is not None
        assert source.run
        plan = located(source.run, source.plan)
        meta = Path(plan.meta)
        if plan.kind == TABLE and meta.is_file():
            if fingerprint_of(meta, TABLE, plan.reading) == plan.fingerprint:
                return _rows_of_run(source, meta)
            changed = changed or (meta, source.name)
    if changed:
        meta, name = changed
        raise RunChangedError(
            f"{meta}: the table has changed since {name} was planned, so its rows may be others. "
            f"Restore it; or name the table whose rows you want with --meta (--meta {meta} takes "
            "it as it is now: the captions then go by path)"
        )
    first = planned[0]
    assert first.plan is not None
    if first.plan.clips_digest:
        return _rows_of_run(first, Path(first.plan.meta))
    gone = (
        f"{first.plan.meta} is gone: the result has its column `path` only. If the table lies "
        "elsewhere now, name it with --meta"
    )
    return replace(_only_paths(first), notes=(gone,) if first.plan.kind == TABLE else ())


def _only_paths(source: Source) -> _Target:
    """The rows of a run by the names that its plan has."""
    plan, run = source.plan, source.run
    assert plan
    assert run
    table = open_table(run.rows)
    only_path = Table(table.path, table.form, pa.schema([table.schema.field(PATH)]))
    return _Target(only_path, plan.identity, plan.rows, plan.bases)


def _other_options(sources: Sequence[Source]) -> tuple[str, ...]:
    """A note when the runs to be merged were asked different things."""
    asked = [source.plan.options for source in sources if source.plan]
    said: dict[str, set[str]] = {}
    for options in asked:  # older versions have fewer
        for name, value in options.items():
            said.setdefault(name, set()).add(str(value))
    differ = {name: sorted(values) for name, values in said.items() if len(values) > 1}
    if not differ:
        return ()
    values = "; ".join(f"{name}: {', '.join(found)}" for name, found in differ.items())
    return (f"the runs were made with different options ({values}): their captions are mixed here",)


def _not_whole(results: Results) -> Iterator[str]:
    """Notes on runs that have fewer results than they had when they finished."""
    for source, number in zip(results.sources, np.diff(results.ends, prepend=0), strict=True):
        done = read_finished(source.run) if source.run and source.name == source.run.path else None
        if done and number < done.rows:
            yield (
                f"{source.name} has fewer results ({number:,}) than when it finished "
                f"({done.rows:,}): parts of it are gone; copy them from where it was made, or "
                "repeat its command"
            )


def _left_out(sources: Sequence[Source]) -> Iterator[str]:
    """Notes on runs that were begun to replace one of those merged, and are not among them."""
    runs = {source.run.path.resolve(): source for source in sources if source.run}
    for path, source in runs.items():
        places = Places.of(path)
        if places.begun and places.coming.path not in runs:
            yield (
                f"{source.name}.next, begun to replace it, is left out: name it, too, or finish it "
                "by its command (vidcap inspect tells it)"
            )


def _check_outputs(outputs: Sequence[Path], sources: Sequence[Source], target: _Target) -> None:
    """Refuse an output that would replace an input, or that cannot be written where it is to go."""
    inputs = {file.resolve() for source in sources for file in (*source.files, source.name)}
    inputs |= {Path(source.plan.meta).resolve() for source in sources if source.plan}
    inputs.add(target.table.path.resolve())
    runs = [source.run for source in sources if source.run]
    for out in outputs:
        real = out.resolve()
        if real in inputs or attempt_of(real) is not None:
            raise UsageError(
                f"{out}: is one of the inputs, or would pass for one; name another file"
            )
        if any(_inside(real, run) for run in runs):
            raise UsageError(f"{out}: lies among the files of a run; name a file outside")
        check_output(out)
    if len({out.resolve() for out in outputs}) < len(outputs):
        raise UsageError(f"{outputs[0]}: the table and --missing cannot be the same file")


def _inside(path: Path, run: RunDir) -> bool:
    folder = run.path.resolve()
    own = {folder / file.name for file in (run.plan, run.rows, run.finished, run.lock)}
    folders = {folder / inner.name for inner in (run.parts, run.attempts_folder, run.logs)}
    return path in own or any(path.is_relative_to(inner) for inner in folders)
