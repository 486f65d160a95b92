"""Qwen2-VL and Qwen2.5-VL: which frames, at what size, in what patch order, with what prompt.

Sources: qwen-vl-utils 0.0.14 ``vision_process.py`` (frames and sizes), transformers
``Qwen2VLImageProcessor`` (patches) and the chat template of Qwen/Qwen2-VL-*-Instruct, which is
Qwen2.5-VL's as well.
Everything is numpy; the engines only ever see patches, grids and token ids.

Of qwen-vl-utils the rules of 0.0.14 hold where its versions differ. The number of frames is
rounded down to even; 0.0.8, on which the original captioning scripts were built, rounded it to
the nearest even number. The cap of ``height`` x ``width`` is bounded by each frame's share of
the pixels that a whole video may have; in 0.0.8 a cap replaced that bound.

The reference resizes twice. qwen-vl-utils does by its own bounds, whatever the checkpoint says,
and rounds to uint8 (``FrameRule.prepare``, in a decoder process). The checkpoint's video
processor then resizes what it gets within the checkpoint's bounds, in float32 without rounding
(transformers 4.52 to 5.18; ``FrameRule.patches``, in the rank). With the files of the hub, 3,136
to 12,845,056 pixels, the second step changes nothing; a fine-tune with a smaller ``max_pixels``
gets smaller frames by it, and one with a larger ``min_pixels`` larger ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.preprocessor import read_processor
from vidcap_cli.checkpoint.settings import placeholder, whole
from vidcap_cli.checkpoint.tokenizer import read_tokenizer
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.processors import Prompt, Size, plain
from vidcap_cli.processors.resize import bicubic, bicubic_float

PATCH = 14
MERGE = 2
TEMPORAL = 2
FACTOR = PATCH * MERGE  # sides are multiples of this: one language token covers 28 x 28 pixels
MIN_PIXELS = 128 * FACTOR**2  # per frame; qwen-vl-utils VIDEO_MIN_PIXELS
MAX_PIXELS = 768 * FACTOR**2  # per frame; qwen-vl-utils VIDEO_MAX_PIXELS
TOTAL_PIXELS = 128_000 * FACTOR**2 * 0.9  # per video, two frames counting as one: total_pixels
MIN_FRAMES, MAX_FRAMES = 4, 768
MAX_ASPECT = 200
_MOST_PIXELS = 1 << 28  # of a frame; a bound beyond it is a damaged file
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

SYSTEM = "You are a helpful assistant."  # what the template says where no system text is given
VIDEO_TOKEN = "<|video_pad|>"  # noqa: S105 - a token of the vocabulary, not a secret


@dataclass(frozen=True, slots=True)
class FrameRule:
    """Chooses frames and their size, as the reference preprocessing does.

    ``fps`` is frames sampled per second of video. ``height`` x ``width`` is a cap on the area of
    a frame (``resize="area"``, aspect kept) or the very size, rounded to multiples of 28
    (``resize="exact"``, which no bound alters). ``min_pixels`` and ``max_pixels`` bound the area
    of a frame, and so does its share of ``TOTAL_PIXELS``: long videos get smaller frames.
    ``processor`` is the area's bounds in the checkpoint's video processor, which resizes a second
    time; None when it does not.
    """

    fps: float = 4.0
    height: int = 448
    width: int = 672
    resize: str = "area"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    processor: tuple[int, int] | None = None

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        """Indices of the frames to read from ``total`` frames played at ``fps`` a second.

        Always an even number of at least two; a file of one frame repeats it (the reference
        raises there).
        """
        if total < TEMPORAL:
            return np.zeros(TEMPORAL, np.int64)
        most = min(MAX_FRAMES, total) // TEMPORAL * TEMPORAL
        wanted = min(max(total / fps * self.fps, MIN_FRAMES), most)
        count = int(wanted // TEMPORAL) * TEMPORAL
        # float32, as torch.linspace computes it: the rounding of halves depends on it.
        return np.rint(_linspace(total - 1, count)).astype(np.int64)

    def size(self, height: int, width: int, clip_frames: int = TEMPORAL) -> tuple[int, int]:
        """Height and width in pixels that frames of ``height`` x ``width`` are resized to when
        ``clip_frames`` of them are chosen from a video.

        Raises ValueError for a frame more than 200 times as long as it is wide.
        """
        if self.resize == "exact":
            return _round_to_factor(self.height), _round_to_factor(self.width)
        share = TOTAL_PIXELS / clip_frames * TEMPORAL
        limit = max(min(MAX_PIXELS, share), int(self.min_pixels * 1.05))
        # The user's cap may lie below all bounds; the reference fails there.
        most = max(min(limit, self.max_pixels, self.height * self.width), FACTOR**2)
        return smart_resize(height, width, min(self.min_pixels, most), most)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        """Resize frames ``[T, H, W, 3]`` to the size that this rule gives the ``clip_frames``
        frames chosen from a video.
        """
        return bicubic(frames, *self.size(frames.shape[1], frames.shape[2], clip_frames))

    def processed(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the model sees of prepared frames of ``height`` x ``width``."""
        if self.processor is None or self.resize == "exact":
            return height, width
        return smart_resize(height, width, *self.processor)

    def patches(
        self, frames: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Patches and grid, as ``patchify`` gives them, of prepared frames ``[T, h, w, 3]``."""
        size = self.processed(*frames.shape[1:3])
        return patchify(frames if size == frames.shape[1:3] else bicubic_float(frames, *size))

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Language tokens that ``frames`` frames of ``height`` x ``width`` pixels become."""
        tall, wide = self.processed(*self.size(height, width, frames))
        return math.ceil(frames / TEMPORAL) * (tall // FACTOR) * (wide // FACTOR)


class Qwen2VL:
    """The captioner of a Qwen2-VL checkpoint folder."""

    def __init__(self, config: CaptionConfig) -> None:
        model = Path(config.model)
        self._tokenizer: Tokenizer = read_tokenizer(model)
        wanted = placeholder(read_json(model / "config.json"))
        if self._tokenizer.token_to_id(VIDEO_TOKEN) != wanted:
            raise ModelError(
                f"{model}: {VIDEO_TOKEN} of the tokenizer is not the video_token_id {wanted} of "
                "config.json; download both again, from one place."
            )
        self._questions = [plain(text, VIDEO_TOKEN) for text in config.questions.values()]
        system = SYSTEM if config.system_prompt is None else config.system_prompt
        self._system = plain(system, VIDEO_TOKEN)
        self.rule = frame_rule(config)

    def prompt(self, frames: NDArray[np.uint8], seconds: float | None = None) -> Prompt:
        """Model inputs for resized frames ``[T, h, w, 3]``; time is not among them."""
        del seconds
        patches, grid = self.rule.patches(frames)
        vision: dict[str, NDArray[Any]] = {
            "pixel_values_videos": patches,
            "video_grid_thw": np.array([grid], np.int64),
        }
        return Prompt(self._ids(self._questions[0], math.prod(grid) // MERGE**2), vision)

    def asked(self, prompt: Prompt, question: str) -> Prompt:
        """The same frames, asked another question."""
        tokens = int(prompt.vision["video_grid_thw"].prod()) // MERGE**2
        return Prompt(self._ids(plain(question, VIDEO_TOKEN), tokens), prompt.vision)

    def size(self, frames: NDArray[np.uint8]) -> Size:
        """How large the prompt of resized frames ``[T, h, w, 3]`` would be."""
        count = len(frames)
        height, width = self.rule.processed(*frames.shape[1:3])
        pairs, sequence = math.ceil(count / TEMPORAL), height // PATCH * (width // PATCH)
        words = max(len(self._ids(question, 0)) for question in self._questions)
        return Size(words + pairs * sequence // MERGE**2, pairs * sequence, sequence)

    def smaller(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Frames of two thirds of the area, down to the smallest the rule allows; then half of
        the frames, spread over the same time, down to two.
        """
        height, width = frames.shape[1:3]
        area = math.prod(self.rule.processed(height, width))
        least = min(self.rule.min_pixels, height * width)
        if self.rule.processor and self.rule.processor[1] < least:
            least = self.rule.processor[0]
        size = smart_resize(height, width, least, max(least, area * 2 // 3))
        if math.prod(self.rule.processed(*size)) < area:
            return bicubic(frames, *size)
        count = len(frames) // 2 // TEMPORAL * TEMPORAL
        if count < TEMPORAL:
            return None
        return frames[np.rint(_linspace(len(frames) - 1, count)).astype(np.int64)]

    def _ids(self, question: str, tokens: int) -> NDArray[np.int64]:
        text = prompt(question, tokens, self._system)
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64)

    def text(self, ids: list[int]) -> str:
        """The caption that generated token ids spell, special tokens left out."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()


class Qwen25VL(Qwen2VL):
    """The captioner of a Qwen2.5-VL checkpoint folder: the model is told how time passes."""

    def prompt(self, frames: NDArray[np.uint8], seconds: float | None = None) -> Prompt:
        """Model inputs for resized frames ``[T, h, w, 3]`` of a video that lasts ``seconds``.

        ``second_per_grid_ts`` ``[1]`` is the time from a pair of frames to the next by the rate at
        which frames were chosen, as qwen-vl-utils gives it to transformers' processor.
        """
        rate = self.rule.fps if seconds is None else len(frames) / seconds
        made = super().prompt(frames)
        made.vision["second_per_grid_ts"] = np.array([TEMPORAL / rate], np.float32)
        return made


def frame_rule(config: CaptionConfig) -> FrameRule:
    """The frame rule of ``config``, within the bounds that its checkpoint sets."""
    (low, high), processor = read_bounds(Path(config.model))
    return FrameRule(config.fps, config.height, config.width, config.resize, low, high, processor)


def smart_resize(height: int, width: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """The reference's ``smart_resize``: sides in multiples of 28, area within the bounds."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"a frame of {width}x{height} pixels is more than {MAX_ASPECT}:1 narrow")
    tall, wide = _round_to_factor(height), _round_to_factor(width)
    if tall * wide > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        # At least one patch: the reference gives 0 for very narrow frames and fails later.
        tall = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        wide = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    elif tall * wide < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        tall = math.ceil(height * beta / FACTOR) * FACTOR
        wide = math.ceil(width * beta / FACTOR) * FACTOR
    return tall, wide


def read_bounds(model: Path) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Smallest and largest area of a frame in pixels: in the first step, and in the second.

    The second's are the video processor's: ``min_pixels`` and ``max_pixels``, else
    ``size.shortest_edge`` and ``size.longest_edge``, else its defaults; None when ``do_resize`` is
    off. ``read_processor`` says in which files they are looked for. The first's are those of
    qwen-vl-utils, or ``frame_bounds`` (``[min, max]``, vidcap's own key) beside the others: for
    checkpoints trained on frames that were resized once, as the bundled nano was.

    Raises ModelError for bounds that are none.
    """
    found = read_processor(model, "video_processor")
    if found is None:
        return (MIN_PIXELS, MAX_PIXELS), (MIN_PIXELS, MAX_PIXELS)
    file, given = found
    try:
        first, second = _bounds(given)
    except ModelError as error:
        raise ModelError(
            f"{file}: {error} min_pixels and max_pixels, or size.shortest_edge and "
            "size.longest_edge, must be numbers of pixels above 0."
        ) from error
    return first, second if given.get("do_resize", True) else None


def _bounds(given: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    size = given.get("size") or {}
    frame = given.get("frame_bounds") or [MIN_PIXELS, MAX_PIXELS]
    if not isinstance(size, dict) or not isinstance(frame, list) or len(frame) != 2:
        raise ModelError("size is not an object, or frame_bounds not two numbers.")

    def bound(name: str, edge: str, usual: int) -> int:
        value = next(v for v in (given.get(name), size.get(edge), usual) if v is not None)
        return whole(name, value, 1, _MOST_PIXELS)

    low = bound("min_pixels", "shortest_edge", MIN_PIXELS)
    high = bound("max_pixels", "longest_edge", MAX_PIXELS)
    least, most = (whole("frame_bounds", value, 1, _MOST_PIXELS) for value in frame)
    if least > most:
        raise ModelError(f"frame_bounds {least} is more than {most}.")
    return (least, most), (low, high)


def patchify(
    frames: NDArray[np.uint8] | NDArray[np.float32],
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Normalise frames ``[T, H, W, 3]`` (0 to 255) and cut them into patches of the vision tower.

    Returns patches ``[t*h*w, 3*2*14*14]`` (float32) and the grid ``(t, h, w)`` in patches. An odd
    number of frames repeats the last. Patches come in 2 x 2 groups, the four that merge into
    one language token side by side.
    """
    if len(frames) % TEMPORAL:
        frames = np.concatenate([frames, frames[-1:]])
    count, height, width, channels = frames.shape
    grid = (count // TEMPORAL, height // PATCH, width // PATCH)
    means, deviations = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if frames.dtype == np.uint8:
        # One table of 256 values a channel instead of arithmetic on every pixel.
        levels = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)[:, None]
        table = (levels - means) / deviations
        pixels = np.stack([table[:, c][frames[..., c]] for c in range(channels)], axis=1)
    else:
        pixels = ((frames / np.float32(255) - means) / deviations).transpose(0, 3, 1, 2)
    tiles = pixels.reshape(
        grid[0], TEMPORAL, channels,
        grid[1] // MERGE, MERGE, PATCH,
        grid[2] // MERGE, MERGE, PATCH,
    ).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)  # fmt: skip
    return np.ascontiguousarray(tiles.reshape(math.prod(grid), -1)), grid


def prompt(question: str, tokens: int, system: str = SYSTEM) -> str:
    """The chat prompt with ``tokens`` placeholders where the video's tokens go."""
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{VIDEO_TOKEN * tokens}<|vision_end|>"
        f"{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def _round_to_factor(side: int) -> int:
    return max(FACTOR, round(side / FACTOR) * FACTOR)


def _linspace(last: int, count: int) -> NDArray[np.float32]:
    """``torch.linspace(0, last, count)``: float32, filled from both ends."""
    step = np.float32(last) / np.float32(count - 1)
    index = np.arange(count, dtype=np.float32)
    from_end = np.float32(last) - step * (np.float32(count - 1) - index)
    return np.where(index < count // 2, step * index, from_end).astype(np.float32)
