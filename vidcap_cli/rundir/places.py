"""Places: which directory a run works in, and how a fresh run takes the place of the old one.

Captions are lost by ``--fresh`` alone, and then only when the new run has finished: until then it
lies at ``RUN_DIR.next``. What a command does with the run that it finds, where *same* is the same
META with the same contents, wherever it lies now (``rundir.changes``), and the same options that
captions depend on:

================================ ============================ =====================================
asked for                        the run here has finished    it has not, or rows of it failed
================================ ============================ =====================================
same                             nothing, and says so         goes on; rows that failed are tried
same, ``--limit`` below its rows nothing, and says so         goes on with all rows of its table
same, ``--limit`` above them     goes on with the rest        goes on with so many
same, another table (columns,    writes the table anew        goes on
format, ...), or it has gone
META has rows more or less       is refused; ``--extend``     the same
                                 keeps captions by path, also
                                 those beyond ``--limit``
other options, another META      is refused, with or without  the same
                                 ``--extend``
any, ``--fresh``                 a new run at RUN_DIR.next;   the same
                                 one for the same that was
                                 cut off goes on
================================ ============================ =====================================

Where a run at ``RUN_DIR.next`` was cut off, the command without ``--fresh`` goes on with it, unless
the run here has all that is asked for; ``--extend`` takes the captions of both.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.rundir.lock import leadership
from vidcap_cli.rundir.ownership import discard, read_mark
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan, read_plan
from vidcap_cli.rundir.records import Finished
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.rundir.selection import Selection


@dataclass(frozen=True, slots=True)
class Places:
    """A run directory, the one that may be about to replace it, and what it has replaced."""

    settled: RunDir
    coming: RunDir
    replaced_run: RunDir

    @classmethod
    def of(cls, run_dir: Path) -> "Places":
        """The places of ``--run-dir``; behind a link, those of what it leads to."""
        path = run_dir.resolve() if run_dir.is_symlink() else run_dir
        run = RunDir(path)
        return cls(run, run.next, run.old)

    def choose(
        self, selection: Selection, is_same: Callable[[Plan], bool], *, fresh: bool = False
    ) -> RunDir:
        """The run directory to work in, for the rows of ``selection``.

        ``is_same`` tells whether a plan is that of the table and options which are asked for.
        """
        settled = self.settled
        if read_mark(settled) is None or not (settled.is_run or settled.part_files()):
            return settled
        if fresh:
            return self.coming
        if not self.begun or (complete(settled, selection) and is_same(read_plan(settled))):
            return settled
        return self.coming

    @property
    def begun(self) -> bool:
        """Whether a start over, or an extension, of the run here was cut off."""
        return self.coming.is_run and self.successor(self.coming, self.settled)

    @staticmethod
    def successor(coming: RunDir, before: RunDir) -> bool:
        """Whether ``coming`` was begun to replace ``before``."""
        new, old = read_mark(coming), read_mark(before)
        if new is None or old is None:
            return False
        if new.id == old.id == "older":  # neither says: runs of the same table belong together
            try:
                return read_plan(coming).meta == read_plan(before).meta
            except RunError:
                return False
        return new.replaces == old.id

    def to_join(self) -> list[RunDir]:
        """The runs that another node may serve: vidcap's own, and those of this place alone.

        What lies at ``RUN_DIR.next`` was begun to replace the run here, which may just have made
        way for it.
        """
        replacing = any(
            self.successor(self.coming, before) for before in (self.settled, self.replaced_run)
        )
        found = [self.coming] if replacing else []
        return [*found, self.settled] if read_mark(self.settled) else found

    def mend(self) -> None:
        """Finish a replacement that was cut off: between its two renames, or after them."""
        # Under the lock: the command that replaces may well be alive, between these two steps.
        if self._half_replaced():
            with leadership(self.coming):
                self.coming.path.rename(self.settled.path)
        if self._replaced_is_left():
            with leadership(self.settled):
                discard(self.replaced_run)

    def settle(self, run: RunDir) -> RunDir:
        """Put ``run``, which has finished, in the place of the one that it replaces, if any."""
        if run.path != self.settled.path:
            self.replaced()  # nothing may have come in the way meanwhile
            self.settled.path.rename(self.replaced_run.path)
            run.path.rename(self.settled.path)
            discard(self.replaced_run)
        return self.settled

    def _half_replaced(self) -> bool:
        cut_off = not self.settled.path.exists() and self.coming.finished.is_file()
        return cut_off and self.successor(self.coming, self.replaced_run)

    def _replaced_is_left(self) -> bool:
        return self.settled.finished.is_file() and self.successor(self.settled, self.replaced_run)

    def replaced(self) -> str:
        """The identity of the run that is to be replaced.

        Raises UsageError when something else lies where the fresh run or the old one is to go.
        """
        if self.coming.path.exists() and not self.successor(self.coming, self.settled):
            raise UsageError(
                f"{self.coming.path} was not begun to replace the run {self.settled.path}, and it "
                "is left as it is; move it elsewhere, or give another --run-dir."
            )
        if self.replaced_run.path.exists() or self.replaced_run.path.is_symlink():
            raise UsageError(
                f"{self.replaced_run.path} is in the way of the run that is to be replaced, and it "
                "is left as it is; move it elsewhere, or give another --run-dir."
            )
        mark = read_mark(self.settled)
        return mark.id if mark else ""


def complete(run: RunDir, selection: Selection) -> bool:
    """Whether a command finished this run with a caption in every row of ``selection``."""
    done = read_finished(run)
    return done is not None and done.rows >= selection.count(done.planned) and not done.failed


def failed_in(run: RunDir) -> int | None:
    """How many rows failed in a run that has finished; None of another."""
    done = read_finished(run)
    return done.failed if done else None


def read_finished(run: RunDir) -> Finished | None:
    """The record that a run has finished; None of a damaged one: it is continued, merged again."""
    with suppress(RunError):
        return Finished.read(run)
    return None


def rows_there(run: RunDir, selection: Selection) -> int:
    """How many first rows of META the table of a run has, or its shard goes to; 0 of none yet."""
    done = None if selection.is_shard else read_finished(run)
    return max(Scope.read(run).table_rows, done.rows if done else 0)
