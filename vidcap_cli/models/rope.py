"""Rotary positions (Su et al. 2021): the angles of text, of video in Qwen2-VL, of image patches.

Tables are cosines and sines ``[n, head_dim]``; the two halves of a head have the same angles.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tables = tuple[NDArray[np.float32], NDArray[np.float32]]


def rope(
    positions: NDArray[np.int64], head_dim: int, theta: float, sections: tuple[int, ...] | None
) -> Tables:
    """Of positions ``[n]`` or, with M-RoPE, ``[3, n]`` in time, height and width.

    ``sections`` are the shares of time, height and width in half a head.
    """
    frequencies = _frequencies(head_dim, theta)
    if positions.ndim == 1:
        return _tables(positions.astype(np.float32)[:, None] * frequencies)
    assert sections is not None
    axis = np.repeat(np.arange(len(sections)) % 3, sections)
    return _tables(positions.astype(np.float32)[axis].T * frequencies)


def patch_rope(height: int, width: int, merge: int, head_dim: int) -> Tables:
    """Of ``height * width`` patches, half of a half by row, half by column.

    Patches come in groups of ``merge`` x ``merge``, as Qwen2-VL merges them at the end.
    """
    tiles = (height // merge, merge, width // merge, merge)
    places = [
        index.reshape(tiles).transpose(0, 2, 1, 3).reshape(-1, 1).astype(np.float32)
        for index in np.indices((height, width))
    ]
    frequencies = _frequencies(head_dim // 2, 10_000.0)
    return _tables(np.concatenate([place * frequencies for place in places], 1))


def mrope_positions(
    video: NDArray[np.bool_], grid: NDArray[np.int64], merge: int, interval: float = 1.0
) -> NDArray[np.int64]:
    """Positions ``[3, n]`` in time, height and width of a prompt with one video, at ``video``.

    The tokens of the video count from where the text stopped, each axis for itself; the text
    goes on behind the largest of them (Wang et al. 2024, Qwen2-VL, section 2.1). A pair of frames
    is ``interval`` after the one before, rounded down when all is added up, in float32 as
    transformers does it (Bai et al. 2025, Qwen2.5-VL, section 2.1.3).
    """
    first, tokens = int(np.argmax(video)), int(video.sum())
    axes = np.indices((grid[0], grid[1] // merge, grid[2] // merge)).reshape(3, -1)
    axes[0] = axes[0].astype(np.float32) * np.float32(interval)
    axes += first
    before = np.arange(first)
    after = np.arange(len(video) - first - tokens) + axes.max() + 1
    parts = [np.tile(before, (3, 1)), axes, np.tile(after, (3, 1))]
    positions: NDArray[np.int64] = np.concatenate(parts, 1).astype(np.int64)
    return positions


def _frequencies(dim: int, theta: float) -> NDArray[Any]:
    exponents: NDArray[Any] = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return 1.0 / theta**exponents


def _tables(half: NDArray[Any]) -> Tables:
    angles = np.concatenate([half, half], 1)
    return np.cos(angles), np.sin(angles)
