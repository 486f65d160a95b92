"""Ranks that share a model: what one is told the others do, and none is left behind.

Real processes and sockets; the model only notes what is done to it, so nothing is computed.
"""

import multiprocessing
import os
import socket
import threading
import time
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest

from vidcap_cli.engine import group
from vidcap_cli.engine.group import Group, follow

SIZE = 3
SPAWN = multiprocessing.get_context("spawn")


class FakeModel:
    """Fails at tokens: 13 everywhere, 14 and 15 at one share alone, for which others wait."""

    alone = {14: 1, 15: 0}  # noqa: RUF012 - nobody changes it

    def __init__(self, index: int, notes: Connection | None = None) -> None:
        self.index, self.notes = index, notes

    def step(self, ids: int) -> str:
        if ids == 13 or self.alone.get(ids) == self.index:
            raise ValueError(f"{ids} is no token")
        if ids in self.alone:
            time.sleep(60)  # the sum that never comes
        return self.free(ids)

    def free(self, slot: int) -> str:
        if self.notes:
            self.notes.send((self.index, slot))
        return f"after {slot}"


def follower(rank: int, environment: dict[str, str], notes: Connection) -> None:
    os.environ.update(environment)
    group._APART = 1.0

    def load(share: object) -> object:
        index = getattr(share, "index", None)
        assert os.environ["MS_WORKER_NUM"] == str(SIZE)
        assert os.environ["MS_NODE_ID"] == str(index)
        return SimpleNamespace(model=FakeModel(index, notes), room=100 - index)

    how = follow(rank, SIZE, load, lambda: None)
    notes.send(how)


@pytest.fixture
def ranks(monkeypatch):
    """A leader, number 3 of all ranks, with two that follow; and what those note."""
    monkeypatch.setenv("VIDCAP_LEASE", f"test-{os.getpid()}-{time.monotonic_ns()}")
    monkeypatch.setenv("VIDCAP_GROUP_KEY", "secret")
    for name in ("MS_ROLE", "RANK_ID", "MS_NODE_ID", "MS_WORKER_NUM"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(group, "_APART", 1.0)
    scheduler = SimpleNamespace(kill=lambda: None, wait=lambda: None)
    monkeypatch.setattr(group, "_start_scheduler", lambda *_: scheduler)
    names = ("VIDCAP_LEASE", "VIDCAP_GROUP_KEY")
    environment = {name: os.environ[name] for name in names}
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(SIZE - 1)]
    processes = [
        SPAWN.Process(target=follower, args=(SIZE + 1 + index, environment, write))
        for index, (_, write) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    lost: list[str] = []

    def lose(why: str) -> None:
        lost.append(why)
        if threading.current_thread() is threading.main_thread():
            raise SystemExit
        threading.Event().wait()  # as the process would end here

    leader = Group(SIZE, SIZE, lose)
    for _, write in pipes:
        write.close()
    yield leader, [read for read, _ in pipes], processes, lost
    for process in processes:
        process.kill()
        process.join()


def wait_for(lost: list[str]) -> None:
    deadline = time.monotonic() + 20
    while not lost:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_do_what_the_leader_does_and_leave_when_it_says_so(ranks):
    leader, notes, processes, lost = ranks
    model = leader.together(SimpleNamespace(model=FakeModel(0), room=99))
    assert leader.room == 98  # the least of all
    assert model.step(5) == "after 5"
    model.free(2)
    leader.end("anew")
    said = [[read.recv() for _ in range(3)] for read in notes]
    assert said == [[(1, 5), (1, 2), "anew"], [(2, 5), (2, 2), "anew"]]
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not lost


def test_what_fails_everywhere_is_a_failure_and_the_group_goes_on(ranks):
    leader, notes, _, lost = ranks
    model = leader.together(SimpleNamespace(model=FakeModel(0), room=None))
    assert leader.room == 98
    with pytest.raises(ValueError, match="13 is no token"):
        model.step(13)
    assert model.step(6) == "after 6"
    assert [read.recv() for read in notes] == [(1, 6), (2, 6)]
    assert not lost


def test_a_rank_that_fails_alone_ends_the_group(ranks):
    leader, _, _, lost = ranks
    model = leader.together(SimpleNamespace(model=FakeModel(0), room=None))
    threading.Thread(target=lambda: model.step(14), daemon=True).start()
    wait_for(lost)
    assert lost == ["one rank of the group has failed alone: ValueError: 14 is no token"]


def test_a_leader_that_fails_alone_ends_the_group(ranks):
    leader, _, _, lost = ranks
    model = leader.together(SimpleNamespace(model=FakeModel(0), room=None))
    with pytest.raises(SystemExit):
        model.step(15)
    assert lost == ["one rank of the group has failed alone: ValueError: 15 is no token"]


def test_a_rank_that_is_gone_ends_the_group(ranks):
    leader, _, processes, lost = ranks
    leader.together(SimpleNamespace(model=FakeModel(0), room=None))
    processes[1].kill()
    processes[1].join()
    wait_for(lost)
    assert lost[0] == "a rank of the group is gone"


def test_ranks_whose_leader_is_gone_leave(ranks):
    leader, _, processes, _ = ranks
    leader.together(SimpleNamespace(model=FakeModel(0), room=None))
    for link in leader._links:
        link._ending = True
        with socket.socket(fileno=os.dup(link._connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)  # as its death would
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
