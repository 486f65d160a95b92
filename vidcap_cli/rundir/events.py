"""Events: what ranks report, one JSON object a line, appended to a file of their own.

The file serves two readers. The live view folds it into what the user sees; and ``Began`` lines
without their ``Done`` are the journal of rows in flight when a rank died. Lines are flushed to
the operating system as they are written, so the death of the process loses none.
"""

import errno
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from os import SEEK_END
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

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
    """A row has its result; ``text`` is the beginning of its caption, of several of each.

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
class Rows(Event):
    """What a rank reported of many rows, up to ``time``, told together to who is behind with
    reading; it stands in no file.

    ``begun`` are in the model from now on, ``ended`` have a result with this status since then
    (seconds since the epoch), for ``new_tokens`` in all. Its last result, with the running totals,
    is told by a ``Done``.
    """

    kind: ClassVar[str] = "rows"
    begun: list[int]
    ended: list[tuple[int, Status, float]]
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Relaunched(Event):
    """Ranks are started again: of the rows that the last ones reported those count that are
    ``done``, by their numbers. The leading process tells it the view; it stands in no file.
    """

    kind: ClassVar[str] = "relaunched"
    done: npt.NDArray[np.bool_]


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


# A line of a row that begins or has its result, as ``encode`` writes it.
_NUMBER, _STRING = r"[-+.e\d]+", r'(?:null|"[^"\\]*(?:\\.[^"\\]*)*")'
_ROW = re.compile(
    (
        rf'\{{"kind": "(?:began|done)", "time": (?P<time>{_NUMBER}), '
        rf'(?:"rows": \[(?P<begun>\d+)\]|"row": (?P<row>\d+), "path": {_STRING}, '
        rf'"status": "(?P<status>{"|".join(Status)})", "text": {_STRING}, "error": {_STRING}, '
        rf'"new_tokens": (?P<tokens>\d+), "busy_s": {_NUMBER}, "wait_s": {_NUMBER})\}}\n'
    ).encode()
)
_STATUSES = {status.encode(): status for status in Status}
_BLOCK = 1 << 22  # bytes whose rows are told together
_FAILURES = 1000  # of a status that are told one by one, with their errors
# Results of a process that are told one by one: more than the batch before which it has no pace.
_FIRST = 1000


class EventReader:
    """Reads an events file as it grows; a half-written last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._singly = _FIRST  # so many results more are told one by one
        self._failures: Counter[Status] = Counter()
        # What a row says of its status, if it may be told with others: nothing when it begins.
        self._usual: set[bytes | None] = {None, Status.OK.encode()}

    def read(self, singly: int | None = None) -> Iterator[Event]:
        """Yield the events added since the last call; none when the file is not there yet.

        What is written meanwhile is left to the next call. Who follows ranks that may report as
        fast as their events are read has rows told together (``Rows``) where more than ``singly``
        bytes are new: in a fifth of the time, and but for the first failures without their words.
        They add up to the same: no rows are told together before the first result of a process or
        of what it does.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            size = file.seek(0, SEEK_END)
            file.seek(self._offset)
            behind = singly is not None and size - self._offset > singly
            while self._offset < size:
                lines = file.readlines(min(_BLOCK, size - self._offset))
                if lines and not lines[-1].endswith(b"\n"):
                    size = 0
                    lines.pop()
                self._offset += sum(map(len, lines))
                yield from (self._together if behind else self._one_by_one)(lines)

    def _one_by_one(self, lines: list[bytes]) -> Iterator[Event]:
        for event in filter(None, map(decode, lines)):
            self._note(event)
            yield event

    def _together(self, lines: list[bytes]) -> Iterator[Event]:
        """The events on ``lines``, those of rows told together as far as no others part them."""
        rows: list[re.Match[bytes]] = []
        for line in lines:
            found = _ROW.fullmatch(line)
            if found and not self._singly and found["status"] in self._usual:
                rows.append(found)
                continue
            yield from _told_together(rows)
            rows = []
            yield from self._one_by_one([line])
        yield from _told_together(rows)

    def _note(self, event: Event) -> None:
        """Which rows after ``event`` are told one by one."""
        if isinstance(event, Started):
            self._singly = _FIRST
        elif isinstance(event, State):
            self._singly = max(self._singly, 1)
        elif isinstance(event, Done):
            self._singly = max(self._singly - 1, 0)
            self._failures[event.status] += 1
            if self._failures[event.status] == _FAILURES:
                self._usual.add(event.status.encode())


def _told_together(rows: list[re.Match[bytes]]) -> Iterator[Event]:
    """``Rows``, the last result of them, and what began after it."""
    last = next((n for n in reversed(range(len(rows))) if rows[n]["row"]), -1)
    if last > 0:
        yield _joined(rows[:last])
    if last >= 0 and (result := decode(rows[last][0])):
        yield result
    if after := rows[last + 1 :]:
        yield Began([int(row["begun"]) for row in after], time=float(after[-1]["time"]))


def _joined(rows: list[re.Match[bytes]]) -> Rows:
    begun: list[int] = []
    ended: list[tuple[int, Status, float]] = []
    new_tokens = 0
    for found in rows:
        time, began, row, status, tokens = found.groups()
        if began:
            begun.append(int(began))
        else:
            ended.append((int(row), _STATUSES[status], float(time)))
            new_tokens += int(tokens)
    return Rows(begun, ended, new_tokens, time=float(rows[-1]["time"]))
