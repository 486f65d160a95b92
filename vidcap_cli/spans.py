"""Ranges of videos: from when to when, how tables write them, and the names of rows that have one.

Times are seconds from the start of the file, as ffmpeg counts them. A row that is a range of a
video is called by its path with a media fragment (W3C Media Fragments URI 1.0, 4.2.1), such as
``talk.mp4#t=1.5,4``: the same range of the same file has the same name, however a table writes it.
"""

import ast
import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)
_FRAGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?", re.DOTALL | re.ASCII)
_DIGITS = 6  # ffmpeg counts microseconds
WHEN = "write seconds, or HH:MM:SS.mmm"


class SpanError(ValueError):
    """What is no time, or no range."""


@dataclass(frozen=True, slots=True)
class Span:
    """From ``start`` up to, but without, ``end``, in seconds; None is the end of the video."""

    start: float
    end: float | None = None

    @property
    def is_reversed(self) -> bool:
        """Whether it ends before it begins, or is empty."""
        return self.end is not None and self.end <= self.start

    def __str__(self) -> str:
        return f"from {plain(self.start)} " + (
            "s on" if self.end is None else f"to {plain(self.end)} s"
        )


def span(start: Any, end: Any) -> Span | None:
    """The range between two cells of a table; None, the whole video, when both are empty.

    Raises SpanError for what is no time, or no range.
    """
    first, last = seconds(start), seconds(end)
    if not first and last is None:
        return None
    found = Span(first or 0.0, last)
    if found.is_reversed:
        raise SpanError(f"the range {found} ends before it begins")
    return found


def seconds(value: Any) -> float | None:
    """A cell as seconds, rounded by ``micro``; None when it is empty.

    Raises SpanError for anything else.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None or value == "":
        return None
    if isinstance(value, str):
        found = _CLOCK.fullmatch(value.strip())
        if not found:
            raise SpanError(f"{value!r} is no time; {WHEN}")
        hours, minutes, rest = found.groups()
        number = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            return None
        number = float(value)
    else:
        raise SpanError(f"{value!r} is no time; {WHEN}")
    if not 0 <= number < math.inf:
        raise SpanError(f"{value!r} is no time in a video; {WHEN}")
    return micro(number)


def micro(number: float) -> float:
    """Seconds rounded to microseconds, in which ffmpeg counts; so ranges have one name each."""
    return round(number, _DIGITS)


def spans(value: Any) -> list[Span | None]:
    """The ranges in a cell: a list of pairs of times, written or not, or ``A - B``.

    Scene detectors write one for each video (``[('00:00:00.000', '00:00:04.004'), ...]``). An empty
    cell or list is the whole video: detectors find no scenes where nothing changes. Raises
    SpanError for anything else.
    """
    if isinstance(value, str):
        value = _read(value.strip())
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return [None]
    if not isinstance(value, list | tuple):
        raise SpanError(_no_list(value))
    if len(value) == 2 and not any(isinstance(one, list | tuple) for one in value):
        value = [value]
    found = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SpanError(f"{pair!r} is no range; write (START, END)")
        found.append(span(*pair))
    return found or [None]


def _read(text: str) -> Any:
    if not text:
        return None
    if text[0] not in "[(":
        return [part.strip() for part in text.split(" - ")]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise SpanError(_no_list(text)) from error


def _no_list(value: Any) -> str:
    return f"{str(value)[:80]!r} is no list of ranges; write [(START, END), ...]"


def plain(number: float) -> str:
    """Seconds as digits, without an exponent and zeros at the end."""
    return f"{number:.{_DIGITS}f}".rstrip("0").rstrip(".")


def named(path: str, wanted: Span | None) -> str:
    """What the row of ``path`` and a range is called."""
    if wanted is None:
        return path
    end = "" if wanted.end is None else f",{plain(wanted.end)}"
    return f"{path}#t={plain(wanted.start)}{end}"


def parted(name: str) -> tuple[str, Span | None]:
    """The inverse of ``named``; a name without a range is a path."""
    found = _FRAGMENT.fullmatch(name)
    if not found:
        return name, None
    path, start, end = found.groups()
    return path, Span(float(start), None if end is None else float(end))
