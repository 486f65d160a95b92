"""Leading a run: plan, launch ranks, follow them, launch again what died, merge.

The leading process owns the run directory's lock. What it knows lies in files: a command that is
cut off anywhere is continued by the same command. Success means that every planned row has a
result on disk, whatever the exit codes of the ranks say.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from vidcap_cli.atomic import sweep
from vidcap_cli.disk import faults_told
from vidcap_cli.errors import RunError, StoppedError
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.msrun import LaunchFailedError
from vidcap_cli.launch.others import OtherNodes
from vidcap_cli.launch.supervise import Interrupts, supervise
from vidcap_cli.rundir.changes import check_unchanged, keep_place
from vidcap_cli.rundir.claims import chunk_size
from vidcap_cli.rundir.events import Done, Relaunched
from vidcap_cli.rundir.extension import Wanted, captions_lost, extend
from vidcap_cli.rundir.leases import end
from vidcap_cli.rundir.ledger import Done as Ledgered
from vidcap_cli.rundir.ledger import Ledger
from vidcap_cli.rundir.lock import leadership
from vidcap_cli.rundir.newer import newer_videos
from vidcap_cli.rundir.nodes import Heartbeat
from vidcap_cli.rundir.ownership import Found, acquire, discard, empty, read_mark
from vidcap_cli.rundir.parts import Result, set_aside, write_part
from vidcap_cli.rundir.paths import AttemptDir, RunDir, attempt_of
from vidcap_cli.rundir.places import Places, failed_in, read_finished
from vidcap_cli.rundir.plan import Plan, make_plan, read_paths, read_plan
from vidcap_cli.rundir.records import (
    DEATHS_TO_GIVE_UP,
    Attempt,
    Finished,
    deaths_of,
    left_out,
    read_errors,
    read_exits,
)
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.rundir.standing import read_standing
from vidcap_cli.rundir.summary import Ended, RankWork, RunSummary
from vidcap_cli.rundir.todo import write_todo
from vidcap_cli.statuses import Status
from vidcap_cli.view.follower import View
from vidcap_cli.view.tally import RunState
from vidcap_cli.view.words import count

_CHANGED_SECONDS = 2.0  # in which it is found out which videos are newer than their captions


@contextmanager
def leading(job: Job) -> Iterator["Leader"]:
    """Open the run of ``job``, a new one or the one to continue, and hold its lock.

    Raises RunChangedError when an unfinished run was made otherwise, RunError when another
    process leads it or the disk fails, TableError when the table cannot be planned, UsageError
    when the directory is not vidcap's own.
    """
    with faults_told(job.run_dir), ExitStack() as locks:
        places = Places.of(job.run_dir)
        places.mend()
        run = places.choose(job.selection, job.is_same, fresh=job.fresh)
        replaces, before = "", ""
        if read_mark(places.settled) and job.extends(places.settled):
            locks.enter_context(leadership(places.settled))
            replaces = places.replaced()
            wanted = Wanted(job.meta, job.config, job.table_options)
            before = read_plan(places.settled).meta
            run = extend(wanted, places.settled, places.coming, replaces=replaces)
        elif run.path == places.coming.path:
            # Nobody is to go on with the old run while the new one is made.
            locks.enter_context(leadership(places.settled))
            replaces = places.replaced()
        found = acquire(run, replaces=replaces)
        if run.path == places.coming.path or not replaces:
            locks.enter_context(leadership(run))
        _sweep(run)
        if job.fresh and run.path == places.coming.path and not job.goes_on(run):
            empty(run)
        plan = _plan_of(job, run, found)
        run.parts.mkdir(exist_ok=True)
        before = before or plan.meta
        plan = keep_place(run, plan, job.meta, job.config)
        leader = Leader(replace(job, selection=job.widened(run, plan.rows)), run, plan)
        leader.moved_from = before if before != plan.meta else None
        if run != places.settled and job.extend:
            leader.captions_lost = captions_lost(places.settled, run, plan)
        with leader.heartbeat:
            yield leader


def _plan_of(job: Job, run: RunDir, found: Found) -> Plan:
    """The plan of a run that is continued, or a new one; without it a new directory goes."""
    if run.is_run:
        plan = read_plan(run)
        check_unchanged(plan, job.meta, job.config, run=run, failed=failed_in(run))
        return plan
    if run.part_files():
        raise RunError(
            f"{run.plan}: is not there, but captions are; restore it, or start over with --fresh "
            f"(a copy of {run.parts} keeps the captions: vidcap merge takes it with --meta)"
        )
    try:
        return make_plan(job.meta, run, job.config, job.table_options)
    except BaseException:
        if found != "ours":
            with suppress(OSError):  # why there is no plan matters more
                discard(run, keep_folder=found == "empty")
        raise


class Leader:
    """Leads one run from what is on the disk to the last row's result."""

    def __init__(self, job: Job, run: RunDir, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self.moved_from: str | None = None  # where META was before, if elsewhere
        self.captions_lost = 0  # captions of the run that is extended whose rows META has no more
        self._job = job
        self.rows = job.selection.count(plan.rows)
        self._selected = job.selection.mask(plan.rows)
        self._ledger = Ledger(run, plan)
        self._damage: list[str] = []  # what is still to be told of damaged parts
        self.heartbeat = Heartbeat(run, job.cluster.node)
        self._others = OtherNodes(run, job.cluster.node)
        # Launches that were cut off are over, before it is read what they have committed.
        for attempt in run.attempts():
            end(attempt)
        self._remove_todos()
        done = self._look()
        self._attempts = done.attempts
        seconds = float("inf") if job.restart_changed else _CHANGED_SECONDS
        self.changed = newer_videos(run, plan, done, self._selected, seconds)
        again = self.changed & job.restart_changed
        kept = done.kept(restart_failed=job.restart_failed) & ~again
        self._skip = kept | ~self._selected
        self.left_alone = int((kept & ~done.ok & self._selected).sum())
        numbers = [attempt.number for attempt in run.attempts()]
        numbers += [attempt_of(part) or 0 for part in run.part_files()]
        self.first = max(numbers, default=0) + 1
        self._captioned = int((done.ok & self._selected).sum())
        self.captioned_besides = int((done.ok & ~self._selected).sum())
        self.finished_before = self._captioned - int(again.sum())
        self._interrupts = Interrupts()
        before = Scope.read(run)
        self.is_done = self._is_done(before)
        if not self.is_done:
            run.finished.unlink(missing_ok=True)  # one that is continued is not finished
            run.summary.unlink(missing_ok=True)
            replace(before, selection=self.selection).write(run)

    def work(self, view: View) -> None:
        """Launch ranks until every row has a result.

        Raises StoppedError after SIGINT or SIGTERM, and RunError when a rank failed for good or
        ``retries`` launches in a row brought nothing.
        """
        with self._interrupts:
            number, fruitless = self.first, 0
            left = self._left()
            self._tell_damage(view)
            if self.left_alone:
                left_alone = count(self.left_alone, "row")
                view.notice(f"{left_alone} that failed before: left alone (--restart-failed none)")
            while left:
                folder = self._prepare(number, left)
                self._launch(folder, view)
                self._remove_todos()
                for crash in self._give_up_on_rows(folder):
                    view.event(None, crash)
                if self._interrupts.count:
                    done = self.rows - self._left()
                    raise StoppedError(
                        f"stopped; {done:,} of {self.rows:,} rows are on disk in {self.run.path}, "
                        "and the same command continues"
                    )
                before, left = left, self._left()
                self._tell_damage(view)
                if not left:
                    break
                fruitless = 0 if left < before else fruitless + 1
                if fruitless > self._job.cluster.launch.retries:
                    raise RunError(
                        f"{fruitless} launches in a row brought no caption; the last words of "
                        f"the ranks are in {self._logs(folder)}"
                    )
                view.event(None, Relaunched(self._skip))
                rows = "row that is" if left == 1 else f"{left:,} rows that are"
                view.notice(f"starting the ranks again for the {rows} not on the disk yet")
                number += 1

    @property
    def selection(self) -> Selection:
        """The rows that the command is about, with those that its table has already."""
        return self._job.selection

    def _is_done(self, before: Scope) -> bool:
        """Whether every row has a caption, and a command has finished with just such a table."""
        asked = before.table_options
        return (
            self.finished_before == self.rows
            and (self.plan.table_options if asked is None else asked) == self._job.table_options
            and read_finished(self.run) is not None
            and self.selection.until(self.plan.rows) <= (before.table_rows or self.rows)
        )

    def captioned(self) -> int:
        """How many of the rows have a caption."""
        return int((self._look().ok & self._selected).sum())

    def summarise(self, ended: Ended, state: RunState, seconds: float) -> None:
        """Leave a summary of this command, which has taken ``seconds``, in the run directory."""
        ranks = {
            number: RankWork(
                ok=rank.ok,
                failed=rank.failed,
                launches=rank.launches,
                new_tokens=rank.new_tokens,
                busy_s=round(rank.busy_s, 3),
                wait_s=round(rank.wait_s, 3),
                memory=rank.memory,
            )
            for number, rank in state.ranks.items()
        }
        standing = read_standing(self.run, self.plan, self.selection, self._ledger.parts)
        RunSummary(ended, self.rows, state.ok, seconds, standing, ranks).write(self.run)

    def settle(self, *, failed: int) -> RunDir:
        """Note that the merged table exists and, after a fresh start, replace the old run."""
        _sweep(self.run)  # of what ranks left that died in this command
        self._remove_todos()
        table_rows = self.selection.until(self.plan.rows)
        noted = Scope(self.selection, table_rows, self._job.table_options)
        replace(noted, written=Scope.read(self.run).written).write(self.run)
        Finished(planned=self.plan.rows, rows=self.rows, failed=failed).write(self.run)
        self.heartbeat.end()  # before the folder may get another name
        return Places.of(self._job.run_dir).settle(self.run)

    def _left(self) -> int:
        """How many rows have no result yet, as far as this command is concerned."""
        done = self._look(since=self.first)
        self._skip |= done.any
        self._attempts = np.maximum(self._attempts, done.attempts)
        self._captioned = int((done.ok & self._selected).sum())
        return int((~self._skip).sum())

    def _look(self, since: int = 0) -> Ledgered:
        """What the parts say now; those that are damaged are set aside and done again."""
        done = self._ledger.read(since)
        for error in done.damaged:
            try:
                kept = set_aside(error.part)
            except OSError as fault:
                raise RunError(
                    f"{error}; it cannot be set aside ({fault.strerror}): move it elsewhere and "
                    "repeat the command, which does its rows again"
                ) from fault
            self._damage.append(f"{error}; set aside as {kept.name}, its rows are done again")
        return done

    def _tell_damage(self, view: View) -> None:
        for words in self._damage:
            view.notice(words)
        self._damage.clear()

    def _prepare(self, number: int, left: int) -> AttemptDir:
        if not self.run.is_run:  # or the folders below would be made once more
            raise RunError(
                f"{self.run.path}: the run directory or its plan has gone while videos were "
                "captioned; bring it back and repeat the command to continue."
            )
        folder = self.run.attempt(number)
        folder.claims.mkdir(parents=True, exist_ok=True)
        write_todo(
            self.run,
            self.plan,
            folder,
            skip=self._skip,
            limit=self._job.selection.until(self.plan.rows),
            attempts_before=self._attempts,
        )
        ranks = self._job.cluster.worker_num
        Attempt(
            config=self._job.config,
            rows=left,
            chunk=chunk_size(left, ranks),
            ranks=ranks,
            bases=self.plan.bases,
            alone=tuple(sorted(row for row in self._deaths() if not self._skip[row])),
            captioned=self._captioned,
        ).write(folder)
        return folder

    def _launch(self, folder: AttemptDir, view: View) -> None:
        """Run the ranks to their end."""
        cluster = self._job.cluster
        try:
            supervise(
                self.run,
                folder,
                cluster,
                logs=self._logs(folder),
                view=view,
                interrupts=self._interrupts,
                heartbeat=self.heartbeat,
                elsewhere=lambda: self._goes_on_elsewhere(folder, view),
            )
        except LaunchFailedError as error:  # counted as a launch that brought nothing
            view.notice(str(error))
        if self._interrupts.count:
            folder.over.touch()  # ranks of other nodes may still commit what is finished
            return
        end(folder)
        self._raise_root_cause(folder)

    def _goes_on_elsewhere(self, folder: AttemptDir, view: View) -> bool:
        """Whether other nodes have something left to do in this launch."""
        if self._interrupts.count:
            return False
        return self._others.are_at_work(folder.number, self._left, view)

    def _remove_todos(self) -> None:
        """Remove what launches had to do that are over: 60 bytes for each row of it.

        Ranks of other nodes that are still in one would die of it. Here they have left.
        """
        read = self._others.launches()
        for launch in self.run.attempts():
            if launch.over.exists() and launch.number not in read:
                with suppress(OSError):
                    launch.todo.unlink()

    def _raise_root_cause(self, folder: AttemptDir) -> None:
        """An exception in a rank would come again in every launch: raise the earliest of all."""
        for first in read_errors(folder)[:1]:
            if first.expected:
                raise RunError(first.message)
            raise RunError(f"rank {first.rank} failed:\n\n{first.traceback.rstrip()}")

    def _deaths(self) -> Counter[int]:
        """At how many deaths of a rank a row was in its model, for rows at which one was."""
        exits = chain.from_iterable(map(read_exits, self.run.attempts()))
        found = deaths_of(exits)
        return Counter({row: n for row, n in found.items() if 0 <= row < self.plan.rows})

    def _give_up_on_rows(self, folder: AttemptDir) -> list[Done]:
        """Give the status crashed to rows that were in the model at their second death."""
        suspects = {row for end in read_exits(folder) for row in end.rows}
        if not suspects:
            return []
        self._left()  # a rank that was started again may have given some up itself
        deaths = self._deaths()
        given_up = (row for row in suspects if deaths[row] >= DEATHS_TO_GIVE_UP)
        lost = sorted(row for row in given_up if not self._skip[row])
        if not lost:
            return []
        paths = read_paths(self.run, lost)
        results = [
            Result(
                row,
                paths[row],
                status=Status.CRASHED,
                error=left_out(deaths[row]),
                attempts=int(self._attempts[row]) + deaths[row],
                model=self._job.config.model,
                prompt=next(iter(self._job.config.questions.values())),
            )
            for row in lost
        ]
        write_part(self.run.part(folder.number, None, 0, self._job.config.part_format), results)
        return [
            Done(row.row_id, row.path, row.status, None, row.error, 0, 0.0, 0.0) for row in results
        ]

    def _logs(self, folder: AttemptDir) -> Path:
        cluster = self._job.cluster
        return self.run.launch_logs(folder.number, cluster.node, cluster.launch.log_dir)


def _sweep(run: RunDir) -> None:
    """Remove what commits that were cut off left in a run directory."""
    for folder in (run.path, run.parts, run.nodes_folder, *run.attempts_folder.glob("[0-9]*")):
        sweep(folder)
