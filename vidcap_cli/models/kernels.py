"""Pieces that vision towers and language models share. The functions run inside compiled graphs."""

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

Read = Callable[[str], NDArray[np.float32]]
Linear = tuple[Tensor, Tensor]

# Layers that share a graph: to start one takes some milliseconds on few cores, to compile it grows.
_LAYERS = 6
_QUERIES = 2048  # rows of scores at a time: they need memory, rows times keys
# Scores at a time, if a single head has no more: those that a cache holds take a quarter less time
# (measured, CPU).
_SCORES = 1 << 23

batched = ops.BatchMatMul()
batched_t = ops.BatchMatMul(transpose_b=True)
softmax = ops.Softmax(axis=-1)


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


def in_graphs(layers: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """The tensors of all layers, those of layers that share a graph in one list, at least one.

    Layers are spread evenly: lists are of two lengths at most, and so are graphs.
    """
    count = max(1, -(-len(layers) // _LAYERS))
    ends = [len(layers) * index // count for index in range(count + 1)]
    return [list(chain.from_iterable(layers[a:b])) for a, b in pairwise(ends)]


def groups(total: int, most: int, least: int = 1) -> list[int]:
    """``total`` cut into groups of ``most`` and, of what is left, of ``least``, the last of them
    perhaps not full: two graphs at most, whatever ``total`` is.
    """
    large, rest = divmod(total, most)
    small = -(-rest // least)
    return [most] * large + ([least] * small if small * least < most else [most])


def need(patches: int, sequence: int, width: int, mlp: int, heads: int) -> int:
    """Bytes that a layer takes at most over ``patches`` rows in sequences of ``sequence``."""
    heads *= patches // sequence
    # Two parts may be on their way at a time, each as scores, as softmax, and once more.
    scores = 3 * min(heads, 2 * _at_once(heads, sequence)) * _queries(sequence) * sequence
    return 4 * (scores + patches * (14 * width + 3 * mlp))


def _queries(sequence: int) -> int:
    return min(sequence, _QUERIES)


def _at_once(heads: int, sequence: int) -> int:
    """How many of ``heads`` go together."""
    return min(heads, max(1, _SCORES // (_queries(sequence) * sequence)))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within each of B sequences.

    ``[B, n, heads, D]`` each, q scaled; back comes the shape of v, whose D may be another.
    """
    batch, length, heads, width = v.shape
    q, k, v = _heads_first(q), _heads_first(k), _heads_first(v)
    most = _at_once(batch * heads, length)
    qs, ks, vs = cut(q, most, 0), cut(k, most, 0), cut(v, most, 0)
    attended = joined([_attended(qs[i], ks[i], vs[i]) for i in range(len(qs))], 0)
    return joined(cut(attended, batch, 0), 2).reshape(batch, length, heads, width)


def _heads_first(x: Tensor) -> Tensor:
    """``[B, n, heads, D]`` to ``[heads * B, n, D]``.

    Cut and joined, as are heads elsewhere: on CPU that is as fast as a transposition, whose kernel
    keeps the place of every number, twice the memory of ``x``, for each shape anew.
    """
    batch, length, heads, width = x.shape
    return joined(cut(x.reshape(batch, length, heads * width), width, 2), 0)


def cut(x: Tensor, most: int, axis: int) -> tuple[Tensor, ...]:
    """``x`` in pieces of ``most`` along ``axis``, the last perhaps smaller.

    A single piece is ``x`` itself: MindSpore on CPU takes fifty times as long to copy all of it.
    """
    return (x,) if x.shape[axis] <= most else ops.split(x, most, axis)


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """``parts`` one after the other; a single one is not copied."""
    return parts[0] if len(parts) == 1 else ops.concat(parts, axis)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = []
    for some in cut(q, _QUERIES, 1):
        scores = batched_t(some, k).astype(ms.float32)
        parts.append(batched(softmax(scores).astype(v.dtype), v))
    return joined(parts, 1)
