"""Merge: planned rows and results become one table and an account of every row.

The rows are META's, in META's order and types; each gets the best of its results, or the status
"missing". Results of the same plan are matched by ``row_id``; parts without their run directory
by ``row_id`` as well, provided that their path is META's; captioned tables and runs of another
table by ``path``, letter by letter, for every row with that path.

A caption beats a failure. Among equals ``prefer`` decides:

* ``newest`` (default): within a run the later attempt; between inputs the one whose newest file
  was written later, and of two written at the same time the one named later.
* ``oldest``: the reverse of that.
* ``first``: the input that was named first.
* ``longest``: the longest caption.

Inputs are only read. Outputs appear whole or not at all, when everything has been read. Results
are held in memory, META is streamed.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.disk import check_output
from vidcap_cli.errors import RunChangedError, TableError, UsageError
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.merge.matching import (
    Ints,
    Matches,
    Results,
    choose,
    conflicts,
    first_rows,
    match,
    read_results,
)
from vidcap_cli.merge.sources import Source, find_sources
from vidcap_cli.options import TEXT, Prefer
from vidcap_cli.rundir.parts import SCHEMA
from vidcap_cli.rundir.paths import RunDir, attempt_of
from vidcap_cli.rundir.plan import TABLE, fingerprint_of
from vidcap_cli.statuses import Status
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import (
    PATH,
    ROWS,
    Table,
    open_meta,
    open_table,
    regroup,
)

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One row or result behind a number; ``row`` is None where it fits no planned row."""

    row: int | None
    path: str | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """A number and the first few cases of it."""

    count: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What became of every planned row: ``rows == ok + failed + missing``.

    ``duplicates`` are rows with more than one result, ``conflicts`` rows with different captions
    to choose from. ``unmatched`` are results that fit no planned row, ``mismatched`` those whose
    ``row_id`` and ``path`` name different rows: neither is used. ``notes`` are sentences.
    """

    out: str
    rows: int
    ok: int
    failed: dict[str, Tally]
    missing: Tally
    duplicates: Tally
    conflicts: Tally
    unmatched: Tally
    mismatched: Tally
    missing_file: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every planned row has a caption."""
        return self.ok == self.rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "complete": self.complete}


@dataclass(frozen=True, slots=True)
class _Target:
    """The planned rows; ``rows`` is None until they are counted."""

    table: Table
    fingerprint: str
    rows: int | None
    notes: tuple[str, ...] = ()


def merge(
    inputs: Sequence[Path],
    out: Path,
    *,
    meta: Path | None = None,
    prefer: Prefer = "newest",
    all_columns: bool = False,
    caption_column: str = TEXT,
    overwrite_column: bool = False,
    missing: Path | None = None,
    form: str | None = None,
    limit: int | None = None,
) -> Reconciliation:
    """Write the captions in ``inputs`` beside META's columns to ``out``.

    The rows are those of ``meta``, or else of the table that the run directories among the
    inputs were planned from; with ``limit`` only the first of them. ``form`` is csv, tsv or
    parquet, by default what the suffix of ``out`` says. ``all_columns`` adds what else is known
    about a result. The captions are called ``caption_column``; ``overwrite_column`` leaves out
    columns of META that have a name of those added. ``missing`` gets META's other columns of the
    rows without a caption.
    """
    if prefer not in get_args(Prefer):
        raise UsageError(f"--prefer {prefer}: choose one of {', '.join(get_args(Prefer))}")
    out_form = output_form(out, form)
    missing_form = output_form(missing) if missing else ""
    columns = CaptionColumns(caption_column, overwrite=overwrite_column, everything=all_columns)
    sources = find_sources(inputs, caption_column)
    target = _find_target(sources, meta)
    _check_outputs([out, *([missing] if missing else [])], sources, target)
    columns.check(target.table)
    kept, schema = columns.kept(target.table.schema), columns.added(target.table.schema)
    results = read_results(sources, ("row_id", PATH, *columns.results))
    matches = match(results, target.table, target.rows, target.fingerprint)
    if limit is not None:
        matches = first_rows(matches, limit)
    best = choose(results, matches, prefer)
    account = _Account(results, matches, best)
    with ExitStack() as outputs:
        write = outputs.enter_context(writing(out, schema, out_form))
        write_missing = (
            outputs.enter_context(writing(missing, kept, missing_form)) if missing else None
        )
        start = 0
        for block in regroup(target.table.batches(kept.names), ROWS):
            if start == matches.rows:  # of a limit
                break
            rows = block.slice(0, matches.rows - start)
            added = _columns(results, best[start : start + rows.num_rows], columns.results)
            write(pa.Table.from_arrays([*rows.columns, *added], schema=schema))
            if write_missing:
                write_missing(rows.filter(pc.not_equal(added[1], Status.OK)))
            account.note_paths(start, rows[PATH])
            start += rows.num_rows
        if start != matches.rows:
            raise TableError(
                f"{target.table.path}: has {start} rows where {matches.rows} were planned; it "
                "changed while it was read: merge again"
            )
    return account.reconciliation(out, missing, (*target.notes, *_other_options(sources)))


def _columns(results: Results, best: Ints, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """The added columns of the rows whose best results these are; -1 is a missing row."""
    index = pa.array(best, mask=best < 0)
    columns = [results.table[name].take(index).cast(SCHEMA.field(name).type) for name in names]
    columns[1] = pc.fill_null(columns[1], Status.MISSING)
    return columns


def _find_target(sources: Sequence[Source], meta: Path | None) -> _Target:
    if meta is not None:
        if not meta.is_file():
            raise UsageError(f"--meta {meta}: there is no such table; check the spelling")
        return _Target(open_meta(meta), fingerprint_of(meta, TABLE), None)
    planned = [source for source in sources if source.plan is not None]
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


def _planned_rows(planned: Sequence[Source]) -> _Target:
    """META as it was when the runs were planned, or what the plan kept of it."""
    changed = None
    for source in planned:
        assert source.plan is not None
        plan = source.plan
        meta = Path(plan.meta)
        if plan.kind == TABLE and meta.is_file():
            if fingerprint_of(meta, TABLE) == plan.fingerprint:
                return _Target(open_meta(meta), plan.fingerprint, plan.rows)
            changed = changed or (meta, source.name)
    if changed:
        meta, name = changed
        raise RunChangedError(
            f"{meta}: the table has changed since {name} was planned, so its rows may be others. "
            f"Restore it; or name the table whose rows you want with --meta (--meta {meta} takes "
            "it as it is now: the captions then go by path)"
        )
    source = planned[0]
    assert source.plan is not None
    assert source.run is not None
    table = open_table(source.run.rows)
    only_path = Table(table.path, table.form, pa.schema([table.schema.field(PATH)]))
    gone = (
        f"{source.plan.meta} is gone: the result has its column `path` only. If the table lies "
        "elsewhere now, name it with --meta"
    )
    notes = (gone,) if source.plan.kind == TABLE else ()
    return _Target(only_path, source.plan.fingerprint, source.plan.rows, notes)


def _other_options(sources: Sequence[Source]) -> tuple[str, ...]:
    """A note when the runs to be merged were asked different things."""
    asked = [source.plan.options for source in sources if source.plan]
    names = (
        [name for name in asked[0] if len({str(o.get(name)) for o in asked}) > 1] if asked else []
    )
    if not names:
        return ()
    values = "; ".join(
        f"{name}: {', '.join(sorted({str(o.get(name)) for o in asked}))}" for name in names
    )
    return (f"the runs were made with different options ({values}): their captions are mixed here",)


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


class _Account:
    """The counts behind a reconciliation, and a few rows to show for each."""

    def __init__(self, results: Results, matches: Matches, best: Ints) -> None:
        self._results = results
        self._matches = matches
        self._conflicts = conflicts(results, matches)
        self._times = np.bincount(matches.row, minlength=matches.rows)
        coded = results.table["status"].combine_chunks().dictionary_encode()
        names = [*coded.dictionary.to_pylist(), Status.MISSING]
        status = np.append(coded.indices.to_numpy(), len(names) - 1)[best]
        self._counts = {
            name: int(count)
            for name, count in zip(names, np.bincount(status, minlength=len(names)), strict=True)
            if count
        }
        self._rows = {
            name: np.flatnonzero(status == code)[:EXAMPLES].tolist()
            for code, name in enumerate(names)
            if name != Status.OK
        }
        self._errors = {
            row: results.table["error"][int(best[row])].as_py()
            for name, rows in self._rows.items()
            for row in rows
            if name != Status.MISSING
        }
        self._duplicates = np.flatnonzero(self._times > 1)
        wanted = [*self._rows.values(), self._duplicates[:EXAMPLES], [*self._conflicts][:EXAMPLES]]
        wrong = results.table["row_id"].take(pa.array(matches.mismatched[:EXAMPLES])).to_pylist()
        self._wanted = np.unique(np.concatenate([*map(np.array, wanted), wrong])).astype(np.int64)
        self._paths: dict[int, str] = {}

    def note_paths(self, start: int, column: pa.ChunkedArray) -> None:
        """Remember the paths of the rows to be shown, if they are among these."""
        first, last = np.searchsorted(self._wanted, [start, start + len(column)])
        for row in self._wanted[first:last].tolist():
            self._paths[row] = str(column[row - start].as_py())

    def reconciliation(
        self, out: Path, missing: Path | None, notes: tuple[str, ...]
    ) -> Reconciliation:
        """The account, once all paths were seen."""
        names = sorted(name for name in self._counts if name not in (Status.OK, Status.MISSING))
        lost, wrong = self._matches.unmatched, self._matches.mismatched
        return Reconciliation(
            out=str(out),
            rows=self._matches.rows,
            ok=self._counts.get(Status.OK, 0),
            failed={name: self._tally_status(name) for name in names},
            missing=self._tally_status(Status.MISSING),
            duplicates=Tally(
                len(self._duplicates),
                tuple(
                    self._example(row, f"{self._times[row]} results")
                    for row in self._duplicates[:EXAMPLES].tolist()
                ),
            ),
            conflicts=Tally(
                len(self._conflicts),
                tuple(
                    self._example(row, " | ".join(texts))
                    for row, texts in islice(self._conflicts.items(), EXAMPLES)
                ),
            ),
            unmatched=Tally(len(lost), tuple(map(self._stray, lost[:EXAMPLES].tolist()))),
            mismatched=Tally(len(wrong), tuple(map(self._mismatch, wrong[:EXAMPLES].tolist()))),
            missing_file=str(missing) if missing else None,
            notes=notes,
        )

    def _tally_status(self, name: str) -> Tally:
        rows = self._rows.get(name, [])
        examples = tuple(self._example(row, self._errors.get(row)) for row in rows)
        return Tally(self._counts.get(name, 0), examples)

    def _example(self, row: int, detail: str | None) -> Example:
        return Example(row, self._paths.get(row), detail)

    def _stray(self, result: int) -> Example:
        """A result that fits no planned row."""
        path = self._results.table[PATH][result].as_py()
        return Example(None, path, f"in {self._source(result)}")

    def _mismatch(self, result: int) -> Example:
        """A result whose ``row_id`` is another video's."""
        row = self._results.table["row_id"][result].as_py()
        path = self._results.table[PATH][result].as_py()
        return self._example(row, f"{path!r} in {self._source(result)}")

    def _source(self, result: int) -> Path:
        return self._results.sources[int(self._results.source[result])].name
