"""Groups: ranks that have a share of one model each (``--tensor-parallel``) and run it together.

The first rank of a group leads: it alone has rows, prepares prompts, chooses tokens and commits.
What it runs of its share it tells the others first, who run the same of theirs, so that the sums
in the graphs meet. In MindSpore's eyes each group is a cluster of its own, whose scheduler the
leader starts: what becomes of one group is nothing to another.

A rank that fails where others do not leaves them in a sum that never comes. So failures are
told beside the graphs: when all ranks fail at the same thing it is the rows' failure, and the group
goes on; when one fails alone, or is gone, the leader commits what is finished and the group ends.

The ranks of a group are on one machine and talk through a socket that has a name but no file. What
is sent over it is pickled, so both ends prove first that they know the key of the launch.
"""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.errors import RunError
from vidcap_cli.processes import free_port, is_listened_on
from vidcap_cli.processors import Prompt

if TYPE_CHECKING:  # they import MindSpore, which is to see the group's environment
    from vidcap_cli.engine.loading import Loaded
    from vidcap_cli.models.decoder import NextToken
    from vidcap_cli.models.model import Model

Leave = Literal["leave", "anew"]

# How long ranks may be apart in failing at the same thing, in seconds.
_APART = float(os.environ.get("VIDCAP_APART_SECONDS", "20"))
_CONNECT_PAUSE = 0.05
_SCHEDULER_SECONDS = 120  # what goes wrong with it, MindSpore tells after that
# HCCL gives up a sum that others are late for; ranks may be late by a compilation.
_HCCL_SECONDS = 7200


def leader_of(rank: int, size: int) -> int:
    """The rank that leads the group of ``rank``."""
    return rank - rank % size


class _Place:
    """Where a rank is: its ``share``, and the address at which the leader of its group listens."""

    def __init__(self, rank: int, size: int) -> None:
        self.share = Share(rank % size, size)
        start = os.environ["VIDCAP_LEASE"]  # of these processes and no others
        self._address = f"\0vidcap-{start}-{leader_of(rank, size)}"
        self._key = os.environ["VIDCAP_GROUP_KEY"].encode()  # known to the ranks of a launch

    def listener(self) -> Listener:
        return Listener(self._address, "AF_UNIX", backlog=self.share.of, authkey=self._key)

    def connection(self) -> Connection:
        """To the leader, who may not listen yet."""
        while True:
            with suppress(ConnectionRefusedError, FileNotFoundError):
                return Client(self._address, "AF_UNIX", authkey=self._key)
            time.sleep(_CONNECT_PAUSE)

    def enter(self, port: int) -> None:
        """Have MindSpore find the group's cluster, and not that of all ranks which msrun made."""
        os.environ.update(_cluster(self.share, port))
        os.environ.setdefault("HCCL_CONNECT_TIMEOUT", str(_HCCL_SECONDS))


def join() -> None:
    """Connect this rank with the others of its cluster; its device has been chosen.

    A rank that comes before the scheduler listens is in a loop of failures for up to a minute after
    it does (MindSpore 2.7.0), so it waits for that.
    """
    from mindspore.communication import init  # noqa: PLC0415 - heavy

    port, end = int(os.environ["MS_SCHED_PORT"]), time.monotonic() + _SCHEDULER_SECONDS
    while not is_listened_on(port) and time.monotonic() < end:
        time.sleep(_CONNECT_PAUSE)
    init()


class Group:
    """What the leader knows of its group. Others have connected when it is made.

    ``lost`` is called when the group cannot go on, from whatever thread; it does not return.
    """

    def __init__(self, rank: int, size: int, lost: Callable[[str], None]) -> None:
        place = _Place(rank, size)
        self.share = place.share
        self.room: int | None = None
        with place.listener() as listener:
            connections = [listener.accept() for _ in range(size - 1)]
        port = free_port()
        self._scheduler = _start_scheduler(self.share, port)
        for connection in connections:
            connection.send(port)
        place.enter(port)
        self._links = [_Link(connection, lost) for connection in connections]

    def join(self) -> None:
        """As the function."""
        join()

    def together(self, loaded: "Loaded") -> "Together":
        """The model of which this rank has ``loaded`` its share, the others being ready, too."""
        rooms = [loaded.room, *(link.reply() for link in self._links)]
        known = [room for room in rooms if room is not None]
        self.room = min(known, default=None)
        return Together(loaded.model, self._links)

    def end(self, how: Leave) -> None:
        """Have the others leave, or start anew as this rank is about to."""
        for link in self._links:
            link.end(how)
        self._scheduler.kill()
        self._scheduler.wait()


class Together:
    """A model that several ranks have a share of: what is done to it is done on all of them.

    Raises what the call raises here, or RuntimeError with the words of another rank, when it
    failed everywhere; the sequences in the making are then as they are after such an error in a
    model of one rank.
    """

    def __init__(self, model: "Model", links: list["_Link"]) -> None:
        self._model, self._links = model, links

    def begin(self, slot: int, prompt: Prompt, new_tokens: int) -> "NextToken":
        """As ``Model.begin``."""
        following: NextToken = self._everywhere("begin", slot, prompt, new_tokens)
        return following

    def step(self, ids: NDArray[np.int64]) -> "NextToken":
        """As ``Model.step``."""
        following: NextToken = self._everywhere("step", ids)
        return following

    def free(self, slot: int) -> None:
        """As ``Model.free``."""
        self._everywhere("free", slot)

    def keep_to(self, room: int) -> None:
        """As ``Model.keep_to``."""
        self._everywhere("keep_to", room)

    def _everywhere(self, name: str, *arguments: Any) -> Any:
        for link in self._links:
            link.send((name, arguments))
        failure: Exception | None = None
        result = None
        try:
            result = getattr(self._model, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - raised once the others are heard
            failure = error
        said = [link.reply(failure) for link in self._links]
        if failure:
            raise failure
        elsewhere = next((words for words in said if words), None)
        if elsewhere:
            raise RuntimeError(elsewhere)
        return result


class _Link(threading.Thread):
    """A rank that follows: what it is told, and what it says.

    It says None when it has done what it was told, and a text when it has failed at it. One that
    has failed while this rank is still at it, or that is gone, makes the group be ``lost``.
    """

    def __init__(self, connection: Connection, lost: Callable[[str], None]) -> None:
        super().__init__(name="group", daemon=True)
        self._connection, self._lost = connection, lost
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._heard = threading.Event()
        self._ending = False
        self.start()

    def send(self, message: object) -> None:
        """Tell it something."""
        try:
            self._connection.send(message)
        except OSError:
            self._lost("a rank of the group is gone")

    def reply(self, failure: Exception | None = None) -> Any:
        """What it says next. After a ``failure`` here it does so soon, or the group is lost."""
        try:
            said = self._said.get(timeout=_APART if failure else None)
        except queue.Empty:
            assert failure
            self._lost(f"one rank of the group has failed alone: {_words(failure)}")
        self._heard.set()
        return said

    def end(self, how: Leave) -> None:
        """Have it leave."""
        self._ending = True
        with suppress(OSError):
            self._connection.send((how, ()))

    def run(self) -> None:
        """Listen, also while this rank is in a sum that nothing else ends."""
        try:
            while True:
                said = self._connection.recv()
                self._heard.clear()
                self._said.put(said)
                if isinstance(said, str) and not self._heard.wait(_APART):
                    self._lost(f"one rank of the group has failed alone: {said}")
        except (EOFError, OSError):
            if not self._ending:
                self._lost("a rank of the group is gone")


def follow(
    rank: int, size: int, load: Callable[[Share], "Loaded"], alive: Callable[[], None]
) -> Leave:
    """Do what the leader of the group does until it has this rank leave; how it is to leave.

    ``load`` gives this rank's share. ``alive`` is called again and again as long as it gets on.
    """
    place = _Place(rank, size)
    connection = place.connection()
    place.enter(connection.recv())
    loaded = load(place.share)
    connection.send(loaded.room)
    told = _Told(connection)
    while True:
        name, arguments = told.next(alive)
        if name in ("leave", "anew"):
            return cast("Leave", name)
        failed = None
        try:
            getattr(loaded.model, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - for the leader to judge
            failed = _words(error)
        with suppress(OSError):  # the leader is gone, which is seen next
            connection.send(failed)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Told(threading.Thread):
    """What a follower is told. Without the leader it leaves, also from a sum that never comes."""

    _LOOK_SECONDS = 10.0

    def __init__(self, connection: Connection) -> None:
        super().__init__(name="group", daemon=True)
        self._connection = connection
        self._queue: queue.SimpleQueue[tuple[Any, tuple[Any, ...]]] = queue.SimpleQueue()
        self.start()

    def next(self, alive: Callable[[], None]) -> tuple[Any, tuple[Any, ...]]:
        """What is to be done next."""
        while True:
            alive()
            with suppress(queue.Empty):
                return self._queue.get(timeout=self._LOOK_SECONDS)

    def run(self) -> None:
        try:
            while True:
                self._queue.put(self._connection.recv())
        except (EOFError, OSError):
            self._queue.put(("leave", ()))
            time.sleep(_APART)
            os._exit(0)


def _cluster(share: Share, port: int) -> Mapping[str, str]:
    """What MindSpore is told of a cluster of one group."""
    return {
        "MS_ROLE": "MS_WORKER",
        "MS_WORKER_NUM": str(share.of),
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": str(port),
        "MS_NODE_ID": str(share.index),
        "RANK_ID": str(share.index),
        "RANK_SIZE": str(share.of),
    }


def _start_scheduler(share: Share, port: int) -> "subprocess.Popen[bytes]":
    """It dies with this rank."""
    environment = {
        **os.environ,
        **_cluster(share, port),
        "MS_ROLE": "MS_SCHED",
        "MS_NODE_ID": "scheduler",
        "VIDCAP_PARENT": str(os.getpid()),
    }
    words = [sys.executable, "-m", "vidcap_cli.processes", "vidcap_cli.engine.scheduler"]
    try:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise RunError(f"the scheduler of a group cannot be started: {error.strerror}") from error
