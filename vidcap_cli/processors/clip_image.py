"""Frames for a CLIP vision tower, as a checkpoint's image processor is set to prepare them.

Equal to transformers' slow ``CLIPImageProcessor``: resized through PIL on uint8, cropped about the
center, rescaled, normalised. In two steps, because frames travel between processes: ``prepare``
gives uint8 in a decoder process, ``normalise`` the float32 input of the vision tower in the rank.
Without a file of them the settings of CLIP ViT-L/14-336 apply. No torchvision, no transformers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidcap_cli.checkpoint.preprocessor import read_processor
from vidcap_cli.checkpoint.settings import number, whole
from vidcap_cli.errors import ModelError

SIDE = 336
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_LARGEST = 1 << 14  # pixels of a side; no vision tower takes more


@dataclass(frozen=True, slots=True)
class ClipImages:
    """The settings of one checkpoint. Sizes are pixels, pairs are height and width.

    ``size`` is what frames are resized to: the shorter edge (aspect kept), a pair, or None for not
    at all. ``crop`` is cut from the center, with black where the frame is smaller; None crops
    nothing. ``scale`` multiplies levels 0-255; ``mean`` and ``std`` follow it, by channel.
    """

    size: int | tuple[int, int] | None = SIDE
    crop: tuple[int, int] | None = (SIDE, SIDE)
    resample: int = Image.Resampling.BICUBIC
    scale: float = 1 / 255
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame of ``height`` x ``width`` once it is resized."""
        if self.size is None:
            return height, width
        if isinstance(self.size, tuple):
            return self.size
        longer = int(self.size * max(height, width) / min(height, width))
        return (self.size, longer) if height <= width else (longer, self.size)

    def prepare(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop frames ``[T, H, W, 3]`` (uint8, RGB)."""
        height, width = self.resized(*frames.shape[1:3])
        frames = resize(frames, height, width, self.resample)
        return frames if self.crop is None else _center_crop(frames, *self.crop)

    def normalise(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixel values ``[T, 3, h, w]`` of prepared frames ``[T, h, w, 3]``."""
        # One table of 256 values a channel instead of arithmetic on every pixel.
        levels = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)[:, None]
        table = (levels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.stack([table[:, c][frames[..., c]] for c in range(3)], axis=1)


def resize(
    frames: NDArray[np.uint8], height: int, width: int, resample: int = Image.Resampling.BICUBIC
) -> NDArray[np.uint8]:
    """Frames ``[T, H, W, 3]`` (uint8) as ``[T, height, width, 3]``, by PIL as transformers does."""
    if frames.shape[1:3] == (height, width):
        return frames
    images = [Image.fromarray(frame) for frame in frames]
    kind = Image.Resampling(resample)
    return np.stack([np.asarray(image.resize((width, height), kind)) for image in images])


def read_clip_images(folder: Path) -> ClipImages:
    """The settings in ``folder``; raises ModelError for those vidcap cannot follow."""
    found = read_processor(folder, "image_processor")
    if found is None:
        return ClipImages()
    file, settings = found
    given = {key: value for key, value in settings.items() if value is not None}
    if given.get("do_pad"):
        raise ModelError(f"{file} pads frames to a square (do_pad), which vidcap does not.")
    try:
        return ClipImages(
            size=_size(given.get("size", SIDE)) if given.get("do_resize", True) else None,
            crop=_crop(given.get("crop_size", SIDE)) if given.get("do_center_crop", True) else None,
            resample=whole("resample", given.get("resample", int(Image.Resampling.BICUBIC)), 0, 5),
            scale=number("rescale_factor", given.get("rescale_factor", 1 / 255))
            if given.get("do_rescale", True)
            else 1.0,
            mean=_channels(given, "image_mean", MEAN, 0.0),
            std=_channels(given, "image_std", STD, 1.0),
        )
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


def _channels(
    given: dict[str, Any], name: str, usual: tuple[float, ...], neutral: float
) -> tuple[float, ...]:
    if not given.get("do_normalize", True):
        return (neutral,) * 3
    values = given.get(name, usual)
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ModelError(f"{name} is not three numbers, one a channel.")
    channels = tuple(number(name, value) for value in values)
    if name == "image_std" and 0 in channels:
        raise ModelError(f"{name} has a zero, by which pixels cannot be divided.")
    return channels


def _size(size: Any) -> int | tuple[int, int]:
    """``size`` of the file: an edge, ``{shortest_edge}`` or ``{height, width}``."""
    if isinstance(size, dict) and "shortest_edge" not in size:
        return _pair("size", size)
    edge = size["shortest_edge"] if isinstance(size, dict) else size
    return whole("size", edge, 1, _LARGEST)


def _crop(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return _pair("crop_size", size)
    side = whole("crop_size", size, 1, _LARGEST)
    return side, side


def _pair(name: str, size: dict[str, Any]) -> tuple[int, int]:
    height, width = (
        whole(f"{name}.{side}", size.get(side), 1, _LARGEST) for side in ("height", "width")
    )
    return height, width


def _center_crop(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Cut ``height`` x ``width`` from the center; a frame that is smaller gets a black border."""
    rows, columns = frames.shape[1:3]
    tall, wide = max(height - rows, 0), max(width - columns, 0)
    if tall or wide:
        above, left = math.ceil(tall / 2), math.ceil(wide / 2)
        edges = ((0, 0), (above, tall - above), (left, wide - left), (0, 0))
        frames = np.pad(frames, edges)
    top, start = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:, top : top + height, start : start + width]
