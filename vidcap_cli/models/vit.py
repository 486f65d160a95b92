"""What the vision towers share: the transformer block, and how much goes through one at a time.

Source: Dosovitskiy et al. 2021, as in transformers 4.57 ``modeling_clip.py`` and
``modeling_qwen2_vl.py``.
"""

from mindspore import Tensor, nn

from vidcap_cli.models.kernels import Kernels
from vidcap_cli.models.sharding import Whole
from vidcap_cli.models.weights import Weights

# Tensors of a block by their places.
NORM1, NORM1_BIAS, NORM2, NORM2_BIAS, QKV, QKV_BIAS, OUT, OUT_BIAS = range(8)
FC1, FC1_BIAS, FC2, FC2_BIAS = range(8, 12)
BLOCK = 12
MLP = 4  # of an MLP alone: two weights with their biases

Tensors = tuple[Tensor, ...]


class ViTBlock(nn.Cell):  # type: ignore[misc]
    """Norm, attention, residual, norm, MLP, residual, over B sequences of n patches; W wide.

    The ``heads``, and the numbers of the MLP, are those of this rank.
    """

    def __init__(self, sharding: Whole, *, heads: int, head_dim: int, eps: float) -> None:
        super().__init__(auto_prefix=False)
        self.kernels, self.sharding = sharding.kernels, sharding
        self.heads, self.eps = heads, eps
        self.qkv_split = self.kernels.qkv_split(heads * head_dim, heads * head_dim, head_dim)

    def construct(
        self, x: Tensor, batch: int, block: Tensors,
        rope: Tensors = (), mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """``[B * n, W]``; ``rope`` are the tables of queries and keys, ``mask`` hides patches that
        must not be seen.
        """
        normed = self.kernels.layer_norm(x, block[NORM1], block[NORM1_BIAS], self.eps)
        attended = self.attend(normed, batch, block[QKV : QKV_BIAS + 1], rope, mask)
        x = self.sharding.linear_add(attended, block[OUT], block[OUT_BIAS], x)
        normed = self.kernels.layer_norm(x, block[NORM2], block[NORM2_BIAS], self.eps)
        inner = self.kernels.linear_quick_gelu(normed, block[FC1], block[FC1_BIAS])
        return self.sharding.linear_add(inner, block[FC2], block[FC2_BIAS], x)

    def attend(
        self, x: Tensor, batch: int, qkv: Tensors, rope: Tensors, mask: Tensor | None
    ) -> Tensor:
        """Self-attention within each sequence, before the output projection."""
        return self.kernels.self_attention(
            self.kernels.linear(x, qkv[0], qkv[1]), rope, self.qkv_split,
            batch=batch, heads=self.heads, mask=mask,
        )  # fmt: skip


def gelu_mlp(kernels: Kernels, x: Tensor, mlp: Tensors) -> Tensor:
    """``W_2 gelu(W_1 x + b_1) + b_2``: what leads to the language model."""
    return kernels.linear(kernels.linear_gelu(x, mlp[0], mlp[1]), mlp[2], mlp[3])


def read_block(
    weights: Weights,
    *,
    norms: tuple[str, str],
    qkv: tuple[str, ...],
    out: str,
    mlp: tuple[str, str],
) -> Tensors:
    """The tensors of a block at their places."""
    dense = (*weights.pair(*qkv), *weights.pair(out))
    return (*_pairs(weights, norms), *dense, *_pairs(weights, mlp))


def _pairs(weights: Weights, names: tuple[str, str]) -> Tensors:
    return (*weights.pair(names[0]), *weights.pair(names[1]))


def group_sizes(total: int, most: int, least: int = 1) -> list[int]:
    """``total`` cut into groups of ``most`` and, of what is left, of ``least``, the last of them
    perhaps not full: two graphs at most, whatever ``total`` is.
    """
    large, rest = divmod(total, most)
    small = -(-rest // least)
    return [most] * large + ([least] * small if small * least < most else [most])


def block_bytes(patches: int, width: int, mlp: int) -> int:
    """What a block takes at most over ``patches``, besides its attention."""
    return 4 * patches * (14 * width + 3 * mlp)
