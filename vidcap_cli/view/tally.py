"""What the events of a run add up to, without clock, files or terminal.

``RunState.take(rank, event)`` costs the same for every row of every run, however long: a row is
four bytes in a page of rows, and all else is counters. A row counts once, however often it is
reported: a rank that died after finishing a row but before committing it sees the row finished
again in the next launch, and a row that failed may succeed there.

The pace is that of captions, not of rows that fail, and its clock runs only while a rank could
caption: not while it starts, loads or compiles. Nor does it run until the first batch of a process
has its captions, as before them all slots are filled and graphs run for the first time: what takes
most of the time of few rows says little of many. Until there are as many again all are counted.
"""

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vidcap_cli.rundir.events import (
    Began,
    Committed,
    Done,
    Ended,
    Event,
    Notice,
    Relaunched,
    Rows,
    Started,
    State,
)
from vidcap_cli.statuses import Doing, Status
from vidcap_cli.view.results import Results

# The pace is that of about the last quarter of an hour: long enough for slow videos, short
# enough to follow a change from short clips to long ones.
PACE_MEMORY_S = 900.0
KEPT = 1000  # failures and notices that are kept word for word, to be shown; all are counted


@dataclass(frozen=True, slots=True)
class Failure:
    """A row without a caption; ``rank`` is None when no rank reported it."""

    row: int
    path: str
    status: Status
    error: str | None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """Captions per second, older ones and their time counting less (``PACE_MEMORY_S``)."""

    rows: float = 0.0
    seconds: float = 0.0
    last: float | None = None

    def at(self, time: float) -> "Pace":
        """The pace at ``time``."""
        # Ranks are read one after the other and hosts disagree on the time, so it may step back.
        gap = max(0.0, time - self.last) if self.last is not None else 0.0
        fade = math.exp(-gap / PACE_MEMORY_S)
        return Pace(
            rows=self.rows * fade,
            seconds=self.seconds * fade + PACE_MEMORY_S * (1 - fade),
            last=max(time, self.last) if self.last is not None else time,
        )

    def faded(self, times: Sequence[float]) -> float:
        """What captions made at ``times`` count now."""
        now = self.last if self.last is not None else times[-1]
        return sum(math.exp(min(0.0, time - now) / PACE_MEMORY_S) for time in times)

    def with_more(self, rows: float) -> "Pace":
        """The same pace with captions that count as ``rows``."""
        return replace(self, rows=self.rows + rows)

    def paused(self, time: float) -> "Pace":
        """The same pace at ``time``, without the time since its last."""
        return replace(self, last=time)

    def per_second(self, now: float | None = None) -> float | None:
        """Captions per second, up to ``now`` if the clock runs; None while there is no caption."""
        pace = self if now is None else self.at(now)
        return pace.rows / pace.seconds if pace.rows > 0 and pace.seconds > 0 else None


@dataclass(slots=True)
class RankState:
    """One rank. ``ok`` and ``failed`` are rows over all launches; tokens and seconds are those
    of the present launch, in which its process may have started anew ``restarts`` times. ``first``
    and ``last`` are the times of its first and last event; ``pace`` counts captions while the rank
    is ``working``, ``warm`` those after the first batch. ``memory`` is the most of the host's that
    it took, in bytes, as far as is known; ``committed`` rows are on the disk.
    """

    state: Doing = Doing.STARTING
    alive: bool = True
    launches: int = 0
    restarts: int = 0
    ok: int = 0
    failed: int = 0
    committed: int = 0
    new_tokens: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    memory: int = 0
    caption: str = ""
    caption_time: float = 0.0
    first: float | None = None
    last: float = 0.0
    pace: Pace = field(default_factory=Pace)
    warm: Pace = field(default_factory=Pace)
    working: bool = False
    # Of this process: rows that a model was given, captions, and how many it was given before one.
    _begun: int = 0
    _captions: int = 0
    _batch: int = 0
    # The process, and its seconds before it started anew: its running totals begin from nought.
    _process: tuple[str, int] | None = None
    _busy_before: float = 0.0
    _wait_before: float = 0.0

    def start(self, process: tuple[str, int]) -> None:
        """``process`` begins: another one with a launch, or the same one once more."""
        self.state, self.alive, self.working = Doing.STARTING, True, False
        self._begun = self._captions = self._batch = 0
        if process == self._process:
            self.restarts += 1
            self._busy_before, self._wait_before = self.busy_s, self.wait_s
            return
        self._process = process
        self.launches += 1
        self.restarts, self.new_tokens, self.busy_s, self.wait_s = 0, 0, 0.0, 0.0
        self._busy_before = self._wait_before = 0.0

    def spend(self, busy_s: float, wait_s: float) -> None:
        """Take the running totals that the process reports."""
        self.busy_s, self.wait_s = self._busy_before + busy_s, self._wait_before + wait_s

    def pass_time(self, time: float) -> None:
        """It is ``time`` now; the clocks go on if the rank could caption."""
        self.pace = self.pace.at(time) if self.working else self.pace.paused(time)
        runs = self.working and self._is_warm
        self.warm = self.warm.at(time) if runs else self.warm.paused(time)

    def begin(self, rows: int) -> None:
        """A model is given ``rows`` rows."""
        self._begun += rows
        self.working = self.state != Doing.COMPILING

    def captions_made(self, number: int, times: Sequence[float]) -> None:
        """So many rows got their captions; those count that did at these times, up to now."""
        self._batch = self._batch or max(1, self._begun)
        rows = self.pace.faded(times) if self.working else len(times)
        self.pace = self.pace.with_more(rows)
        self.warm = self.warm.with_more(rows) if self._is_warm else self.warm
        self._captions += number

    @property
    def _is_warm(self) -> bool:
        return 0 < self._batch <= self._captions

    def per_second(self, now: float) -> float | None:
        """Captions per second; None while there is none."""
        enough = self.warm.rows >= max(1, self._batch) and self.warm.seconds > 0
        pace = self.warm if enough else self.pace
        return pace.per_second(now if self.working else None)

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens per second of captioning; None before the first row."""
        return self.new_tokens / self.busy_s if self.busy_s > 0 else None

    @property
    def wait_share(self) -> float | None:
        """The share of time (0 to 1) that went into waiting for frames; None before any."""
        spent = self.busy_s + self.wait_s
        return self.wait_s / spent if spent > 0 else None


def joint_speed(ranks: Iterable[RankState]) -> float | None:
    """New tokens per second of several ranks together."""
    speeds = [speed for rank in ranks if (speed := rank.tokens_per_second) is not None]
    return sum(speeds) if speeds else None


def joint_wait_share(ranks: Collection[RankState]) -> float | None:
    """The share of their time that several ranks waited for frames, weighed by time."""
    waited = sum(rank.wait_s for rank in ranks)
    spent = waited + sum(rank.busy_s for rank in ranks)
    return waited / spent if spent > 0 else None


@dataclass(slots=True)
class RunState:
    """The whole run: ``total`` planned rows, of which ``finished`` had a caption before.

    ``ok`` rows got a caption in this run; ``failed_by`` counts those that got none, by status.
    """

    total: int
    finished: int = 0
    ranks: dict[int, RankState] = field(default_factory=dict)
    ok: int = 0
    failed_by: Counter[Status] = field(default_factory=Counter)
    notices: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))
    _followers: set[int] = field(default_factory=set, repr=False)
    _results: Results = field(default_factory=Results, repr=False)
    _listed: dict[int, Failure] = field(default_factory=dict, repr=False)

    @property
    def failed(self) -> int:
        """Rows that got no caption."""
        return self.failed_by.total()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The first rows that failed, ``KEPT`` at most, to be shown."""
        return tuple(self._listed.values())

    @property
    def remaining(self) -> int:
        """Rows that have no result yet."""
        return max(0, self.total - self.finished - self.ok - self.failed)

    def per_second(self, now: float) -> float | None:
        """Captions per second of the ranks that are there, or were; None while there is none."""
        alive = [rank for rank in self.ranks.values() if rank.alive] or self.ranks.values()
        paces = [rank.per_second(now) for rank in alive]
        known = [pace for pace in paces if pace is not None]
        return sum(known) if known else None

    def videos_per_hour(self, now: float) -> float | None:
        """The present pace; None while there is no caption."""
        pace = self.per_second(now)
        return None if pace is None else pace * 3600

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last row, if each of them gets a caption; None while there is no pace.

        It is less where rows fail, which takes them less time as a rule.
        """
        if self.remaining == 0:
            return 0.0
        pace = self.per_second(now)
        return None if pace is None else self.remaining / pace

    def take(self, rank: int | None, event: Event) -> Sequence[float]:
        """Count an event in; ``rank`` None is the process that leads the run.

        Returns when the captions were made that it adds, in seconds since the epoch.
        """
        if isinstance(event, Notice):
            self.notices.append(event.text)
        elif isinstance(event, Relaunched):
            self._keep(event.done)
        elif rank is None:
            if isinstance(event, Done):
                return self._row(event, None)
        elif not self._follows(rank, event):
            return self._of_rank(rank, event)
        return ()

    def _follows(self, rank: int, event: Event) -> bool:
        """Whether a rank only does what another one does; it may be otherwise in each launch."""
        if isinstance(event, Started):
            self._followers.discard(rank)
            if event.follows is not None:
                self._followers.add(rank)
                self.ranks.pop(rank, None)
        return rank in self._followers

    def _of_rank(self, number: int, event: Event) -> Sequence[float]:
        rank = self.ranks.setdefault(number, RankState())
        rank.first = event.time if rank.first is None else rank.first
        rank.last = event.time
        rank.working = rank.working and not isinstance(event, Started)
        if not (rank.working and isinstance(event, Began)):  # the clocks go on as they are
            rank.pass_time(event.time)
        match event:
            case Started():
                rank.start((event.host, event.pid))
            case State():
                rank.state = event.state
                rank.working = event.state in (Doing.WAITING, Doing.CAPTIONING)
            case Began():
                rank.begin(len(event.rows))
            case Rows():
                rank.begin(len(event.begun))
                rank.new_tokens += event.new_tokens
                return self._rows(event, number)
            case Done():
                rank.working = rank.state != Doing.COMPILING
                rank.new_tokens += event.new_tokens
                rank.spend(event.busy_s, event.wait_s)
                if event.text:
                    rank.caption, rank.caption_time = event.text, event.time
                return self._row(event, number)
            case Committed():
                rank.memory = max(rank.memory, event.memory)
                rank.committed += event.rows
            case Ended():
                rank.state, rank.alive, rank.working = event.reason, False, False
        return ()

    def _row(self, event: Done, number: int | None) -> Sequence[float]:
        """Count a row that a rank reported, or the leading process."""
        counts = self._counts(event.row, event.status, number)
        if event.status == Status.OK:
            made = [event.time] if counts else []
            if number is not None:
                self.ranks[number].captions_made(1, made)
            return made
        if counts and len(self._listed) < KEPT:
            failure = Failure(event.row, event.path, event.status, event.error, number)
            self._listed[event.row] = failure
        return ()

    def _rows(self, event: Rows, number: int) -> Sequence[float]:
        """Count rows that are told together."""
        made = [
            time
            for row, status, time in event.ended
            if self._counts(row, status, number) and status == Status.OK
        ]
        if captions := sum(status == Status.OK for _, status, _ in event.ended):
            self.ranks[number].captions_made(captions, made)
        return made

    def _counts(self, row: int, status: Status, number: int | None) -> bool:
        """Count a row: once, and a caption rather than a failure; whether it counts."""
        before = self._results[row]
        if before and before[0] == Status.OK:
            return False
        if before:
            self._forget_failure(row, *before)
        self._results[row] = status, number
        rank = RankState() if number is None else self.ranks[number]
        if status == Status.OK:
            self.ok += 1
            rank.ok += 1
        else:
            self.failed_by[status] += 1
            rank.failed += 1
        return True

    def _keep(self, done: npt.NDArray[np.bool_]) -> None:
        """Forget the rows that were reported and are not ``done``: their ranks died before."""
        for row in self._results.beyond(done):
            before = self._results[row]
            assert before
            status, number = before
            if status == Status.OK:
                self.ok -= 1
                if number is not None:
                    self.ranks[number].ok -= 1
            else:
                self._forget_failure(row, status, number)
            del self._results[row]

    def _forget_failure(self, row: int, status: Status, number: int | None) -> None:
        """A row that failed has been tried again."""
        self.failed_by[status] -= 1
        if not self.failed_by[status]:
            del self.failed_by[status]
        self._listed.pop(row, None)
        if number is not None:
            self.ranks[number].failed -= 1
