"""Bicubic resizing with antialiasing, equal to what the reference preprocessing computes.

Qwen2-VL's reference code (qwen-vl-utils ``vision_process.py``) resizes uint8 frames with
torchvision's ``resize(..., BICUBIC, antialias=True)``: the Keys kernel with a = -0.5, widened by
the scale when shrinking, computed in float32, clamped and rounded half to even back to uint8.
The same here in numpy: a separable filter applied as banded matrix products.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Output rows computed by one matrix product. A block needs only the input rows its filters
# touch, so the product stays nearly as sparse as the filter and still runs in BLAS.
_BLOCK = 32


def bicubic(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize frames ``[T, H, W, C]`` (uint8) to ``[T, height, width, C]`` (uint8)."""
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, frames.shape[3]), np.uint8)
    for index, planes in enumerate(_planes(frames, height, width)):
        np.rint(np.clip(planes, 0.0, 255.0, out=planes), out=planes)
        resized[index] = planes.transpose(1, 2, 0)
    return resized


def bicubic_float(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Resize frames ``[T, H, W, C]`` as torchvision does float frames: neither rounded nor kept
    within 0 to 255.
    """
    resized = np.empty((len(frames), height, width, frames.shape[3]), np.float32)
    for index, planes in enumerate(_planes(frames, height, width)):
        resized[index] = planes.transpose(1, 2, 0)
    return resized


def _planes(frames: NDArray[np.uint8], height: int, width: int) -> Iterator[NDArray[np.float32]]:
    """Each frame's channels ``[C, height, width]``, resized."""
    _, rows, columns, channels = frames.shape
    for frame in frames:
        # A plane for each channel: both products then run along contiguous rows.
        planes = frame.transpose(2, 0, 1).astype(np.float32, order="C")
        # Width first, as torch does; the order matters only in the last float bit.
        planes = _filter(planes.reshape(-1, columns), width).reshape(channels, rows, width)
        yield _filter_rows(planes, height)


def _filter(lines: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resample the last axis of ``[n, m]`` to ``[n, size]``."""
    if lines.shape[1] == size:
        return lines
    blocks = _bands(lines.shape[1], size)
    parts = [lines[:, first : first + band.shape[1]] @ band.T for first, band in blocks]
    return np.concatenate(parts, axis=1)


def _filter_rows(planes: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Resample the rows of planes ``[C, n, m]`` to ``[C, size, m]``."""
    if planes.shape[1] == size:
        return planes
    blocks = _bands(planes.shape[1], size)
    parts = [band @ planes[:, first : first + band.shape[1]] for first, band in blocks]
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=64)
def _bands(source: int, size: int) -> list[tuple[int, NDArray[np.float32]]]:
    """The filter matrix ``[size, source]`` as blocks of rows: (first input row, weights)."""
    scale = source / size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centers = scale * (np.arange(size) + 0.5)
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), source)
    taps = np.arange(int((last - first).max()))
    inside = taps < (last - first)[:, None]
    weights = np.where(inside, _keys((taps + first[:, None] - centers[:, None] + 0.5) / stretch), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    blocks = []
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        low, high = int(first[start]), int(last[stop - 1])
        band = np.zeros((stop - start, high - low), np.float32)
        for row in range(start, stop):
            offset, length = int(first[row]) - low, int(last[row] - first[row])
            band[row - start, offset : offset + length] = weights[row, :length]
        blocks.append((low, band))
    return blocks


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5 (Keys 1981), zero outside [-2, 2]."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
