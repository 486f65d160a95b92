"""One video file: what it holds, and the frames a rule chooses from it, exactly.

Promises. Frame i is the i-th that ffmpeg shows, whatever the codec and container: in order of
display, of the stream ffmpeg chooses, without what an edit list hides. Rotation metadata is
applied. Frames are RGB. Only chosen frames are converted, and few are held at full size at a
time. Nothing is written to stderr. Whatever is wrong with a file is one ``VideoError``.

How. ``index`` learns the times of all frames. A frame is found by counting on from a key frame,
after a seek where that saves decoding; every frame on the way must be the one that the index has
there. Where a seek does not land on a clean key frame (intra refresh, wrong tables), the file is
read from the start; where the index does not hold, its frames are counted by decoding, and once
more to be read.

Ranges. Of a range of a video the frames are those that ffmpeg shows in it, and a rule chooses from
them as if they were all. A process keeps the indexes of the last files for their other ranges.

Readers. PyAV is the reader. ``decord`` is there for those who want what the original scripts
read (``by_decord``); the clip names its reader.

Flags of a clip: ``frame_rate``: the rate was replaced (see ``index``); ``damaged``: something on
the way to the chosen frames did not decode cleanly; ``truncated``: the file announces more than it
holds and the frames were chosen from what is there (when less than half is there, that is an
error); ``hdr``: PQ or HLG, whose colours look pale as plain RGB; ``anamorphic``: pixels are not
square, and frames keep the stored shape, as in the models' own preprocessing.

Does not: open the network, mirror, or bound its own time (the decoder processes of
``vidcap_cli.video.pool`` do).
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.spans import Span
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video.by_decord import NO_SPANS, decord_frames, open_decord
from vidcap_cli.video.clip import Clip, Rule, VideoError, VideoInfo
from vidcap_cli.video.container import decode, no_frame, open_video
from vidcap_cli.video.index import Index, count, index_video

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["Clip", "Rule", "VideoError", "VideoInfo", "probe", "read_frames"]

PYAV = "pyav"
DECORD = "decord"
_SEEK_SAVES = 16  # frames: to read on is cheaper than a seek that skips fewer
_INDEXES_KEPT = 4
_BATCH_BYTES = 32 << 20  # of full-size frames, held before they are handed to the rule

_Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class _CountFrames(Exception):  # noqa: N818 - a change of plan, not an error
    """The packets' time stamps do not lead to the frames."""


def probe(path: str | Path, span: Span | None = None) -> VideoInfo:
    """Look into a video file: reads all of it, decodes a frame of it. Raises VideoError.

    Frames, rate and duration are those of ``span``, if there is one.
    """
    with open_video(path) as (container, stream):
        codec, form = stream.codec_context.name, container.format.name
        has_audio = bool(container.streams.audio)
        first = next(decode(container, stream, set()), None)
        if first is None:
            raise no_frame(stream)
        height, width, _ = _pixels(first, None).shape
        rotation = first.rotation
    index = index_video(path) if span is None else _INDEXES.of(path)
    begin, end, fps = index.within(span)
    return VideoInfo(
        frames=end - begin,
        fps=fps,
        duration=(end - begin) / fps,
        height=height,
        width=width,
        codec=codec,
        container=form,
        has_audio=has_audio,
        rotation=rotation,
        reader=PYAV,
        flags=index.flags,
    )


def read_frames(
    path: str | Path, rule: Rule, span: Span | None = None, *, reader: str = "auto"
) -> Clip:
    """Read the frames that ``rule`` chooses, resized by it; ``reader`` is auto, pyav or decord.

    With ``span`` it chooses from the frames that are shown in this range; decord has none.
    Raises VideoError with the status ``missing_file``, ``decode_error``, or ``rejected`` when the
    rule refuses the size of the frames with a ValueError.
    """
    if reader == DECORD:
        if span:
            raise VideoError(Status.DECODE_ERROR, NO_SPANS)
        return _read_decord(path, rule)
    index = index_video(path) if span is None else _INDEXES.of(path)
    try:
        return _read(path, rule, index, span)
    except _CountFrames:
        index = count(path, index)
        if span:
            _INDEXES.keep(path, index)
        return _read(path, rule, index, span)


class _Indexes:
    """The indexes of the files that ranges were read of last: each has many, and one index."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[int, ...]], Index] = {}

    def of(self, path: str | Path) -> Index:
        """The index of a file as it is now; raises VideoError."""
        known = self._known.get(self._key(path))
        if known is None:
            known = index_video(path)
            self.keep(path, known)
        return known

    def keep(self, path: str | Path, index: Index) -> None:
        """Remember a better index of it."""
        self._known[self._key(path)] = index
        while len(self._known) > _INDEXES_KEPT:
            del self._known[next(iter(self._known))]

    @staticmethod
    def _key(path: str | Path) -> tuple[str, tuple[int, ...]]:
        try:
            found = os.stat(path)  # noqa: PTH116 - a path may be a string
        except (OSError, ValueError):  # whoever opens it says why
            return str(path), ()
        return str(path), (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


_INDEXES = _Indexes()


def _read_decord(path: str | Path, rule: Rule) -> Clip:
    source, total, fps = open_decord(path)
    indices = rule.indices(total, fps)
    chosen, places = np.unique(indices, return_inverse=True)
    prepare = partial(rule.prepare, clip_frames=len(indices))
    frames, shape = _collect(prepare, decord_frames(source, chosen))
    return Clip(frames[places], indices, DECORD, total, fps, shape[0], shape[1], ())


def _read(path: str | Path, rule: Rule, index: Index, span: Span | None) -> Clip:
    begin, end, fps = index.within(span)
    indices = begin + rule.indices(end - begin, fps)
    prepare = partial(rule.prepare, clip_frames=len(indices))
    chosen, places = np.unique(indices, return_inverse=True)
    damage: set[Flag] = set()
    frames, shape = _collect(prepare, _upright(_frames(path, index, chosen, damage)))
    return Clip(
        frames=frames if np.array_equal(chosen, indices) else frames[places],
        indices=indices,
        reader=PYAV,
        source_frames=end - begin,
        source_fps=fps,
        source_height=shape[0],
        source_width=shape[1],
        flags=tuple(sorted({*index.flags, *damage})),
    )


def _upright(frames: Iterator["VideoFrame"]) -> Iterator[NDArray[np.uint8]]:
    """Frames as RGB arrays, all of the first one's size."""
    shape: tuple[int, ...] | None = None
    for frame in frames:
        pixels = _pixels(frame, shape)
        shape = pixels.shape
        yield pixels


def _collect(
    prepare: _Prepare, frames: Iterator[NDArray[np.uint8]]
) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """All frames prepared by the rule, a few at a time, and the shape they had."""
    prepared: list[NDArray[np.uint8]] = []
    batch: list[NDArray[np.uint8]] = []
    shape: tuple[int, ...] = ()
    for pixels in frames:
        shape = pixels.shape
        batch.append(pixels)
        if len(batch) * pixels.nbytes >= _BATCH_BYTES:
            prepared.append(_prepare(prepare, batch))
            batch = []
    if batch:
        prepared.append(_prepare(prepare, batch))
    return np.concatenate(prepared), shape


def _prepare(prepare: _Prepare, batch: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    frames = np.stack(batch)
    try:
        return prepare(frames)
    except ValueError as error:
        raise VideoError(Status.REJECTED, str(error)) from error


def _frames(
    path: str | Path, index: Index, chosen: NDArray[np.int64], damage: set[Flag]
) -> Iterator["VideoFrame"]:
    """The frames with the ascending numbers ``chosen``; adds ``damaged`` to ``damage``.

    Raises _CountFrames when one of them is not where the time stamps say, VideoError when it is
    not where counting said.
    """
    done = 0
    ways = [_counted] if index.times is None else [_sought, _read_on]
    for way in ways:
        for frame in way(path, index, chosen[done:], damage):
            yield frame
            done += 1
        if done == len(chosen):
            return
    if index.times is not None:
        raise _CountFrames
    raise VideoError(
        Status.DECODE_ERROR, f"frame {chosen[done] + 1} of {index.total} cannot be decoded"
    )


def _sought(
    path: str | Path,
    index: Index,
    chosen: NDArray[np.int64],
    damage: set[Flag],
    *,
    seek: bool = True,
) -> Iterator["VideoFrame"]:
    """Frames by their times, seeking ahead where it pays; ends early where the index is wrong."""
    assert index.times is not None
    nearest = np.searchsorted(index.keys[:, 0], chosen, side="right") - 1
    with open_video(path) as (container, stream):
        frames = decode(container, stream, damage)
        reached = -1
        for number, near in zip(chosen.tolist(), nearest.tolist(), strict=True):
            start, time, place = index.keys[near].tolist() if near >= 0 else (0, 0, 0)
            sought = seek and start > reached + _SEEK_SAVES
            if sought:
                container.seek(place, stream=stream)
                frames = decode(container, stream, damage, since=time)
                reached = start - 1
            while reached < number:
                frame = next(frames, None)
                reached += 1
                if frame is None or frame.pts != index.times[reached]:
                    return
                if sought and reached == start and not _is_clean(frame):
                    return
            assert frame is not None
            yield frame


def _is_clean(frame: "VideoFrame") -> bool:
    """Whether decoding may begin here. The table of key frames may lie, and an intra refresh,
    which is listed there, begins at a frame that needs earlier ones.
    """
    from av.video.frame import PictureType  # noqa: PLC0415 - loads FFmpeg

    return bool(frame.key_frame) and frame.pict_type == PictureType.I


def _read_on(
    path: str | Path, index: Index, chosen: NDArray[np.int64], damage: set[Flag]
) -> Iterator["VideoFrame"]:
    """Frames by their times, read from the start; ends early where the index is wrong."""
    yield from _sought(path, index, chosen, damage, seek=False)


def _counted(
    path: str | Path, _: Index, chosen: NDArray[np.int64], damage: set[Flag]
) -> Iterator["VideoFrame"]:
    """Frames by their number, read from the start."""
    wanted = set(chosen.tolist())
    with open_video(path) as (container, stream):
        for number, frame in enumerate(decode(container, stream, damage)):
            if number in wanted:
                yield frame
            if number == chosen[-1]:
                return


def _pixels(frame: "VideoFrame", shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """A frame as RGB uint8 ``[H, W, 3]``, turned upright; scaled to ``shape`` if it differs.

    The size of frames may change within a stream; a clip has the size of its first.
    """
    turns = frame.rotation // 90 % 4
    height, width = (None, None) if shape is None else shape[:2]
    if turns % 2:
        height, width = width, height
    pixels = frame.to_ndarray(format="rgb24", height=height, width=width)
    return np.ascontiguousarray(np.rot90(pixels, turns), np.uint8)
