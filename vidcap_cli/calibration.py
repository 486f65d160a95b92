"""``--calibrate N``: what a run will take, measured by captioning N of its rows.

They are spread evenly over the table and captioned as the run would do it, by as many ranks, into
a temporary run directory which is removed.

The last of them are no measure: their frames have been read, and the ranks have the machine to
themselves. ``enough`` rows are so many that some are left between these and the first batch.
"""

import resource
import time
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from vidcap_cli.config import CaptionConfig
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import Leader, leading
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.rundir.events import Done, EventReader
from vidcap_cli.rundir.ledger import RunParts
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.statuses import Flag
from vidcap_cli.view.live import make_view
from vidcap_cli.view.tally import Pace, RunState


@dataclass(frozen=True, slots=True)
class Measured:
    """What captioning ``rows`` rows took: ``ok`` have a caption, ``shrunk`` were shown smaller.

    ``per_second`` captions a second of all ranks of this node, None where there was none;
    ``start`` is the seconds in which none could be made, ``memory`` bytes that a rank took at most.
    """

    rows: int
    ok: int
    shrunk: int
    per_second: float | None
    start: float
    memory: int

    def seconds(self, rows: int) -> float | None:
        """How long ``rows`` rows would take, if each gets a caption."""
        return None if self.per_second is None else self.start + rows / self.per_second


def measure(job: Job, rows: int, count: int, *, quiet: bool) -> Measured:
    """Caption ``count`` of the ``rows`` rows of ``job``.

    Raises what a run raises that cannot begin or go on.
    """
    with TemporaryDirectory(prefix="vidcap-") as place:
        few = replace(
            job,
            run_dir=Path(place) / "run",
            fresh=False,
            extend=False,
            selection=_spread(job.selection, rows, count),
        )
        with leading(few) as leader:
            began = time.monotonic()
            with make_view(title="measuring", total=leader.rows, quiet=quiet) as view:
                leader.work(view)
            seconds, pace = time.monotonic() - began, _pace(leader, job)
            parts = RunParts(leader.run, leader.plan)
            flags = (
                part_flags
                for part in leader.run.part_files()
                for part_flags in parts.read(part, ["flags"])["flags"].to_pylist()
            )
            return Measured(
                rows=leader.rows,
                ok=view.state.ok,
                shrunk=sum(Flag.SHRUNK in (each or "").split(",") for each in flags),
                per_second=pace,
                start=max(0.0, seconds - view.state.ok / pace) if pace else seconds,
                # Of all processes that were children: the largest is a rank, which has a model.
                memory=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
            )


def enough(config: CaptionConfig, cluster: Cluster) -> int:
    """How many rows tell the pace of a run."""
    return max(8, 8 * config.slots * _models(config, cluster))


def _models(config: CaptionConfig, cluster: Cluster) -> int:
    """How many ranks, or groups of them, have rows of their own."""
    return max(1, cluster.worker_num // config.tensor_parallel)


def _pace(leader: Leader, job: Job) -> float | None:
    """Captions a second, while there are frames to be read and slots to be filled.

    Without the first two batches, in which most sizes of frames are met for the first time. The
    clock runs from the end of these to the end of another one: captions of one length end together,
    and within such a batch is no time.
    """
    launch = leader.run.attempts()[-1]
    found = [
        (event.time, rank, event)
        for rank in range(job.cluster.worker_num)
        for event in EventReader(launch.events(rank)).read()
    ]
    models, config = _models(job.config, job.cluster), job.config
    batch, in_hand = models * config.slots, models * (2 * config.slots + config.decoders)
    first = min(2 * batch, leader.rows // 2)
    batches = max(1, (leader.rows - in_hand - first) // batch)
    until = min(leader.rows, first + batches * batch)
    state, done = RunState(total=leader.rows), 0
    for time_of, rank, event in sorted(found, key=itemgetter(0)):
        state.take(rank, event)
        done += isinstance(event, Done)
        if done == first and isinstance(event, Done):
            for each in state.ranks.values():
                each.pace = Pace(last=time_of)
        paces = (
            each.pace.per_second(time_of if each.working else None)
            for each in state.ranks.values()
            if done >= until
        )
        if known := [pace for pace in paces if pace is not None]:
            return sum(known)
    return None


def _spread(selection: Selection, rows: int, count: int) -> Selection:
    """Every so many-th row of those selected, so that there are ``count`` of them or a few more."""
    step = max(1, selection.count(rows) // count)
    until = selection.shard + step * selection.of * count
    return Selection(min(until, selection.until(rows)), selection.shard, selection.of * step)
