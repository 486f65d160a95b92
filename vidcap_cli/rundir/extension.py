"""Extension: a table or folder has changed, and the captions of rows that it still has are kept.

A row is its position in META, so a changed META is a new plan, and so is a folder that has moved,
whose rows are absolute paths. The run that replaces the old one begins with the old results, by
path, in a folder below it, letter by letter or else by the file that it means: rows that are new
are left to do, and those that failed as in any run that is continued. Whether a file behind a path
is still the same, ``newer`` asks. A table that was written keeps the rows of captions that are
kept, whatever ``--limit`` says.

The new run is made at ``RUN_DIR.next.next`` and takes the place ``RUN_DIR.next``, where a fresh
start works until it has finished, when it is whole; what was begun there before, a fresh start or
an extension for what META was then, gives it its captions and goes.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.addresses import meaning
from vidcap_cli.atomic import atomic_write
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import DamagedPartError, RunChangedError
from vidcap_cli.rundir.changes import bases_now, folder_has_moved, only_contents_changed
from vidcap_cli.rundir.ledger import RunParts, done_mask, written_at
from vidcap_cli.rundir.ownership import acquire, discard
from vidcap_cli.rundir.parts import SCHEMA, Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places, failed_in
from vidcap_cli.rundir.plan import FOLDER, GROUP, Plan, make_plan, read_plan
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.statuses import Status
from vidcap_cli.tables import hashes

_ROWS_IN_A_PART = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the new plan is made of: as for ``make_plan``."""

    meta: Path
    config: CaptionConfig
    table_options: dict[str, Any]


def extend(wanted: Wanted, settled: RunDir, coming: RunDir, *, replaces: str) -> RunDir:
    """The run to go on with for META as it is now, of a place with a run, both of which are locked.

    ``replaces`` is the identity of the settled run. Raises RunChangedError when more than the
    contents of META is not as it was.
    """
    staged = coming.next
    if not coming.path.exists() and staged.is_run:
        staged.path.rename(coming.path)  # cut off between the last two steps
    changed, before = _before(wanted, settled, coming)
    newest = next(iter(before))
    if not changed and (len(before) == 1 or not _lacks(newest, settled, before)):
        return newest
    discard(staged)
    acquire(staged, replaces=replaces)
    plan = make_plan(wanted.meta, staged, wanted.config, wanted.table_options, finish=False)
    staged.parts.mkdir(exist_ok=True)
    results = _kept(list(before.items()), staged, plan)
    sequence, last = count(), -1
    for written, of_part in groupby(results, itemgetter(0)):
        while some := [result for _, result in islice(of_part, _ROWS_IN_A_PART)]:
            last = max(last, *(one.row_id for one in some if one.status == Status.OK), -1)
            part = staged.part(0, None, next(sequence), wanted.config.part_format)
            write_part(part, some)
            os.utime(part, ns=(written, written))  # a caption stays as old as it is
    noted = [Scope.read(run) for run in before]
    if rows := _rows_of_table(noted, last):
        older = any(scope.written is None for scope in noted)
        written = None if older else tuple(one for scope in noted for one in scope.written or ())
        Scope(table_rows=rows, written=written).write(staged)
    # The old plan's folders keep counting for relative paths.
    bases = bases_now(before[newest], Path(plan.meta))
    atomic_write(staged.plan, replace(plan, bases=bases).to_json().encode())
    if coming.path.exists():
        discard(coming)
    staged.path.rename(coming.path)
    return coming


def _rows_of_table(noted: Sequence[Scope], last: int) -> int:
    """How many first rows the table has, whatever the limit, if ``last`` is the last of the
    captions: they stay in one that was written. Captions of a shard stay in its run.
    """
    written = any(scope.table_rows and not scope.selection.is_shard for scope in noted)
    return last + 1 if written else 0


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows of a new plan with a caption of before, those that failed, and how many first rows
    stay in the table.
    """

    ok: list[int]
    failed: list[int]
    rows: int


def kept_rows(wanted: Wanted, places: Places, run: RunDir, plan: Plan) -> Kept:
    """What an extension of the run at ``places`` would keep, for ``plan``, which lies in ``run``.

    Raises as ``extend`` does.
    """
    _, before = _before(wanted, places.settled, places.coming)
    ok: list[int] = []
    failed: list[int] = []
    for _, result in _kept(list(before.items()), run, plan):
        (ok if result.status == Status.OK else failed).append(result.row_id)
    noted = [Scope.read(one) for one in before]
    return Kept(ok, failed, _rows_of_table(noted, max(ok, default=-1)))


def captions_lost(settled: RunDir, new: RunDir, wanted: Plan) -> int:
    """How many captions of a run have no row in the plan ``wanted``, which lies in ``new``: neither
    letter by letter nor by the file that a path means.
    """
    plan, start = read_plan(settled), 0
    ok = done_mask(settled, plan).ok
    found = np.concatenate([hashes(paths) for paths in _paths(new)])
    gone: list[str] = []
    for paths in _paths(settled):
        had = paths.filter(pa.array(ok[start : start + len(paths)]))
        start += len(paths)
        had = pa.array([_path_now(path, plan, wanted) for path in had.to_pylist()], pa.string())
        gone += had.filter(pa.array(~np.isin(hashes(had), found))).to_pylist()
    if not gone:
        return 0
    bases = bases_now(plan, Path(wanted.meta))
    there = {meaning(name, bases) for paths in _paths(new) for name in paths.to_pylist()}
    return sum(meaning(name, plan.bases) not in there for name in gone)


def _before(wanted: Wanted, settled: RunDir, coming: RunDir) -> tuple[bool, dict[RunDir, Plan]]:
    """Whether META has changed, and the runs whose captions are kept, the newest first."""
    before = {run: read_plan(run) for run in (coming, settled) if run.is_run}
    newest = next(iter(before))
    changed = only_contents_changed(
        before[newest], wanted.meta, wanted.config, run=newest, failed=failed_in(newest)
    )
    if newest != settled and not _extends(before[settled], wanted):
        del before[settled]  # its captions are of other options
    return changed or folder_has_moved(before[newest], wanted.meta, wanted.config), before


def _extends(plan: Plan, wanted: Wanted) -> bool:
    """Whether captions of ``plan`` may be kept: its options are the same."""
    try:
        only_contents_changed(plan, wanted.meta, wanted.config)
    except RunChangedError:
        return False
    return True


def _lacks(coming: RunDir, settled: RunDir, plans: Mapping[RunDir, Plan]) -> bool:
    """Whether the settled run has a caption that the coming one, of the same META, has not."""
    done = done_mask(coming, plans[coming]).ok
    results = _kept([(settled, plans[settled])], coming, plans[coming])
    return any(not done[one.row_id] for _, one in results if one.status == Status.OK)


class _Index:
    """Rows of a plan by words of each, whose hashes it has."""

    def __init__(self, rows: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> None:
        order = np.argsort(found, kind="stable")
        self._rows, self._sorted = rows[order], found[order]

    def rows(self, words: str) -> npt.NDArray[np.int64]:
        """The rows with these words."""
        first = np.searchsorted(self._sorted, hash(words), "left")
        last = np.searchsorted(self._sorted, hash(words), "right")
        return self._rows[first:last]


def _kept(
    runs: Sequence[tuple[RunDir, Plan]], new: RunDir, wanted: Plan
) -> Iterator[tuple[int, Result]]:
    """The results of ``runs`` for the rows of the plan ``wanted``, which lies in ``new``, and when
    they were written; one a row: of two that of the first run, but a caption before any failure.

    Paths are the same letter by letter. Captions that no row has so go to rows without a result
    whose paths mean the same file. Parts that are damaged give none: their rows are done again.
    """
    found = np.concatenate([hashes(paths) for paths in _paths(new)])
    index = _Index(np.arange(len(found)), found)
    kept, lost = np.zeros(len(found), np.bool_), False
    for captions in (True, False):
        for _, written, fields in _results(runs, wanted, captions=captions):
            its = index.rows(fields["path"])
            lost |= captions and not len(its)
            for row in its[~kept[its]].tolist():
                kept[row] = True
                yield written, Result(**{**fields, "row_id": row})
    if lost and not kept.all():
        yield from _kept_by_file(runs, new, wanted, index, kept)


def _kept_by_file(
    runs: Sequence[tuple[RunDir, Plan]],
    new: RunDir,
    wanted: Plan,
    index: _Index,
    kept: npt.NDArray[np.bool_],
) -> Iterator[tuple[int, Result]]:
    """The captions whose paths are not in ``index``, for rows that are not ``kept``."""
    bases = bases_now(runs[0][1], Path(wanted.meta))  # those of the new plan will be the same
    rows, start, names = np.flatnonzero(~kept), 0, []
    for paths in _paths(new):
        names += paths.filter(pa.array(~kept[start : start + len(paths)])).to_pylist()
        start += len(paths)
    files = np.fromiter((hash(meaning(name, bases)) for name in names), np.int64, len(names))
    meant = _Index(np.arange(len(rows)), files)
    for plan, written, fields in _results(runs, wanted, captions=True):
        if len(index.rows(fields["path"])):
            continue
        for place in meant.rows(meaning(fields["path"], plan.bases)).tolist():
            row = int(rows[place])
            if not kept[row]:
                kept[row] = True
                yield written, Result(**{**fields, "row_id": row, "path": names[place]})


def _paths(run: RunDir) -> Iterator[pa.Array]:
    with pq.ParquetFile(run.rows) as file:
        for batch in file.iter_batches(batch_size=GROUP, columns=["path"]):
            yield batch.column(0)


def _results(
    runs: Sequence[tuple[RunDir, Plan]], wanted: Plan, *, captions: bool
) -> Iterator[tuple[Plan, int, dict[str, Any]]]:
    """The results that are captions, or those that are not, the latest attempt of a run first; each
    with the plan of its run, and when it was written. Paths are those of ``wanted``.
    """
    for run, plan in runs:
        parts = RunParts(run, plan)
        for file in reversed(run.part_files()):
            with suppress(DamagedPartError):
                table = parts.read(file, SCHEMA.names)
                good = pc.equal(table["status"], Status.OK)
                chosen = table.filter(good if captions else pc.invert(good))
                written = written_at(file)
                for fields in chosen.to_pylist():
                    path = _path_now(fields["path"], plan, wanted)
                    yield plan, written, {**fields, "path": path}


def _path_now(path: str, plan: Plan, wanted: Plan) -> str:
    """What the path of a result is called where the folder of ``plan`` is that of ``wanted``."""
    below = path.removeprefix(f"{plan.meta}/")
    return f"{wanted.meta}/{below}" if plan.kind == FOLDER and below != path else path
