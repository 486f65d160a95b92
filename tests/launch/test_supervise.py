"""Which rows a rank that dies is charged with, by what its processes reported."""

import signal
from collections import Counter

import pytest

from tests.launch.runs import Notices
from vidcap_cli.launch.msrun import Cluster, Ranks
from vidcap_cli.launch.supervise import Interrupts, _follow, _Watch
from vidcap_cli.rundir.events import Began, Committed, Done, Ended, Event, EventWriter, Started
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.records import RankExit
from vidcap_cli.statuses import Doing, Status
from vidcap_cli.view.follower import QuietView


class View(Notices):
    def event(self, rank: int | None, event: Event) -> None:
        """What is not told is not looked at here."""


class FakeRanks:
    """Rank 0 dies when it is looked at for the first time."""

    def __init__(self) -> None:
        self._left = [(0, -signal.SIGKILL)]

    def announce(self, rank: int, pid: int) -> None:
        assert (rank, pid) == (0, 77)

    def poll(self) -> list[tuple[int, int]]:
        left, self._left = self._left, []
        return left

    def stop(self) -> None:
        """There is nobody else."""


@pytest.mark.parametrize("anew", [False, True])
def test_a_process_that_started_anew_has_only_its_own_rows(tmp_path, anew):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    reported = [Started(77, "here"), Began([1, 2])]
    reported += [Started(77, "here"), Began([2])] if anew else []
    with EventWriter(folder.events(0)) as events:
        for event in reported:
            events.write(event)
    watch = _Watch(folder, Cluster(), View(), Interrupts())
    watch.ranks = FakeRanks()
    watch.look()
    assert watch.exits() == [RankExit(0, -signal.SIGKILL, (2,) if anew else (1, 2))]


def test_a_rank_that_starts_anew_while_it_is_told_to_leave_is_told_once_more():
    ranks = Ranks.__new__(Ranks)
    ranks._numbers, ranks._terminated = {77: 0}, {77, 78}
    ranks.announce(0, 77)
    assert ranks._terminated == {78}


class GoneRanks:
    """Two ranks that have left in good order, having been told to."""

    alive = True

    def announce(self, rank: int, pid: int) -> None:
        """Nobody is to be told anything more."""

    def poll(self) -> list[tuple[int, int]]:
        left, self.alive = [(0, 0), (1, 0)] if self.alive else [], False
        return left

    def stop(self) -> None:
        """They have left."""

    def kill(self) -> None:
        """They have left."""


def report(folder: AttemptDir, rank: int, rows: range) -> None:
    """What a rank reports whose every hundredth row fails and whose first one has no end."""
    first, *others = rows
    with EventWriter(folder.events(rank)) as events:
        events.write(Started(70 + rank, "here"))
        events.write(Began([first]))
        for made, row in enumerate(others):
            events.write(Began([row]))
            status = Status.OK if row % 100 else Status.DECODE_ERROR
            text, error = ("words " * 20, None) if row % 100 else (None, "no video")
            events.write(Done(row, f"{row}.mp4", status, text, error, 3, float(made), 0.5))


def test_a_command_far_behind_its_ranks_ends_with_the_account_of_all_rows(tmp_path):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    for rank in (0, 1):
        report(folder, rank, range(rank * 5000, rank * 5000 + 5000))
        with EventWriter(folder.events(rank)) as events:
            events.write(Committed(4999, 1000 + rank))
            events.write(Ended(Doing.STOPPED))
    view, interrupts = QuietView(title="", total=20_000, finished=0), Interrupts()
    interrupts.count = 1
    watch = _Watch(folder, Cluster(2, 2), view, interrupts)
    _follow(GoneRanks(), watch)
    state = view.state
    assert watch.finished == 9998
    assert (state.ok, state.failed_by) == (9900, Counter({Status.DECODE_ERROR: 98}))
    assert state.remaining == 20_000 - 9998
    assert len(state.failures) == 98
    for rank, work in state.ranks.items():
        assert (work.ok, work.failed, work.new_tokens) == (4950, 49, 3 * 4999)
        assert (work.busy_s, work.wait_s, work.memory) == (4998.0, 0.5, 1000 + rank)
        assert (work.state, work.alive) == (Doing.STOPPED, False)
        assert work.per_second(work.last) is not None
    assert watch.exits() == [RankExit(0, 0), RankExit(1, 0)]


def test_a_rank_that_dies_far_ahead_is_charged_with_what_it_had_begun(tmp_path):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    report(folder, 0, range(5000))
    with EventWriter(folder.events(0)) as events:
        events.write(Began([7000, 7001]))
        events.write(Began([7002]))
    watch = _Watch(folder, Cluster(), QuietView(title="", total=9000, finished=0), Interrupts())
    watch.ranks = FakeRanks()
    watch.ranks.announce = lambda *_: None
    watch.look()
    assert watch.exits() == [RankExit(0, -signal.SIGKILL, (0, 7000, 7001, 7002))]
