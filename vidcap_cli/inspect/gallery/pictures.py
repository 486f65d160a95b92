"""The pictures of a gallery: which videos get a strip, and the files with them.

Strips are made by several processes at once and go to the disk one by one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcap_cli.addresses import is_remote, locate
from vidcap_cli.inspect.gallery.strips import Spread, Strip, read_strip
from vidcap_cli.inspect.judging import Captions, Judged
from vidcap_cli.inspect.videos import Video, opened
from vidcap_cli.options import PATH
from vidcap_cli.statuses import Status

STRIPS = 2_000  # videos that get one, unless all are to
_GROUP = 1_000  # files in a folder
# Of such a row there is nothing to see.
_NO_FRAMES = {Status.MISSING_FILE, Status.DECODE_ERROR, Status.DECODE_TIMEOUT}


class Pictures:
    """The strips of a table's rows, in a folder; ``seconds`` is how long each video is, or NaN."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.seconds: npt.NDArray[np.float32] = np.full(rows, np.nan, np.float32)
        self._folder = folder
        self._shapes: dict[int, tuple[int, int, int]] = {}

    def make(self, videos: Mapping[int, Video], frames: int) -> None:
        """Make strips of ``frames`` frames for rows whose videos these are, as far as they can."""
        numbers = list(videos)
        found = opened(list(videos.values()), Spread(frames), read_strip, "thumbnails")
        for decoded in found:
            strip, row = decoded.clip, numbers[decoded.row_id]
            if not isinstance(strip, Strip):
                continue
            self.seconds[row] = strip.source_frames / strip.source_fps
            self._shapes[row] = (len(strip.indices), strip.width, strip.height)
            file = self._file(row)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(strip.picture)

    def __len__(self) -> int:
        return len(self._shapes)

    def of(self, start: int, count: int) -> dict[int, tuple[int, int, int]]:
        """The strips of ``count`` rows from ``start`` on: number of frames, width and height."""
        rows = range(start, start + count)
        return {row: self._shapes[row] for row in rows if row in self._shapes}

    def files(self) -> dict[int, Path]:
        """All of them, by row; the page makes the same names."""
        return {row: self._file(row) for row in sorted(self._shapes)}

    def _file(self, row: int) -> Path:
        return self._folder / f"strips-{row // _GROUP}" / f"{row}.webp"


def videos_to_show(
    captions: Captions, judged: Judged, bases: Sequence[str], *, everything: bool
) -> dict[int, Video]:
    """The rows that get a strip, and their videos: all that are here, or of ``STRIPS`` rows.

    Half of these are rows with a flag, as far as there are so many; the others are evenly spread.
    """
    chosen = _chosen(judged, everything=everything)
    found: dict[int, Video] = {}
    start = 0
    for cells, _ in captions.named_blocks():
        paths = cells[PATH]
        statuses = cells.get("status", [""] * len(paths))
        for row, path, status in _these(chosen, start, paths, statuses):
            video = locate(path, bases)
            if status not in _NO_FRAMES and not is_remote(video[0]):
                found[row] = video
        start += len(paths)
    return found


def _these(
    chosen: npt.NDArray[np.bool_], start: int, paths: Sequence[str], statuses: Sequence[str]
) -> list[tuple[int, str, Any]]:
    places = np.flatnonzero(chosen[start : start + len(paths)]).tolist()
    return [(start + place, paths[place], statuses[place]) for place in places]


def _chosen(judged: Judged, *, everything: bool) -> npt.NDArray[np.bool_]:
    """Which rows are looked at."""
    rows = len(judged.faults)
    if everything or rows <= STRIPS:
        return np.ones(rows, np.bool_)
    chosen = np.zeros(rows, np.bool_)
    chosen[_spread(np.flatnonzero(judged.suspect), STRIPS // 2)] = True
    left = np.flatnonzero(~chosen)
    chosen[_spread(left, STRIPS - int(chosen.sum()))] = True
    return chosen


def _spread(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """So many of them, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)]
