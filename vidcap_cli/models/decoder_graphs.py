"""The compiled graphs of a language model: a layer over a block of a prompt, a step of all slots.

Norms, softmax and logits are float32 whatever the weights are.
Sources: transformers 4.57 ``modeling_llama.py``, ``modeling_qwen2_vl.py``.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.kernels import batched, batched_t, cut, joined, softmax

NEVER = -1e9  # added to the score of a token that must not be seen
LAYER = 8  # tensors of a layer: two norms, qkv, its bias, out, gate, up, down

scatter_rows = ops.ScatterUpdate()
_scatter = ops.ScatterNdUpdate()
_matmul_t = ops.MatMul(transpose_b=True)


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` ``[rows, in]`` times a weight ``[out, in]``, within a graph.

    A few rows go second, and the product is turned: on CPU that takes as little as a quarter
    of the time (16 rows; up to four are as fast without, and from some hundred on it is slower).
    """
    if 4 < x.shape[0] <= 128 and weight.shape[0] * weight.shape[1] >= 1 << 20:
        return ops.transpose(_matmul_t(weight, x), (1, 0))
    return _matmul_t(x, weight)


class Graphs(nn.Cell):  # type: ignore[misc]
    """What is compiled. Shapes: T rows of one prompt, or S slots; H hidden, D a head's width."""

    def __init__(self, config: DecoderConfig, *, by_rows: bool) -> None:
        super().__init__(auto_prefix=False)
        self.by_rows = by_rows
        self.heads, self.kv, self.width = config.heads, config.kv_heads, config.head
        self.group = config.heads // config.kv_heads
        self.eps, self.layers = config.eps, config.layers

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm (Zhang and Sennrich 2019), in float32.

        Spread to full size first: a product that broadcasts is slower on CPU, and its kernel keeps
        the place of every number, four times the memory of ``x``, for each number of rows anew.
        """
        rows, width = x.shape
        wide = x.astype(ms.float32)
        scale = ops.rsqrt(ops.mean(ops.square(wide), -1, True) + self.eps)
        normed = (wide * ops.tile(scale, (1, width))).astype(x.dtype)
        return normed * ops.tile(weight.reshape(1, -1), (rows, 1))

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary position embedding (Su et al. 2021) of all heads ``[rows, heads * D]``.

        The sign of the half that is subtracted is in ``sin``.
        """
        first, second = ops.split(x.reshape(-1, self.width), self.width // 2, -1)
        crossed = ops.concat((second, first), -1).reshape(x.shape)
        return x * cos + crossed * sin

    def heads_of(
        self, x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, qkv: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[rows, heads * D]``, scaled, keys and values ``[rows, kv * D]``."""
        wide, narrow = self.heads * self.width, self.kv * self.width
        joined = ops.bias_add(_times(self.normed(x, norm), qkv), bias)
        qk, v = ops.split(joined, (wide + narrow, narrow), -1)
        q, k = ops.split(self.turned(qk, cos, sin), (wide, narrow), -1)
        return q, k, v

    def mixed(
        self, x: Tensor, attended: Tensor,
        out: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    ) -> Tensor:  # fmt: skip
        """The rest of a layer: ``attended`` ``[rows, heads * D]`` goes back in, then SwiGLU."""
        x = x + _times(attended, out)
        normed = self.normed(x, norm)
        return x + _times(ops.silu(_times(normed, gate)) * _times(normed, up), down)

    def by_head(self, x: Tensor, group: int) -> Tensor:
        """``[rows, kv * group * D]`` to ``[kv, group * rows, D]``."""
        heads = joined(cut(x, self.width, 1), 0)
        return heads.reshape(self.kv, group * x.shape[0], self.width)

    def by_row(self, attended: Tensor) -> Tensor:
        """``[kv, group * rows, D]`` to ``[rows, heads * D]``."""
        rows = attended.shape[1] // self.group
        return joined(cut(attended.reshape(self.heads * rows, self.width), rows, 0), 1)

    @ms.jit
    def first(
        self, x: Tensor, cos: Tensor, sin: Tensor, parts: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Some layers over the first block of a prompt ``[T, H]``, with the keys and values
        ``[kv, T, D]`` of each in turn.

        ``tensors`` are masks, one for each of ``parts``, and those of the layers.
        """
        x, kept = self.through(x, cos, sin, tensors[:parts], tensors[parts:])
        return (x, *kept)

    def through(
        self, x: Tensor, cos: Tensor, sin: Tensor,
        masks: tuple[Tensor, ...], tensors: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        """As ``first``, within a graph."""
        kept: tuple[Tensor, ...] = ()
        for index in range(len(tensors) // LAYER):
            layer = tensors[LAYER * index : LAYER * (index + 1)]
            x, keys, values = self.layer(x, cos, sin, masks, *layer)
            kept = (*kept, keys, values)
        return x, kept

    def layer(
        self, x: Tensor, cos: Tensor, sin: Tensor, masks: tuple[Tensor, ...],
        norm1: Tensor, norm2: Tensor, qkv: Tensor, bias: Tensor,
        out: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """A layer over the first block of a prompt, with its keys and values.

        The queries go in parts, one a mask, each with the keys up to its last alone.
        """
        q, k, v = self.heads_of(x, cos, sin, norm1, qkv, bias)
        all_keys, all_values = self.by_head(k, 1), self.by_head(v, 1)
        queries, parts = cut(q, masks[0].shape[1] // self.group, 0), []
        for index, mask in enumerate(masks):
            keys, values, end = all_keys, all_values, mask.shape[2]
            if end < x.shape[0]:
                keys, values = self.by_head(k[:end], 1), self.by_head(v[:end], 1)
            scores = batched_t(self.by_head(queries[index], self.group), keys)
            weights = softmax(scores.astype(ms.float32) + mask).astype(x.dtype)
            parts.append(self.by_row(batched(weights, values)))
        attended = joined(parts, 0)
        return self.mixed(x, attended, out, norm2, gate, up, down), all_keys, all_values

    @ms.jit
    def last(
        self, x: Tensor, cos: Tensor, sin: Tensor, row: Tensor, hidden: Tensor,
        norm: Tensor, head: Tensor, parts: int, *tensors: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The last layer over the only block of a prompt, after others that may come before it:
        the two of ``Following`` for its last ``row`` ``[1]``, then as ``first``. Keys of filling
        are ``hidden`` ``[T]``.
        """
        x, kept = self.through(x, cos, sin, tensors[:parts], tensors[parts:-LAYER])
        norm1, norm2, qkv, bias, out, gate, up, down = tensors[-LAYER:]
        q, k, v = self.heads_of(x, cos, sin, norm1, qkv, bias)
        keys, values = self.by_head(k, 1), self.by_head(v, 1)
        q = ops.gather(q, row, 0).reshape(self.kv, self.group, self.width)
        weights = softmax(batched_t(q, keys).astype(ms.float32) + hidden).astype(x.dtype)
        attended = batched(weights, values).reshape(1, self.heads * self.width)
        x = self.mixed(ops.gather(x, row, 0), attended, out, norm2, gate, up, down)
        return (*self.following(x, norm, head), *kept, keys, values)

    @ms.jit
    def project(
        self, x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, qkv: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a block ``[T, H]``: queries ``[kv, group * T, D]``, keys and values ``[kv, T, D]``."""
        q, k, v = self.heads_of(x, cos, sin, norm, qkv, bias)
        return self.by_head(q, self.group), self.by_head(k, 1), self.by_head(v, 1)

    @ms.jit
    def finish(
        self, x: Tensor, attended: Tensor,
        out: Tensor, norm: Tensor, gate: Tensor, up: Tensor, down: Tensor,
    ) -> Tensor:  # fmt: skip
        """The rest of a layer for a block, from ``attended`` ``[kv, group * T, D]``."""
        return self.mixed(x, self.by_row(attended), out, norm, gate, up, down)

    @ms.jit
    def head(self, x: Tensor, norm: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The two of ``Following``."""
        return self.following(x, norm, weight)

    def following(self, x: Tensor, norm: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As ``head``, within a graph."""
        logits = _times(self.normed(x, norm), weight).astype(ms.float32)
        return logits, ops.argmax(logits, -1)

    @ms.jit
    def step(
        self,
        ids: Tensor,
        where: Tensor,
        last: Tensor,
        cos: Tensor,
        sin: Tensor,
        embedding: Tensor,
        norm: Tensor,
        head: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One token for each slot: what follows ``ids`` ``[S]``, the two of ``Following``.

        ``where`` says where in the caches ``[S * kv, length, D]`` its keys and values go, as row
        ``[S * kv]`` or as head and token ``[S * kv, 2]``; ``last`` ``[S * kv, 1, 1]``, which is
        the last token to look at.
        """
        slots = ids.shape[0]
        split = LAYER * self.layers
        rows = split + 2 * self.layers
        length = tensors[split].shape[1]
        x = ops.gather(embedding, ids, 0)
        hidden = ops.arange(length).reshape(1, 1, length) > last
        mask = hidden.astype(ms.float32) * NEVER
        for index in range(self.layers):
            norm1, norm2, qkv, bias, out, gate, up, down = tensors[
                LAYER * index : LAYER * (index + 1)
            ]
            keys, values = tensors[split + 2 * index], tensors[split + 2 * index + 1]
            q, k, v = self.heads_of(x, cos, sin, norm1, qkv, bias)
            k = k.reshape(slots * self.kv, self.width)
            v = v.reshape(slots * self.kv, self.width)
            if self.by_rows:
                written = (
                    scatter_rows(tensors[rows + 2 * index], where, k),
                    scatter_rows(tensors[rows + 2 * index + 1], where, v),
                )
            else:
                written = _scatter(keys, where, k), _scatter(values, where, v)
            q = q.reshape(slots * self.kv, self.group, self.width)
            # The caches wait, not the queries alone: in 16 bits a kernel reads a converted copy,
            # which must not be made before the token is in.
            keys, values = ops.depend(keys, written), ops.depend(values, written)
            scores = batched_t(q, keys).astype(ms.float32)
            weights = softmax(scores + mask).astype(x.dtype)
            attended = batched(weights, values).reshape(slots, self.heads * self.width)
            x = self.mixed(x, attended, out, norm2, gate, up, down)
        return self.following(x, norm, head)
