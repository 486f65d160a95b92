"""The index of a video: how many frames it shows, when, and at what rate, from its packets.

One pass over the packets, without decoding, gives the times of all frames and key frames. Packets
that an edit list hides are decoded and not shown. Where packets need not match frames one to one
(AVI, bare streams, damage, times that go back, a beginning that needs earlier frames), the frames
are counted by decoding them all.

Frame rate. The container's average rate counts unless it is a quarter off the time stamps or
above 480. Then frames / duration by the time stamps replaces it, or 24 (what transformers assumes
for a video without a rate) when that is no better. Time stamps that restart or jump, as in joined
MPEG-TS recordings, are told apart into segments, and there a plausible rate of the container is
believed. A variable rate is its average.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.spans import Span
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video.clip import VideoError
from vidcap_cli.video.container import check_moves, decode, no_frame, open_video

FASTEST_FPS = 480.0  # the fastest rate that phones and action cameras write; above is a mistake
ASSUMED_FPS = 24.0
# Formats whose time stamps may jump ahead where recordings were joined, and by how many seconds
# at least (ffmpeg's own dts_delta_threshold).
_JUMPING = ("mpegts", "mpeg")
_JUMP_SECONDS = 10.0
_LACKING, _LACKING_FRAMES = 1.1, 3  # of what is there: by so much it may be announced longer
_DECODED = 0.95  # of the frames of a healthy file; a few packets may hold none, or two
_ALMOST = 1e-3  # of a frame, by which a bound that was computed from one may be off
_HDR = (16, 18)  # transfer functions of ITU-T H.273: PQ and HLG


@dataclass(frozen=True, slots=True)
class Index:
    """The frames of a file. ``times`` are their sorted times of display in the stream's unit, or
    None where frames must be counted. ``keys`` ``[n, 3]``: the number of a frame to seek to, its
    time, and the time to seek for. That unit is ``tick`` seconds, and ``origin`` the time in it
    that ffmpeg calls 0.
    """

    total: int
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    fps: float
    flags: tuple[Flag, ...]
    tick: float = 0.0
    origin: int = 0

    @property
    def end(self) -> float:
        """When the last frame has been shown, in seconds from the start of the file."""
        if self.times is None:
            return self.total / self.fps
        return float(self.times[-1] - self.origin) * self.tick + 1 / self.fps

    def within(self, span: Span | None) -> tuple[int, int, float]:
        """The first frame that is shown in ``span``, the one after the last, and their rate.

        A frame is when it begins: by its time, or where frames are counted, by number and rate.
        Start and end are rounded to the unit of the stream's times, as ffmpeg's ``trim`` does. The
        rate is the file's, or where the times differ from it there, that of the times. Raises
        VideoError when no frame is shown in ``span``.
        """
        if span is None:
            return 0, self.total, self.fps
        if span.is_reversed:
            message = f"the range {span} ends before it begins"
            raise VideoError(Status.DECODE_ERROR, message)
        end = self.end + self.tick if span.end is None else span.end
        tick = self.tick or 1 / self.fps
        ticks = np.array([math.floor(bound / tick + 0.5) for bound in (span.start, end)])
        if self.times is None:
            numbers = np.ceil(ticks * tick * self.fps - _ALMOST).astype(np.int64)
            first, last = np.minimum(numbers, self.total).tolist()
        else:
            first, last = np.searchsorted(self.times, self.origin + ticks).tolist()
        if first == last:
            message = f"no frame is shown {span}: the video ends at {self.end:.2f} s"
            raise VideoError(Status.DECODE_ERROR, message)
        return first, last, self._rate_of(first, last)

    def _rate_of(self, first: int, last: int) -> float:
        """The rate of the frames from ``first`` up to ``last``."""
        steps = last - first - 1
        if self.times is None or not steps:
            return self.fps
        seconds = float(self.times[last - 1] - self.times[first]) * self.tick
        # Two ticks are what times rounded to their unit may be off.
        if abs(seconds - steps / self.fps) <= 2 * self.tick or steps > FASTEST_FPS * seconds:
            return self.fps
        return steps / seconds


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    key: bool
    corrupt: bool


def index_video(path: str | Path) -> Index:
    """Learn a file's frames from its packets; raises VideoError."""
    with open_video(path) as (container, stream):
        form, codec = container.format.name, stream.codec_context
        shown: list[_Packet] = []
        first: bool | None = None  # whether the first packet of all is a key frame
        for packet in container.demux(stream):
            if not packet.size:
                continue
            first = packet.is_keyframe if first is None else first
            # VP8 stores frames that are only referred to as packets (RFC 6386, 9.1).
            unseen = codec.name == "vp8" and not bytes(packet)[0] >> 4 & 1
            if not packet.is_discard and not unseen:
                shown.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_corrupt))
        check_moves(container, len(shown))
        tick = float(stream.time_base or 0)
        stated = float(stream.average_rate or 0)
        origin = round((container.start_time or 0) / 1e6 / tick) if tick else 0
        announced = float(stream.duration or 0) * tick
        if not announced and not container.streams.audio:
            announced = (container.duration or 0) / 1e6
            if form.startswith("matroska"):  # it tells when the last frame ends
                announced -= max(0, container.start_time or 0) / 1e6
        looks = _looks(codec.color_trc, stream.sample_aspect_ratio or 1)
    # What comes before the first key frame cannot be decoded.
    begin = 0 if first else next((i for i, p in enumerate(shown) if p.key), 0)
    stored, shown = len(shown), shown[begin:]
    times = np.array([p.pts for p in shown if p.pts is not None], np.int64)
    jump = _JUMP_SECONDS / tick if tick and form in _JUMPING else np.inf
    segments = _segments(shown, jump)
    fps, flags = _rate(stated, _measured(segments, tick), joined=len(segments) > 1)
    times.sort()
    keys = _keys(shown, times, by_dts=form == "mpegts")
    index = Index(len(shown), times, keys, fps, (*flags, *looks), tick, origin)
    # AVI stores no times of display: FFmpeg numbers the packets, in the order of decoding.
    stamped = form != "avi" and len(times) == len(shown) and not (np.diff(times) <= 0).any()
    whole = bool(first) and len(segments) == 1 and not any(p.corrupt for p in shown)
    leading = bool(shown) and shown[0].key and len(times) and times[0] < (shown[0].pts or 0)
    if not (shown and stamped and whole) or leading:
        index = count(path, index)
    if len(segments) > 1:
        return index  # the announced length then spans the gaps
    return _check_length(index, stored, max(len(shown), index.total), announced)


def count(path: str | Path, index: Index) -> Index:
    """The same file with its frames counted by decoding them all."""
    damage: set[Flag] = set()
    with open_video(path) as (container, stream):
        total = sum(1 for _ in decode(container, stream, damage))
        if not total:
            raise no_frame(stream)
    if total * 2 < index.total:
        message = f"damaged: only {total} of {index.total} frames can be decoded"
        raise VideoError(Status.DECODE_ERROR, message)
    if total < _DECODED * index.total - 2:
        damage.add(Flag.DAMAGED)  # some decoders leave frames out without a word
    return replace(index, total=total, times=None, flags=tuple(sorted({*index.flags, *damage})))


def _looks(transfer: int, aspect: object) -> tuple[Flag, ...]:
    """Flags for what the pixels are shown as elsewhere: HDR, and pixels that are not square."""
    return (
        *((Flag.HDR,) if transfer in _HDR else ()),
        *((Flag.ANAMORPHIC,) if aspect != 1 else ()),
    )


def _segments(packets: list[_Packet], jump: float) -> list[list[int]]:
    """Times of display, cut where the times of decoding go back or jump ahead by ``jump``."""
    segments: list[list[int]] = [[]]
    last: int | None = None
    for packet in packets:
        clock = packet.dts if packet.dts is not None else packet.pts
        if last is not None and packet.dts is not None and not last <= packet.dts < last + jump:
            segments.append([])
        last = clock if packet.dts is not None else last
        if packet.pts is not None:
            segments[-1].append(packet.pts)
    return segments


def _measured(segments: list[list[int]], tick: float) -> float:
    """Frames a second by the time stamps, or 0."""
    seconds = sum(max(s) - min(s) for s in segments if s) * tick
    return sum(len(s) - 1 for s in segments if s) / seconds if seconds > 0 else 0.0


def _keys(packets: list[_Packet], times: NDArray[np.int64], *, by_dts: bool) -> NDArray[np.int64]:
    """Where a seek lands on a key frame that is shown (measured): MPEG-TS looks for times of
    decoding.
    """
    found = sorted(
        (p.pts, p.dts if by_dts and p.dts is not None else p.pts)
        for p in packets
        if p.key and p.pts is not None
    )
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return np.column_stack([np.searchsorted(times, pairs[:, 0]), pairs])


def _rate(stated: float, measured: float, *, joined: bool) -> tuple[float, tuple[Flag, ...]]:
    """The frames a second to believe, and the flag when that is not the stated rate."""
    plausible = 0 < stated <= FASTEST_FPS
    if plausible and (joined or not measured or 0.8 <= stated / measured <= 1.25):
        return stated, ()
    if 0 < measured <= FASTEST_FPS:
        return measured, (Flag.FRAME_RATE,)
    return ASSUMED_FPS, (Flag.FRAME_RATE,)


def _check_length(index: Index, stored: int, shown: int, announced: float) -> Index:
    """Compare the seconds that the container announces with the frames that are ``shown``, and with
    those ``stored`` in the file: a recording may begin long before its first key frame.

    Of healthy files the ends are up to 2.5 frames apart (measured on 219). AVI and MPEG-TS announce
    nothing.
    """
    if Flag.FRAME_RATE in index.flags or announced * index.fps <= (
        _LACKING * shown + _LACKING_FRAMES
    ):
        return index
    found = max(stored, shown) / index.fps
    if announced > 2 * found:
        message = f"cut short: {found:.1f} of {announced:.1f} seconds are there, less than half"
        raise VideoError(Status.DECODE_ERROR, message)
    return replace(index, flags=(*index.flags, Flag.TRUNCATED))
