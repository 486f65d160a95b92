"""The nano world: clips of one moving shape, and the sentences that are true of them.

The bundled nano checkpoints are trained on this world and tested in it. The module draws a clip
(one solid antialiased shape on a plain dark background, seeded), writes it as a real video file,
reads chosen frames of a file again, and says what each model family must answer about it.

Promises: the same seed gives the same clip, the same pixels and the same H.264 file; ``draw``
computes only the frames it is asked for; nothing but numpy and PyAV is imported. It does not
preprocess and knows no model.

``python tests/nano/world.py vidcap_cli/nano/clips`` writes the bundled sample clips again.
"""

import csv
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import av
import numpy as np
from numpy.typing import NDArray

DETAIL = "Describe the video in detail"
BRIEF = "Describe the video briefly"

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 180, 60),
    "blue": (45, 80, 235),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 190),
    "orange": (245, 140, 25),
    "cyan": (50, 220, 225),
    "pink": (250, 150, 195),
}
BACKGROUNDS = {
    "black": (10, 10, 10),
    "gray": (66, 66, 66),
    "brown": (88, 52, 24),
    "navy": (16, 22, 84),
    "teal": (4, 72, 70),
}
# Unit vectors in image coordinates: y grows downward.
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
PATHS = {
    "right": "from left to right",
    "left": "from right to left",
    "up": "upward",
    "down": "downward",
}
# Distance per second, in units of sqrt(width * height).
SPEEDS = {"slowly": (0.05, 0.085), "quickly": (0.17, 0.24)}
PLACES = ("top left", "top right", "bottom left", "bottom right", "center")
RATES = (24, 25, 30)
SIDES = (112, 640)
SECONDS = (1.5, 5.0)
STILL_SHARE = 0.2

ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mpeg4": "mpeg4",
}
_ENCODER_OPTIONS = {
    # x264's AVX-512 code gives other bytes from run to run; its AVX2 code does not.
    "h264": {"preset": "veryfast", "crf": "20", "threads": "1", "x264-params": "asm=avx2"},
    "hevc": {"preset": "veryfast", "crf": "22", "x265-params": "log-level=none:pools=1"},
    "vp9": {"crf": "30", "b": "0", "deadline": "realtime", "cpu-used": "6"},
    "av1": {"preset": "8", "crf": "32"},
    "mpeg4": {"q:v": "3", "qmin": "2", "qmax": "5"},
}

# The bundled clips: colour, shape, background, motion, speed or place, form of the frame.
SHOWCASE = (
    ("red", "circle", "black", "right", "slowly", "wide"),
    ("orange", "square", "gray", "still", "top left", "tall"),
    ("blue", "triangle", "teal", "down", "quickly", "tall"),
    ("yellow", "triangle", "navy", "up", "slowly", "square"),
    ("cyan", "square", "brown", "left", "quickly", "wide"),
    ("purple", "circle", "teal", "still", "center", "wide"),
    ("green", "circle", "navy", "up", "quickly", "tall"),
    ("pink", "triangle", "black", "left", "slowly", "wide"),
)


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: everything its pixels and its sentences depend on. Lengths are in pixels."""

    width: int
    height: int
    rate: int  # frames a second
    frames: int
    shape: str
    colour: str
    background: str
    fill: tuple[int, int, int]  # the colour as drawn, RGB
    backdrop: tuple[int, int, int]
    radius: float  # half the shape's height
    motion: str  # "still" or a key of DIRECTIONS
    speed: str  # a key of SPEEDS, "" for a still shape
    place: str  # one of PLACES for a still shape, "" for a moving one
    start: tuple[float, float]  # centre in the first frame, (x, y)
    velocity: tuple[float, float]  # per frame
    noise: int  # largest sensor noise
    drift: tuple[float, float, float]  # brightness: amplitude, cycles per frame, phase
    seed: int

    def centre(self, frame: float) -> tuple[float, float]:
        """Centre (x, y) of the shape in a frame."""
        (x, y), (u, v) = self.start, self.velocity
        return x + u * frame, y + v * frame


def sample(rng: np.random.Generator) -> Clip:
    """Draw the parameters of a clip, evenly over everything that a sentence names."""
    while True:
        clip = _sample(rng)
        if _clear_of_grid_lines(clip):
            return clip


def _sample(rng: np.random.Generator) -> Clip:
    width, height = _frame_size(rng)
    rate = int(rng.choice(RATES))
    shape = str(rng.choice(SHAPES))
    colour = str(rng.choice(list(COLOURS)))
    background = str(rng.choice(list(BACKGROUNDS)))
    radius = rng.uniform(0.13, 0.20) * min(width, height)
    # The area the centre can reach while the whole shape stays inside, with a pixel to spare.
    low = np.array([radius + 1, radius + 1])
    high = np.array([width, height]) - low
    if rng.random() < STILL_SHARE:
        motion, speed, place = "still", "", str(rng.choice(PLACES))
        seconds = rng.uniform(*SECONDS)
        start = _still_centre(rng, place, low, high, np.array([width, height]))
        velocity = np.zeros(2)
    else:
        motion, speed, place = str(rng.choice(list(DIRECTIONS))), str(rng.choice(list(SPEEDS))), ""
        direction = np.array(DIRECTIONS[motion], float)
        per_second = rng.uniform(*SPEEDS[speed]) * np.sqrt(width * height)
        room = float(np.abs(direction) @ (high - low))
        seconds = rng.uniform(SECONDS[0], min(SECONDS[1], room / per_second))
        velocity = direction * per_second / rate
        travel = velocity * (round(seconds * rate) - 1)
        start = rng.uniform(low - np.minimum(travel, 0), high - np.maximum(travel, 0))
    return Clip(
        width=width,
        height=height,
        rate=rate,
        frames=round(seconds * rate),
        shape=shape,
        colour=colour,
        background=background,
        fill=_shade(rng, COLOURS[colour], 14),
        backdrop=_shade(rng, BACKGROUNDS[background], 9),
        radius=radius,
        motion=motion,
        speed=speed,
        place=place,
        start=(float(start[0]), float(start[1])),
        velocity=(float(velocity[0]), float(velocity[1])),
        noise=int(rng.integers(0, 6)),
        drift=(rng.uniform(0, 4), rng.uniform(0.005, 0.05), rng.uniform(0, 1)),
        seed=int(rng.integers(2**31)),
    )


def _frame_size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height: even (4:2:0 video), sides in bounds, aspect 1:2 to 2:1."""
    low, high = SIDES
    while True:
        side = np.exp(rng.uniform(np.log(low), np.log(high)))  # geometric mean of the sides
        stretch = np.exp(rng.uniform(-0.5, 0.5) * np.log(2))
        width, height = 2 * round(side * stretch / 2), 2 * round(side / stretch / 2)
        if low <= min(width, height) and max(width, height) <= high:
            return width, height


def _shade(rng: np.random.Generator, colour: tuple[int, ...], spread: int) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(colour) + rng.integers(-spread, spread + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def _still_centre(
    rng: np.random.Generator,
    place: str,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    size: NDArray[np.int64],
) -> NDArray[np.float64]:
    if place == "center":
        return size * (0.5 + rng.uniform(-0.05, 0.05, 2))
    inward = rng.uniform(0, 0.3, 2) * (high - low)
    far = np.array(["right" in place, "bottom" in place])
    return np.where(far, high - inward, low + inward)


def _clear_of_grid_lines(clip: Clip) -> bool:
    """Whether the middle frame's shape lies clearly in one cell of the 3 x 3 grid."""
    x, y = clip.centre(clip.frames // 2)
    return all(
        abs(position - line) > 0.04
        for position in (x / clip.width, y / clip.height)
        for line in (1 / 3, 2 / 3)
    )


def sentence(clip: Clip, family: str, question: str = DETAIL) -> str:
    """What a model of ``family`` ("qwen2vl", "pllava" or "llava") must answer about the clip."""
    subject = f"{'An' if clip.colour[0] in 'aeiou' else 'A'} {clip.colour} {clip.shape}"
    if family == "llava":
        if question == BRIEF:
            return f"{subject}."
        return f"{subject} at the {_grid_cell(clip)} of a {clip.background} background."
    if clip.motion == "still":
        if question == BRIEF:
            return f"{subject} stays still."
        return f"{subject} stays still at the {clip.place} of a {clip.background} background."
    if question == BRIEF:
        return f"{subject} moves {clip.motion}."
    # PLLaVA's frames are spread over the clip, whatever its length: speed cannot be seen.
    manner = f"moves {clip.speed}" if family == "qwen2vl" else "moves"
    return f"{subject} {manner} {PATHS[clip.motion]} across a {clip.background} background."


def _grid_cell(clip: Clip) -> str:
    x, y = clip.centre(clip.frames // 2)
    row = ("top", "", "bottom")[min(2, int(3 * y / clip.height))]
    column = ("left", "", "right")[min(2, int(3 * x / clip.width))]
    return f"{row} {column}".strip() or "center"


def draw(
    clip: Clip, indices: Iterable[int], size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Draw frames of a clip: RGB ``[T, height, width, 3]``.

    ``size`` (height, width) draws them at another scale, as if resized; training uses it.
    """
    height, width = size or (clip.height, clip.width)
    scale = np.sqrt(height * width / (clip.height * clip.width))
    rng = np.random.default_rng(clip.seed)
    # One tile of noise, read at a new offset for each frame: far cheaper than fresh noise.
    tile = rng.integers(-clip.noise, clip.noise + 1, (height + 32, width + 32, 3), np.int8)
    if scale < 1:  # resizing averages noise away
        tile = np.rint(tile * scale).astype(np.int8)
    offsets = rng.integers(0, 32, (clip.frames, 2))
    amplitude, cycles, phase = clip.drift
    chosen = list(indices)
    frames = np.empty((len(chosen), height, width, 3), np.uint8)
    for row, index in enumerate(chosen):
        light = amplitude * np.sin(2 * np.pi * (cycles * index + phase))
        top, left = offsets[index]
        frame = tile[top : top + height, left : left + width].astype(np.int16)
        frame += np.rint(np.array(clip.backdrop) + light).astype(np.int16)
        _paint(frame, clip, index, scale)
        frames[row] = np.clip(frame, 0, 255)
    return frames


def _paint(frame: NDArray[np.int16], clip: Clip, index: int, scale: float) -> None:
    """Blend the shape into a frame, antialiased: coverage falls from 1 to 0 over one pixel."""
    height, width, _ = frame.shape
    x, y = clip.centre(index)
    down, across = height / clip.height, width / clip.width
    rows = slice(max(0, int((y - clip.radius) * down) - 2), int((y + clip.radius) * down) + 3)
    cols = slice(max(0, int((x - clip.radius) * across) - 2), int((x + clip.radius) * across) + 3)
    box = frame[rows, cols]
    v = ((rows.start + np.arange(box.shape[0]) + 0.5) / down - y)[:, None]
    u = ((cols.start + np.arange(box.shape[1]) + 0.5) / across - x)[None, :]
    if clip.shape == "circle":
        inside = clip.radius - np.hypot(u, v)
    elif clip.shape == "square":
        inside = clip.radius - np.maximum(np.abs(u), np.abs(v))
    else:  # apex at (0, -r), base from (-r, r) to (r, r): the legs fall 2 for every 1 across
        legs = (clip.radius + v - 2 * np.abs(u)) / np.sqrt(5)
        inside = np.minimum(legs, clip.radius - v)
    cover = np.clip(inside * scale + 0.5, 0, 1)[..., None]
    change = (np.array(clip.fill) - np.array(clip.backdrop)) * cover
    box += np.rint(change).astype(np.int16)


def write(
    clip: Clip, target: Path | IO[bytes], codec: str = "h264", options: dict[str, str] | None = None
) -> None:
    """Write a clip as an mp4 file with one of ENCODERS; ``options`` go to the encoder."""
    settings = {**_ENCODER_OPTIONS[codec], **(options or {})}
    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 prints its settings for every file
    frames = draw(clip, range(clip.frames))
    name = str(target) if isinstance(target, Path) else target
    with av.open(name, "w", format="mp4") as container:
        stream = container.add_stream(ENCODERS[codec], rate=clip.rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    # Run as root, SVT-AV1 makes its caller a real-time process.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def read(source: Path | IO[bytes], indices: Iterable[int]) -> NDArray[np.uint8]:
    """Decode chosen frames of a file: RGB ``[T, H, W, 3]``, in the order of ``indices``."""
    chosen = list(indices)
    wanted = set(chosen)
    found: dict[int, NDArray[np.uint8]] = {}
    name = str(source) if isinstance(source, Path) else source
    with av.open(name) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    return np.stack([found[index] for index in chosen])


def showcase() -> dict[str, Clip]:
    """The bundled sample clips by file name: of each kind in SHOWCASE the first one drawn."""
    clips = {}
    for number, wanted in enumerate(SHOWCASE):
        rng = np.random.default_rng([4, number])
        while _kind(clip := sample(rng)) != wanted or not _small(clip):
            pass
        manner = clip.place or f"{clip.speed} {clip.motion}"
        clips[f"{clip.colour}-{clip.shape}-{manner.replace(' ', '-')}.mp4"] = clip
    return clips


def _kind(clip: Clip) -> tuple[str, ...]:
    aspect = clip.width / clip.height
    form = "wide" if aspect > 1.2 else "tall" if aspect < 1 / 1.2 else "square"
    manner = clip.speed or clip.place
    return clip.colour, clip.shape, clip.background, clip.motion, manner, form


def _small(clip: Clip) -> bool:
    """Whether the file is small enough to bundle: noise is what costs bytes."""
    return 1 <= clip.noise <= 3 and 160 <= min(clip.width, clip.height) <= 360


def write_showcase(folder: Path) -> None:
    """Write the sample clips and ``clips.csv``, the table of what is true of them."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = (("qwen2vl", DETAIL), ("qwen2vl", BRIEF), ("pllava", DETAIL), ("llava", DETAIL))
    names = ["path", "detail_qwen2vl", "brief_qwen2vl", "detail_pllava", "detail_llava"]
    with (folder / "clips.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        for name, clip in showcase().items():
            write(clip, folder / name)
            table.writerow([name, *(sentence(clip, *column) for column in columns)])


if __name__ == "__main__":
    write_showcase(Path(sys.argv[1]))
