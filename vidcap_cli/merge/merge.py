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

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.addresses import named
from vidcap_cli.disk import check_output
from vidcap_cli.errors import RunError, TableError, UsageError
from vidcap_cli.families import FAMILIES
from vidcap_cli.merge import answers, notes
from vidcap_cli.merge.account import Account, Reconciliation
from vidcap_cli.merge.choosing import Choice, choose
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.merge.combining import combine
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.matching import Matches, match, read_results
from vidcap_cli.merge.replacing import Replaced, captioned, says_more
from vidcap_cli.merge.sidecars import RANGES, Sidecars
from vidcap_cli.merge.sources import Source, asked_column, find_sources
from vidcap_cli.merge.spill import Ints
from vidcap_cli.merge.target import Target, find_target, only_paths
from vidcap_cli.merge.todo import Add, rows_to_do
from vidcap_cli.options import PATH, TEXT, Prefer, Sidecar
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.rundir.parts import SCHEMA
from vidcap_cli.rundir.paths import RunDir, attempt_of
from vidcap_cli.rundir.plan import read_plan
from vidcap_cli.statuses import Status
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import ROWS, Table, regroup


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
    questions: Sequence[str] = (),
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
    planned_paths: bool = False,
    before: Callable[[Path], None] | None = None,
) -> Reconciliation:
    """Write the captions in ``inputs`` beside META's columns to ``out``.

    The rows are those of ``meta``, or else of the table that the run directories among the inputs
    were planned from; with ``limit`` only the first of them. ``path_column`` names the paths in
    ``meta`` and in captioned tables, by default as in the runs, or ``path``; ``ranges`` is the same
    for the columns of ranges (``meta.open_meta``). ``form`` is csv, tsv, parquet or jsonl, by
    default what the suffix of ``out`` says. ``all_columns`` adds what else is known about a result,
    and the other captions of a row. The captions are called ``caption_column``, by default as all
    runs were asked to call them, or as the questions of the runs that have names, or as
    ``questions``, which tables have columns of;
    ``overwrite_column`` leaves out columns of META that have a name of those added, as do runs that
    were asked to, and the tables that they wrote. ``missing``
    gets META's other columns of the rows without a caption. The paths of videos are written
    relative to ``relative_to``; ``missing`` gets those that mean the same there. ``sidecar`` and
    ``overwrite_sidecars`` are about files beside the videos (``Sidecars``); ``failure`` of the
    account tells which of these cannot be written. For the rest see ``Edits``: captions are
    compared and chosen as they were written. With ``planned_paths`` the rows are those that the
    first of the inputs, a run, has planned, whatever became of META, with `path` alone.
    ``before`` the table appears at ``out`` it is called with the file that will be it; without it
    what is at ``out`` is kept under another name, unless all its captions are in ``inputs``.
    """
    if prefer not in get_args(Prefer):
        raise UsageError(f"--prefer {prefer}: choose one of {', '.join(get_args(Prefer))}")
    out_form = output_form(out, form)
    missing_form = output_form(missing) if missing else ""
    edits = Edits(prefix, suffix, strip_prefix, trim_to_sentence)
    given = questions or ((caption_column,) if caption_column else ())
    sources = find_sources([named(path) for path in inputs], given, path_column, ranges)
    questions = answers.questions_of(sources, caption_column or TEXT, questions)
    sources = [replace(source, questions=questions) for source in sources]
    columns = CaptionColumns(
        TEXT if questions else caption_column or asked_column(sources),
        overwrite=overwrite_column or any(source.overwrites for source in sources),
        everything=all_columns,
        others=all_columns and not before and not planned_paths,
        questions=questions,
    )
    target = (
        only_paths(sources[0])
        if planned_paths
        else find_target(sources, meta and named(meta), path_column, ranges)
    )
    _check_outputs([out, *([missing] if missing else [])], sources, target)
    columns.check(target.table)
    sidecars = _sidecars(target, sidecar, overwrite=overwrite_sidecars)
    kept, schema = columns.kept(target.table.schema), columns.added(target.table.schema)
    there = Replaced(out) if before else _replaced(out, sources, columns, edits, target.table)
    replaced = [there]
    if missing:
        names = target.table.schema.names
        more = says_more(missing, sources, columns, edits, meta=names, kept=kept.names)
        replaced.append(Replaced(missing, more))
    account = Account()
    results = read_results(sources, ("row_id", PATH, *columns.results))
    with ExitStack() as opened:
        opened.enter_context(_returned_memory())
        matches = opened.enter_context(match(results, target, out.parent, block=ROWS))
        write = opened.enter_context(writing(out, schema, out_form, before or replaced[0].keep))
        write_missing = None
        if missing:
            todo = opened.enter_context(writing(missing, kept, missing_form, replaced[1].keep))
            write_missing = opened.enter_context(
                rows_to_do(missing.absolute().parent, kept, target, todo)
            )
        rows = _Rows(
            target,
            columns,
            edits,
            prefer,
            relative_to,
            matches,
            sidecars,
            account,
            replaced[0],
            write,
            write_missing,
        )
        rows.write_all(kept.names, limit)
    return account.reconciliation(
        out,
        missing,
        unmatched=matches.unmatched.tally,
        mismatched=matches.mismatched.tally,
        failure=sidecars.failure(out),
        notes=(
            *target.notes,
            *(() if before else notes.at_work(sources)),  # it is the one that calls this
            *(() if before or relative_to else notes.on_paths(out, target)),
            *notes.on_inputs(sources, results, target, columns, misses=account.misses),
            *matches.notes(),
            *sidecars.notes(),
            *(note for one in replaced for note in one.notes()),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """What happens to each row on its way to the outputs, which ``write`` and ``write_missing``."""

    target: Target
    columns: CaptionColumns
    edits: Edits
    prefer: Prefer
    relative_to: Path | None
    matches: Matches
    sidecars: Sidecars
    account: Account
    replaced: Replaced
    write: Callable[[pa.Table], None]
    write_missing: Add | None

    def write_all(self, kept: Sequence[str], limit: int | None) -> None:
        """All rows of META, with its columns ``kept``, or the first of them up to ``limit``."""
        start = 0
        for block in regroup(self.target.batches(kept), ROWS):
            if limit is not None and start >= limit and not self.matches.need_all_rows:
                break
            for first, count in self.matches.pieces(start, block.num_rows):
                self._write_piece(block.slice(first - start, count), first, limit)
            start += block.num_rows
        else:
            if self.matches.rows not in (None, start):
                raise TableError(
                    f"{self.target.table.path}: has {start} rows where {self.matches.rows} were "
                    "planned; it changed while it was read: merge again"
                )
        self.matches.rest(start)

    def _write_piece(self, piece: pa.Table, first: int, limit: int | None) -> None:
        """Rows from number ``first`` on; results beyond ``limit`` are only matched."""
        names = self.target.names(piece, first)
        found = self.matches.of(first, names, limit)
        rows = piece if limit is None else piece.slice(0, max(0, limit - first))
        if not rows.num_rows:
            return
        given, runs = self.matches.given(found), self.matches.runs(found)
        choice = choose(
            found,
            first,
            rows.num_rows,
            given=given,
            runs=runs,
            prefer=self.prefer,
            questions=self.columns.questions,
        )
        added = _columns(found, choice.best, self.columns.results)
        written = _written(added, choice, self.columns, self.edits)
        if self.columns.others:
            written.append(_others(choice, rows.num_rows, self.matches))
        moved = self.target.relative(rows, self.relative_to) if self.relative_to else rows
        schema = self.columns.added(self.target.table.schema)
        self.write(pa.Table.from_arrays([*moved.columns, *written], schema=schema))
        captions = pa.table(written, names=self.columns.names)
        self.sidecars.write(self.target.paths(rows), captions)
        if self.write_missing:
            self.write_missing(rows, added[1])
        has = np.asarray(pc.equal(added[1], Status.OK).to_numpy(), np.bool_)
        for name in self.columns.questions:  # of which a row may answer some
            has |= pc.is_valid(captions[name]).to_numpy()
        self.replaced.compare(first, moved[self.target.table.path_column], has)
        self.account.add(first, names.slice(0, rows.num_rows), choice, added[1:4])


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


def _replaced(
    out: Path, sources: Sequence[Source], columns: CaptionColumns, edits: Edits, meta: Table
) -> Replaced:
    """What is at the place of the output."""
    more = says_more(out, sources, columns, edits, meta=meta.schema.names)
    return Replaced(out, more, () if more else captioned(out, columns, meta.path_column))


def _sidecars(target: Target, kind: Sidecar | None, *, overwrite: bool) -> Sidecars:
    if kind and target.table.ranges:
        raise UsageError(RANGES)
    return Sidecars(kind, target.bases, overwrite)


def _columns(results: pa.Table, best: Ints, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """The added columns of the rows whose best results these are; -1 is a missing row."""
    index = pa.array(best, mask=best < 0)
    columns = [results[name].take(index).cast(SCHEMA.field(name).type) for name in names]
    columns[1] = pc.fill_null(columns[1], Status.MISSING)
    return columns


def _written(
    added: list[pa.ChunkedArray], choice: Choice, columns: CaptionColumns, edits: Edits
) -> list[pa.ChunkedArray]:
    """The columns of the table: captions edited, and those of each question apart.

    Of several questions ``added`` tells afterwards what was taken from other results, too.
    """
    if not columns.questions:
        return [edits.apply(added[0], flags=added[3]), *added[1:]]
    said = combine(added, choice)
    last = added if columns.everything else added[:-1]
    return [*answers.columns(said, columns.questions, edits), *last[1:]]


def _others(choice: Choice, rows: int, matches: Matches) -> pa.ChunkedArray:
    """By row the different captions that were not taken, with their inputs, as JSON."""
    told: list[str | None] = [None] * rows
    for row in choice.conflicts.tolist():
        others = [
            {
                "input": matches.source(age),
                **({"question": question} if question else {}),
                "text": text,
            }
            for question, _, rest in choice.captions(row)
            for text, age in rest.items()
        ]
        told[row] = json.dumps(others, ensure_ascii=False)
    return pa.chunked_array([pa.array(told, pa.string())])


def _check_outputs(outputs: Sequence[Path], sources: Sequence[Source], target: Target) -> None:
    """Refuse an output that would replace an input, or that cannot be written where it is to go."""
    inputs = {file.resolve() for source in sources for file in (*source.files, source.name)}
    planned = {Path(it.plan.meta).resolve(): it.name for it in sources if it.plan}
    inputs.add(target.table.path.resolve())
    runs = [source.run for source in sources if source.run]
    for out in outputs:
        real = out.resolve()
        if real in planned:
            raise UsageError(
                f"{out}: is the table that {planned[real]} was planned from; name another file"
            )
        if real in inputs or attempt_of(real) is not None:
            raise UsageError(
                f"{out}: is one of the inputs, or would pass for one; name another file"
            )
        if any(_inside(real, run) for run in runs):
            raise UsageError(f"{out}: lies among the files of a run; name a file outside")
        check_output(out)
    if len({out.resolve() for out in outputs}) < len(outputs):
        raise UsageError(f"{outputs[0]}: the table and --missing cannot be the same file")
    for missing in outputs[1:]:
        _check_not_planned(missing)


def _check_not_planned(missing: Path) -> None:
    """Refuse to replace rows to do that a run beside them was planned from: it could not go on, and
    what it has captioned would have no row any more.
    """
    for family in FAMILIES:
        run = RunDir(default_run_dir(default_output(missing, family, None)))
        with suppress(RunError):
            if run.is_run and Path(read_plan(run).meta).resolve() == missing.resolve():
                raise UsageError(
                    f"--missing {missing}: is the table that {run.path} was planned from; "
                    "name another file"
                )


def _inside(path: Path, run: RunDir) -> bool:
    folder = run.path.resolve()
    own = {folder / file.name for file in (run.plan, run.rows, run.finished, run.lock)}
    folders = {folder / inner.name for inner in (run.parts, run.attempts_folder, run.logs)}
    return path in own or any(path.is_relative_to(inner) for inner in folders)
