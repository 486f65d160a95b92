"""What passes between the readers and the rest: rules, clips, what a file holds, what is wrong."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.statuses import Flag, Status


class VideoError(Exception):
    """A video that gives no frames: ``status`` as in part files, one sentence without the path."""

    def __init__(self, status: Status, message: str) -> None:
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

    ``height`` x ``width`` are pixels as stored, after turning by ``rotation`` degrees
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
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """The chosen frames, RGB uint8 ``[T, h, w, 3]`` as the rule prepared them, and their source.

    ``indices`` are their numbers in the source, whose height and width are pixels, upright; its
    frames and rate are those of the range that was read.
    """

    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]
    reader: str
    source_frames: int
    source_fps: float
    source_height: int
    source_width: int
    flags: tuple[Flag, ...]

    @property
    def seconds(self) -> float:
        """How long the source lasts: its frames by its rate."""
        return self.source_frames / self.source_fps
