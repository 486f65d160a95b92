"""Pieces that the vision towers share. The functions run inside compiled graphs."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

Read = Callable[[str], NDArray[np.float32]]
Linear = tuple[Tensor, Tensor]

_QUERIES = 2048  # rows of scores at a time: they need memory, rows times keys

_batched = ops.BatchMatMul()
_batched_t = ops.BatchMatMul(transpose_b=True)
_softmax = ops.Softmax(axis=-1)


def to_tensor(array: NDArray[Any], number: Any) -> Tensor:
    """``array`` on the device, in type ``number``."""
    return Tensor(np.ascontiguousarray(array, np.float32)).astype(number)


def linear(read: Read, name: str, number: Any) -> Linear:
    """Weight ``[in, out]`` and bias ``[out]`` of a dense layer."""
    return to_tensor(read(f"{name}.weight").T, number), to_tensor(read(f"{name}.bias"), number)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation of rows ``[n, width]``, in float32.

    Means and weights are spread to full size first: on CPU operators that broadcast are slower.
    """
    rows, width = x.shape
    wide = x.astype(ms.float32)
    centered = wide - ops.tile(ops.mean(wide, -1, True), (1, width))
    scale = ops.rsqrt(ops.mean(ops.square(centered), -1, True) + eps)
    normed = (centered * ops.tile(scale, (1, width))).astype(x.dtype)
    return ops.bias_add(normed * ops.tile(weight.reshape(1, -1), (rows, 1)), bias)


def groups(total: int, most: int) -> list[int]:
    """``total`` cut into powers of two of at most ``most``: few graphs, whatever ``total`` is."""
    sizes = []
    while total:
        sizes.append(1 << (max(1, min(total, most)).bit_length() - 1))
        total -= sizes[-1]
    return sizes


def need(patches: int, sequence: int, width: int, mlp: int, heads: int) -> int:
    """Bytes that a layer takes at most over ``patches`` rows in sequences of ``sequence``."""
    scores = 3 * heads * (patches // sequence) * min(sequence, _QUERIES) * sequence
    return 4 * (scores + patches * (14 * width + 3 * mlp))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within each of B sequences.

    ``[B, n, heads, D]`` each, q scaled; back comes the shape of v, whose D may be another.
    """
    batch, length, heads, width = v.shape
    q = ops.transpose(q, (0, 2, 1, 3)).reshape(batch * heads, length, -1)
    k = ops.transpose(k, (0, 2, 1, 3)).reshape(batch * heads, length, -1)
    v = ops.transpose(v, (0, 2, 1, 3)).reshape(batch * heads, length, width)
    if length <= _QUERIES:
        attended = _attended(q, k, v)
    else:
        starts = range(0, length, _QUERIES)
        parts = [_attended(q[:, start : start + _QUERIES], k, v) for start in starts]
        attended = ops.concat(parts, 1)
    return ops.transpose(attended.reshape(batch, heads, length, width), (0, 2, 1, 3))


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = _batched_t(q, k).astype(ms.float32)
    return _batched(_softmax(scores).astype(v.dtype), v)
