"""The flavour for Ascend: one operator of CANN's for each kernel, none of the older interface.

Tried on MindSpore 2.7's own Ascend backend with substituted kernels (``tests/ascend``), never on a
device. Limits are those of CANN 8.2's reference: heads of a multiple of 16 numbers, and float32 in
the attention of a prompt, not in the one for steps.
"""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, ops
from mindspore.ops.operations._infer_ops import KVCacheScatterUpdate
from numpy.typing import NDArray

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.kernels.seam import Array, Cache, GroupedQueryAttention, Kernels, Tensors
from vidcap_cli.models.weights import to_tensor

# Sparse modes of CANN's attention: what the mask says.
_GIVEN, _CAUSAL, _CAUSAL_AT_END = 0, 2, 3
_COMPRESSED = 2048  # rows of the one mask that stands for causal ones of any size


class AscendKernels(Kernels):
    """Fused operators; nothing is brought into another form for their sake."""

    gate_tensors = 1

    def __init__(self) -> None:
        super().__init__()
        self.scatter = KVCacheScatterUpdate()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Product and bias in one."""
        return ops.dense(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """In float32 within the kernel."""
        return ops.rms_norm(x, weight, eps)[0]

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Both in one."""
        normed, _, total = ops.add_rms_norm(x, delta, weight, eps)
        return total, normed

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """In float32 within the kernel."""
        return mint.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def swiglu(self, x: Tensor, gate: Tensors, bias: Tensors = ()) -> Tensor:
        """The two products in one."""
        if len(bias) == 0:
            return ops.swiglu(self.linear(x, gate[0]), -1)
        return ops.swiglu(self.linear(x, gate[0], bias[0]), -1)

    def rope_tables(self, cos: Array, sin: Array, heads: int, dtype: Any) -> tuple[Tensor, Tensor]:
        """``[1, n, 1, D]``: the same for all heads."""
        del heads
        return to_tensor(cos[None, :, None], dtype), to_tensor(sin[None, :, None], dtype)

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
        """Over ``[1, n, heads, D]``, in the dtype of the tables."""
        heads = x.reshape(1, x.shape[0], -1, head_dim)
        if x.dtype == cos.dtype:
            return ops.rotary_position_embedding(heads, cos, sin).reshape(x.shape)
        turned = ops.rotary_position_embedding(heads.astype(cos.dtype), cos, sin)
        return turned.astype(x.dtype).reshape(x.shape)

    def vit_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, batch: int, heads: int, mask: Tensor | None
    ) -> Tensor:
        """Heads stay where they are."""
        rows, width = q.shape
        sequences = (batch, rows // batch, width)
        attended = attention(
            q.reshape(sequences), k.reshape(sequences), v.reshape(sequences), mask,
            heads=heads, scale=(width // heads) ** -0.5,
        )  # fmt: skip
        return attended.reshape(rows, width)

    def patch_mask(self, patches: int, padded: int, batch: int, heads: int) -> Tensor | None:
        """``[n, n]``, the only form that the kernel takes for all sequences at once."""
        del batch, heads
        if patches == padded:
            return None
        return Tensor(np.tile(np.arange(padded) >= patches, (padded, 1)))

    def window_mask(self, windows: Array, padded: int, batch: int, heads: int) -> Tensor:
        """``[n, n]`` as ``patch_mask``'s: the kernel for sequences of many lengths takes these as
        numbers in the graph, which would be compiled for every size of a frame.
        """
        del batch, heads
        lengths = np.repeat(windows[:, 1], windows[:, 0])
        window = np.repeat(np.arange(len(lengths)), lengths)
        window = np.pad(window, (0, padded - len(window)), constant_values=len(lengths))
        return Tensor(window[:, None] != window)

    def vit_score_bytes(self, batch: int, sequence: int, heads: int) -> int:
        """Of flash attention only the mask."""
        del batch, heads
        return sequence * sequence

    def grouped_query_attention(self, config: DecoderConfig, dtype: Any) -> "AscendAttention":
        """The kernel for steps takes 16 bits alone."""
        return AscendAttention(config, dtype)

    def gather(self, table: Tensor, index: Tensor) -> Tensor:
        """One operator for both dtypes of ``index``."""
        return mint.index_select(table, 0, index)

    def argmax(self, logits: Tensor) -> Tensor:
        """Of the last axis."""
        return mint.argmax(logits, -1)

    def log_prob(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Of the last axis."""
        scores = mint.nn.functional.log_softmax(logits, -1)
        return mint.gather(scores, 1, ids.reshape(-1, 1)).reshape(-1)

    def split(self, x: Tensor, size: int | tuple[int, ...], axis: int) -> Tensors:
        """Copies: the kernels that follow read rows that lie together."""
        pieces: Tensors = mint.split(x, size, axis)
        return pieces

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """One operator."""
        return parts[0] if len(parts) == 1 else ops.concat(parts, axis)

    def new_cache(self, name: str, shape: tuple[int, int, int], dtype: Any) -> Cache:
        """``[B, 1, length, D]``: what updates it takes four axes."""
        slots, length, width = shape
        return (Parameter(ops.zeros((slots, 1, length, width), dtype), name=name),)

    def cache_index(self, lengths: NDArray[np.int64], length: int) -> Tensor:
        """Tokens that are there."""
        del length
        return Tensor(lengths.astype(np.int64))

    def update_cache(self, cache: Cache, index: Tensor, new: Tensor) -> Tensor:
        """In place; what reads waits for it."""
        slots, width = new.shape
        kept = cache[0]
        done = self.scatter(kept, index, new.reshape(slots, 1, 1, width), -2, "update")
        return ops.depend(kept, done).reshape(slots, -1, width)

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """Copied into views."""
        for (cache,), tensor in zip(caches, new, strict=True):
            rows, tokens, _ = tensor.shape
            part = mint.narrow(mint.narrow(cache, 0, first, rows), 2, 0, tokens)
            part.copy_(tensor.reshape(part.shape))


class AscendAttention(GroupedQueryAttention):
    """Keys and values stay as the projections give them, ``[1, T, kv_heads * D]``, and the cache
    has a row for each slot.
    """

    def __init__(self, config: DecoderConfig, dtype: Any) -> None:
        super().__init__(config)
        self.cache_rows, self.cache_width = 1, config.kv_heads * config.head_dim
        self.half = dtype != ms.float32
        later = np.triu(np.ones((_COMPRESSED, _COMPRESSED), np.bool_), 1)
        self.later_tokens = Tensor(later)  # one for all lengths

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, mode: int) -> Tensor:
        """``[B, n, heads * D]`` with keys and values ``[B, m, kv_heads * D]``."""
        return attention(q, k, v, mask, heads=self.heads, scale=self.scale, mode=mode)

    def by_head(self, x: Tensor) -> Tensor:
        """Only an axis more."""
        return x.reshape(1, x.shape[0], x.shape[1])

    def by_token(self, attended: Tensor) -> Tensor:
        """Only an axis less."""
        return attended.reshape(attended.shape[1], attended.shape[2])

    def token(self, q: Tensor, row: Tensor) -> Tensor:
        """A row of the second axis."""
        return mint.index_select(q, 1, row).reshape(1, q.shape[2])

    def causal(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Tensors
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is hidden is not computed."""
        keys, values = self.by_head(k), self.by_head(v)
        attended = self.attend(self.by_head(q), keys, values, masks[0], _CAUSAL)
        return self.by_token(attended), keys, values

    def later(
        self, q: Tensor, *, k: Tensor, past: Tensor, keys: Tensor, values: Tensor, masks: Tensors
    ) -> Tensor:
        """The last query sees all keys."""
        del k, past
        return self.attend(q, keys, values, masks[0], _CAUSAL_AT_END)

    def last(self, q: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """One query."""
        return self.by_token(self.attend(self.by_head(q), keys, values, padding, _GIVEN))

    def step(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The kernel for single queries, which reads the cache in parts at once."""
        slots, width = q.shape
        q = q.reshape(slots, 1, width)
        if self.half:
            attended = ops.incre_flash_attention(
                q, [keys], [values], attn_mask=mask, num_heads=self.heads, input_layout="BSH",
                scale_value=self.scale, num_key_value_heads=self.kv_heads,
            )  # fmt: skip
        else:
            attended = self.attend(q, keys, values, mask, _GIVEN)
        return attended.reshape(slots, width)

    def first_masks(self, rows: int) -> list[Tensor]:
        """The mode says how much of it counts."""
        del rows
        return [self.later_tokens]

    def later_masks(self, rows: int) -> list[Tensor]:
        """The same."""
        return self.first_masks(rows)

    def padding_mask(self, length: int, padded: int) -> Tensor:
        """``[1, 1, 1, n]``."""
        return Tensor((np.arange(padded) >= length).reshape(1, 1, 1, -1))

    def step_mask(self, last: Tensor, length: int) -> Tensor:
        """``[S, 1, 1, length]``."""
        return ops.arange(length).reshape(1, 1, 1, length) > last.reshape(-1, 1, 1, 1)

    def score_bytes(self, rows: int, length: int) -> int:
        """Flash attention keeps no scores."""
        del rows, length
        return 0


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None,
    *, heads: int, scale: float, mode: int = _GIVEN,
) -> Tensor:  # fmt: skip
    """Flash attention (Dao et al. 2022) of ``[B, n, heads * D]`` with keys and values
    ``[B, m, kv_heads * D]``.

    ``mask`` is true where nothing is seen: of a causal ``mode`` the compressed one.
    """
    return ops.flash_attention_score(
        q, k, v, heads, attn_mask=mask, scalar_value=scale, input_layout="BSH", sparse_mode=mode
    )
