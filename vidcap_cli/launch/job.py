"""A job: what a command is asked to caption, and which runs that are there fit it."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.rundir.changes import folder_has_moved, is_unchanged
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import rows_there
from vidcap_cli.rundir.plan import Plan, read_plan
from vidcap_cli.rundir.selection import Selection


@dataclass(frozen=True, slots=True)
class Job:
    """What a command is asked to do. Nothing here alters captions but ``config``.

    ``fresh`` starts over, ``extend`` keeps the captions of rows that META still has when that has
    changed; ``restart_failed`` tries rows again that failed in an earlier command,
    ``restart_changed`` those whose videos are newer than their captions. ``selection`` are the rows
    it is about. ``table_options`` are noted in the plan.
    """

    meta: Path
    run_dir: Path
    config: CaptionConfig
    cluster: Cluster = field(default_factory=Cluster)
    fresh: bool = False
    extend: bool = False
    restart_failed: bool = True
    restart_changed: bool = False
    selection: Selection = field(default_factory=Selection)
    table_options: dict[str, Any] = field(default_factory=dict)

    def is_same(self, plan: Plan) -> bool:
        """Whether a run with this plan makes the captions that are asked for."""
        return is_unchanged(plan, self.meta, self.config)

    def extends(self, run: RunDir) -> bool:
        """Whether a run makes way for one that keeps its captions."""
        if self.fresh or not run.is_run:
            return False
        with suppress(RunError):
            return self.extend or folder_has_moved(read_plan(run), self.meta, self.config)
        return False

    def goes_on(self, run: RunDir) -> bool:
        """Whether a run that was cut off makes them, as far as its plan can be read."""
        with suppress(RunError):
            return run.is_run and self.is_same(read_plan(run))
        return False

    def widened(self, run: RunDir, rows: int) -> Selection:
        """The rows that are asked for of ``rows``, and those that its table has already."""
        return self.selection.widened(rows_there(run, self.selection), rows)
