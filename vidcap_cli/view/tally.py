"""What the events of a run add up to: a pure fold, without clock, files or terminal.

``fold(state, rank, event)`` gives the next state and leaves the old one alone. A row counts once,
however often it is reported: a rank that died after finishing a row but before committing it
sees the row finished again in the next launch, and a row that failed may succeed there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vidcap_cli.rundir.events import Began, Done, Ended, Event, Notice, Started, State
from vidcap_cli.statuses import Doing, Status

# The pace is that of about the last quarter of an hour: long enough for slow videos, short
# enough to follow a change from short clips to long ones.
PACE_MEMORY_S = 900.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A row without a caption; ``rank`` is None when no rank reported it."""

    row: int
    path: str
    status: Status
    error: str | None
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank. ``ok`` and ``failed`` are rows over all launches; tokens and seconds are those
    of the present launch, because that is what the rank's own running totals cover.
    """

    state: Doing = Doing.STARTING
    alive: bool = True
    launches: int = 0
    ok: int = 0
    failed: int = 0
    new_tokens: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    caption: str = ""
    caption_time: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens per second of captioning; None before the first row."""
        return self.new_tokens / self.busy_s if self.busy_s > 0 else None

    @property
    def wait_share(self) -> float | None:
        """The share of time (0 to 1) that went into waiting for frames; None before any."""
        spent = self.busy_s + self.wait_s
        return self.wait_s / spent if spent > 0 else None


@dataclass(frozen=True, slots=True)
class Pace:
    """Rows per second, older rows and seconds counting less and less (``PACE_MEMORY_S``)."""

    rows: float = 0.0
    seconds: float = 0.0
    last: float | None = None

    def at(self, time: float, rows: int = 0) -> "Pace":
        """The pace at ``time``, with ``rows`` more finished at that instant."""
        # Ranks are read one after the other and hosts disagree on the time, so it may step back.
        gap = max(0.0, time - self.last) if self.last is not None else 0.0
        fade = math.exp(-gap / PACE_MEMORY_S)
        return Pace(
            rows=self.rows * fade + rows,
            seconds=self.seconds * fade + PACE_MEMORY_S * (1 - fade),
            last=max(time, self.last) if self.last is not None else time,
        )

    def paused(self) -> "Pace":
        """The same pace with the clock stopped until the next event."""
        return replace(self, last=None)

    def per_second(self, now: float) -> float | None:
        """Rows per second, or None while nothing is finished."""
        pace = self if self.last is None else self.at(now)
        return pace.rows / pace.seconds if pace.rows > 0 and pace.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class RunState:
    """The whole run: ``total`` planned rows, of which ``finished`` had a caption before.

    ``ok_rows`` and ``failed_rows`` are sets of row ids as the bits of one number: a million
    rows fit in 125 kB, and the next state shares nothing with the last.
    """

    total: int
    finished: int = 0
    ranks: Mapping[int, RankState] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    notices: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)
    ok_rows: int = 0
    failed_rows: int = 0

    @property
    def ok(self) -> int:
        """Rows that got a caption in this run."""
        return self.ok_rows.bit_count()

    @property
    def failed(self) -> int:
        """Rows that got none."""
        return self.failed_rows.bit_count()

    @property
    def remaining(self) -> int:
        """Rows that have no result yet."""
        return max(0, self.total - self.finished - self.ok - self.failed)

    def videos_per_hour(self, now: float) -> float | None:
        """The present pace; None while nothing is finished."""
        pace = self.pace.per_second(now)
        return None if pace is None else pace * 3600

    def seconds_left(self, now: float) -> float | None:
        """Seconds until the last row at the present pace; None while there is no pace."""
        if self.remaining == 0:
            return 0.0
        pace = self.pace.per_second(now)
        return None if pace is None else self.remaining / pace


def fold(state: RunState, rank: int | None, event: Event) -> RunState:
    """The state after ``event``; ``rank`` None is the process that leads the run."""
    if isinstance(event, Notice):
        return replace(state, notices=(*state.notices, event.text))
    if isinstance(event, Done):
        return _done(state, rank, event)
    if rank is None:
        return state
    before = state.ranks.get(rank, RankState())
    match event:
        case Started():
            # A launch begins: its running totals start from nought, and the time it spends
            # loading the model is no reason to expect slower videos.
            after = replace(
                before,
                state=Doing.STARTING,
                alive=True,
                launches=before.launches + 1,
                new_tokens=0,
                busy_s=0.0,
                wait_s=0.0,
            )
            state = replace(state, pace=state.pace.paused())
        case State():
            after = replace(before, state=event.state)
        case Began():
            after = before
            state = replace(state, pace=state.pace.at(event.time))
        case Ended():
            after = replace(before, state=event.reason, alive=False)
        case _:
            after = before
    return replace(state, ranks={**state.ranks, rank: after})


def _done(state: RunState, rank: int | None, event: Done) -> RunState:
    bit = 1 << event.row
    known = bool(state.ok_rows & bit)
    if state.failed_rows & bit:
        state = _forget_failure(state, event.row)
    captioned = event.status == Status.OK
    ok_rows = state.ok_rows | bit if captioned else state.ok_rows
    failed_rows = state.failed_rows if captioned or known else state.failed_rows | bit
    failures = state.failures
    if not captioned and not known:
        failure = Failure(event.row, event.path, event.status, event.error, rank)
        failures = (*failures, failure)
    ranks = state.ranks
    if rank is not None:
        before = ranks.get(rank, RankState())
        after = replace(
            before,
            ok=before.ok + (captioned and not known),
            failed=before.failed + (not captioned and not known),
            new_tokens=before.new_tokens + event.new_tokens,
            busy_s=event.busy_s,
            wait_s=event.wait_s,
            caption=event.text or before.caption,
            caption_time=event.time if event.text else before.caption_time,
        )
        ranks = {**ranks, rank: after}
    return replace(
        state,
        ranks=ranks,
        failures=failures,
        pace=state.pace.at(event.time, 0 if known or rank is None else 1),
        ok_rows=ok_rows,
        failed_rows=failed_rows,
    )


def _forget_failure(state: RunState, row: int) -> RunState:
    """The state in which ``row`` has not failed: it has been tried again."""
    ranks = dict(state.ranks)
    for failure in state.failures:
        if failure.row == row and failure.rank is not None:
            ranks[failure.rank] = replace(
                ranks[failure.rank], failed=ranks[failure.rank].failed - 1
            )
    return replace(
        state,
        ranks=ranks,
        failures=tuple(failure for failure in state.failures if failure.row != row),
        failed_rows=state.failed_rows & ~(1 << row),
    )
