"""Nodes: every command that serves a run says that it is there, in a file of its own.

The file is written anew every few seconds. Others take a node for lost when they have long seen
the same words in it: by their own clock, for hosts disagree on the time, and with patience, for a
shared folder may show a file as it was a minute ago.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from vidcap_cli.atomic import replace_file
from vidcap_cli.rundir.paths import RunDir

# How often a node says that it is there.
BEAT_SECONDS = 3.0
# How long a node may be silent before the others go on without it, in seconds.
LOST_SECONDS = float(os.environ.get("VIDCAP_NODE_SECONDS", "120"))


@dataclass(frozen=True, slots=True)
class Node:
    """What node ``number`` says of itself: its command's host and process, and the launch
    (``attempt``) that its ranks work in, None while they do not.
    """

    number: int
    host: str
    pid: int
    attempt: int | None = None
    beat: str = ""

    @property
    def name(self) -> str:
        """Which it is, for people."""
        return f"node {self.number} ({self.host})"


class Heartbeat:
    """Says for node ``number`` that it is there, from entering to leaving."""

    def __init__(self, run: RunDir, number: int) -> None:
        self._file = run.node(number)
        self._node = Node(number, socket.gethostname(), os.getpid())
        self._name = uuid4().hex
        self._beats = count()
        self._changed = threading.Lock()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._file.parent.mkdir(exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Say no more, and take back what was said."""
        if not self._leaving.is_set():
            self._leaving.set()
            self._thread.join()
            with suppress(OSError):
                self._file.unlink()

    def works_in(self, attempt: int | None) -> None:
        """Say at once in which launch the ranks of this node work, if in any."""
        self._node = replace(self._node, attempt=attempt)
        self._write()

    def _beat(self) -> None:
        while not self._leaving.wait(BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        # A full disk or a folder that is away for a while: the next beat may do.
        with self._changed, suppress(OSError):
            node = replace(self._node, beat=f"{self._name}-{next(self._beats)}")
            replace_file(self._file, json.dumps(asdict(node)).encode())


class Nodes:
    """What the nodes of ``run`` say, and which of them have long said nothing."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._heard: dict[Path, tuple[Node, float]] = {}

    def look(self) -> tuple[list[Node], list[Node]]:
        """The nodes that are there, and those that are lost."""
        there: list[Node] = []
        lost: list[Node] = []
        now = time.monotonic()
        for file in sorted(self._run.nodes_folder.glob("[0-9]*.json")):
            before, since = self._heard.get(file, (None, now))
            if node := _read(file, before):
                since = since if before and node.beat == before.beat else now
                self._heard[file] = node, since
                (lost if now - since > LOST_SECONDS else there).append(node)
        return there, lost


def _read(file: Path, before: Node | None) -> Node | None:
    """What a node says, or said ``before``; None when it has left, or is of another version."""
    try:
        return Node(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError:  # a shared folder may refuse a file that is replaced while it is read
        return before
    except (ValueError, TypeError):
        return None
