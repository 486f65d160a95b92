"""The flavour for CPU: what MindSpore computes faster in another way than the papers write it.

Each way has its reason; figures are for MindSpore 2.7, float32, on two cores.
"""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops
from numpy.typing import NDArray

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.device import eagerly
from vidcap_cli.models.kernels.seam import Array, Cache, GroupedQueryAttention, Kernels, Tensors
from vidcap_cli.models.weights import to_tensor

MASKED = -1e9  # added to the score of a token that must not be seen
_MASKED_PATCH = -3e4  # the same of a patch; float16 holds it, too

_CAUSAL_PART = 256  # queries that look at what came before the last of them, no further
_QUERIES = 2048  # of a tower, rows of scores at a time: they need memory, rows times keys
# Scores of a tower at a time, if a single head has no more: those that a cache holds take a quarter
# less time.
_SCORES = 1 << 23


class CpuKernels(Kernels):
    """Operands are spread to one shape (``tile``) before they are added or multiplied: a kernel
    that broadcasts is up to twenty times slower, and keeps the place of every number, four times
    the memory of ``x``, for each shape anew.
    """

    cache_tensors = 2

    def __init__(self) -> None:
        super().__init__()
        self.matmul_t = ops.MatMul(transpose_b=True)
        self.bmm = ops.BatchMatMul()
        self.bmm_t = ops.BatchMatMul(transpose_b=True)
        self.softmax = ops.Softmax(axis=-1)
        self.log_softmax = ops.LogSoftmax(axis=-1)
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

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """One after the other."""
        x = x + delta
        return x, self.rms_norm(x, weight, eps)

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

    def swiglu(self, x: Tensor, gate: Tensors, bias: Tensors = ()) -> Tensor:
        """Two products: to cut the result of one in two would copy it."""
        if len(bias) == 0:
            return ops.silu(self.linear(x, gate[0])) * self.linear(x, gate[1])
        return ops.silu(self.linear(x, gate[0], bias[0])) * self.linear(x, gate[1], bias[1])

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

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float,
        *, mask: Tensor | None = None, past: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``softmax(q k^T * scale + mask) v`` of heads ``[B, n, D]``, the softmax in float32.

        ``past`` are keys of earlier tokens, which all queries see; then ``v`` begins with theirs.
        """
        q = q * scale
        if past is None:
            scores = self.scores(q, k, mask)
        else:
            scores = ops.concat((self.scores(q, past, None), self.scores(q, k, mask)), -1)
        return self.bmm(self.softmax(scores).astype(v.dtype), v)

    def scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """``q k^T + mask`` in float32. Many queries: a mask ``[B, 1, n]`` of keys is one more
        number of each key, multiplied with 1. Adding it to every score takes longer.
        """
        if mask is None:
            return self.bmm_t(q, k).astype(ms.float32)
        if mask.shape[:2] != (q.shape[0], 1) or q.shape[1] < 128:
            return self.bmm_t(q, k).astype(ms.float32) + mask
        heads, rows, _ = q.shape
        q = ops.concat((q, ops.ones((heads, rows, 1), q.dtype)), -1)
        k = ops.concat((k, mask.astype(k.dtype).reshape(heads, -1, 1)), -1)
        return self.bmm_t(q, k).astype(ms.float32)

    def split_heads(self, x: Tensor, head_dim: int, batch: int = 1) -> Tensor:
        """``[batch * n, heads * D]`` to ``[heads * batch, n, D]``, cut and joined: as fast as a
        transposition, whose kernel keeps the place of every number, twice the memory of ``x``, for
        each shape anew.
        """
        rows = x.shape[0] // batch
        return self.concat(self.split(x, head_dim, 1), 0).reshape(-1, rows, head_dim)

    def merge_heads(self, x: Tensor, batch: int = 1) -> Tensor:
        """``[heads * batch, n, D]`` to ``[batch * n, heads * D]``, as ``split_heads``."""
        rows, head_dim = x.shape[1:]
        return self.concat(self.split(x.reshape(-1, head_dim), batch * rows, 0), 1)

    def vit_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, batch: int, heads: int, mask: Tensor | None
    ) -> Tensor:
        """Some heads and some queries at a time."""
        if mask is not None and mask.dtype == ms.int32:
            return self.window_attention(q, k, v, heads, mask)
        head_dim = q.shape[1] // heads
        q = self.split_heads(q, head_dim, batch)
        k = self.split_heads(k, head_dim, batch)
        v = self.split_heads(v, head_dim, batch)
        most = _heads_at_once(q.shape[0], q.shape[1])
        qs, ks, vs = self.split(q, most, 0), self.split(k, most, 0), self.split(v, most, 0)
        masks = () if mask is None else self.split(mask, most, 0)
        parts = []
        for index in range(len(qs)):
            hides = None if mask is None else masks[index]
            some = [
                self.attention(rows, ks[index], vs[index], head_dim**-0.5, mask=hides)
                for rows in self.split(qs[index], _QUERIES, 1)
            ]
            parts.append(self.concat(some, 1))
        return self.merge_heads(self.concat(parts, 0), batch)

    def window_attention(
        self, q: Tensor, k: Tensor, v: Tensor, heads: int, places: Tensor
    ) -> Tensor:
        """Windows as sequences of their own: patches are brought there and back again."""
        _, windows, size = places.shape
        rows, back = self.split(places.reshape(2, -1), 1, 0)
        there = ops.relu(rows.reshape(-1))
        hides = ops.tile((rows < 0).astype(ms.float32) * _MASKED_PATCH, (heads, 1))
        attended = self.vit_attention(
            self.gather(q, there), self.gather(k, there), self.gather(v, there),
            batch=windows, heads=heads, mask=hides.reshape(heads * windows, 1, size),
        )  # fmt: skip
        return self.gather(attended, back.reshape(-1)[: q.shape[0]])

    def patch_mask(self, patches: int, padded: int, batch: int, heads: int) -> Tensor | None:
        """``[heads * batch, 1, n]``; also where nothing is hidden: one graph for both."""
        mask = np.where(np.arange(padded) >= patches, _MASKED_PATCH, 0)
        return to_tensor(np.tile(mask, (heads * batch, 1, 1)), ms.float32)

    def window_mask(self, windows: Array, padded: int, batch: int, heads: int) -> Tensor:
        """``[2, batch * windows, patches]``: the patches of each window, -1 for those it lacks;
        then where each patch is among these, row by row, as far as there are any.
        """
        del heads
        lengths = np.repeat(windows[:, 1], windows[:, 0])
        # Room for all rows; a single window is as long as these, for the sake of one graph.
        size = max(lengths.max(), -(-padded // len(lengths)))
        there = np.arange(size) < lengths[:, None]
        rows = np.full((batch, *there.shape), -1)
        back = np.zeros((batch, padded), np.int64)
        for sequence in range(batch):
            rows[sequence, there] = np.arange(lengths.sum()) + sequence * padded
            back[sequence, : lengths.sum()] = np.flatnonzero(there) + sequence * there.size
        back = np.resize(back, rows.size)
        places = np.stack([rows.reshape(-1), back]).reshape(2, -1, size)
        return Tensor(places.astype(np.int32))

    def vit_score_bytes(self, batch: int, sequence: int, heads: int) -> int:
        """Two parts may be on their way at a time, each as scores, as softmax, and once more."""
        together = min(batch * heads, 2 * _heads_at_once(batch * heads, sequence))
        return 4 * 3 * together * min(sequence, _QUERIES) * sequence

    def grouped_query_attention(self, config: DecoderConfig, dtype: Any) -> "CpuAttention":
        """The same for all dtypes."""
        del dtype
        return CpuAttention(config, self)

    def gather(self, table: Tensor, index: Tensor) -> Tensor:
        """Plain."""
        return ops.gather(table, index, 0)

    def argmax(self, logits: Tensor) -> Tensor:
        """Plain."""
        return ops.argmax(logits, -1)

    def log_prob(self, logits: Tensor, ids: Tensor) -> Tensor:
        """One kernel for the whole vocabulary."""
        return ops.gather_d(self.log_softmax(logits), 1, ids.reshape(-1, 1)).reshape(-1)

    def split(self, x: Tensor, size: int | tuple[int, ...], axis: int) -> Tensors:
        """A single piece is ``x`` itself: to copy all of it takes fifty times as long."""
        if isinstance(size, int) and x.shape[axis] <= size:
            return (x,)
        pieces: Tensors = ops.split(x, size, axis)
        return pieces

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
        """Row by row.

        The cache itself waits for that: in 16 bits a kernel may read a converted copy, which must
        not be made before the token is in.
        """
        return ops.depend(cache[0], self.scatter_rows(cache[1], index, new))

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """Row by row."""
        heads, tokens, _ = new[0].shape
        starts = (first + np.arange(heads)) * caches[0][0].shape[1]
        index = Tensor((starts[:, None] + np.arange(tokens)).astype(np.int32))
        for (_, rows), tensor in zip(caches, new, strict=True):
            self.scatter_rows(rows, index, tensor)


class CpuAttention(GroupedQueryAttention):
    """Heads of queries that share keys lie one after the other, ``[kv_heads, group * T, D]``."""

    def __init__(self, config: DecoderConfig, kernels: CpuKernels) -> None:
        super().__init__(config)
        self.kernels = kernels

    def by_head(self, x: Tensor) -> Tensor:
        """``[T, heads * D]`` to ``[kv_heads, heads / kv_heads * T, D]``."""
        heads = self.kernels.split_heads(x, self.head_dim)
        return heads.reshape(self.kv_heads, -1, self.head_dim)

    def by_token(self, attended: Tensor) -> Tensor:
        """``[kv_heads, group * T, D]`` to ``[T, heads * D]``."""
        return self.kernels.merge_heads(attended.reshape(self.heads, -1, self.head_dim))

    def token(self, q: Tensor, row: Tensor) -> Tensor:
        """The same row of every head."""
        heads = ops.gather(q.reshape(self.heads, -1, self.head_dim), row, 1)
        return heads.reshape(1, self.heads * self.head_dim)

    def causal(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Tensors
    ) -> tuple[Tensor, Tensor, Tensor]:
        """In parts: half of the scores need not be computed."""
        keys, values = self.by_head(k), self.by_head(v)
        parts = []
        for index, part in enumerate(self.kernels.split(q, masks[0].shape[1] // self.group, 0)):
            # The queries of a part see no key after the last of them.
            end = masks[index].shape[2]
            seen, theirs = keys, values
            if end < q.shape[0]:
                seen, theirs = self.by_head(k[:end]), self.by_head(v[:end])
            heads = self.by_head(part)
            attended = self.kernels.attention(heads, seen, theirs, self.scale, mask=masks[index])
            parts.append(self.by_token(attended))
        return self.kernels.concat(parts, 0), keys, values

    def later(
        self, q: Tensor, *, k: Tensor, past: Tensor, keys: Tensor, values: Tensor, masks: Tensors
    ) -> Tensor:
        """Of the heads that share keys one goes at a time: their scores are what takes memory."""
        del keys
        attended = [
            self.kernels.attention(some, k, values, self.scale, mask=masks[0], past=past)
            for some in self.kernels.split(q, k.shape[1], 1)
        ]
        return self.kernels.concat(attended, 1)

    def last(self, q: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """A query for each head."""
        q = q.reshape(self.kv_heads, self.group, self.head_dim)
        attended = self.kernels.attention(q, keys, values, self.scale, mask=padding)
        return attended.reshape(1, self.heads * self.head_dim)

    def step(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Slots and heads of keys together."""
        heads = q.reshape(-1, self.group, self.head_dim)
        attended = self.kernels.attention(heads, keys, values, self.scale, mask=mask)
        return attended.reshape(q.shape)

    def first_masks(self, rows: int) -> list[Tensor]:
        """``[kv_heads, group * part, end]`` for each part of the queries, in full size; it ends
        where its keys end.
        """
        starts = range(0, rows, _CAUSAL_PART)
        hidden = [_later(start, min(rows, start + _CAUSAL_PART)) for start in starts]
        return [Tensor(np.tile(mask, (self.kv_heads, self.group, 1))) for mask in hidden]

    def later_masks(self, rows: int) -> list[Tensor]:
        """``[kv_heads, rows, rows]``, for one head of each group."""
        return [Tensor(np.tile(_later(0, rows), (self.kv_heads, 1, 1)))]

    def padding_mask(self, length: int, padded: int) -> Tensor:
        """``[1, 1, n]``."""
        hidden = np.where(np.arange(padded) >= length, MASKED, 0).astype(np.float32)
        return Tensor(hidden.reshape(1, 1, -1))

    def step_mask(self, last: Tensor, length: int) -> Tensor:
        """``[S * kv_heads, 1, length]``."""
        later = ops.arange(length).reshape(1, 1, length) > last
        return later.astype(ms.float32) * MASKED

    def score_bytes(self, rows: int, length: int) -> int:
        """Scores, those of earlier tokens joined to them, their softmax, and at most as much for
        the mask, in float32.

        A first block has all heads at once, each query with the tokens before it; a later one a
        head for each of keys and values.
        """
        first = self.heads * rows * rows // 2
        return 4 * 4 * max(first, self.kv_heads * rows * length)


def _heads_at_once(heads: int, sequence: int) -> int:
    """Heads of a tower whose scores are computed together."""
    return min(heads, max(1, _SCORES // (min(sequence, _QUERIES) * sequence)))


def _later(start: int, end: int) -> NDArray[np.float32]:
    """``[end - start, end]``: hides keys after each of the queries from ``start`` to ``end``."""
    return np.triu(np.full((end - start, end), MASKED, np.float32), start + 1)
