"""Strips: a few frames of a video side by side in one small picture.

Frames are read by decoder processes, so a file that hangs or crashes its decoder costs its own
strip. Nothing heavy is imported here: those processes start with it.
"""

import io
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidcap_cli.spans import Span
from vidcap_cli.video import Clip, Rule, read_frames

WIDTH, HEIGHT = 224, 126  # pixels that a frame fits into
_QUALITY = 60  # of WebP, 0 to 100
_METHOD = 2  # of WebP, 0 to 6: twice as fast as the default, and a few percent larger


@dataclass(frozen=True, slots=True)
class Strip(Clip):
    """A clip whose ``frames`` are the bytes of a WebP file, which go where there is room for them.

    It has as many frames as ``indices``, each ``width`` x ``height`` pixels, from left to right.
    """

    width: int
    height: int

    @property
    def picture(self) -> bytes:
        """The WebP file."""
        return self.frames.tobytes()


@dataclass(frozen=True, slots=True)
class Spread:
    """The rule for strips: ``number`` frames, from the middles of as many equal parts."""

    number: int

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:  # noqa: ARG002 - as in Rule
        """Ascending, each once; all frames where there are no more."""
        number = min(self.number, total)
        return (2 * np.arange(number, dtype=np.int64) + 1) * total // (2 * number)

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:  # noqa: ARG002 - as in Rule
        """Shrink frames ``[T, H, W, 3]`` to fit; small ones stay as they are."""
        height, width = frames.shape[1:3]
        scale = min(1.0, WIDTH / width, HEIGHT / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pictures = (Image.fromarray(frame) for frame in frames)
        return np.stack([np.asarray(p.resize(size, reducing_gap=3.0)) for p in pictures])


def read_strip(path: str, rule: Rule, span: Span | None = None) -> Clip:
    """In a decoder process: the strip of a video, or of a range of it."""
    clip = read_frames(path, rule, span)
    count, height, width, _ = clip.frames.shape
    whole = Image.fromarray(clip.frames.transpose(1, 0, 2, 3).reshape(height, count * width, 3))
    file = io.BytesIO()
    whole.save(file, "WEBP", quality=_QUALITY, method=_METHOD)
    rest = {field.name: getattr(clip, field.name) for field in fields(Clip)}
    rest["frames"] = np.frombuffer(file.getbuffer(), np.uint8).reshape(1, 1, -1, 1)
    return Strip(**rest, width=width, height=height)
