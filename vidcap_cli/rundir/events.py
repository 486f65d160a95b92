"""Events: what ranks report, one JSON object a line, appended to a file of their own.

The file serves two readers. The live view folds it into what the user sees; and ``Began`` lines
without their ``Done`` are the journal of rows in flight when a rank died. Lines are flushed to
the operating system as they are written, so the death of the process loses none.
"""

import errno
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from vidcap_cli.statuses import Doing, Status


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; ``time`` is seconds since the epoch."""

    kind: ClassVar[str]
    time: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The rank's process runs. One that ``follows`` another has no rows of its own."""

    kind: ClassVar[str] = "started"
    pid: int
    host: str
    follows: int | None = None


@dataclass(frozen=True, slots=True)
class State(Event):
    """What the rank is doing now."""

    kind: ClassVar[str] = "state"
    state: Doing


@dataclass(frozen=True, slots=True)
class Alive(Event):
    """The rank gets on with its work, though it has nothing else to report."""

    kind: ClassVar[str] = "alive"


@dataclass(frozen=True, slots=True)
class Began(Event):
    """These rows are in the model from now on; written before the model sees them."""

    kind: ClassVar[str] = "began"
    rows: list[int]


@dataclass(frozen=True, slots=True)
class Done(Event):
    """A row has its result; ``text`` is the beginning of its caption.

    ``busy_s`` and ``wait_s`` are the rank's running totals of seconds spent captioning and waiting
    for frames since its model was loaded.
    """

    kind: ClassVar[str] = "done"
    row: int
    path: str
    status: Status
    text: str | None
    error: str | None
    new_tokens: int
    busy_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """A part file with this many rows is on the disk; ``memory`` bytes of the host is the most that
    the rank's process has taken so far, 0 where it is not known.
    """

    kind: ClassVar[str] = "committed"
    rows: int
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something the user should read once."""

    kind: ClassVar[str] = "notice"
    text: str


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The rank leaves in good order: finished or stopped."""

    kind: ClassVar[str] = "ended"
    reason: Doing


_KINDS: dict[str, type[Event]] = {
    event.kind: event for event in (Started, State, Alive, Began, Done, Committed, Notice, Ended)
}
# The annotations of their fields: to look them up anew took half the time of reading an event.
_TYPES = {kind: {one.name: one.type for one in dataclass_fields(kind)} for kind in _KINDS.values()}


_ENCODER = json.JSONEncoder(ensure_ascii=False)


# What a value must be like, by the annotation of its field.
def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0  # of rows, tokens or a process: never negative


_SHAPES: dict[Any, Callable[[Any], bool]] = {
    int: _is_number,
    int | None: lambda value: value is None or _is_number(value),
    float: lambda value: type(value) in (int, float),
    str: lambda value: isinstance(value, str),
    str | None: lambda value: value is None or isinstance(value, str),
    Status: lambda value: isinstance(value, Status),
    Doing: lambda value: isinstance(value, Doing),
    list[int]: lambda value: isinstance(value, list) and all(map(_is_number, value)),
}


# By kind, the fields that are words of ours, and what each field must be like.
_WORDS = {
    kind: [(name, word) for name, word in types.items() if word in (Status, Doing)]
    for kind, types in _TYPES.items()
}
_CHECKS = {
    kind: [(name, _SHAPES[what]) for name, what in types.items()] for kind, types in _TYPES.items()
}


def encode(event: Event) -> str:
    """One line of JSON with a final newline."""
    fields = {name: getattr(event, name) for name in _TYPES[type(event)]}
    return _ENCODER.encode({"kind": event.kind, **fields}) + "\n"


def decode(line: str | bytes) -> Event | None:
    """The event on a line; None for a kind that this version does not know.

    None also for a line that is no event: a full disk cuts lines off, and a damaged one may cost
    what it says but not the run.
    """
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        for name, word in _WORDS[kind]:
            fields[name] = word(fields[name])
        event = kind(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(check(getattr(event, name)) for name, check in _CHECKS[kind])
    return event if sound else None


class EventWriter:
    """Appends events to a file, each line in one write."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, event: Event) -> None:
        """Append one event."""
        line = encode(event).encode("utf-8", "backslashreplace")
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "an event was cut off, the disk is full", self._file.name)


class EventReader:
    """Reads an events file as it grows; a half-written last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self, most: int | None = None) -> Iterator[Event]:
        """Yield the events added since the last call; none when the file is not there yet.

        Who has other things to do asks for some ``most`` bytes of them: a file may grow as fast as
        it is read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            for line in file if most is None else file.readlines(most):
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = decode(line)
                if event is not None:
                    yield event
