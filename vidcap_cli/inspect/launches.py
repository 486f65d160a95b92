"""How each launch of a run went, and where the one that goes on stands: from events and exits."""

import time
from array import array
from dataclasses import dataclass, field
from typing import Any

from vidcap_cli.inspect.histogram import bar
from vidcap_cli.inspect.report import Fact, Section
from vidcap_cli.inspect.speed import speed, stretches
from vidcap_cli.rundir.events import EventReader
from vidcap_cli.rundir.paths import AttemptDir
from vidcap_cli.rundir.records import Attempt, RankExit, read_exits
from vidcap_cli.rundir.standing import Standing
from vidcap_cli.view.follower import pace_words
from vidcap_cli.view.tally import RankState, RunState
from vidcap_cli.view.words import count, duration, figure, size

_BAR = 10


@dataclass(slots=True)
class Launch:
    """A launch as its events tell it; ``times`` are those of its captions."""

    folder: AttemptDir
    attempt: Attempt
    state: RunState
    exits: dict[int, RankExit]
    times: "array[float]" = field(default_factory=lambda: array("d"))

    @classmethod
    def read(cls, folder: AttemptDir) -> "Launch":
        """All that its ranks have reported so far."""
        attempt = Attempt.read(folder)
        exits = {end.rank: end for end in read_exits(folder)}
        launch = cls(folder, attempt, RunState(total=attempt.rows), exits)
        for rank in range(attempt.ranks):
            for event in EventReader(folder.events(rank)).read(singly=0):
                launch.times.extend(launch.state.take(rank, event))
        return launch

    @property
    def works(self) -> dict[int, RankState]:
        """Each rank, also one that has said nothing; of those that share a model the one that
        leads, and those that died.
        """
        size = self.attempt.config.tensor_parallel
        died = (end.rank for end in self.exits.values() if end.code)
        numbers = {*range(0, self.attempt.ranks, size), *died}
        return {n: self.state.ranks.get(n, RankState()) for n in sorted(numbers)}

    @property
    def span(self) -> tuple[float, float] | None:
        """When its first event was and its last, if there was one."""
        begun = [work for work in self.works.values() if work.first is not None]
        if not begun:
            return None
        return min(w.first for w in begun if w.first is not None), max(w.last for w in begun)

    def facts(self, *, over: bool) -> tuple[Fact, ...]:
        """What it was to do and did, and each of its ranks, which are gone where it is ``over``."""
        facts = [Fact("rows to do", f"{self.attempt.rows:,}", self.attempt.rows)]
        if self.span:
            facts.append(self._done(*self.span))
        works = self.works
        captions = [work.ok for work in works.values()]
        if len(works) > 1:
            words = f"{min(captions):,} to {max(captions):,} captions a rank"
            value = {"least": min(captions), "most": max(captions)}
            facts.append(Fact("balance", words, value))
        for rank, work in works.items():
            end = self.exits.get(rank)
            words = _rank_words(work, end, over=over)
            if len(works) > 1:
                words = f"{bar(work.ok, max(captions), _BAR):<{_BAR}} {words}"
            facts.append(Fact(f"rank {rank}", words, _rank_data(work, end)))
        return tuple(facts)

    def _done(self, first: float, last: float) -> Fact:
        state, seconds = self.state, last - first
        per_hour = state.ok / seconds * 3600 if seconds > 0 else None
        words = count(state.ok, "caption")
        words += f" and {count(state.failed, 'failure')}" if state.failed else ""
        words += f" in {duration(seconds)}"
        value: dict[str, Any] = {
            "rows": state.ok + state.failed,
            "captions": state.ok,
            "seconds": seconds,
            "per_hour": per_hour,
        }
        if self.times:
            edges, speeds = stretches(self.times, first, last)
            value["over_time"] = {"seconds": edges, "per_hour": speeds}
        return Fact("done", words, value)

    def speed(self) -> list[Section]:
        """How fast it was when, drawn."""
        return speed(self.folder.number, self.times, *self.span) if self.span else []


@dataclass(frozen=True, slots=True)
class Going:
    """A run that goes on: what its last launch has reported, of which so many captions are
    ``waiting`` to be on the disk. The live view tells what is reported.
    """

    state: RunState
    captioned: int
    waiting: int

    @classmethod
    def of(cls, launch: Launch, standing: Standing) -> "Going":
        """That of ``launch``, whose run stands so on the disk."""
        reported = max(launch.attempt.captioned + launch.state.ok, standing.ok)
        return cls(launch.state, reported, reported - standing.ok)

    def left(self, on_disk: int) -> int:
        """How many rows are left, of which ``on_disk`` have no result there."""
        return min(on_disk, self.state.remaining)

    def failed(self, on_disk: int) -> int:
        """How many rows failed of the ``on_disk`` that have no result there."""
        return max(0, on_disk - self.left(on_disk) - self.waiting)

    def verdict(self, rows: int, failed: int, left: int) -> str:
        """Where the run stands: of ``rows`` rows so many failed and are ``left``."""
        words = f"goes on: {self.captioned:,} of {rows:,} captioned"
        if self.waiting:
            words += f" ({self.waiting:,} of them not on the disk yet)"
        if failed:
            words += f", {failed:,} failed"
        return f"{words}, {left:,} left"

    def facts(self) -> list[Fact]:
        """Its pace, and the time that is left at that."""
        now = time.time()
        value = {
            "per_hour": self.state.videos_per_hour(now),
            "seconds": self.state.seconds_left(now),
        }
        words = " · ".join(pace_words(self.state, now)) or "all rows have a result"
        return [Fact("at this pace", words, value)]


def _rank_words(work: RankState, end: RankExit | None, *, over: bool) -> str:
    state = "cut off" if over and work.alive else str(work.state)
    words = [end.words if end and end.code else state, f"{work.ok:,} ok"]
    if work.failed:
        words.append(f"{work.failed:,} failed")
    lost = work.ok + work.failed - work.committed
    if lost > 0 and over and (work.alive or (end and end.code)):
        words.append(f"{lost:,} of them not on the disk")
    if work.restarts:
        words.append(f"short of memory, so started anew {count(work.restarts, 'time')}")
    if work.tokens_per_second is not None:
        words.append(f"{figure(work.tokens_per_second)} tokens/s")
    if work.wait_share is not None:
        words.append(f"waiting {work.wait_share:.0%}")
    if work.memory:
        words.append(size(work.memory))
    return " · ".join(words)


def _rank_data(work: RankState, end: RankExit | None) -> dict[str, Any]:
    return {
        "state": work.state,
        "exit_code": None if end is None else end.code,
        "ok": work.ok,
        "failed": work.failed,
        "restarts": work.restarts,
        "new_tokens": work.new_tokens,
        "busy_s": work.busy_s,
        "wait_s": work.wait_s,
        "memory": work.memory or None,
    }
