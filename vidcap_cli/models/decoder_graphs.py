"""The compiled graphs of a language model: a layer over a block of a prompt, a step of all slots.

Norms, softmax and logits are float32 whatever the weights are.
Sources: transformers 4.57 ``modeling_llama.py``, ``modeling_qwen2_vl.py``.
"""

import mindspore as ms
from mindspore import Tensor, nn

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.kernels import GroupedQueryAttention, Kernels
from vidcap_cli.models.sharding import Whole

# Tensors reach a graph one by one; these are their places. (A NamedTuple would compile the graph
# anew at every call.)
INPUT_NORM, POST_ATTENTION_NORM, QKV, QKV_BIAS, O_PROJ, DOWN, GATE = range(7)
ROW, PADDING, FINAL_NORM, LM_HEAD = range(4)  # of ``last_layer``
EMBEDDING, STEP_NORM, STEP_LM_HEAD, STEP_LAYERS = range(4)  # of ``step``

Tensors = tuple[Tensor, ...]


class DecoderGraphs(nn.Cell):  # type: ignore[misc]
    """What is compiled. Shapes: T tokens of one prompt, or S slots; H hidden, D ``head_dim``.

    Between layers go the residual stream ``x`` and a ``delta`` that is still to be added to it,
    None at first: a norm comes next, and a device may do both at once.
    """

    def __init__(
        self,
        config: DecoderConfig,
        kernels: Kernels,
        attention: GroupedQueryAttention,
        sharding: Whole,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.kernels, self.attention, self.sharding = kernels, attention, sharding
        self.layer = GATE + kernels.gate_tensors
        self.eps, self.layers = config.rms_norm_eps, config.layers
        self.qkv_split = kernels.qkv_split(
            config.heads * config.head_dim, config.kv_heads * config.head_dim, config.head_dim
        )

    @ms.jit
    def first_block(
        self, x: Tensor, cos: Tensor, sin: Tensor, parts: int, *tensors: Tensor
    ) -> Tensors:
        """Some layers over the first block of a prompt ``[T, H]``, with the keys and values of
        each in turn, by head.

        ``tensors`` are causal masks, one for each of ``parts``, and those of the layers.
        """
        x, delta, kept = self.decoder_layers(x, (cos, sin), tensors[:parts], tensors[parts:])
        return (x + delta, *kept)

    @ms.jit
    def last_layer(
        self, x: Tensor, cos: Tensor, sin: Tensor, parts: int, *tensors: Tensor
    ) -> Tensors:
        """The last layer over the only block of a prompt, after others that may come before it:
        what ``next_token`` gives after its last token, then as ``first_block``.

        ``tensors`` are that token's ROW ``[1]``, the mask of PADDING, two weights, and then as in
        ``first_block``.
        """
        row, padding = tensors[ROW], tensors[PADDING]
        norm, lm_head = tensors[FINAL_NORM], tensors[LM_HEAD]
        masks, layers = tensors[4 : 4 + parts], tensors[4 + parts : -self.layer]
        x, delta, kept = self.decoder_layers(x, (cos, sin), masks, layers)
        layer = tensors[-self.layer :]
        x, q, k, v = self.qkv(x, delta, (cos, sin), layer)
        keys, values = self.attention.by_head(k), self.attention.by_head(v)
        q = self.kernels.gather(q, row)
        attended = self.attention.last(q, keys, values, padding)
        x, delta = self.after_attention(self.kernels.gather(x, row), attended, layer)
        return (*self.next_token(x, delta, norm, lm_head), *kept, keys, values)

    @ms.jit
    def project(self, x: Tensor, cos: Tensor, sin: Tensor, *layer: Tensor) -> Tensors:
        """Of a block ``[T, H]``: queries, keys and values, by head."""
        _, q, k, v = self.qkv(x, None, (cos, sin), layer)
        by_head = self.attention.by_head
        return self.attention.queries(q), by_head(k), by_head(v)

    @ms.jit
    def finish(self, x: Tensor, attended: Tensor, *layer: Tensor) -> Tensor:
        """The rest of a layer for a block, from what it has ``attended`` to, by head."""
        x, delta = self.after_attention(x, self.attention.by_token(attended), layer)
        return x + delta

    @ms.jit
    def finish_row(self, x: Tensor, attended: Tensor, *layer: Tensor) -> Tensor:
        """The same for rows of tokens."""
        x, delta = self.after_attention(x, attended, layer)
        return x + delta

    @ms.jit
    def head(self, x: Tensor, norm: Tensor, lm_head: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What ``next_token`` gives for each row of ``x``."""
        return self.next_token(x, None, norm, lm_head)

    @ms.jit
    def step(
        self, ids: Tensor, index: Tensor, last: Tensor, cos: Tensor, sin: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One token for each slot: what ``next_token`` gives of what follows ``ids`` ``[S]``.

        ``index`` says where in the caches its keys and values go, ``last``
        ``[S * cache_rows, 1, 1]``, which is the last token to look at. ``tensors`` are three
        weights, those of the layers, and the caches ``[S * cache_rows, length, cache_width]``.
        """
        size, start = 2 * self.kernels.cache_tensors, STEP_LAYERS + self.layer * self.layers
        x, delta = self.sharding.embed(tensors[EMBEDDING], ids), None
        mask = self.attention.step_mask(last, tensors[start].shape[-2])
        for number in range(self.layers):
            begin, place = STEP_LAYERS + self.layer * number, start + size * number
            layer, caches = tensors[begin : begin + self.layer], tensors[place : place + size]
            if self.kernels.layer_in_one:
                x = self.kernels.step_layer(x, (cos, sin), mask, self.eps, (*layer, *caches))
            else:
                x, delta = self.step_layer(
                    x, delta, (cos, sin), index=index, mask=mask, layer=layer, caches=caches
                )
        return self.next_token(x, delta, tensors[STEP_NORM], tensors[STEP_LM_HEAD])

    def step_layer(
        self, x: Tensor, delta: Tensor | None, rope: Tensors,
        *, index: Tensor, mask: Tensor, layer: Tensors, caches: Tensors,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One layer of ``step``."""
        size, width = self.kernels.cache_tensors, self.attention.cache_width
        x, q, k, v = self.qkv(x, delta, rope, layer)
        keys = self.kernels.update_cache(caches[:size], index, k.reshape(-1, width))
        values = self.kernels.update_cache(caches[size:], index, v.reshape(-1, width))
        attended = self.attention.step(q, keys, values, mask)
        return self.after_attention(x, attended, layer)

    def decoder_layers(
        self, x: Tensor, rope: Tensors, masks: Tensors, layers: Tensors
    ) -> tuple[Tensor, Tensor | None, Tensors]:
        """As ``first_block``, within a graph."""
        kept: Tensors = ()
        delta = None
        for start in range(0, len(layers), self.layer):
            layer = layers[start : start + self.layer]
            x, q, k, v = self.qkv(x, delta, rope, layer)
            attended, keys, values = self.attention.causal(q, k, v, masks)
            x, delta = self.after_attention(x, attended, layer)
            kept = (*kept, keys, values)
        return x, delta, kept

    def qkv(
        self, x: Tensor, delta: Tensor | None, rope: Tensors, layer: Tensors
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``x`` with ``delta``, and its projections: queries ``[T, heads * D]``, keys and values
        ``[T, kv_heads * D]``. Queries and keys have their rotary positions.
        """
        x, normed = self.add_norm(x, delta, layer[INPUT_NORM])
        qkv = self.kernels.linear(normed, layer[QKV], layer[QKV_BIAS])
        q, k, v = self.qkv_split(qkv, rope)
        return x, q, k, v

    def after_attention(self, x: Tensor, attended: Tensor, layer: Tensors) -> tuple[Tensor, Tensor]:
        """Residual, norm, MLP; ``attended`` is ``[T, heads * D]``."""
        delta = self.sharding.summed(self.kernels.linear(attended, layer[O_PROJ]))
        x, normed = self.add_norm(x, delta, layer[POST_ATTENTION_NORM])
        delta = self.kernels.swiglu_mlp(normed, layer[GATE:], layer[DOWN])
        return x, self.sharding.summed(delta)

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` with ``delta``, if any, and its norm."""
        if delta is None:
            return x, self.kernels.rms_norm(x, weight, self.eps)
        return self.kernels.add_rms_norm(x, delta, weight, self.eps)

    def next_token(
        self, x: Tensor, delta: Tensor | None, norm: Tensor, lm_head: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The logits of each row, their argmax, and the log-probability of that."""
        _, normed = self.add_norm(x, delta, norm)
        logits = self.sharding.joined(self.kernels.linear(normed, lm_head).astype(ms.float32))
        ids = self.kernels.argmax(logits)
        return logits, ids, self.kernels.log_prob(logits, ids)
