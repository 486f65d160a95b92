"""Clips: a META whose rows are several ranges of their video each, written out one row a range.

Where a cell lists the scenes of a video, or ``--clip-length`` cuts long videos, the rows that are
planned are not META's. They lie in ``clips.parquet`` in the run directory: META's columns but the
list, each row as often as it has clips, then ``start`` and ``end`` in seconds. From there on it is
the table of the run, and no video is cut.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.addresses import locate
from vidcap_cli.atomic import committing
from vidcap_cli.errors import TableError
from vidcap_cli.meta import BOUNDS, spans_of, with_paths
from vidcap_cli.remote.cache import Anywhere, Cache
from vidcap_cli.spans import Span, micro
from vidcap_cli.tables import Table, quoted, selectable
from vidcap_cli.video import Clip, Rule
from vidcap_cli.video.index import index_video
from vidcap_cli.video.pool import DecodePool
from vidcap_cli.view.progress import Progress

Batches = Callable[[], Iterator[pa.RecordBatch]]

_MOST_WORKERS = 16
_TOGETHER = 1 << 14  # clips that are written at once
_SHORTEST = 0.5  # of a clip's length, below which the rest of a video is no clip of its own


@dataclass(frozen=True, slots=True)
class Cutting:
    """Into clips of how many seconds videos are cut (None: not), and how far these lie apart."""

    length: float | None = None
    stride: float | None = None

    def clips(self, whole: Span | None, end: float) -> list[Span]:
        """The clips of ``whole``, a range or all of a video that ends at ``end``, in order.

        The last one ends with the video: a rest of less than half a clip is added to the one
        before it, or left out where clips are apart.
        """
        assert self.length
        start = whole.start if whole else 0.0
        if whole and whole.end is not None:
            end = min(end, whole.end)
        end = micro(end)
        step = self.stride or self.length
        found: list[Span] = []
        for number in count():
            first = micro(start + step * number)
            rest = end - first
            if rest <= 0 or (found and found[-1].end == end):
                return found
            if found and rest < _SHORTEST * self.length:
                if step <= self.length:
                    found[-1] = replace(found[-1], end=end)
                return found
            found.append(Span(first, min(micro(first + self.length), end)))
        raise AssertionError


def write_clips(
    source: Table,
    batches: Batches,
    path: Path,
    cutting: Cutting,
    *,
    bases: Sequence[str],
    timeout: float,
    cache: Cache,
) -> None:
    """Write the clips of the rows of ``source``, which ``batches()`` reads.

    ``timeout`` is seconds for the length of one video, ``cache`` for those elsewhere. One whose
    length cannot be told stays one row, as it is, and who reads it says why.
    """
    taken = [name for name in BOUNDS if name in source.schema.names and name not in source.ranges]
    if taken:
        raise TableError(
            f"{source.path}: the column {quoted(taken)} is already there, where the times of the "
            "clips would go; rename it"
        )
    ends = _ends(source, batches, bases, timeout, cache) if cutting.length else {}
    # A list of all scenes beside each of them would be most of the table.
    dropped = (*BOUNDS, *(source.ranges if len(source.ranges) == 1 else ()))
    kept = selectable(pa.schema([one for one in source.schema if one.name not in dropped]))
    schema = pa.schema([*kept, *((name, pa.float64()) for name in BOUNDS)])
    row = 0
    with committing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch, paths in with_paths(source, batches()):
            names = paths.to_pylist()
            found = (
                (number, clip)
                for number, ranges in enumerate(spans_of(source, batch, row))
                for clip in _cut(ranges, cutting, ends.get(names[number]))
            )
            columns = pa.Table.from_batches([batch.select(kept.names)]).cast(kept)
            while some := list(islice(found, _TOGETHER)):
                writer.write_table(_clips(columns, some, schema))
            row += len(names)


def _clips(
    columns: pa.Table, clips: Sequence[tuple[int, Span | None]], schema: pa.Schema
) -> pa.Table:
    """The rows of clips, each with its row among ``columns``."""
    rows = columns.take(pa.array([row for row, _ in clips], pa.int64()))
    starts = pa.array([clip and clip.start for _, clip in clips], pa.float64())
    ends = pa.array([clip and clip.end for _, clip in clips], pa.float64())
    return pa.Table.from_arrays([*rows.columns, starts, ends], schema=schema)


def _cut(ranges: Sequence[Span | None], cutting: Cutting, end: float | None) -> list[Span | None]:
    """The clips of a row, of whose video ``ranges`` are meant; None is all of it."""
    if not cutting.length or end is None:
        return list(ranges)
    found: list[Span | None] = []
    for one in ranges:
        # A range beyond the end has no clips, and is to fail by itself.
        found += cutting.clips(one, end) or [one]
    return found


@dataclass(frozen=True, slots=True)
class _Measured(Clip):
    """A clip of one black pixel, and when its video ends."""

    end: float


def _measure(path: str, rule: Rule) -> Clip:  # noqa: ARG001
    """In a decoder process: when a video ends."""
    index = index_video(path)
    nothing: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    pixel = np.zeros((1, 1, 1, 3), np.uint8)
    return _Measured(pixel, nothing, "", index.total, index.fps, 1, 1, (), index.end)


class _NoRule:
    """Chooses nothing."""

    def indices(self, total: int, fps: float) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """No frames."""
        return np.zeros(0, np.int64)

    def prepare(self, frames: npt.NDArray[np.uint8], clip_frames: int) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        """Frames as they are."""
        return frames


def _ends(
    source: Table, batches: Batches, bases: Sequence[str], timeout: float, cache: Cache
) -> Mapping[str, float]:
    """When the videos of ``source`` end, by path, of those that can be read."""
    names: dict[str, None] = {}
    for _, paths in with_paths(source, batches()):
        names.update(dict.fromkeys(paths.to_pylist()))
    waiting, found = list(names), dict[str, float]()
    workers = min(os.cpu_count() or 1, _MOST_WORKERS, len(waiting))
    next_one = iter(enumerate(waiting))
    with (
        Progress("videos measured", len(waiting)) as progress,
        DecodePool(
            _NoRule(), workers=workers, timeout=timeout, read=Anywhere(_measure, cache)
        ) as pool,
    ):
        while True:
            while pool.pending < 4 * workers and (one := next(next_one, None)):
                pool.submit(one[0], locate(one[1], bases)[0])
            decoded = pool.next()
            if decoded is None:
                return found
            if isinstance(decoded.clip, _Measured):
                found[waiting[decoded.row_id]] = decoded.clip.end
            progress.advance()
