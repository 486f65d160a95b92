"""Which rows a rank that dies is charged with, by what its processes reported."""

import signal

import pytest

from tests.launch.runs import Notices
from vidcap_cli.launch.msrun import Cluster, Ranks
from vidcap_cli.launch.supervise import Interrupts, _Watch
from vidcap_cli.rundir.events import Began, Event, EventWriter, Started
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.records import RankExit


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
