"""The vision tower of Qwen2.5-VL: Qwen2-VL's with windows, RMSNorm and SwiGLU.

In most layers patches attend to those of their own window alone. Patches go through the tower
window by window, and their embeddings are found again by number.

Source: transformers 4.57 ``modeling_qwen2_5_vl.py``, ``Qwen2_5_VisionTransformerPretrainedModel``.
"""

from dataclasses import replace

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from vidcap_cli.models.qwen2vl_vision import EPS, Graphs, Qwen2VLVision, read_mlp
from vidcap_cli.models.vision_config import Qwen25VLVisionConfig
from vidcap_cli.models.vit import Tensors, ViTBlock, gelu_mlp
from vidcap_cli.models.weights import Weights
from vidcap_cli.models.windows import window_order

_LINE = 16  # float32 numbers of a line of memory
# Tensors of a layer by their places; last come the gate's weights, then its biases.
_NORM1, _NORM2, _QKV, _QKV_BIAS, _OUT, _OUT_BIAS, _DOWN, _DOWN_BIAS, _GATE = range(9)


class Qwen25VLVision(Qwen2VLVision):
    """The tower, its weights read by their names in ``Qwen25VLVisionConfig.shapes``."""

    config: Qwen25VLVisionConfig

    def read_block(self, weights: Weights, block: str) -> Tensors:
        """The tensors of a layer at their places."""
        attention, mlp = f"{block}.attn", f"{block}.mlp"
        inner = replace(weights, read=lambda name: _filled_up(name, weights.read(name)))
        names = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
        gates = [names] if self.kernels.gate_tensors == 1 else [(name,) for name in names]
        return (
            *(weights.tensor(f"{block}.{norm}.weight") for norm in ("norm1", "norm2")),
            *weights.pair(f"{attention}.qkv"),
            *weights.pair(f"{attention}.proj"),
            *inner.pair(f"{mlp}.down_proj"),
            *(
                inner.tensor(*(f"{name}.{kind}" for name in some))
                for kind in ("weight", "bias")
                for some in gates
            ),
        )

    def read_merger(self, weights: Weights) -> Tensors:
        """The tensors of the merger: a norm, then an MLP."""
        return weights.tensor("merger.ln_q.weight"), *read_mlp(weights)

    def graphs(self, block: int, merger: int) -> Graphs:
        """What is compiled."""
        return _WindowedGraphs(self.config, self.sharding, self.heads, block, merger)

    def order(self, height: int, width: int) -> NDArray[np.int64] | None:
        """Window by window."""
        return window_order(height, width, self.config.merge, self.config.window)[0]

    def masks(self, height: int, width: int, padded: int, group: int) -> list[Tensor]:
        """Windows, and in some layers one window."""
        config = self.config
        windows = window_order(height, width, config.merge, config.window)[1]
        near, far = (
            self.kernels.window_mask(some, padded, group, self.heads)
            for some in (windows, np.array([[1, height * width]]))
        )
        return [far if index in config.whole else near for index in range(config.depth)]


def _filled_up(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A tensor of an MLP whose inner numbers, 3,420 in the checkpoints, are filled up to lines of
    memory. Those that are added are 0, and change nothing.
    """
    if name.endswith("down_proj.bias"):
        return array
    inner = 1 if name.endswith("down_proj.weight") else 0
    fill = [(0, -size % _LINE if axis == inner else 0) for axis, size in enumerate(array.shape)]
    return np.pad(array, fill)


class _SwigluBlock(ViTBlock):
    """Norm, attention, residual, norm, MLP, residual: RMSNorm and SwiGLU."""

    def construct(
        self, x: Tensor, batch: int, block: Tensors,
        rope: Tensors = (), mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As ``ViTBlock``."""
        count = self.kernels.gate_tensors
        normed = self.kernels.rms_norm(x, block[_NORM1], self.eps)
        attended = self.attend(normed, batch, block[_QKV : _QKV_BIAS + 1], rope, mask)
        x = self.sharding.linear_add(attended, block[_OUT], block[_OUT_BIAS], x)
        normed = self.kernels.rms_norm(x, block[_NORM2], self.eps)
        gate, bias = block[_GATE : _GATE + count], block[_GATE + count :]
        inner = self.kernels.swiglu(normed, gate, bias)
        return self.sharding.linear_add(inner, block[_DOWN], block[_DOWN_BIAS], x)


class _WindowedGraphs(Graphs):
    """What is compiled."""

    block_of = _SwigluBlock

    def merge(self, x: Tensor, tensors: Tensors) -> Tensor:
        """Four neighbours become one embedding: ``[N, W]`` to ``[N / 4, out]``."""
        x = self.kernels.rms_norm(x, tensors[0], EPS)
        return gelu_mlp(self.kernels, x.reshape(-1, self.merged), tensors[1:])
