"""One video file: what it holds, and the frames a rule chooses from it, exactly.

Promises. Frame i is the i-th in order of display, whatever the codec and container. Rotation
metadata is applied. Frames are RGB. Only chosen frames are converted, and few are held at full
size at a time. Nothing is written to stderr. Whatever is wrong with a file is one ``VideoError``.

How. One pass over the packets, without decoding, gives the time stamps of all frames and key
frames. A frame is then found by its time stamp, after a seek to the key frame before it where
that saves decoding; when a seek does not land there, by reading on from the start. Where packets
and frames do not match one to one (AVI, bare streams, hidden frames, damage), frames are counted
by decoding, and once more to be read.

Two readers. decord reads mp4, mov, Matroska and WebM files of 8-bit 4:2:0 video in which no frame
is shown before the key frame that it follows. Elsewhere (open GOPs, x265's default; MPEG-TS,
MPEG-PS, WMV, AVI) its ``get_batch`` silently returns other frames than asked for, it converts
other pixel formats differently, and at several narrow widths it fails (measured on decord2
3.4.0): there PyAV reads. Both give the same pixels; the clip names its reader.

Frame rate. The container's average rate counts unless it is a quarter off the time stamps or
above 480. Then frames / duration by the time stamps replaces it, or 24 (what transformers assumes
for a video without a rate) when that is no better. A variable rate is its average.

Flags of a clip: ``frame_rate``: the rate was replaced as above; ``damaged``: something on the way
to the chosen frames did not decode cleanly; ``truncated``: the file announces more than it holds
and the frames were chosen from what is there. When less than half is there, that is an error.

Does not: open the network, apply pixel aspect ratios, mirror, or bound its own time (the decoder
processes of ``vidcap_cli.rank.decode`` do).
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

PYAV = "pyav"
DECORD = "decord"
# decord seeks exactly in these, as long as no frame precedes its key frame; and it converts
# 8-bit 4:2:0 exactly as PyAV does, but not 10-bit (both measured).
_DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
FASTEST_FPS = 480.0  # the fastest rate that phones and action cameras write; above is a mistake
ASSUMED_FPS = 24.0
_SEEK_SAVES = 16  # frames: to read on is cheaper than a seek that skips fewer
_BATCH_BYTES = 32 << 20  # of full-size frames, held before they are handed to the rule
_NO_FRAME = "the video stream holds no frame that can be decoded"


class VideoError(Exception):
    """A video that gives no frames: ``status`` as in part files, one sentence without the path."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class Rule(Protocol):
    """Which frames a model wants, and at what size."""

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        """Indices into ``total`` frames played at ``fps`` a second, in any order, repeats too."""
        ...

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        """Resize frames ``[T, H, W, 3]``, each by itself: the ``clip_frames`` frames of a clip
        come in several batches.
        """
        ...


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file holds.

    ``height`` x ``width`` are pixels as displayed, after turning by ``rotation`` degrees
    counter-clockwise. ``duration`` is in seconds; ``fps`` has passed the checks on it.
    """

    frames: int
    fps: float
    duration: float
    height: int
    width: int
    codec: str
    container: str
    has_audio: bool
    rotation: int
    reader: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """The chosen frames, RGB uint8 ``[T, h, w, 3]`` as the rule prepared them, and their source.

    ``indices`` are their numbers in the source, whose height and width are pixels as displayed.
    """

    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]
    reader: str
    source_frames: int
    source_fps: float
    source_height: int
    source_width: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Scan:
    """The frames of a file. ``times`` are their sorted times of display in the stream's unit, or
    None where frames must be counted; ``keys`` ``[n, 2]`` those of key frames, and where to seek.
    """

    total: int
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    fps: float
    flags: tuple[str, ...]
    closed: bool = False


_Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


class _CountFrames(Exception):  # noqa: N818 - a change of plan, not an error
    """The packets' time stamps do not lead to the frames."""


def probe(path: str | Path) -> VideoInfo:
    """Look into a video file: reads all of it, decodes a frame of it. Raises VideoError."""
    with _open(path) as container:
        stream = _stream(container)
        codec, form = stream.codec_context.name, container.format.name
        has_audio = bool(container.streams.audio)
        first = next(_decode(container, stream, set()), None)
        if first is None:
            raise VideoError("decode_error", _NO_FRAME)
        height, width, _ = _pixels(first, None).shape
        rotation = first.rotation
    scan = _scan(path)
    return VideoInfo(
        frames=scan.total,
        fps=scan.fps,
        duration=scan.total / scan.fps,
        height=height,
        width=width,
        codec=codec,
        container=form,
        has_audio=has_audio,
        rotation=rotation,
        reader=PYAV,
        flags=scan.flags,
    )


def read_frames(path: str | Path, rule: Rule) -> Clip:
    """Read the frames that ``rule`` chooses, resized by it.

    Raises VideoError with the status ``missing_file``, ``decode_error``, or ``rejected`` when the
    rule refuses the size of the frames with a ValueError.
    """
    scan = _scan(path)
    try:
        return _read(path, rule, scan)
    except _CountFrames:
        return _read(path, rule, _count(path, scan))


def _read(path: str | Path, rule: Rule, scan: _Scan) -> Clip:
    indices = rule.indices(scan.total, scan.fps)
    prepare = partial(rule.prepare, clip_frames=len(indices))
    chosen, places = np.unique(indices, return_inverse=True)
    damage: set[str] = set()
    found = _with_decord(path, prepare, scan, chosen) if scan.closed else None
    reader = PYAV if found is None else DECORD
    if found is None:
        found = _collect(prepare, _upright(_frames(path, scan, chosen, damage)))
    frames, shape = found
    return Clip(
        frames=frames if np.array_equal(chosen, indices) else frames[places],
        indices=indices,
        reader=reader,
        source_frames=scan.total,
        source_fps=scan.fps,
        source_height=shape[0],
        source_width=shape[1],
        flags=tuple(sorted({*scan.flags, *damage})),
    )


def _with_decord(
    path: str | Path, prepare: _Prepare, scan: _Scan, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], tuple[int, ...]] | None:
    """What ``_collect`` gives for the chosen frames, read by decord; None when it fails."""
    import decord  # noqa: PLC0415 - loads FFmpeg

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(os.fspath(path), num_threads=1)
        if len(reader) != scan.total:
            return None
        frames = (reader.get_batch([number]).asnumpy()[0] for number in chosen.tolist())
        return _collect(prepare, frames)
    except (decord.DECORDError, ValueError):
        # Narrow frames fail as a ValueError: "ndarray ... The size must exactly match".
        return None


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
        raise VideoError("rejected", str(error)) from error


@contextmanager
def _open(path: str | Path) -> Iterator["InputContainer"]:
    """Open a file for reading; an error of FFmpeg inside the block becomes a VideoError."""
    import av  # noqa: PLC0415 - loads FFmpeg: only where a video is read

    _check_file(Path(path))
    try:
        with av.open(os.fspath(path), metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise VideoError("decode_error", f"{_guess(Path(path))} ({reason})") from error


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise VideoError("missing_file", "there is no such file") from error
        raise VideoError("decode_error", f"cannot be read: {error.strerror}") from error
    if path.is_dir():
        raise VideoError("decode_error", "this is a folder, not a video file")
    if size == 0 and path.is_file():
        raise VideoError("decode_error", "the file is empty")


def _guess(path: Path) -> str:
    """What is probably wrong with a file that FFmpeg refuses."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head[4:8] == b"ftyp":
        return "cannot be decoded: an MP4 file that is damaged or was cut short"
    return "cannot be decoded: damaged, or not a video file"


def _stream(container: "InputContainer") -> "VideoStream":
    """The first video stream that is not a cover picture, set to decode on one thread."""
    from av.stream import Disposition  # noqa: PLC0415 - loads FFmpeg

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise VideoError("decode_error", "the video's codec is unknown to this FFmpeg")
            # One thread: several decoders run beside each other and beside the model.
            stream.codec_context.thread_count = 1
            return stream
    raise VideoError("decode_error", "the file has no video stream")


def _scan(path: str | Path) -> _Scan:
    """Learn a file's frames from its packets."""
    with _open(path) as container:
        stream = _stream(container)
        packets = [
            (packet.pts, packet.dts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard and not packet.is_corrupt
        ]
        tick = float(stream.time_base or 0)
        stated = float(stream.average_rate or 0)
        announced = float(stream.duration or 0) * tick
        if not announced and not container.streams.audio:
            announced = (container.duration or 0) / 1e6
        # AVI stores no times of display: FFmpeg numbers the packets, in the order of decoding.
        by_dts = container.format.name == "mpegts"
        form, pixels = container.format.name, stream.codec_context.pix_fmt
        plain = form in _DECORD_CONTAINERS and pixels == "yuv420p"
        stamped = form != "avi" and all(pts is not None for pts, *_ in packets)
    times = np.sort(np.array([pts for pts, *_ in packets if pts is not None], np.int64))
    # Where a seek lands on the key frame (measured): MPEG-TS looks for times of decoding.
    keys = [
        (pts, dts if by_dts and dts is not None else pts)
        for pts, dts, key in packets
        if key and pts is not None
    ]
    if stamped and keys:
        # A recording cut out of a longer one can begin with frames that need earlier ones.
        times = times[times >= keys[0][0]]
    seconds = float(times[-1] - times[0]) * tick if len(times) > 1 else 0.0
    fps, flags = _rate(stated, (len(times) - 1) / seconds if seconds > 0 else 0.0)
    total = len(times) if stamped else len(packets)
    closed = stamped and plain and not _has_leading_frames(packets)
    scan = _Scan(total, times, np.array(sorted(keys), np.int64).reshape(-1, 2), fps, flags, closed)
    if not stamped or not total or (np.diff(times) <= 0).any():
        scan = _count(path, scan)
    return _check_length(scan, announced)


def _has_leading_frames(packets: list[tuple[int | None, int | None, bool]]) -> bool:
    """Whether a frame is shown before the key frame that it follows in the file."""
    key_time = None
    for pts, _, is_key in packets:
        if is_key:
            key_time = pts
        elif key_time is not None and pts is not None and pts < key_time:
            return True
    return False


def _rate(stated: float, measured: float) -> tuple[float, tuple[str, ...]]:
    """The frames a second to believe, and the flag when that is not the stated rate."""
    plausible = 0 < stated <= FASTEST_FPS
    if plausible and (not measured or 0.8 <= stated / measured <= 1.25):
        return stated, ()
    if 0 < measured <= FASTEST_FPS:
        return measured, ("frame_rate",)
    return ASSUMED_FPS, ("frame_rate",)


def _count(path: str | Path, scan: _Scan) -> _Scan:
    """The same file with its frames counted by decoding them all."""
    damage: set[str] = set()
    with _open(path) as container:
        total = sum(1 for _ in _decode(container, _stream(container), damage))
    if not total:
        raise VideoError("decode_error", _NO_FRAME)
    if damage and total * 2 < scan.total:
        message = f"damaged: only {total} of {scan.total} frames can be decoded"
        raise VideoError("decode_error", message)
    return replace(
        scan, total=total, times=None, closed=False, flags=tuple(sorted({*scan.flags, *damage}))
    )


def _check_length(scan: _Scan, announced: float) -> _Scan:
    """Compare the length in seconds that the container announces with what was found."""
    found = scan.total / scan.fps
    if "frame_rate" in scan.flags or announced <= 1.1 * found + 0.5:
        return scan
    if announced > 2 * found:
        message = f"cut short: only {found:.1f} of {announced:.1f} seconds are in the file"
        raise VideoError("decode_error", message)
    return replace(scan, flags=(*scan.flags, "truncated"))


def _frames(
    path: str | Path, scan: _Scan, chosen: NDArray[np.int64], damage: set[str]
) -> Iterator["VideoFrame"]:
    """The frames with the ascending numbers ``chosen``; adds ``damaged`` to ``damage``.

    Raises _CountFrames when one of them is not where the time stamps say, VideoError when it is
    not where counting said.
    """
    done = 0
    for way in (_sought, _read_on) if scan.times is not None else (_counted,):
        for frame in way(path, scan, chosen[done:], damage):
            yield frame
            done += 1
        if done == len(chosen):
            return
    if scan.times is not None:
        raise _CountFrames
    raise VideoError("decode_error", f"frame {chosen[done] + 1} of {scan.total} cannot be decoded")


def _sought(
    path: str | Path, scan: _Scan, chosen: NDArray[np.int64], damage: set[str]
) -> Iterator["VideoFrame"]:
    """Frames by their times, seeking ahead where it pays; ends early when one is not found."""
    assert scan.times is not None
    nearest = np.searchsorted(scan.keys[:, 0], scan.times[chosen], side="right") - 1
    with _open(path) as container:
        stream = _stream(container)
        frames = _decode(container, stream, damage)
        reached = -1
        for number, key in zip(chosen, nearest, strict=True):
            time = scan.times[number]
            if key > 0 and np.searchsorted(scan.times, scan.keys[key, 0]) > reached + _SEEK_SAVES:
                container.seek(int(scan.keys[key, 1]), stream=stream)
                frames = _decode(container, stream, damage, from_key=True)
            frame = next((f for f in frames if f.pts is not None and f.pts >= time), None)
            if frame is None or frame.pts != time:
                return
            yield frame
            reached = number


def _read_on(
    path: str | Path, scan: _Scan, chosen: NDArray[np.int64], damage: set[str]
) -> Iterator["VideoFrame"]:
    """Frames by their times, read from the start; ends early when one is not found."""
    yield from _sought(path, replace(scan, keys=scan.keys[:0]), chosen, damage)


def _counted(
    path: str | Path, _: _Scan, chosen: NDArray[np.int64], damage: set[str]
) -> Iterator["VideoFrame"]:
    """Frames by their number, read from the start."""
    wanted = set(chosen.tolist())
    with _open(path) as container:
        for number, frame in enumerate(_decode(container, _stream(container), damage)):
            if number in wanted:
                yield frame
            if number == chosen[-1]:
                return


def _decode(
    container: "InputContainer", stream: "VideoStream", damage: set[str], *, from_key: bool = False
) -> Iterator["VideoFrame"]:
    """Decode on from where the container stands; nothing when ``from_key`` and no key is there.

    A packet that the decoder refuses is passed over, as players do, and noted in ``damage``.
    """
    from av.error import InvalidDataError  # noqa: PLC0415 - loads FFmpeg

    for packet in container.demux(stream):
        if from_key and not packet.is_keyframe:
            return
        from_key = False
        try:
            frames = packet.decode()
        except InvalidDataError:
            damage.add("damaged")
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.add("damaged")
            yield frame


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
