"""The compiled graphs of a language model: a layer over a block of a prompt, a step of all slots.

Norms, softmax and logits are float32 whatever the weights are.
Sources: transformers 4.57 ``modeling_llama.py``, ``modeling_qwen2_vl.py``.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.kernels import MASKED, Kernels

# Tensors reach a graph one by one; these are their places. (A NamedTuple would compile the graph
# anew at every call.)
INPUT_NORM, POST_ATTENTION_NORM, QKV, QKV_BIAS, O_PROJ, GATE, UP, DOWN = range(8)
LAYER = 8
ROW, PADDING, FINAL_NORM, LM_HEAD = range(4)  # of ``last_layer``
EMBEDDING, STEP_NORM, STEP_LM_HEAD, STEP_LAYERS = range(4)  # of ``step``

Tensors = tuple[Tensor, ...]


class DecoderGraphs(nn.Cell):  # type: ignore[misc]
    """What is compiled. Shapes: T tokens of one prompt, or S slots; H hidden, D ``head_dim``.

    Grouped-query attention (Ainslie et al. 2023): ``group`` heads of queries, kept together as
    ``[kv_heads, group * T, D]``, share the keys and values ``[kv_heads, T, D]``.
    """

    def __init__(self, config: DecoderConfig, kernels: Kernels) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = kernels
        self.kv_heads, self.head_dim = config.kv_heads, config.head_dim
        self.group = config.heads // config.kv_heads
        self.scale = config.head_dim**-0.5
        self.eps, self.layers = config.rms_norm_eps, config.layers
        self.q_width = config.heads * config.head_dim
        self.kv_width = config.kv_heads * config.head_dim

    @ms.jit
    def first_block(
        self, x: Tensor, cos: Tensor, sin: Tensor, parts: int, *tensors: Tensor
    ) -> Tensors:
        """Some layers over the first block of a prompt ``[T, H]``, with the keys and values
        ``[kv_heads, T, D]`` of each in turn.

        ``tensors`` are causal masks, one for each of ``parts``, and those of the layers.
        """
        x, kept = self.decoder_layers(x, (cos, sin), tensors[:parts], tensors[parts:])
        return (x, *kept)

    @ms.jit
    def last_layer(
        self, x: Tensor, cos: Tensor, sin: Tensor, parts: int, *tensors: Tensor
    ) -> Tensors:
        """The last layer over the only block of a prompt, after others that may come before it:
        logits and argmax after its last token, then as ``first_block``.

        ``tensors`` are that token's ROW ``[1]``, the mask ``[1, 1, T]`` of PADDING, two weights,
        and then as in ``first_block``.
        """
        row, padding = tensors[ROW], tensors[PADDING]
        norm, lm_head = tensors[FINAL_NORM], tensors[LM_HEAD]
        masks, layers = tensors[4 : 4 + parts], tensors[4 + parts : -LAYER]
        x, kept = self.decoder_layers(x, (cos, sin), masks, layers)
        layer = tensors[-LAYER:]
        q, k, v = self.qkv(x, (cos, sin), layer)
        keys, values = self.by_head(k), self.by_head(v)
        q = self.kernels.gather(q, row).reshape(self.kv_heads, self.group, self.head_dim)
        attended = self.kernels.attention(q, keys, values, self.scale, mask=padding)
        x = self.kernels.gather(x, row)
        x = self.after_attention(x, attended.reshape(1, self.q_width), layer)
        return (*self.next_token(x, norm, lm_head), *kept, keys, values)

    @ms.jit
    def project(self, x: Tensor, cos: Tensor, sin: Tensor, *layer: Tensor) -> Tensors:
        """Of a block ``[T, H]``: queries, keys and values, head by head."""
        q, k, v = self.qkv(x, (cos, sin), layer)
        return self.by_head(q), self.by_head(k), self.by_head(v)

    @ms.jit
    def finish(self, x: Tensor, attended: Tensor, *layer: Tensor) -> Tensor:
        """The rest of a layer for a block, from ``attended`` ``[kv_heads, group * T, D]``."""
        return self.after_attention(x, self.by_token(attended), layer)

    @ms.jit
    def head(self, x: Tensor, norm: Tensor, lm_head: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of each row of ``x``, and their argmax."""
        return self.next_token(x, norm, lm_head)

    @ms.jit
    def step(
        self, ids: Tensor, index: Tensor, last: Tensor, cos: Tensor, sin: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One token for each slot: logits and argmax of what follows ``ids`` ``[S]``.

        ``index`` says where in the caches its keys and values go, ``last``
        ``[S * kv_heads, 1, 1]``, which is the last token to look at. ``tensors`` are three
        weights, those of the layers, and the caches ``[S * kv_heads, length, D]``.
        """
        slots, size = ids.shape[0], self.kernels.cache_tensors
        start = STEP_LAYERS + LAYER * self.layers
        length = tensors[start].shape[1]
        later = ops.arange(length).reshape(1, 1, length) > last
        mask = later.astype(ms.float32) * MASKED
        x = self.kernels.gather(tensors[EMBEDDING], ids)
        for number in range(self.layers):
            begin = STEP_LAYERS + LAYER * number
            layer, place = tensors[begin : begin + LAYER], start + 2 * size * number
            q, k, v = self.qkv(x, (cos, sin), layer)
            k, v = k.reshape(-1, self.head_dim), v.reshape(-1, self.head_dim)
            keys = self.kernels.update_cache(tensors[place : place + size], index, k)
            values = self.kernels.update_cache(tensors[place + size : place + 2 * size], index, v)
            q = q.reshape(-1, self.group, self.head_dim)
            attended = self.kernels.attention(q, keys, values, self.scale, mask=mask)
            x = self.after_attention(x, attended.reshape(slots, self.q_width), layer)
        return self.next_token(x, tensors[STEP_NORM], tensors[STEP_LM_HEAD])

    def decoder_layers(
        self, x: Tensor, rope: Tensors, masks: Tensors, layers: Tensors
    ) -> tuple[Tensor, Tensors]:
        """As ``first_block``, within a graph."""
        kept: Tensors = ()
        for start in range(0, len(layers), LAYER):
            x, keys, values = self.decoder_layer(x, rope, masks, layers[start : start + LAYER])
            kept = (*kept, keys, values)
        return x, kept

    def decoder_layer(
        self, x: Tensor, rope: Tensors, masks: Tensors, layer: Tensors
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A layer over the first block of a prompt, with its keys and values."""
        q, k, v = self.qkv(x, rope, layer)
        keys, values = self.by_head(k), self.by_head(v)
        parts = []
        for index, part in enumerate(self.kernels.split(q, masks[0].shape[1] // self.group, 0)):
            # The queries of a part see no key after the last of them.
            end = masks[index].shape[2]
            seen, theirs = keys, values
            if end < x.shape[0]:
                seen, theirs = self.by_head(k[:end]), self.by_head(v[:end])
            heads = self.by_head(part)
            attended = self.kernels.attention(heads, seen, theirs, self.scale, mask=masks[index])
            parts.append(self.by_token(attended))
        x = self.after_attention(x, self.kernels.concat(parts, 0), layer)
        return x, keys, values

    def qkv(self, x: Tensor, rope: Tensors, layer: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """Norm and projections: queries ``[T, heads * D]``, keys and values ``[T, kv_heads * D]``.

        Queries and keys have their rotary positions.
        """
        normed = self.kernels.rms_norm(x, layer[INPUT_NORM], self.eps)
        qkv = self.kernels.linear(normed, layer[QKV], layer[QKV_BIAS])
        qk, v = ops.split(qkv, (self.q_width + self.kv_width, self.kv_width), -1)
        qk = self.kernels.apply_rope(qk, rope[0], rope[1], self.head_dim)
        q, k = ops.split(qk, (self.q_width, self.kv_width), -1)
        return q, k, v

    def after_attention(self, x: Tensor, attended: Tensor, layer: Tensors) -> Tensor:
        """Residual, norm, MLP, residual; ``attended`` is ``[T, heads * D]``."""
        x = x + self.kernels.linear(attended, layer[O_PROJ])
        normed = self.kernels.rms_norm(x, layer[POST_ATTENTION_NORM], self.eps)
        return x + self.kernels.swiglu_mlp(normed, layer[GATE], layer[UP], layer[DOWN])

    def next_token(self, x: Tensor, norm: Tensor, lm_head: Tensor) -> tuple[Tensor, Tensor]:
        """As ``head``, within a graph."""
        normed = self.kernels.rms_norm(x, norm, self.eps)
        logits = self.kernels.linear(normed, lm_head).astype(ms.float32)
        return logits, self.kernels.argmax(logits)

    def by_head(self, x: Tensor) -> Tensor:
        """``[T, heads * D]`` to ``[kv_heads, heads / kv_heads * T, D]``."""
        heads = self.kernels.split_heads(x, self.head_dim)
        return heads.reshape(self.kv_heads, -1, self.head_dim)

    def by_token(self, attended: Tensor) -> Tensor:
        """``[kv_heads, group * T, D]`` to ``[T, heads * D]``."""
        heads = attended.reshape(self.kv_heads * self.group, -1, self.head_dim)
        return self.kernels.merge_heads(heads)
