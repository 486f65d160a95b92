"""What every flavour of the kernels gives, and the mathematics it computes."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.weights import to_tensor

Array = NDArray[Any]
Tensors = tuple[Tensor, ...]
# Keys, or values, of a layer: what is read comes first, what is written last.
Cache = tuple[Tensor, ...]
_LOWEST = -3e38  # below every logit in float32
_MULTIPLE, _FEW = 64, 512


class Kernels(nn.Cell):  # type: ignore[misc]
    """Rows are ``[n, width]``, weights ``[out, in]``; norms and softmax are in float32."""

    cache_tensors = 1  # tensors in a Cache
    layer_in_one = False  # whether a decode step has ``step_layer`` for each layer
    gate_tensors = 2  # tensors that hold W_gate and W_up of an MLP: two, or one above the other
    multiple_of_many = _MULTIPLE  # as ``padded`` has it of more than _FEW rows

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def padded(self, rows: int) -> int:
        """Host: as how many ``rows`` are to be computed, so that graphs are compiled for few
        numbers of them.
        """
        multiple = _MULTIPLE if rows <= _FEW else self.multiple_of_many
        return -(-rows // multiple) * multiple

    def numbers(self, dtype: Any) -> Any:
        """Host: what rows are of when weights are kept in ``dtype``."""
        return dtype

    def weight(self, array: Array, dtype: Any) -> Tensor:
        """Host: ``array`` ``[out, in]`` as ``linear``, ``swiglu_mlp`` and ``embed`` take it."""
        return to_tensor(array, dtype)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x W^T + b``."""
        raise NotImplementedError

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``h sigmoid(1.702 h)`` of ``h = x W^T + b`` (Hendrycks and Gimpel 2016)."""
        inner = self.linear(x, weight, bias)
        return inner * ops.sigmoid(inner * 1.702)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """GELU, with erf, of ``x W^T + b``."""
        return ops.gelu(self.linear(x, weight, bias), approximate="none")

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """``x W^T + b + residual``."""
        return residual + self.linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm (Zhang and Sennrich 2019)."""
        raise NotImplementedError

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """``x + delta``, and its RMSNorm."""
        raise NotImplementedError

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Layer normalisation (Ba et al. 2016)."""
        raise NotImplementedError

    def swiglu(self, x: Tensor, gate: Tensors, bias: Tensors = ()) -> Tensor:
        """``silu(W_gate x + b_gate) * (W_up x + b_up)`` (Shazeer 2020); ``gate``, and ``bias`` if
        any, are ``gate_tensors``.
        """
        raise NotImplementedError

    def swiglu_mlp(self, x: Tensor, gate: Tensors, down: Tensor) -> Tensor:
        """``W_down swiglu(x)``."""
        return self.linear(self.swiglu(x, gate), down)

    def rope_tables(self, cos: Array, sin: Array, heads: int, dtype: Any) -> tuple[Tensor, Tensor]:
        """Host: cosines and sines ``[n, D]`` as ``qkv_split`` takes them for ``heads``."""
        raise NotImplementedError

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
        """Rotary position embedding (Su et al. 2021) of all heads ``[n, heads * D]``."""
        raise NotImplementedError

    def qkv_split(self, q_width: int, kv_width: int, head_dim: int) -> "QkvSplit":
        """Host: what takes apart the joined projections of attention."""
        return QkvSplit(self, q_width, kv_width, head_dim)

    def vit_attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, batch: int, heads: int, mask: Tensor | None
    ) -> Tensor:
        """Attention (Vaswani et al. 2017) within each of ``batch`` sequences,
        ``[batch * n, heads * D]``; ``mask`` is ``patch_mask``'s or ``window_mask``'s.
        """
        raise NotImplementedError

    def self_attention(
        self, qkv: Tensor, rope: Tensors, split: "QkvSplit",
        *, batch: int, heads: int, mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """``vit_attention`` of joined projections ``[batch * n, 3 * heads * D]``; ``rope`` as
        ``split`` takes it.
        """
        q, k, v = split(qkv, rope)
        return self.vit_attention(q, k, v, batch=batch, heads=heads, mask=mask)

    def patch_mask(self, patches: int, padded: int, batch: int, heads: int) -> Tensor | None:
        """Host: what hides all but the first ``patches`` of ``padded``; None hides nothing."""
        raise NotImplementedError

    def window_mask(self, windows: Array, padded: int, batch: int, heads: int) -> Tensor:
        """Host: what keeps patches to their window. ``windows`` ``[kinds, 2]`` are (how many, of
        how many patches), one after the other; the rest of ``padded`` is in none.
        """
        raise NotImplementedError

    def vit_score_bytes(self, batch: int, sequence: int, heads: int) -> int:
        """What ``vit_attention`` takes besides its rows at most, its mask included."""
        raise NotImplementedError

    def grouped_query_attention(self, config: DecoderConfig, dtype: Any) -> "GroupedQueryAttention":
        """That of a language model."""
        raise NotImplementedError

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        """Rows of a weight."""
        return self.gather(table, ids)

    def gather(self, table: Tensor, index: Tensor) -> Tensor:
        """Rows of ``table``."""
        raise NotImplementedError

    def argmax(self, logits: Tensor) -> Tensor:
        """The largest of each row."""
        raise NotImplementedError

    def log_prob(self, logits: Tensor, ids: Tensor) -> Tensor:
        """The log-softmax ``[n]`` of ``logits`` ``[n, vocab]`` at ``ids`` ``[n]``, as ``argmax``
        gives them.
        """
        raise NotImplementedError

    def penalised(self, logits: Tensor, factors: Tensor) -> Tensor:
        """Logits of tokens that cost what ``factors`` say: divided by them if positive, else times
        them; where the factor is 0 below all others. Both are ``[n, vocab]``.
        """
        less = ops.where(logits < 0, logits * factors, logits / factors)
        lowest = logits * 0.0 + _LOWEST  # ops.full_like has no aclnn kernel
        return ops.where(factors > 0, less, lowest)

    def split(self, x: Tensor, size: int | tuple[int, ...], axis: int) -> Tensors:
        """``x`` in pieces of ``size``, the last perhaps smaller, or of these sizes."""
        raise NotImplementedError

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """``parts`` one after the other."""
        raise NotImplementedError

    def cache_itemsize(self, dtype: Any) -> int:
        """Host: bytes of a number in a cache of a decoder whose rows are of ``dtype``."""
        return 4 if dtype == ms.float32 else 2

    def new_cache(self, name: str, shape: tuple[int, int, int], dtype: Any) -> Cache:
        """Host: an empty cache ``[B, length, D]``."""
        raise NotImplementedError

    def cache_index(self, lengths: NDArray[np.int64], length: int) -> Tensor:
        """Host: where in a cache of ``length`` tokens each of B rows appends one."""
        raise NotImplementedError

    def step_layer(
        self, x: Tensor, rope: Tensors, mask: Tensor, eps: float, tensors: Tensors
    ) -> Tensor:
        """A layer of a decode step, from one residual stream ``[S, hidden]`` to the next: what
        ``DecoderGraphs.step_layer`` has in parts. ``tensors`` are the layer's, and its caches.
        """
        raise NotImplementedError

    def update_cache(self, cache: Cache, index: Tensor, new: Tensor) -> Tensor:
        """What ``cache`` holds ``[B, length, D]`` once ``new`` ``[B, D]`` is written."""
        raise NotImplementedError

    def read_cache(self, cache: Cache, first: int, rows: int, tokens: int) -> Tensor:
        """Host: the first ``tokens`` of ``rows`` rows from ``first`` on ``[rows, tokens, D]``."""
        whole = cache[0].reshape(-1, *cache[0].shape[-2:])
        return whole[first : first + rows, :tokens]

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """Host: write ``[b, n, D]`` to the first n tokens of b rows from ``first`` on."""
        raise NotImplementedError


class QkvSplit(nn.Cell):  # type: ignore[misc]
    """Rows ``[n, q_width + 2 * kv_width]`` as queries, keys and values, the first two with their
    rotary positions if ``rope`` has their tables.
    """

    def __init__(self, kernels: Kernels, q_width: int, kv_width: int, head_dim: int) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = kernels
        self.q_width, self.kv_width, self.head_dim = q_width, kv_width, head_dim

    def construct(self, qkv: Tensor, rope: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys are turned at once."""
        split, both = self.kernels.split, self.q_width + self.kv_width
        if len(rope) == 0:
            q, k, v = split(qkv, (self.q_width, self.kv_width, self.kv_width), -1)
            return q, k, v
        qk, v = split(qkv, (both, self.kv_width), -1)
        qk = self.kernels.apply_rope(qk, rope[0], rope[1], self.head_dim)
        q, k = split(qk, (self.q_width, self.kv_width), -1)
        return q, k, v


class GroupedQueryAttention(nn.Cell):  # type: ignore[misc]
    """``softmax(q k^T / sqrt(D)) v`` where several heads of queries share keys and values
    (Ainslie et al. 2023).

    Rows are ``[T, heads * D]`` of queries and ``[T, kv_heads * D]`` of keys and values. By head
    they lie as the flavour reads them: keys and values ``[cache_rows, T, cache_width]``.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.group = config.heads // config.kv_heads
        self.scale = config.head_dim**-0.5
        self.cache_rows, self.cache_width = config.kv_heads, config.head_dim

    def by_head(self, x: Tensor) -> Tensor:
        """Rows as ``later`` takes them and caches keep them."""
        raise NotImplementedError

    def queries(self, q: Tensor) -> Tensor:
        """Rows of queries as ``later`` and ``token`` take them."""
        return self.by_head(q)

    def by_token(self, attended: Tensor) -> Tensor:
        """``later``'s result as rows."""
        raise NotImplementedError

    def token(self, q: Tensor, row: Tensor) -> Tensor:
        """The queries ``[1, heads * D]`` of one token ``row`` ``[1]``, from those by head."""
        raise NotImplementedError

    def causal(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Tensors
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows, each of which sees those before it: what they see, keys and values by head."""
        raise NotImplementedError

    def later(
        self, q: Tensor, *, k: Tensor, past: Tensor, keys: Tensor, values: Tensor, masks: Tensors
    ) -> Tensor:
        """Of queries and keys by head after those of the ``past``, which all see; ``keys`` and
        ``values`` are those of both.
        """
        raise NotImplementedError

    def last(self, q: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """Of a single row, which sees what ``padding`` does not hide, ``[1, heads * D]``."""
        raise NotImplementedError

    def step(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Of a row for each slot, with caches; ``[S, heads * D]``."""
        raise NotImplementedError

    def first_masks(self, rows: int) -> list[Tensor]:
        """Host: for ``causal``."""
        raise NotImplementedError

    def later_masks(self, rows: int) -> list[Tensor]:
        """Host: for ``later``."""
        raise NotImplementedError

    def padding_mask(self, length: int, padded: int) -> Tensor:
        """Host: for ``last``, hides all but the first ``length`` tokens."""
        raise NotImplementedError

    def step_mask(self, last: Tensor, length: int) -> Tensor:
        """For ``step``, in its graph: hides what comes after ``last`` ``[S * cache_rows, 1, 1]``
        in caches of ``length``.
        """
        raise NotImplementedError

    def score_bytes(self, rows: int, length: int) -> int:
        """What a block of ``rows`` of a prompt of ``length`` takes besides its rows at most."""
        raise NotImplementedError
