"""A launch is the same whether its rows are read one by one or many at once."""

import random
from dataclasses import asdict

import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.inspect.launches import Going, Launch
from vidcap_cli.rundir import events
from vidcap_cli.rundir.events import (
    Alive,
    Began,
    Committed,
    Done,
    Ended,
    Event,
    EventReader,
    EventWriter,
    Rows,
    Started,
    State,
)
from vidcap_cli.rundir.paths import AttemptDir
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.statuses import Doing, Status

BATCH = 4
FIRST = 25  # results of a process that are read one by one


class Rank:
    """What a rank reports that captions ``BATCH`` videos together, of chance lengths."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number, self._chance, self._time = number, chance, 1000.0 * number
        self.said: list[Event] = []

    def say(self, kind: type[Event], *fields: object, after: float = 0.01) -> None:
        self._time += self._chance.random() * after
        self.said.append(kind(*fields, time=self._time))

    def caption(self, rows: range) -> None:
        """One process: a model that is loaded and compiled, then the rows; some stay in it."""
        self.say(Started, 7, "host")
        self.say(State, Doing.LOADING, after=30)
        self.say(State, Doing.COMPILING, after=300)
        running: list[int] = []
        for row in rows:
            running.append(row)
            self.say(Began, [row])
            if len(running) == BATCH:
                row_of_it = running.pop(self._chance.randrange(BATCH))
                self._finish(row_of_it, row - rows.start)
                if row - rows.start == 2 * BATCH:
                    self.say(State, Doing.CAPTIONING, after=5)

    def _finish(self, row: int, made: int) -> None:
        failed = self._chance.random() < 0.2
        status = self._chance.choice([Status.OOM, Status.DECODE_ERROR]) if failed else Status.OK
        words = (None, 'it says "no"') if failed else ("A ball.", None)
        self.say(
            Done, row, f"{row}.mp4", status, *words, 0 if failed else 9, made, made / 7, after=9
        )
        kind = self._chance.random()
        if kind < 0.02:
            self.say(State, Doing.WAITING)
            self.say(Alive, after=40)
            self.say(State, Doing.CAPTIONING, after=20)
        elif kind < 0.04:
            self.say(State, Doing.COMPILING)
            self.say(State, Doing.CAPTIONING, after=60)
        elif kind < 0.1:
            self.say(Committed, 5, made)


@pytest.fixture(params=range(8))
def folder(request, tmp_path, monkeypatch) -> AttemptDir:
    """Two ranks, of which one starts anew and does rows again, and one goes on."""
    monkeypatch.setattr(events, "_FIRST", FIRST)
    monkeypatch.setattr(events, "_FAILURES", 10)
    chance = random.Random(request.param)
    first, second = ranks = Rank(0, chance), Rank(1, chance)
    first.caption(range(200))
    first.caption(range(150, 400))
    first.say(Ended, Doing.FINISHED)
    second.caption(range(400, 400 + chance.randrange(30, 500)))
    folder = AttemptDir(tmp_path, 1)
    Attempt(CaptionConfig("qwen2vl", "nano"), rows=900, chunk=8, ranks=2, bases=()).write(folder)
    for rank in ranks:
        with EventWriter(folder.events(rank.number)) as writer:
            for event in rank.said:
                writer.write(event)
    return folder


def test_the_same_is_told_of_a_launch(folder, monkeypatch):
    told = list(EventReader(folder.events(0)).read(singly=0))
    assert sum(isinstance(event, Rows) for event in told) > 5
    together = Launch.read(folder)
    read = EventReader.read
    monkeypatch.setattr(EventReader, "read", lambda reader, **_: read(reader))
    singly = Launch.read(folder)
    assert together.times == singly.times
    assert len(singly.times) > 300
    for over in (True, False):
        assert together.facts(over=over) == singly.facts(over=over)
    assert together.speed() == singly.speed()
    one, other = together.state, singly.state
    assert (one.ok, one.failed_by, one.remaining) == (other.ok, other.failed_by, other.remaining)
    for number, rank in other.ranks.items():
        mine, its = asdict(one.ranks[number]), asdict(rank)
        for name in ("pace", "warm"):
            assert mine.pop(name) == pytest.approx(its.pop(name), rel=1e-9)
        # The caption that is shown may be an earlier one.
        assert mine.pop("caption_time") <= its.pop("caption_time")
        assert mine == its
    now = singly.span[1] + 100
    for pace in ("videos_per_hour", "seconds_left"):
        assert getattr(one, pace)(now) == pytest.approx(getattr(other, pace)(now), rel=1e-9)
    assert Going(one, 0, 0).facts()[0].words == Going(other, 0, 0).facts()[0].words
