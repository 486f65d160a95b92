"""A rank whose memory ran out for good: what the process that takes its place does, and what not.

The real rank, process after process, but for decoders and model.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.rank.fakes import FakeCaptioner, FakeDecoders, FakeEngine
from vidcap_cli.config import CaptionConfig
from vidcap_cli.rank import worker
from vidcap_cli.rank.intake import Claims
from vidcap_cli.rundir.claims import claim_chunks
from vidcap_cli.rundir.events import Ended, Event, EventReader, EventWriter, Notice
from vidcap_cli.rundir.leases import grant
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.rundir.records import Attempt, ShortRows
from vidcap_cli.rundir.todo import write_todo


class Launch:
    """``count`` rows to caption; ``short`` says which rows memory runs out with."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, count: int = 6) -> None:
        (place / "meta.csv").write_text("path\n" + "".join(f"{n}.mp4\n" for n in range(count)))
        self.run = RunDir(place / "run")
        self.short: Callable[[list[int]], list[int]] = lambda _: []
        self.after: Callable[[int], None] = lambda _: None
        self.together: list[set[int]] = []
        self.stop = worker.Stop()
        self._count = count
        self._place = place
        monkeypatch.setattr(worker, "load_engine", lambda *_: self._engine())
        monkeypatch.setattr(worker, "load_captioner", lambda _: FakeCaptioner())
        monkeypatch.setattr(worker, "DecodePool", lambda *_, **__: nullcontext(FakeDecoders({})))

    def begin(self, *, slots: int = 2, chunk: int = 2, on_oom: str = "shrink") -> None:
        self._slots = slots
        config = CaptionConfig("qwen2vl", "/m", slots=slots, on_oom=on_oom, flush_seconds=1000)
        plan = make_plan(self._place / "meta.csv", self.run, config)
        self.run.parts.mkdir()
        self.folder = self.run.attempt(1)
        self.folder.claims.mkdir(parents=True)
        write_todo(self.run, plan, self.folder)
        Attempt(config, rows=self._count, chunk=chunk, ranks=2, bases=plan.bases).write(self.folder)
        self.lease = self.folder.lease(0, grant(self.folder, [0]) or "")

    def process(self) -> bool:
        """A process of rank 0; whether another is to take its place."""
        with EventWriter(self.folder.events(0)) as events:
            return worker.work(
                self.run, self.folder, 0, lease=self.lease, events=events, stop=self.stop
            )

    def finish(self) -> int:
        """Process after process; how many there were."""
        processes = 1
        while self.process():
            processes += 1
            assert processes < 20, "it never ends"
        return processes

    def _engine(self) -> FakeEngine:
        engine = FakeEngine(slots=self._slots, short=self.short, after=self.after)
        self.together = engine.together
        return engine

    @property
    def results(self) -> dict[int, dict]:
        rows = [row for part in self.run.part_files() for row in read_part(part).to_pylist()]
        assert len(rows) == len({row["row_id"] for row in rows}), "a row twice"
        return {row["row_id"]: row for row in rows}

    @property
    def statuses(self) -> dict[int, str]:
        return {row: result["status"] for row, result in sorted(self.results.items())}

    @property
    def events(self) -> list[Event]:
        return list(EventReader(self.folder.events(0)).read())


@pytest.fixture
def launch(tmp_path, monkeypatch) -> Launch:
    return Launch(tmp_path, monkeypatch)


def runs_out(row: int, times: int = 99) -> Callable[[list[int]], list[int]]:
    """Memory runs out with whatever is in the model with ``row``, so many times."""
    left = Counter({row: times})

    def short(rows: list[int]) -> list[int]:
        if row in rows and left[row]:
            left[row] -= 1
            return rows
        return []

    return short


def test_rows_that_ran_out_together_are_next_alone(launch):
    launch.begin()
    launch.short = runs_out(2, times=1)
    assert launch.process()
    lost = {1, 2}
    assert launch.statuses == {0: "ok"}
    assert ShortRows.read(launch.folder, 0) == ShortRows(alone=frozenset(lost))
    assert not launch.process()
    assert launch.statuses == dict.fromkeys(range(6), "ok")
    assert all(len(together) == 1 for together in launch.together if together & lost)
    assert {3, 4} in launch.together  # the others share the model as before
    assert not any(result["flags"] for result in launch.results.values())


def test_one_that_was_the_only_one_by_chance_is_not_made_smaller_yet(launch):
    # The process may have held more than a fresh one does.
    launch.begin(slots=1)
    launch.short = runs_out(2, times=1)
    assert launch.finish() == 2
    assert ShortRows.read(launch.folder, 0) == ShortRows(alone=frozenset({2}))
    assert launch.statuses == dict.fromkeys(range(6), "ok")
    assert not any(result["flags"] for result in launch.results.values())


def test_then_smaller_and_then_it_is_out_of_memory(launch):
    launch.begin()
    launch.short = runs_out(2, times=2)
    assert launch.finish() == 3
    assert launch.statuses == dict.fromkeys(range(6), "ok")
    flags = {row: result["flags"] for row, result in launch.results.items()}
    assert flags == {**dict.fromkeys(range(6)), 2: "shrunk"}
    assert launch.results[2]["height"] == 4


def test_a_row_that_always_runs_out_takes_three_tries_and_nobody_with_it(launch):
    launch.begin()
    launch.short = runs_out(2)
    assert launch.finish() == 4
    assert launch.statuses == {**dict.fromkeys(range(6), "ok"), 2: "oom"}
    assert launch.results[2]["error"] == "out of memory: no room"


def test_without_shrinking_it_is_empty_when_it_was_alone(launch):
    launch.begin(on_oom="empty")
    launch.short = runs_out(2)
    assert launch.finish() == 3
    assert launch.statuses == {**dict.fromkeys(range(6), "ok"), 2: "empty"}


def test_rows_beside_the_one_that_ran_out_are_begun_again_and_no_more(launch):
    launch.begin()
    left = [2]
    launch.short = lambda rows: [left.pop()] if left and 2 in rows else []
    assert launch.process()
    assert ShortRows.read(launch.folder, 0) == ShortRows(alone=frozenset({2}))
    assert not launch.process()
    assert launch.statuses == dict.fromkeys(range(6), "ok")


def test_every_row_may_run_out(launch):
    launch.begin()
    launch.short = lambda rows: rows
    launch.finish()
    assert launch.statuses == dict.fromkeys(range(6), "oom")


def test_when_nothing_is_left_no_other_process_begins(launch):
    launch.begin()
    launch.short = runs_out(5)
    assert launch.finish() == 3  # with row 4, alone, and smaller, when no other is left
    notices = [event.text for event in launch.events if isinstance(event, Notice)]
    assert len(notices) == 2
    assert "ran out of memory and starts anew" in notices[0]
    assert launch.events[-1] == Ended("finished", time=launch.events[-1].time)


def test_a_rank_that_is_to_stop_does_not_start_anew(launch):
    launch.begin()

    def short(rows: list[int]) -> list[int]:
        launch.stop.asked = 2 in rows  # while the step is at hand in which memory runs out
        return rows if 2 in rows else []

    launch.short = short
    assert not launch.process()
    assert launch.statuses == {0: "ok"}
    assert launch.events[-1].reason == "stopped"


def test_chunks_of_other_ranks_are_theirs(launch):
    launch.begin()
    theirs = claim_chunks(launch.folder, 3, 1)
    assert next(theirs) == 0
    launch.short = runs_out(3)
    launch.finish()
    assert set(launch.statuses) == {2, 3, 4, 5}


def test_a_part_is_never_replaced(launch):
    launch.begin()
    launch.short = runs_out(2, times=1)
    launch.process()
    before = {part: part.read_bytes() for part in launch.run.part_files()}
    assert len(before) == 1
    launch.process()
    assert all(part.read_bytes() == data for part, data in before.items())
    assert [part.name for part in launch.run.part_files()] == [
        f"part-0001-0000-{number:05d}.parquet" for number in range(2)
    ]


def test_a_rank_that_begins_again_for_another_reason_goes_on_where_it_was(launch):
    launch.begin(chunk=4)

    def dies(row: int) -> None:
        if row == 1:
            raise MemoryError

    launch.after = dies
    with pytest.raises(MemoryError):
        launch.process()
    launch.after = lambda _: None
    assert not launch.process()
    assert launch.statuses == dict.fromkeys(range(6), "ok")


def test_rows_of_a_damaged_part_are_done_again(launch):
    launch.begin()
    launch.short = runs_out(2, times=1)
    launch.process()
    (part,) = launch.run.part_files()
    part.write_bytes(part.read_bytes()[:-100])
    again = Claims(launch.run, launch.folder, Attempt.read(launch.folder), 0)
    assert [row.row_id for row in again.rows()] == [*range(6)]
    launch.process()
    part.rename(part.with_suffix(".damaged"))
    assert launch.statuses == dict.fromkeys(range(6), "ok")
