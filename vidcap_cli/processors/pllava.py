"""PLLaVA: which frames, with what prompt, and how features of frames are pooled.

Sources: magic-research/PLLaVA (frame rule, ``PllavaProcessor``, pooling, chat templates). Frames
are resized twice before CLIP sees them (``FrameRule.prepare``). They go through CLIP and the
projector one by one; adaptive average pooling over time, height and width then leaves T x H x W
features, which stand at one ``<image>`` in the prompt.

The system prompt is vidcap's own, of the same intent as the original's; ``--system-prompt`` sets
another. Vicuna's template is used unless the vocabulary has ``<|im_start|>``, as Yi's (34b) has.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError, UsageError
from vidcap_cli.processors import Prompt, Size, plain
from vidcap_cli.processors.clip_image import ClipImages, resize
from vidcap_cli.processors.llava import IMAGE, LlavaSettings, Words

SYSTEM_PROMPT = (
    "You are an assistant that watches videos and writes about them.\n"
    "A user shows you a video and asks for a text about it.\n"
    "Follow the request, look closely, and state only what the video shows.\n"
)

_LONGEST = 640  # pixels; towards it the longer side of frames is resized first

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FrameRule:
    """The original's choice of ``num_frames`` frames, spread over the video.

    A video of fewer frames repeats some, so there are always ``num_frames``.
    """

    images: ClipImages
    num_frames: int
    pooled: Shape

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:  # noqa: ARG002
        """Indices to read from ``total`` frames."""
        step = (total - 1) / self.num_frames
        # round is to even, as numpy's in the original.
        return np.array([int(step / 2) + round(step * i) for i in range(self.num_frames)], np.int64)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:  # noqa: ARG002
        """Resize and crop frames ``[T, H, W, 3]`` to the vision tower's square.

        In two steps, each rounded to uint8, as ``PllavaProcessor`` does: towards a longer side of
        640 pixels, then as CLIP does. Where the settings resize frames to a square regardless of
        their shape the first step is left out: ``PllavaProcessor`` cannot work with those.
        """
        if isinstance(self.images.size, int):
            frames = _first_resize(frames, self.images.size)
        return self.images.prepare(frames)

    def tokens(self, frames: int, height: int, width: int) -> int:  # noqa: ARG002
        """Language tokens of a video: the pooled features, whatever its size."""
        return int(np.prod(self.pooled))


def usual_rule() -> FrameRule:
    """The rule of the original's defaults: 4 frames, each pooled to 12 x 12 features."""
    return FrameRule(ClipImages(), 4, (4, 12, 12))


def _first_resize(frames: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """``PllavaProcessor.resize_crop_longshort`` for one video ``[T, H, W, 3]``.

    The shorter side becomes at least ``least``, CLIP's edge, so small frames grow. The order of
    operations is the original's, whose rounding costs some sizes a pixel of either side.
    """
    height, width = frames.shape[1:3]
    short, long = min(height, width), max(height, width)
    ratio = long / short
    edge = max(min(short, int(min(_LONGEST, long) / ratio)), least)
    longer = int(edge * long / short)
    kept = int(edge * ratio)  # by rounding sometimes a pixel less than the longer side
    if height > width:
        return resize(frames, longer, edge)[:, :kept]
    return resize(frames, edge, longer)[:, :, :kept]


class Pllava:
    """The captioner of a PLLaVA checkpoint folder."""

    def __init__(self, config: CaptionConfig) -> None:
        folder = Path(config.model)
        self._settings = LlavaSettings.read(folder)
        self._words = Words(folder, self._settings.image_token)
        self._pooled = pooled_shape(config)
        self._write = yi_prompt if self._words.knows("<|im_start|>") else vicuna_prompt
        system = SYSTEM_PROMPT if config.system_prompt is None else config.system_prompt
        self._system = plain(system, IMAGE)
        self._questions = [plain(text, IMAGE) for text in config.questions.values()]
        self.rule = FrameRule(self._settings.images, config.num_frames, self._pooled)

    def prompt(self, frames: NDArray[np.uint8], seconds: float | None = None) -> Prompt:
        """Model inputs for prepared frames ``[T, side, side, 3]``: all of them at one place."""
        del seconds
        vision = {"pixel_values": self._settings.images.normalise(frames)}
        return Prompt(self._ids(self._questions[0]), vision)

    def asked(self, prompt: Prompt, question: str) -> Prompt:
        """The same frames, asked another question."""
        return Prompt(self._ids(plain(question, IMAGE)), prompt.vision)

    def size(self, frames: NDArray[np.uint8]) -> Size:
        """How large the prompt of prepared frames would be."""
        sequence = self._settings.grid**2 + 1
        tokens = max(len(self._ids(question)) for question in self._questions)
        return Size(tokens, len(frames) * sequence, sequence)

    def _ids(self, question: str) -> NDArray[np.int64]:
        return self._words.ids(self._write(self._system, question), int(np.prod(self._pooled)))

    def smaller(self, frames: NDArray[np.uint8]) -> None:
        """Never: the tower fixes the size of frames and the pooling their number."""

    def text(self, ids: list[int]) -> str:
        """The caption that generated token ids spell, special tokens left out."""
        return self._words.text(ids)


def vicuna_prompt(system: str, question: str) -> str:
    """The prompt of the 7b and 13b models; the tokenizer puts ``<s>`` in front."""
    return f"{system}USER: {question} </s> USER:{IMAGE} ASSISTANT:"


def yi_prompt(system: str, question: str) -> str:
    """The prompt of the 34b model: turns between ``<|im_start|>`` and ``<|im_end|>``."""
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{IMAGE}\n<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def pooled_shape(config: CaptionConfig) -> Shape:
    """Frames, height and width of the pooled features.

    Unless ``--pooling-shape`` says otherwise every frame stays, and half of the vision tower's grid
    each way: 12 x 12 of CLIP-336's 24 x 24. The checkpoint's own ``pooling_shape`` is not it: the
    hub's names one of training, which the original overrode in use.
    """
    folder = Path(config.model)
    method = read_json(folder / "config.json").get("pooling_method", "avg")
    if method != "avg":
        raise ModelError(f"{folder} pools by {method!r}; vidcap knows 'avg' alone.")
    if config.pooling_shape is not None:
        return parse_pooling_shape(config.pooling_shape)
    half = max(1, LlavaSettings.read(folder).grid // 2)
    return config.num_frames, half, half


def parse_pooling_shape(text: str) -> Shape:
    """``T-H-W`` as numbers; raises UsageError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)-([1-9]\d*)-([1-9]\d*)", text)
    if not match:
        raise UsageError(f"--pooling-shape {text}: write T-H-W, such as 4-12-12.")
    frames, height, width = map(int, match.groups())
    return frames, height, width


@lru_cache(maxsize=16)
def averaging(source: int, target: int) -> NDArray[np.float32]:
    """The matrix ``[target, source]`` of adaptive average pooling along one axis.

    Output i is the mean of inputs floor(i * source / target) to ceil((i + 1) * source / target),
    as ``torch.nn.AdaptiveAvgPool3d`` cuts them; applied along three axes it is that.
    """
    matrix = np.zeros((target, source), np.float32)
    for row in range(target):
        first, last = row * source // target, -(-(row + 1) * source // target)
        matrix[row, first:last] = 1 / (last - first)
    return matrix
