"""The flavour for CPU with the package's own kernels in C (``vidcap_cli/native``).

Weights are kept in 16 or 32 bits, rows are float32. What the kernels do not cover is as MindSpore
computes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.kernels.cpu import CpuAttention, CpuKernels
from vidcap_cli.models.kernels.seam import Array, Cache, QkvSplit, Tensors
from vidcap_cli.models.weights import to_tensor
from vidcap_cli.native import packed, round_into, rounds_rows, widened, zeros

Shape = list[int]
_WINDOW_KINDS = 4  # whole ones, those at the right edge, at the lower edge, and in the corner


class NativePieces(CpuKernels):
    """A kernel for what takes MindSpore several, and products as fast as memory gives weights."""

    # One more graph takes 0.4 s, once; 48 rows more 0.3 s, each time (Qwen2-VL-2B on two cores).
    multiple_of_many = 16

    def __init__(self, library: Path) -> None:
        super().__init__()

        self.library = library
        kernel = self.kernel
        self.product = kernel("linear", _product_shape)
        self.quick_gelu = kernel("linear_quick_gelu", _product_shape)
        self.gelu = kernel("linear_gelu", _product_shape)
        self.added = kernel("linear_add", _product_shape)
        self.gated = kernel("swiglu", lambda x, gate, *_: _product_shape(x, gate))
        self.rows_of = kernel("embedding", lambda table, ids: [ids[0], table[1]])
        self.normed = kernel("rms_norm", _first_shape)
        self.added_normed = kernel("add_rms_norm", lambda x, *_: (x, x), (ms.float32, ms.float32))
        self.centered = kernel("layer_norm", _first_shape)
        self.largest = kernel("argmax", lambda x: [x[0]], ms.int32)
        self.scored = kernel("log_prob", lambda x, _ids: [x[0]])
        self.priced = kernel("penalised", _first_shape)
        self.tower_attention = kernel("tower_attention", _attended_shape)
        self.windowed_attention = kernel("window_attention", _attended_shape)
        self.prompt_attention = kernel("prompt_attention", _first_shape)
        self.last_attention = kernel("step_attention", _first_shape)

    def kernel(self, name: str, shape: Any, dtype: Any = ms.float32) -> ops.Custom:
        """One of ``kernels.c``; ``shape`` tells the shapes of results from those of inputs."""
        return ops.Custom(f"{self.library}:{name}", shape, dtype, func_type="aot")

    def numbers(self, dtype: Any) -> Any:
        """Rows are float32 whatever the weights are."""
        del dtype
        return ms.float32

    def weight(self, array: NDArray[np.float32], dtype: Any) -> Tensor:
        """By panels of rows, in memory that MindSpore shares."""
        return Tensor.from_numpy(packed(array, str(dtype).lower()))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Product and bias in one."""
        return self.product(x, weight) if bias is None else self.product(x, weight, bias)

    def linear_quick_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """One pass over the result, while the cache holds it."""
        return self.quick_gelu(x, weight, bias)

    def linear_gelu(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The same."""
        return self.gelu(x, weight, bias)

    def linear_add(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        """The same."""
        return self.added(x, weight, bias, residual)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """One pass over the rows."""
        return self.normed(x, weight, ops.scalar_to_tensor(eps, ms.float32))

    def add_rms_norm(
        self, x: Tensor, delta: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Both in one."""
        total, normed = self.added_normed(x, delta, weight, ops.scalar_to_tensor(eps, ms.float32))
        return total, normed

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """One pass over the rows."""
        return self.centered(x, weight, bias, ops.scalar_to_tensor(eps, ms.float32))

    def swiglu(self, x: Tensor, gate: Tensors, bias: Tensors = ()) -> Tensor:
        """Both products and what joins them in one."""
        if len(bias) == 0:
            return self.gated(x, gate[0], gate[1])
        return self.gated(x, gate[0], gate[1], bias[0], bias[1])

    def rope_tables(self, cos: Array, sin: Array, heads: int, dtype: Any) -> tuple[Tensor, Tensor]:
        """``[n, D]``: the same for all heads."""
        del heads
        return to_tensor(cos, dtype), to_tensor(sin, dtype)

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor, head_dim: int) -> Tensor:
        """Not apart: these tables are for ``qkv_split``, and MindSpore's way takes others."""
        raise NotImplementedError

    def qkv_split(self, q_width: int, kv_width: int, head_dim: int) -> QkvSplit:
        """One pass over the rows."""
        return NativeQkvSplit(self, q_width, kv_width, head_dim)

    def self_attention(
        self, qkv: Tensor, rope: Tensors, split: QkvSplit,  # noqa: ARG002
        *, batch: int, heads: int, mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Block by block, without a matrix of scores; rows are taken apart, and turned, when their
        block comes.
        """
        rows, width = qkv.shape
        qkv = qkv.reshape(batch, rows // batch, 3, heads, width // (3 * heads))
        seen = ops.scalar_to_tensor(rows // batch, ms.int32) if mask is None else mask
        windowed = mask is not None and len(mask.shape) == 2
        attention = self.windowed_attention if windowed else self.tower_attention
        return attention(qkv, *rope, seen).reshape(rows, -1)

    def patch_mask(self, patches: int, padded: int, batch: int, heads: int) -> Tensor | None:
        """How many patches are seen; also where that is all: one graph for both."""
        del padded, batch, heads
        return Tensor(np.array([patches], np.int32))

    def window_mask(self, windows: Array, padded: int, batch: int, heads: int) -> Tensor:
        """``windows``, filled up to the four kinds that a frame may have: one graph for all."""
        del padded, batch, heads
        fill = ((0, max(0, _WINDOW_KINDS - len(windows))), (0, 0))
        return Tensor(np.pad(windows, fill).astype(np.int32))

    def vit_score_bytes(self, batch: int, sequence: int, heads: int) -> int:
        """No more than the rows by head of other flavours, which are counted as rows."""
        del batch, sequence, heads
        return 0

    def argmax(self, logits: Tensor) -> Tensor:
        """Of equal ones the first."""
        return self.largest(logits)

    def log_prob(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Two passes over the rows, nothing kept."""
        return self.scored(logits, ids)

    def penalised(self, logits: Tensor, factors: Tensor) -> Tensor:
        """One pass; MindSpore's takes 35 ms for 16 rows of 150,000."""
        return self.priced(logits, factors)

    def embed(self, table: Tensor, ids: Tensor) -> Tensor:
        """From panels to rows."""
        return self.rows_of(table, ids)

    def grouped_query_attention(self, config: DecoderConfig, dtype: Any) -> "NativeAttention":
        """The same for all dtypes."""
        del dtype
        return NativeAttention(config, self)


class NativeKernels(NativePieces):
    """A layer of a decode step in one, where no sums of other ranks come between its parts."""

    layer_in_one = True
    cache_tensors = 1

    def __init__(self, library: Path) -> None:
        super().__init__(library)

        self.layer_step = self.kernel("decoder_layer_step", _first_shape)

    def step_layer(
        self, x: Tensor, rope: Tensors, mask: Tensor, eps: float, tensors: Tensors
    ) -> Tensor:
        """One kernel: MindSpore takes 70 us between two, a quarter of the time of a step of one
        slot with those of Qwen2-VL-2B.
        """
        return self.layer_step(x, *rope, mask, ops.scalar_to_tensor(eps, ms.float32), *tensors)

    def cache_itemsize(self, dtype: Any) -> int:
        """Where products round their rows, keys and values are kept rounded: half of what steps
        read of them.
        """
        del dtype
        return 2 if rounds_rows() else 4

    def new_cache(self, name: str, shape: tuple[int, int, int], dtype: Any) -> Cache:
        """In memory that MindSpore shares: ``step_layer`` writes to it, and so does numpy.

        No operator may read it outside graphs: that has a copy made, to which graphs then keep.
        """
        del name
        numbers = np.uint16 if self.cache_itemsize(dtype) == 2 else np.float32
        return (Tensor.from_numpy(zeros(shape, numbers)),)

    def read_cache(self, cache: Cache, first: int, rows: int, tokens: int) -> Tensor:
        """A copy."""
        kept = cache[0].asnumpy()[first : first + rows, :tokens]
        return Tensor(widened(kept) if kept.dtype == np.uint16 else kept)

    def fill_cache(self, caches: Sequence[Cache], first: int, new: Sequence[Tensor]) -> None:
        """In place."""
        for (cache,), tensor in zip(caches, new, strict=True):
            rows, tokens, _ = tensor.shape
            kept = cache.asnumpy()[first : first + rows, :tokens]
            if kept.dtype == np.uint16:
                round_into(tensor.asnumpy(), kept)
            else:
                kept[:] = tensor.asnumpy()


class NativeQkvSplit(QkvSplit):
    """Splits and turns in one."""

    def __init__(self, kernels: NativePieces, q_width: int, kv_width: int, head_dim: int) -> None:
        super().__init__(kernels, q_width, kv_width, head_dim)
        self.native = kernels.kernel(
            "split_qkv",
            lambda qkv, *_: ([qkv[0], q_width], [qkv[0], kv_width], [qkv[0], kv_width]),
            (ms.float32, ms.float32, ms.float32),
        )

    def construct(self, qkv: Tensor, rope: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """The tables are ``[n, D]``."""
        q, k, v = self.native(qkv, *rope)
        return q, k, v


class NativeAttention(CpuAttention):
    """No scores are kept, and no masks needed. Queries stay rows; keys and values lie by head,
    ``[kv_heads, T, D]``.
    """

    def __init__(self, config: DecoderConfig, kernels: NativePieces) -> None:
        super().__init__(config, kernels)
        self.prompt, self.one = kernels.prompt_attention, kernels.last_attention

    def queries(self, q: Tensor) -> Tensor:
        """As they are."""
        return q

    def by_token(self, attended: Tensor) -> Tensor:
        """They are."""
        return attended

    def token(self, q: Tensor, row: Tensor) -> Tensor:
        """A row."""
        return self.kernels.gather(q, row)

    def causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        masks: Tensors,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is hidden is not computed."""
        keys, values = self.by_head(k), self.by_head(v)
        return self.prompt(q, keys, values), keys, values

    def later(
        self, q: Tensor, *, k: Tensor, past: Tensor, keys: Tensor, values: Tensor, masks: Tensors
    ) -> Tensor:
        """The last query sees all keys."""
        del k, past, masks
        return self.prompt(q, keys, values)

    def last(self, q: Tensor, keys: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """A step of one slot."""
        return self.one(q, keys, values, padding)

    def step(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Reads no more of the caches than is there; ``mask`` is the last token to look at."""
        return self.one(q, keys, values, mask)

    def first_masks(self, rows: int) -> list[Tensor]:
        """None."""
        del rows
        return []

    def later_masks(self, rows: int) -> list[Tensor]:
        """None."""
        del rows
        return []

    def padding_mask(self, length: int, padded: int) -> Tensor:
        """The last token, for each head of keys."""
        del padded
        return Tensor(np.full((self.kv_heads, 1, 1), length - 1, np.int32))

    def step_mask(self, last: Tensor, length: int) -> Tensor:  # noqa: ARG002
        """Nothing to prepare."""
        return last

    def score_bytes(self, rows: int, length: int) -> int:
        """Keys and values once more, as the kernel takes them."""
        del rows
        return 2 * 4 * self.kv_heads * length * -(-self.head_dim // 32) * 32


def _product_shape(x: Shape, weight: Shape, *_bias: Shape) -> Shape:
    return [x[0], weight[0]]


def _first_shape(x: Shape, *_others: Shape) -> Shape:
    return x


def _attended_shape(qkv: Shape, *_others: Shape) -> Shape:
    return [*qkv[:2], *qkv[3:]]
