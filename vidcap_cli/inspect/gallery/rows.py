"""What the page knows of each row, as compact JSON: a piece for every ``PIECE`` rows.

A piece has a list for each column, all of one length; words that many rows share (statuses, flags)
are numbers, whose names the page gets once. Of the table a few blocks are in memory at a time.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidcap_cli.addresses import locate
from vidcap_cli.errors import TableError
from vidcap_cli.inspect.histogram import histogram
from vidcap_cli.inspect.judging import BIT, FAULTS, Captions, Judged
from vidcap_cli.options import PATH
from vidcap_cli.spans import named
from vidcap_cli.statuses import Status

PIECE = 2_048  # rows
_MOST = 1e30  # that a number may be, and is none beyond
_LEAST_DRAWN = 10  # values, of which a histogram says more than they do
Numbers = dict[str, npt.NDArray[np.float32]]

# Numbers of a caption: what they are called in a table, and on the page.
COLUMNS = {
    "frames": "caption_frames",
    "tokens": "caption_new_tokens",
    "logprob": "caption_logprob",
    "seconds": "caption_infer_s",
}
_TIMING = ("num_frames", "fps")
# On a chart, and after a value.
LABELS = {
    "words": ("Words", "words"),
    "duration": ("Seconds of video", "s"),
    "frames": ("Frames seen", "frames"),
    "tokens": ("Tokens", "tokens"),
    "logprob": ("Log-probability", "log-probability"),
    "seconds": ("Seconds in the model", "s in the model"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows from ``start`` on, as JSON data."""

    start: int
    columns: dict[str, Any]


class Words:
    """Words that many rows have: a row has their numbers. ``rows`` counts those with each."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}

    def number(self, word: str) -> int:
        """The number of a word, which one more row has."""
        self.rows[word] += 1
        return self._numbers.setdefault(word, len(self._numbers))


@dataclass(slots=True)
class Rows:
    """The rows of a table for the page that will lie in ``folder``.

    ``bases`` are the folders that relative paths start from. ``numbers`` are arrays of the table's
    length, NaN where nothing is known. While ``pieces`` are taken, those that the table has are
    filled in, and the words of ``statuses`` and ``flags`` are added.
    """

    captions: Captions
    judged: Judged
    bases: Sequence[str]
    folder: Path
    numbers: Numbers
    statuses: Words = field(default_factory=Words)
    flags: Words = field(default_factory=Words)

    def pieces(self) -> Iterator[Piece]:
        """All rows, in pieces. TableError where they are not as many as those that were judged."""
        names = self.captions.table.schema.names
        columns = {name: column for name, column in COLUMNS.items() if column in names}
        timing = [name for name in _TIMING if set(_TIMING) <= set(names)]
        for name in columns:
            self.numbers[name] = np.full(len(self.judged.faults), np.nan, np.float32)
        start = 0
        for cells, block in self.captions.named_blocks([*columns.values(), *timing]):
            stop = start + block.num_rows
            if stop > len(self.judged.faults):
                raise self._changed()
            for name, column in columns.items():
                self.numbers[name][start:stop] = _floats(block.column(column))
            if timing:
                _fill(self.numbers["duration"][start:stop], _seconds(block))
            for first in range(0, block.num_rows, PIECE):
                part = {name: values[first : first + PIECE] for name, values in cells.items()}
                yield self._piece(start + first, part)
            start = stop
        if start < len(self.judged.faults):
            raise self._changed()

    def _changed(self) -> TableError:
        path = self.captions.table.path
        return TableError(f"{path}: it changed while it was read: repeat the command")

    def charts(self) -> dict[str, list[float]]:
        """The edges of a histogram for each of the numbers that many rows have."""
        edges = {}
        for name, values in self.numbers.items():
            known = values[~np.isnan(values)]
            known = known[known > 0] if name == "words" else known
            if len(known) >= _LEAST_DRAWN:
                fact, section = histogram(name, known)
                if len(section.facts) > 1:
                    edges[name] = fact.value["edges"]
        return edges

    def _piece(self, start: int, cells: Mapping[str, list[str]]) -> Piece:
        paths, texts = cells[PATH], cells["text"]
        rows = range(start, start + len(paths))
        statuses = cells.get("status") or [Status.OK if t.strip() else Status.EMPTY for t in texts]
        nothing = [""] * len(paths)
        own = cells.get("flags", nothing)
        faults = self.judged.faults[start : start + len(paths)].tolist()
        columns: dict[str, Any] = {
            "path": paths,
            "text": texts,
            "error": cells.get("error", nothing),
            "link": [self._link(path) for path in paths],
            "status": [self.statuses.number(status or "none") for status in statuses],
            "flags": [self._flags(mask, told) for mask, told in zip(faults, own, strict=True)],
        }
        columns["numbers"] = {
            name: [_rounded(values[row]) for row in rows] for name, values in self.numbers.items()
        }
        return Piece(start, columns)

    def _flags(self, mask: int, told: str) -> list[int]:
        """The flags that ``inspect`` gives a row, and those that its captioning gave it."""
        found = [str(fault) for fault in FAULTS if mask & BIT[fault]]
        words = dict.fromkeys([*found, *filter(None, map(str.strip, told.split(",")))])
        return [self.flags.number(word) for word in words]

    def _link(self, path: str) -> str:
        """The address of a video or a range of it, seen from the page; nothing without a file."""
        file, span = locate(path, self.bases)
        try:
            found = Path(file).is_file()
        except (OSError, ValueError):
            found = False
        fragment = named("", span) if span else ""
        return quote(os.path.relpath(file, self.folder)) + fragment if found else ""


def _rounded(value: float) -> float | int | None:
    """A number with the digits that are shown."""
    if np.isnan(value):
        return None
    return int(value) if value == int(value) else round(float(value), 3)


def _seconds(block: pa.RecordBatch) -> npt.NDArray[np.float32]:
    """How long videos are by the columns that pipelines for training write."""
    frames, fps = (_floats(block.column(name)) for name in _TIMING)
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = frames / fps
    return np.where(np.isfinite(seconds) & (frames > 0), seconds, np.nan).astype(np.float32)


def _fill(values: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> None:
    """Put others where there is no value."""
    unknown = np.isnan(values)
    values[unknown] = others[unknown]


def _floats(column: pa.Array) -> npt.NDArray[np.float32]:
    """Numbers of a column, also of one that holds them as text; NaN for what is none."""
    found = np.full(len(column), np.nan)
    for place, value in enumerate(column.to_pylist()):
        with suppress(TypeError, ValueError):  # null, empty
            found[place] = float(value)
    found[np.abs(found) > _MOST] = np.nan
    return found.astype(np.float32)
