"""Supervising the ranks of one launch on this node, from their start to the last one's end."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from vidcap_cli.engine.group import leader_of
from vidcap_cli.launch.msrun import Cluster, LaunchFailedError, Ranks
from vidcap_cli.rundir.events import Began, Done, Event, EventReader, Rows, Started, State
from vidcap_cli.rundir.leases import grant
from vidcap_cli.rundir.nodes import Heartbeat
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.records import RankExit, group_size, read_errors
from vidcap_cli.statuses import Doing
from vidcap_cli.view.follower import View

_POLL_SECONDS = 0.1
# What a rank reports in one look that is read row by row: some hundred rows.
_EVENT_BYTES = 1 << 18
# Reading 145 GB of weights from a shared disk gives no sign of life: it may take this long.
_LOAD_SECONDS = 3600.0
# How long ranks that were asked to leave may take, in seconds.
_LEAVE_SECONDS = float(os.environ.get("VIDCAP_LEAVE_SECONDS", "30"))


class Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them: one to stop, two to kill."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup: stay so
                self._before[number] = signal.signal(number, self._add)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _add(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1


def supervise(
    run: RunDir,
    folder: AttemptDir,
    cluster: Cluster,
    *,
    logs: Path,
    view: View,
    interrupts: Interrupts,
    heartbeat: Heartbeat,
    elsewhere: Callable[[], bool] = lambda: False,
) -> None:
    """Start this node's ranks, follow them, and record how each ended; then rest while others work.

    A rank that dies by itself stops its siblings here, and soon ends those that share its model,
    which wait for it; one that reports nothing for too long is killed, which counts as such a
    death. The first interrupt asks ranks to commit and leave, the second kills them; so does the
    end of the time they are given. They are asked to leave as well when the launch is over or gone,
    because who leads the run has begun another. After a death they are started again if the launch
    goes on ``elsewhere()``: what they had claimed is theirs.
    ``heartbeat`` tells the other nodes whether ranks work here.
    Raises RunError when msrun fails; no process is left in any case.
    """
    watch = _Watch(folder, cluster, view, interrupts)
    fruitless = 0
    heartbeat.works_in(folder.number)  # first: who ends a launch then looks who may be in it
    while lease := grant(folder, cluster.local_ranks):
        before, failure = watch.finished, None
        start = _starts(folder, cluster)
        try:
            place = logs / f"again-{start}" if start else logs
            _follow(Ranks(run, folder, cluster, place, lease), watch)
        except LaunchFailedError as error:
            failure = error
            watch.fail()
        finally:
            _record(watch.exits(), folder, start)
        fruitless = 0 if watch.finished > before else fruitless + 1
        if watch.cut_short and fruitless <= cluster.launch.retries and elsewhere():
            view.notice("starting the ranks of this node again, for others go on with this launch")
            watch.begin()
            continue
        heartbeat.works_in(None)
        while elsewhere():
            watch.rest()
            time.sleep(_POLL_SECONDS)
        if failure:
            raise failure
        return
    heartbeat.works_in(None)


def _follow(ranks: Ranks, watch: "_Watch") -> None:
    """Follow this node's ranks to the end of the last one."""
    watch.ranks = ranks
    try:
        while ranks.alive:
            watch.look()
            watch.obey()
            time.sleep(_POLL_SECONDS)
        watch.look()
    finally:
        ranks.kill()


def _starts(folder: AttemptDir, cluster: Cluster) -> int:
    """How often the ranks of this node were started in a launch, as far as their ends tell."""
    first = cluster.local_ranks[0]
    return next(start for start in count() if not folder.exit(first, start).exists())


def _called_off(folder: AttemptDir) -> bool:
    """Whether the ranks of a launch are to leave: told so, replaced by others, or without it."""
    return folder.stop.exists() or folder.over.exists() or not folder.config.exists()


def _record(exits: list[RankExit], folder: AttemptDir, start: int) -> None:
    for end in exits:
        with suppress(OSError):  # a full disk, or no folder any more: told by who leads
            end.write(folder, start)


class _Watch:
    """Reads what all ranks of a launch report, and notes who died here with which rows.

    ``finished`` counts the results that the ranks of this node have reported.
    """

    ranks: Ranks

    def __init__(
        self, folder: AttemptDir, cluster: Cluster, view: View, interrupts: Interrupts
    ) -> None:
        self._folder = folder
        self._view = view
        self._interrupts = interrupts
        self._local = cluster.local_ranks
        self._group = group_size(folder)
        self._patience = cluster.launch.stall_timeout
        self._readers = {n: EventReader(folder.events(n)) for n in range(cluster.worker_num)}
        self._in_model: dict[int, set[int]] = {number: set() for number in self._readers}
        self._obeyed = 0
        self.finished = 0
        self.begin()

    def begin(self) -> None:
        """The ranks of this node are about to be started."""
        self._heard = dict.fromkeys(self._local, time.monotonic())
        self._loading: set[int] = set()
        self._deadline = float("inf")
        self._exits: dict[int, int] = {}
        self._died: set[int] = set()
        self._doomed: dict[int, float] = {}  # and when they are killed
        self._failed = False
        self.stopped = False

    @property
    def cut_short(self) -> bool:
        """Whether ranks died here that may do better another time, in a launch that goes on."""
        died = (self._died or self._failed) and not any(read_errors(self._folder))
        return bool(died) and not self._interrupts.count and not _called_off(self._folder)

    def obey(self) -> None:
        """Do what the user, the run and the clock ask for."""
        if self._interrupts.count > self._obeyed:
            self._obeyed = self._interrupts.count
            if self._obeyed == 1:
                self._view.notice("stopping: ranks commit what is finished (again: kill them)")
                self._folder.stop.touch()
                self._stop(_LEAVE_SECONDS)
            else:
                self.ranks.kill()
        if not self.stopped and _called_off(self._folder):
            self._stop(_LEAVE_SECONDS)
        if self._overdue and self.ranks.alive:
            self._view.notice("killing the ranks that have not left in time")
            self.ranks.kill()
        self._view.tick()

    def rest(self) -> None:
        """Take in what the ranks of other nodes report; there is none here."""
        if self._interrupts.count:
            self._folder.stop.touch()
        self.listen()
        self._view.tick()

    def look(self) -> None:
        """Take in new events and ranks that ended; one that died stops its siblings."""
        self.listen()
        for number, code in self.ranks.poll():
            self._exits[number] = code
            if code != 0 and not self.stopped:
                self._died.add(number)
                for mate in self._mates(number):
                    self._doomed[mate] = time.monotonic() + _LEAVE_SECONDS
        self._give_up_on_stalled()
        self._kill_doomed()
        if self._died and not self.stopped:
            for number in sorted(self._died):
                end = RankExit(number, self._exits[number])
                self._view.notice(f"rank {number} {end.words}")
            self._stop(self._patience)

    def listen(self) -> None:
        """Take in new events."""
        for number, reader in self._readers.items():
            for event in reader.read(_EVENT_BYTES):
                self._take_in(number, event)

    def _take_in(self, number: int, event: Event) -> None:
        self._heard[number] = time.monotonic()
        self._view.event(number, event)
        loads = isinstance(event, State) and event.state == Doing.LOADING
        (self._loading.add if loads else self._loading.discard)(number)
        if isinstance(event, Started):
            # Rows that an earlier process of the rank had are its own again to claim.
            self._in_model[number].clear()
            if number in self._local:
                self.ranks.announce(number, event.pid)
        elif isinstance(event, Began):
            self._in_model[number].update(event.rows)
        elif isinstance(event, Rows):
            self._in_model[number].update(event.begun)
            self._in_model[number].difference_update(row for row, *_ in event.ended)
            self.finished += len(event.ended) * (number in self._local)
        elif isinstance(event, Done):
            self._in_model[number].discard(event.row)
            self.finished += number in self._local

    def _give_up_on_stalled(self) -> None:
        """Kill ranks that run here and have long said nothing: they hang, or are stopped."""
        for number in self._local:
            silent = time.monotonic() - self._heard[number]
            patience = self._patience
            if number in self._loading:
                patience = max(patience, _LOAD_SECONDS)
            if silent > patience and number not in self._exits and not self.stopped:
                words = f"rank {number} has reported nothing for {patience:g} s"
                self._view.notice(f"{words} and is killed (--stall-timeout)")
                self._heard[number] = time.monotonic()
                if not self.ranks.kill_rank(number):
                    self.ranks.kill()
                    self.stopped = True

    def _mates(self, number: int) -> range:
        """The ranks that share a model, one of which is ``number``."""
        first = leader_of(number, self._group)
        return range(first, first + self._group)

    def _kill_doomed(self) -> None:
        """Kill ranks that wait for one that has died, once they have had the time to commit."""
        due = [rank for rank, when in self._doomed.items() if when < time.monotonic()]
        for number in due:
            del self._doomed[number]
            if number not in self._exits:
                self.ranks.kill_rank(number)

    @property
    def _overdue(self) -> bool:
        """Whether ranks that were asked to leave have had the time for it, once."""
        if time.monotonic() < self._deadline:
            return False
        self._deadline = float("inf")
        return True

    def _stop(self, patience: float) -> None:
        """Ask this node's ranks to commit and leave in ``patience`` seconds."""
        self._deadline = time.monotonic() + patience
        if not self.stopped:
            self.stopped = True
            self.ranks.stop()

    def fail(self) -> None:
        """The start has failed: note an end of every rank here."""
        self._failed = True
        for number in self._local:
            self._exits.setdefault(number, -signal.SIGKILL)

    def exits(self) -> list[RankExit]:
        """How each rank ended; only one that died by itself is charged with its rows, or one that
        shares a model with it.
        """
        return [
            RankExit(n, code, () if self._died.isdisjoint(self._mates(n)) else self._rows_of(n))
            for n, code in sorted(self._exits.items())
        ]

    def _rows_of(self, number: int) -> tuple[int, ...]:
        return tuple(sorted(self._in_model[number]))
