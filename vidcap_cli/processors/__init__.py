"""The captioners: prompt, frame choice and preprocessing of each model family, in numpy.

Nothing here imports MindSpore, so decoder processes and tests can use it at no cost.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import UsageError
from vidcap_cli.families import family_for, part


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given for one row.

    ``ids`` are the token ids ``[n]`` (int64), placeholders of the video included; ``vision`` holds
    the arrays the vision tower takes, under the names that transformers' ``forward`` gives them.
    Prompts of the same ``video``, if it has a number, have the same ``vision``.
    """

    ids: NDArray[np.int64]
    vision: dict[str, NDArray[Any]]
    video: int | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """How large a prompt will be: what memory it takes can be told before it is made.

    ``tokens`` of the prompt, ``patches`` of all frames, ``sequence`` patches that attend to each
    other in the vision tower.
    """

    tokens: int
    patches: int
    sequence: int


class FrameRule(Protocol):
    """Which frames of a video a model sees, and at what size. Travels to decoder processes."""

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        """Indices to read from ``total`` frames played at ``fps`` a second."""

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        """Resize frames ``[T, H, W, 3]`` for the model: some or all of the ``clip_frames`` frames
        chosen from a video.
        """

    def tokens(self, frames: int, height: int, width: int) -> int:
        """Language tokens that ``frames`` frames of ``height`` x ``width`` pixels become."""


class Captioner(Protocol):
    """One model family, bound to a checkpoint folder and the user's options."""

    @property
    def rule(self) -> FrameRule:
        """Which frames of a video the model sees."""

    def prompt(self, frames: NDArray[np.uint8], seconds: float | None = None) -> Prompt:
        """Model inputs for resized frames ``[T, h, w, 3]`` of a video that lasts ``seconds``, and
        the first question; without seconds, frames come at the rate that was asked for.
        """

    def asked(self, prompt: Prompt, question: str) -> Prompt:
        """The same frames, asked another question: ``vision`` is that of ``prompt`` itself."""

    def size(self, frames: NDArray[np.uint8]) -> Size:
        """How large prompts of ``frames`` would be, at most."""

    def smaller(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The next smaller form of resized frames, for want of memory: smaller pictures, then
        fewer; None when they cannot be less.
        """

    def text(self, ids: list[int]) -> str:
        """The caption that generated token ids spell, special tokens left out."""


def plain(text: str, place: str) -> str:
    """``text`` unchanged; raises UsageError when it has the token of a video's ``place``."""
    if place in text:
        raise UsageError(f"{json.dumps(text)} contains {place}, which stands for the video itself.")
    return text


def load_captioner(config: CaptionConfig) -> Captioner:
    """The captioner of ``config.family``; raises ModelError when the checkpoint lacks a file."""
    family = family_for(config.family, read_json(Path(config.model) / "config.json"))
    captioner: Captioner = part(family.processor)(config)
    return captioner
