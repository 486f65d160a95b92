"""What a user may do when a caption command has ended, as commands that work where they are pasted.

Each says what is true of it now: a command that is repeated leaves out the options that would
start it over, and one that cannot be known here is not made up.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcap_cli.declaring import spelled
from vidcap_cli.inspect.command import words_of_paths
from vidcap_cli.launch.surroundings import look_around
from vidcap_cli.options import RunOptions
from vidcap_cli.outputs import default_run_dir
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.statuses import PASSING, Status
from vidcap_cli.view.steps import Step, again
from vidcap_cli.view.summary import LISTED

# With them the same command would begin anew, or do nothing.
_ONCE = ("fresh", "extend", "skip_if_existing")
# What a run, or the name of the table, says of itself when it is merged.
_KNOWN = ("output", "overwrite_column")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended: its run is in ``run``, its table (or that of all shards) is ``target``.

    ``typed`` are its words after ``vidcap``, ``asked`` what it was asked with the options that were
    not typed, ``meta`` its table of videos, ``table`` the options given of the table. ``ok`` rows
    have a caption, of which so many are ``flagged``; ``failed`` counts rows by status.
    """

    typed: Sequence[str]
    asked: RunOptions
    table: Mapping[str, Any]
    meta: Path | None
    path_column: str
    run: Path
    target: Path
    ok: int
    flagged: int
    failed: Mapping[Status, int]

    def steps(self) -> list[Step]:
        """What may be done now, the most urgent first."""
        shard = Selection.make(self.asked.limit, self.asked.shard)
        last = self._join(shard) if shard.is_shard else self._look()
        return [step for step in (self._again(), self._causes(), last) if step]

    def _again(self) -> Step | None:
        """The command as it was typed: from it a run goes on, by the row."""
        if self.asked.restart_failed == "none" or not set(self.failed) & PASSING:
            return None
        spelled_once = {"--" + name.replace("_", "-"): name for name in _ONCE}
        flags = [spelled_once.get(word.replace("_", "-")) for word in self.typed]
        if any(getattr(self.asked, name) and name not in flags for name in _ONCE):
            return None  # a file or a variable says so, and would again
        words = [word for word, once in zip(self.typed, flags, strict=True) if not once]
        around = look_around(os.environ)
        if around and around.starter != "msrun":
            return None  # what srun or mpirun was told is not known
        if around and not any(word.startswith("--worker") for word in words):
            words += ["--worker-num", str(around.per_node)]
        return again(sum(self.failed.values()), shlex.join(["vidcap", *words]))

    def _causes(self) -> Step | None:
        if not self.failed or (self.ok and sum(self.failed.values()) <= LISTED):
            return None
        return Step.of("to see why rows failed", "inspect", self.run)

    def _look(self) -> Step | None:
        if not self.ok:
            return None
        purpose = f"to look at the captions{' and their flags' if self.flagged else ''}"
        return Step.of(purpose, "inspect", self.target, *words_of_paths(self.path_column))

    def _join(self, shard: Selection) -> Step | None:
        others = "shard has finished and its run directory is"
        if shard.of > 2:
            others = f"{shard.of - 1} shards have finished and their run directories are"
        if self.asked.run_dir:
            return None  # where the others are is not known
        shards = (Selection.make(None, f"{one}/{shard.of}") for one in range(shard.of))
        runs = [default_run_dir(self.target, one) for one in shards]
        options = spelled({name: it for name, it in self.table.items() if name not in _KNOWN})
        if self.meta:  # the others may be of META as it was before an extension
            options = ["--meta", str(self.meta.absolute()), *options]
        purpose = f"when the other {others} beside this one, copied if need be, to join them"
        return Step.of(purpose, "merge", *runs, "-o", self.target, *options)
