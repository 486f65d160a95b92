"""Files made by ffmpeg, in all forms of videos, each frame with its number in the picture.

``python -m tests.video.corpus`` makes them all, reads them, and prints a table of what was
compared: the frames that several rules choose, against those that ffmpeg decodes, by number and by
pixel. Both are made RGB by the same library, for releases of FFmpeg interpolate colour differently
at sharp edges (10-bit 4:2:0). How far ffmpeg's own RGB is from ours, on the average, is compared
beside it.
"""

import io
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from tests.helpers.clips import decode_all
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.video import read_frames

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
HEIGHT, WIDTH, BITS, BLOCK = 112, 192, 10, 16
LEVELS = 2  # how far pixels may differ
CONVERTED = 2.0  # how far they may differ in the mean when ffmpeg makes them RGB, too


@dataclass(frozen=True)
class Case:
    """A file: how its first form is encoded, what ``then`` makes of that, what is to be seen."""

    group: str
    name: str
    encode: tuple[str, ...]
    fps: float = 25.0
    count: int = 72
    then: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    middle: str = ""  # the suffix of the first form, where there are two
    steady: bool = True  # whether the rate is the one encoded


@dataclass(frozen=True)
class Compared:
    """What a comparison found: frames shown, frames compared, the widest difference in levels, and
    the mean one to ffmpeg's own RGB.
    """

    shown: int
    compared: int
    levels: int
    converted: float
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unresized:
    """The indices of a rule, with frames at their own size."""

    choose: Callable[[int, float], NDArray[np.int64]]

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        return self.choose(total, fps)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        return frames


RULES = {
    "every frame": Unresized(lambda total, _: np.arange(total)),
    "qwen2vl 4 fps": Unresized(FrameRule().indices),
    "qwen2vl 1 fps": Unresized(FrameRule(fps=1.0).indices),
    "four spread": Unresized(lambda total, _: np.linspace(0, total - 1, 4).astype(np.int64)),
    "the last": Unresized(lambda total, _: np.array([total - 1])),
}


def frames_with_numbers(count: int) -> NDArray[np.uint8]:
    """Frames ``[T, H, W, 3]`` of moving colours, their number in blocks along the top."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[..., 0] = 128 + 80 * np.sin((x + 3 * number) / 19)
        frame[..., 1] = 128 + 80 * np.sin((y + 2 * number) / 13)
        frame[..., 2] = 128 + 80 * np.sin((x + y - number) / 29)
        for bit in range(BITS):
            frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return frames


def number_of(frame: NDArray[np.uint8]) -> int:
    """The number drawn into a frame, which may be scaled."""
    block_h, block_w = frame.shape[0] * BLOCK / HEIGHT, frame.shape[1] * BLOCK / WIDTH
    row = slice(int(block_h * 0.3), int(block_h * 0.7) or 1)
    return sum(
        int(frame[row, int(block_w * (bit + 0.3)) : int(block_w * (bit + 0.7))].mean() > 127) << bit
        for bit in range(BITS)
    )


def cases() -> list[Case]:  # noqa: C901, PLR0912 - one table
    """All files, grouped by what is special about them."""
    found: list[Case] = []
    x264, x265 = ("-c:v", "libx264", "-preset", "veryfast"), ("-c:v", "libx265", "-preset", "fast")
    yuv = ("-pix_fmt", "yuv420p")
    quiet = "log-level=none"
    for gop, bf, form in product(
        (1, 12, 48, 250), (0, 3), ("mp4", "mov", "mkv", "flv", "ts", "avi")
    ):
        options = (*x264, *yuv, "-g", str(gop), "-bf", str(bf))
        found.append(Case("h264", f"h264-g{gop}-b{bf}.{form}", options))
    for gop, bf, form in product((12, 48), (0, 3), ("mp4", "mkv", "ts")):
        options = (*x265, *yuv, "-g", str(gop), "-bf", str(bf), "-x265-params", quiet)
        found.append(Case("hevc", f"hevc-g{gop}-b{bf}.{form}", options))
    for fps, form in product((5, 10, 24000 / 1001, 30000 / 1001, 50, 60), ("mp4", "mkv", "avi")):
        name = f"rate{fps:.5g}.{form}"
        found.append(Case("rates", name, (*x264, *yuv, "-bf", "0"), fps=fps))
    for start, gop, form in product(
        ("0.3", "0.96", "1.1", "1.7", "2"), (12, 48, 250), ("mp4", "mov", "mkv", "ts")
    ):
        options = (*x264, *yuv, "-g", str(gop), "-bf", "2")
        found.append(
            Case(
                "cut -c copy",
                f"cut{start}-g{gop}.{form}",
                options,
                before=("-ss", start),
                then=("-t", "1", "-c", "copy"),
                middle="mp4",
            )
        )
    for start, form in product(("0.5", "1.3"), ("mp4", "mkv")):
        options = (*x265, *yuv, "-g", "48", "-x265-params", f"{quiet}:open-gop=0")
        found.append(
            Case("cut -c copy", f"cut-hevc{start}.{form}", options, before=("-ss", start),
                 then=("-c", "copy"), middle="mp4")
        )  # fmt: skip
    for codec, form, options in (
        ("vp8", "webm", ("-c:v", "libvpx", "-deadline", "realtime", "-b:v", "2M")),
        ("vp8-altref", "webm", ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16",
                                "-b:v", "2M")),
        ("vp9", "webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8",
                         "-b:v", "2M")),
        ("vp9", "mp4", ("-c:v", "libvpx-vp9", "-cpu-used", "5", "-b:v", "2M")),
        ("av1", "mp4", ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime")),
        ("av1", "mkv", ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime")),
        ("mpeg4", "mp4", ("-c:v", "mpeg4", "-q:v", "3")),
        ("mpeg4-b", "mp4", ("-c:v", "mpeg4", "-bf", "2", "-q:v", "3")),
        ("mpeg4-b", "avi", ("-c:v", "mpeg4", "-bf", "2", "-q:v", "3")),
        ("mpeg4", "mkv", ("-c:v", "mpeg4", "-q:v", "3")),
        ("xvid", "avi", ("-c:v", "libxvid", "-q:v", "3")),
        ("mpeg1", "mpg", ("-c:v", "mpeg1video", "-bf", "2", "-q:v", "3")),
        ("mpeg2", "mpg", ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "3")),
        ("mpeg2", "ts", ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "3")),
        ("mpeg2", "mkv", ("-c:v", "mpeg2video", "-bf", "2", "-q:v", "3")),
        ("mjpeg", "avi", ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")),
        ("mjpeg", "mov", ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj422p")),
        ("prores", "mov", ("-c:v", "prores")),
        ("wmv2", "wmv", ("-c:v", "wmv2", "-q:v", "3")),
        ("wmv1", "asf", ("-c:v", "wmv1", "-q:v", "3")),
        ("ffv1", "mkv", ("-c:v", "ffv1", *yuv)),
        ("theora", "ogv", ("-c:v", "libtheora", "-q:v", "8")),
        ("flv1", "flv", ("-c:v", "flv", "-q:v", "3")),
        ("huffyuv", "avi", ("-c:v", "ffvhuff", *yuv)),
        ("gif", "gif", ("-c:v", "gif")),
        ("raw", "y4m", yuv),
        ("raw", "avi", ("-c:v", "rawvideo", *yuv)),
        ("h264-444", "mp4", (*x264, "-pix_fmt", "yuv444p")),
        ("h264-422", "mkv", (*x264, "-pix_fmt", "yuv422p")),
        ("h264-10bit", "mp4", (*x264, "-pix_fmt", "yuv420p10le")),
        ("h264-bare", "h264", (*x264, *yuv)),
        ("hevc-bare", "hevc", (*x265, *yuv, "-x265-params", quiet)),
        ("h264-fragments", "mp4", (*x264, *yuv, "-g", "12",
                                   "-movflags", "frag_keyframe+empty_moov")),
    ):  # fmt: skip
        found.append(Case("codecs", f"{codec}.{form}", options))
    for open_gop, form in product((1, 2), ("mp4", "mkv", "ts")):
        params = f"open-gop=1:keyint=20:bframes={open_gop + 1}"
        found.append(Case("open GOP", f"open{open_gop}.{form}",
                          (*x264, *yuv, "-x264-params", params)))  # fmt: skip
        params = f"{quiet}:open-gop=1:keyint=20:bframes={open_gop + 1}"
        found.append(Case("open GOP", f"open-hevc{open_gop}.{form}",
                          (*x265, *yuv, "-x265-params", params)))  # fmt: skip
    for keyint, form in product((16, 24), ("mp4", "mkv", "ts")):
        params = f"intra-refresh=1:keyint={keyint}:bframes=0"
        options = (*x264, *yuv, "-x264-params", params)
        found.append(Case("intra refresh", f"refresh{keyint}.{form}", options))
    for degrees, form in product((90, 180, 270), ("mp4", "mov")):
        found.append(
            Case("rotation", f"turned{degrees}.{form}", (*x264, *yuv), middle="mp4",
                 before=("-display_rotation", str(degrees)), then=("-c", "copy"))
        )  # fmt: skip
    for offset, form in product(("0.5", "7", "100"), ("mp4", "mkv", "ts")):
        options = (*x264, *yuv, "-g", "24", "-output_ts_offset", offset)
        found.append(Case("offset", f"offset{offset}.{form}", options))
    for keep, form in product(("not(mod(n\\,3))+lt(mod(n\\,24)\\,9)", "gt(mod(n\\,17)\\,4)"),
                              ("mp4", "mkv", "mov")):  # fmt: skip
        options = ("-vf", f"select={keep}", "-fps_mode", "vfr", *x264, *yuv, "-g", "20")
        found.append(Case("variable rate", f"vfr{len(keep)}.{form}", options, steady=False))
    two = ("-filter_complex", "[0:v]split[a][b];[a]scale=96:56,negate[small]")
    for order, form in product((("[small]", "[b]"), ("[b]", "[small]")), ("mp4", "mkv")):
        maps = (*two, "-map", order[0], "-map", order[1], *x264, *yuv, "-g", "24")
        found.append(Case("two streams", f"two{order[0][1]}.{form}", maps))
    for form in ("mp4", "mkv"):
        options = ("-f", "lavfi", "-i", "color=red:640x480:r=1:d=1", "-map", "0:v", "-map", "1:v",
                   "-c:v:0", "libx264", "-pix_fmt:v:0", "yuv420p", "-c:v:1", "mjpeg",
                   "-pix_fmt:v:1", "yuvj420p", "-frames:v:1", "1", "-disposition:v:1",
                   "attached_pic")  # fmt: skip
        if form == "mp4":
            found.append(Case("cover picture", f"cover.{form}", options))
    return found


def make(case: Case, folder: Path) -> Path:
    """Write the file of a case."""
    path = folder / case.name
    first = path.with_name(f"{path.stem}-whole.{case.middle}") if case.middle else path
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(case.fps))
    _ffmpeg(*raw, "-i", "-", *case.encode, str(first), feed=frames_with_numbers(case.count))
    if case.middle:
        _ffmpeg(*case.before, "-i", str(first), *case.then, str(path))
    return path


def _ffmpeg(*arguments: str, feed: NDArray[np.uint8] | None = None) -> bytes:
    command = [FFMPEG, "-v", "error", "-y", *arguments]
    data = feed.tobytes() if feed is not None else b""
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr.decode()[-500:])
    return done.stdout


def shown_by_ffmpeg(path: Path) -> NDArray[np.uint8]:
    """The frames that ffmpeg shows, RGB: as it chooses the stream, decodes it and turns it.

    They leave it without loss, in the decoder's own pixel format and with what is known of its
    colours, and PyAV makes them RGB. FFV1 in Matroska keeps all of that but the full range of
    JPEG. The bundled ffmpeg 7.0.2 crashes on MPEG-TS, so there it is every frame that PyAV
    decodes, and the numbers in the picture are the proof.
    """
    if path.suffix == ".ts":
        return decode_all(path)
    with av.open(str(path)) as container:
        jpeg = container.streams.video[0].format.name.startswith("yuvj")
    form = ("-c:v", "rawvideo", "-f", "nut") if jpeg else ("-c:v", "ffv1", "-f", "matroska")
    stored = _ffmpeg("-i", str(path), "-fps_mode", "passthrough", *form, "-")
    frames = []
    with av.open(io.BytesIO(stored)) as container:
        for frame in container.decode(video=0):
            if jpeg:
                frame.color_range, frame.colorspace = ColorRange.JPEG, Colorspace.ITU601
            frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def rgb_of_ffmpeg(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The frames that ffmpeg shows, of ``shape``, made RGB by itself; not of MPEG-TS."""
    data = _ffmpeg("-i", str(path), "-fps_mode", "passthrough", "-sws_flags", "bilinear",
                   "-f", "rawvideo", "-pix_fmt", "rgb24", "-")  # fmt: skip
    return np.frombuffer(data, np.uint8).reshape(-1, *shape)


def compare(case: Case, path: Path) -> Compared:
    """Read a file by every rule, and tell what is not as ffmpeg shows it."""
    faults: list[str] = []
    compared, widest = 0, 0
    truth = shown_by_ffmpeg(path)
    for name, rule in RULES.items():
        clip = read_frames(path, rule)
        if clip.source_frames != len(truth):
            faults.append(f"{name}: {clip.source_frames} frames, ffmpeg shows {len(truth)}")
            continue
        wanted = truth[clip.indices]
        turned = case.group == "rotation"
        numbers = [] if turned else [number_of(frame) for frame in clip.frames]
        if numbers != ([] if turned else [number_of(frame) for frame in wanted]):
            faults.append(f"{name}: other frames than ffmpeg's")
        levels = int(np.abs(clip.frames.astype(int) - wanted).max())
        if levels > LEVELS:
            faults.append(f"{name}: {levels} levels off")
        compared, widest = compared + len(wanted), max(widest, levels)
        if case.steady and abs(clip.source_fps / case.fps - 1) > 0.03:
            faults.append(f"{name}: {clip.source_fps:.2f} frames a second, not {case.fps:.2f}")
        if set(clip.flags) & {"damaged", "truncated"}:
            faults.append(f"{name}: flagged {clip.flags}")
    whole = case.steady and not case.middle and case.group not in ("two streams", "cover picture")
    if whole and [number_of(f) for f in truth] != [*range(case.count)]:
        faults.append("ffmpeg does not show every frame")
    converted = 0.0
    if path.suffix != ".ts":
        converted = float(np.abs(rgb_of_ffmpeg(path, truth.shape[1:]).astype(int) - truth).mean())
        if converted > CONVERTED:
            faults.append(f"ffmpeg's own RGB is {converted:.2f} levels off in the mean")
    return Compared(len(truth), compared, widest, converted, faults)


def main() -> int:
    """Compare all files and print the table."""
    rows: dict[str, Counter[str]] = {}
    widest: Counter[str] = Counter()
    converted: dict[str, float] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        for case in cases():
            row = rows.setdefault(case.group, Counter())
            try:
                found = compare(case, make(case, Path(place)))
            except Exception as error:  # noqa: BLE001 - a row of the table
                found = Compared(0, 0, 0, 0.0, [f"{type(error).__name__}: {error}"])
            for fault in found.faults:
                print(f"{case.name}: {fault}", flush=True)
            wrong += bool(found.faults)
            row.update(files=1, frames=found.shown, compared=found.compared,
                       wrong=int(bool(found.faults)))  # fmt: skip
            widest[case.group] = max(widest[case.group], found.levels)
            converted[case.group] = max(converted.get(case.group, 0.0), found.converted)
    print("| kind | files | frames | frames compared | levels apart | made RGB by ffmpeg, "
          "levels in the mean | files wrong |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for group, row in rows.items():
        figures = (row["files"], row["frames"], row["compared"], widest[group],
                   f"{converted[group]:.2f}", row["wrong"])  # fmt: skip
        print(f"| {group} | " + " | ".join(map(str, figures)) + " |")
    print(f"{sum(row['files'] for row in rows.values())} files, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
