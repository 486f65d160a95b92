"""The kernels that the models are made of, one flavour for each device.

``Kernels`` writes them as the papers do; Ascend uses it (not tried there yet). ``CpuKernels``
overrides what MindSpore computes faster in another way on CPU, each with its reason; figures are
for MindSpore 2.7, float32, on two cores. The models above know no device.

Everything runs inside compiled graphs, or operator by operator between them; what says "host"
prepares their inputs.
"""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from numpy.typing import NDArray

from vidcap_cli.models.device import eagerly
from vidcap_cli.models.weights import to_tensor

MASKED = -1e9  # added to the score of a token that must not be seen

Array = NDArray[Any]
# Keys, or values, of a layer: what is read ``[B, length, D]`` comes first, what is written last.
Cache = tuple[Tensor, ...]


class Kernels(nn.Cell):  # type: ignore[misc]
    """The plain flavour. Rows are ``[n, width]``, heads ``[B, n, D]``, weights ``[out, in]``."""

    cache_tensors = 1  # tensors in a Cache

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.matmul_t = ops.MatMul(transpose_b=True)
        self.bmm = ops.BatchMatMul()
        self.bmm_t = ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(axis=-1)
        self.scatter = ops.ScatterNdUpdate()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x W^T + b``."""
        y = self.matmul_t(x, weight)
        return y if bias is None else ops.bias_add(y, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm (Zhang and Sennrich 2019), in float32."""
        wide = x.astype(ms.float32)
        scale = ops.rsqrt(ops.mean(ops.square(wide), -1, True) + eps)
        return (wide * scale).astype(x.dtype) * weight

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Layer normalisation (Ba et al. 2016), in float32."""
        wide = x.astype(ms.float32)
        centered = wide - ops.mean(wide, -1, True)
        scale = ops.rsqrt(ops.mean(ops.square(centered), -1, True) + eps)
        return (centered * scale).astype(x.dtype) * weight + bias

    def swiglu_mlp(self, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """``W_down (silu(W_gate x) * W_up x)`` (Shazeer 2020)."""
        return self.linear(ops.silu(self.linear(x, gate)) * self.linear(x, up), down)

    def rope_tables(self, cos: Array, sin: Array, heads: int, dtype: Any) -> tuple[Tensor, Tensor]:
        """Host: cosines and sines ``[n, D]`` as ``apply_rope`` takes them for ``heads``."""
        del heads
        return to_tensor(cos[:, None], dtype), to_tensor(sin[:, None], dtype)

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
        """Rotary position embedding (Su et al. 2021) of all heads ``[n, heads * D]``."""
        heads = x.astype(cos.dtype).reshape(x.shape[0], -1, head_dim)
        first, second = ops.split(heads, head_dim // 2, -1)
        rotated = ops.concat((-second, first), -1)
        return (heads * cos + rotated * sin).astype(x.dtype).reshape(x.shape)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float,
        *, mask: Tensor | None = None, past: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``softmax(q k^T * scale + mask) v`` (Vaswani et al. 2017), the softmax in float32.

        ``past`` are keys of earlier tokens, which all queries see; then ``v`` begins with theirs.
        """
        q = q * scale
        scores = self.scores(q, k, mask)
        if past is not None:
            scores = ops.concat((self.scores(q, past, None), scores), -1)
        return self.bmm(self.softmax(scores).astype(v.dtype), v)

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """``q k^T + mask`` in float32."""
        scores = self.bmm_t(q, k).astype(ms.float32)
        return scores if mask is None else scores + mask

    def causal_mask(self, rows: int, heads: int) -> Tensor:
        """Host: what hides later tokens from ``rows`` queries of each of ``heads``."""
        del heads
        return Tensor(_later(0, rows)[None])

    def causal_masks(self, rows: int, heads: int, group: int) -> list[Tensor]:
        """Host: the same for ``group`` heads of queries in each of ``heads`` of keys.

        One mask for each part of the queries, which ends where its keys end.
        """
        del heads
        return [Tensor(np.tile(_later(0, rows), (1, group, 1)))]

    def split_heads(self, x: Tensor, head_dim: int, batch: int = 1) -> Tensor:
        """``[batch * n, heads * D]`` to ``[heads * batch, n, D]``."""
        rows, width = x.shape
        heads = x.reshape(batch, rows // batch, width // head_dim, head_dim)
        return ops.transpose(heads, (2, 0, 1, 3)).reshape(-1, rows // batch, head_dim)

    def merge_heads(self, x: Tensor, batch: int = 1) -> Tensor:
        """``[heads * batch, n, D]`` to ``[batch * n, heads * D]``."""
        both, rows, head_dim = x.shape
        heads = x.reshape(both // batch, batch, rows, head_dim)
        return ops.transpose(heads, (1, 2, 0, 3)).reshape(batch * rows, -1)

    def gather(self, table: Tensor, index: Tensor, axis: int = 0) -> Tensor:
        """Rows of ``table``, or what ``index`` names along another axis."""
        return ops.gather(table, index, axis)

    def argmax(self, logits: Tensor) -> Tensor:
        """The largest of each row."""
        return ops.argmax(logits, -1)

    def split(self, x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
        """``x`` in pieces of ``size``, the last perhaps smaller."""
        pieces: tuple[Tensor, ...] = ops.split(x, size, axis)
        return pieces

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """``parts`` one after the other."""
        return ops.concat(parts, axis)

    def new_cache(self, name: str, shape: tuple[int, int, int], dtype: Any) -> Cache:
        """Host: an empty cache ``[B, length, D]``."""
        return (Parameter(ops.zeros(shape, dtype), name=name),)

    def cache_index(self, lengths: NDArray[np.int64], length: int) -> Tensor:
        """Host: where in a cache of ``length`` tokens each of B heads appends one."""
        del length
        index = np.stack([np.arange(len(lengths)), lengths], 1)
        return Tensor(index.astype(np.int32))

    def update_cache(self, cache: Cache, index: Tensor, new: Tensor) -> Tensor:
        """What ``cache`` holds once ``new`` ``[B, D]`` is written.

        The cache itself waits for that: in 16 bits a kernel may read a converted copy, which must
        not be made before the token is in.
        """
        return ops.depend(cache[0], self.scatter(cache[0], index, new))

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """Host: write ``[b, n, D]`` to the first n tokens of b heads from ``first`` on."""
        for (cache,), tensor in zip(caches, new, strict=True):
            heads, tokens, _ = tensor.shape
            cache[first : first + heads, :tokens] = tensor


class CpuKernels(Kernels):
    """What is faster otherwise on CPU.

    Operands are spread to one shape (``tile``) before they are added or multiplied. A kernel that
    broadcasts is up to twenty times slower, and keeps the place of every number, four times the
    memory of ``x``, for each shape anew.
    """

    cache_tensors = 2
    causal_part = 256  # queries that look at what came before the last of them, no further

    def __init__(self) -> None:
        super().__init__()
        self.scatter_rows = ops.ScatterUpdate()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Between 5 and 128 rows compute ``(W x^T)^T``: up to 4x faster (16 rows)."""
        if 4 < x.shape[0] <= 128 and weight.shape[0] * weight.shape[1] >= 1 << 20:
            y = ops.transpose(self.matmul_t(weight, x), (1, 0))
        else:
            y = self.matmul_t(x, weight)
        return y if bias is None else ops.bias_add(y, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Nothing broadcasts."""
        rows, width = x.shape
        wide = x.astype(ms.float32)
        scale = ops.rsqrt(ops.mean(ops.square(wide), -1, True) + eps)
        normed = (wide * ops.tile(scale, (1, width))).astype(x.dtype)
        return normed * self.for_rows(weight, rows)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Nothing broadcasts."""
        rows, width = x.shape
        wide = x.astype(ms.float32)
        centered = wide - ops.tile(ops.mean(wide, -1, True), (1, width))
        scale = ops.rsqrt(ops.mean(ops.square(centered), -1, True) + eps)
        normed = (centered * ops.tile(scale, (1, width))).astype(x.dtype)
        return ops.bias_add(normed * self.for_rows(weight, rows), bias)

    def for_rows(self, weight: Tensor, rows: int) -> Tensor:
        """``weight`` ``[width]`` once for each row."""
        weight = weight.reshape(1, -1)
        return weight if rows == 1 else ops.tile(weight, (rows, 1))

    def rope_tables(self, cos: Array, sin: Array, heads: int, dtype: Any) -> tuple[Tensor, Tensor]:
        """For all heads, ``[n, heads * D]``; the sign of the rotated half is in the sines."""
        first, second = np.split(sin, 2, -1)
        signed = np.concatenate([-first, second], -1)
        return to_tensor(np.tile(cos, heads), dtype), to_tensor(np.tile(signed, heads), dtype)

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
        """Nothing broadcasts."""
        wide = x.astype(cos.dtype)
        first, second = ops.split(wide.reshape(-1, head_dim), head_dim // 2, -1)
        rotated = ops.concat((second, first), -1).reshape(x.shape)
        return (wide * cos + rotated * sin).astype(x.dtype)

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """Many queries: a mask ``[B, 1, n]`` of keys is one more number of each key, multiplied
        with 1. Adding it to every score takes longer.
        """
        if mask is None:
            return self.bmm_t(q, k).astype(ms.float32)
        if mask.shape[:2] != (q.shape[0], 1) or q.shape[1] < 128:
            return self.bmm_t(q, k).astype(ms.float32) + mask
        heads, rows, _ = q.shape
        q = ops.concat((q, ops.ones((heads, rows, 1), q.dtype)), -1)
        k = ops.concat((k, mask.astype(k.dtype).reshape(heads, -1, 1)), -1)
        return self.bmm_t(q, k).astype(ms.float32)

    def causal_mask(self, rows: int, heads: int) -> Tensor:
        """In full size."""
        return Tensor(np.tile(_later(0, rows), (heads, 1, 1)))

    def causal_masks(self, rows: int, heads: int, group: int) -> list[Tensor]:
        """In parts of 256 queries half of the scores need not be computed; in full size."""
        starts = range(0, rows, self.causal_part)
        later = [_later(start, min(rows, start + self.causal_part)) for start in starts]
        return [Tensor(np.tile(mask, (heads, group, 1))) for mask in later]

    def split_heads(self, x: Tensor, head_dim: int, batch: int = 1) -> Tensor:
        """Cut and joined: as fast as a transposition, whose kernel keeps the place of every
        number, twice the memory of ``x``, for each shape anew.
        """
        rows = x.shape[0] // batch
        return self.concat(self.split(x, head_dim, 1), 0).reshape(-1, rows, head_dim)

    def merge_heads(self, x: Tensor, batch: int = 1) -> Tensor:
        """As ``split_heads``."""
        rows, head_dim = x.shape[1:]
        return self.concat(self.split(x.reshape(-1, head_dim), batch * rows, 0), 1)

    def split(self, x: Tensor, size: int, axis: int) -> tuple[Tensor, ...]:
        """A single piece is ``x`` itself: to copy all of it takes fifty times as long."""
        return (x,) if x.shape[axis] <= size else ops.split(x, size, axis)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """A single part is not copied."""
        return parts[0] if len(parts) == 1 else ops.concat(parts, axis)

    def new_cache(self, name: str, shape: tuple[int, int, int], dtype: Any) -> Cache:
        """Kept as rows ``[B * length, D]``, read through a view.

        ScatterNdUpdate copies the whole cache; ScatterUpdate, which does not, writes rows.
        """
        heads, length, head_dim = shape
        rows = Parameter(ops.zeros((heads * length, head_dim), dtype), name=name)
        with eagerly():
            return rows.view(*shape), rows

    def cache_index(self, lengths: NDArray[np.int64], length: int) -> Tensor:
        """Numbers of rows."""
        return Tensor((np.arange(len(lengths)) * length + lengths).astype(np.int32))

    def update_cache(self, cache: Cache, index: Tensor, new: Tensor) -> Tensor:
        """Row by row."""
        return ops.depend(cache[0], self.scatter_rows(cache[1], index, new))

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """Row by row."""
        heads, tokens, _ = new[0].shape
        starts = (first + np.arange(heads)) * caches[0][0].shape[1]
        index = Tensor((starts[:, None] + np.arange(tokens)).astype(np.int32))
        for (_, rows), tensor in zip(caches, new, strict=True):
            self.scatter_rows(rows, index, tensor)


def kernels_for(device: str) -> Kernels:
    """The flavour for "CPU" or "Ascend"."""
    return CpuKernels() if device == "CPU" else Kernels()


def _later(start: int, end: int) -> NDArray[np.float32]:
    """``[end - start, end]``: hides keys after each of the queries from ``start`` to ``end``."""
    return np.triu(np.full((end - start, end), MASKED, np.float32), start + 1)
