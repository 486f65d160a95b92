"""The vision tower of LLaVA and PLLaVA: CLIP, the projector, and PLLaVA's pooling.

Frames are independent and go through the tower four at a time, the rest one by one. The layers
after the one whose output is used (the last but one) are neither read nor run. Some layers are one
graph, compiled once for four frames and once for one.

Sources: transformers 4.57 ``modeling_clip.py``, ``modeling_llava.py``; magic-research/PLLaVA
(pooling).
"""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vidcap_cli.models.kernels import (
    Read,
    attention,
    groups,
    in_graphs,
    joined,
    layer_norm,
    linear,
    need,
    to_tensor,
)
from vidcap_cli.models.vision_config import ClipConfig
from vidcap_cli.processors import Size
from vidcap_cli.processors.pllava import Shape, averaging

_FRAMES = 4  # frames that go through the tower together
_EMBED, _LAYER, _PROJECT = 4, 12, 4  # tensors that they take


class ClipVision:
    """Tower and projector, their weights read by their names in ``ClipConfig.shapes``.

    ``pooled`` is PLLaVA's shape of the features of a video, None to keep all of every frame.
    """

    def __init__(self, config: ClipConfig, read: Read, number: Any, pooled: Shape | None) -> None:
        self.config = config
        self._number = number
        self._pooled = pooled
        tower = "vision_tower.vision_model"
        embeddings = f"{tower}.embeddings"
        patch = read(f"{embeddings}.patch_embedding.weight").reshape(config.width, -1)
        positions = read(f"{embeddings}.position_embedding.weight").copy()
        # The class token is the same for every frame; its embedding may be added beforehand.
        positions[0] += read(f"{embeddings}.class_embedding")

        def norm(name: str) -> tuple[Tensor, Tensor]:
            weight, bias = (read(f"{tower}.{name}.{part}") for part in ("weight", "bias"))
            return to_tensor(weight, number), to_tensor(bias, number)

        layers = [
            [
                *norm(f"encoder.layers.{index}.layer_norm1"),
                *norm(f"encoder.layers.{index}.layer_norm2"),
                *_fused(read, f"{tower}.encoder.layers.{index}.self_attn", number),
                *linear(read, f"{tower}.encoder.layers.{index}.self_attn.out_proj", number),
                *linear(read, f"{tower}.encoder.layers.{index}.mlp.fc1", number),
                *linear(read, f"{tower}.encoder.layers.{index}.mlp.fc2", number),
            ]
            for index in range(config.used)
        ]
        self._parts = in_graphs(layers)
        self._parts[0][:0] = (
            to_tensor(patch.T, number),
            to_tensor(positions, number),
            *norm("pre_layrnorm"),
        )
        for part in ("1", "2"):
            self._parts[-1] += _projecting(config, read, part, number)
        self._math = _Math(config)

    def __call__(
        self, vision: Mapping[str, NDArray[Any]]
    ) -> tuple[list[Tensor], NDArray[np.int64]]:
        """Embeddings ``[n, out]`` of the frames in ``pixel_values`` ``[T, 3, side, side]``, in
        parts, and the numbers of those that count: all of them.
        """
        pixels = vision["pixel_values"]
        features = []
        start = 0
        for count in groups(len(pixels), _FRAMES):
            features.append(self._frames(pixels[start : start + count]))
            start += count
        if self._pooled is not None:
            features = [self._pool(joined(features, 0), len(pixels), self._pooled)]
        return features, np.arange(sum(part.shape[0] for part in features))

    def shapes(self, vision: Mapping[str, NDArray[Any]]) -> set[object]:
        """What graphs a video runs through."""
        return {("vision", count) for count in groups(len(vision["pixel_values"]), _FRAMES)}

    def need(self, size: Size) -> int:
        """Bytes that a video takes at most, its pixels included."""
        config = self.config
        group = min(size.patches, _FRAMES * size.sequence)
        working = need(group, size.sequence, config.width, config.mlp, config.heads)
        return working + 4 * size.patches * (2 * 3 * config.patch**2 + 4 * config.out)

    def _frames(self, pixels: NDArray[np.float32]) -> Tensor:
        count, grid, patch = len(pixels), self.config.grid, self.config.patch
        tiles = pixels[:, :, : grid * patch, : grid * patch]
        tiles = tiles.reshape(count, 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
        x = to_tensor(tiles.reshape(count * grid**2, -1), self._number)
        for index, part in enumerate(self._parts):
            first, last = index == 0, index == len(self._parts) - 1
            x = self._math.part(x, count, *part, first=first, last=last)
        return x

    def _pool(self, features: Tensor, frames: int, shape: Shape) -> Tensor:
        """Adaptive average pooling over time, height and width, an axis after the other."""
        grid = self.config.grid
        matrices = [
            to_tensor(averaging(size, target), self._number)
            for size, target in zip((frames, grid, grid), shape, strict=True)
        ]
        pooled: Tensor = self._math.pool(features, *matrices)
        return pooled


def _fused(read: Read, name: str, number: Any) -> tuple[Tensor, Tensor]:
    """Weight ``[W, 3 * W]`` and bias of q, k and v together."""
    weights = [read(f"{name}.{part}_proj.weight").T for part in "qkv"]
    biases = [read(f"{name}.{part}_proj.bias") for part in "qkv"]
    return to_tensor(np.concatenate(weights, 1), number), to_tensor(np.concatenate(biases), number)


def _projecting(config: ClipConfig, read: Read, part: str, number: Any) -> tuple[Tensor, Tensor]:
    name = f"multi_modal_projector.linear_{part}"
    if config.biased:
        return linear(read, name, number)
    weight = read(f"{name}.weight").T
    return to_tensor(weight, number), to_tensor(np.zeros(weight.shape[1]), number)


class _Math(nn.Cell):  # type: ignore[misc]
    """What is compiled. F frames, n features of each with the class token first, W the width."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.width, self.eps = config.heads, config.width, config.eps
        self.head = config.width // config.heads
        self.scale = self.head**-0.5
        self.with_class = config.with_class
        self.matmul = ops.MatMul()
        self.batched = ops.BatchMatMul()

    def embed(
        self, patches: Tensor, frames: int, weight: Tensor, positions: Tensor,
        norm: Tensor, shift: Tensor,
    ) -> Tensor:  # fmt: skip
        """Patches ``[F * (n - 1), 3 * patch^2]`` to what enters the first layer, ``[F * n, W]``."""
        embedded = self.matmul(patches, weight).reshape(frames, -1, self.width)
        first = ops.zeros((frames, 1, self.width), embedded.dtype)
        x = ops.concat((first, embedded), 1) + positions
        return layer_norm(x.reshape(-1, self.width), norm, shift, self.eps)

    @ms.jit
    def part(self, x: Tensor, frames: int, *tensors: Tensor, first: bool, last: bool) -> Tensor:
        """Some layers over ``[F * n, W]``. The ``first`` are given patches, the ``last`` give
        features: their ``tensors`` begin with those of ``embed`` and end with those of ``project``.
        """
        start, end = _EMBED * first, len(tensors) - _PROJECT * last
        if first:
            x = self.embed(x, frames, *tensors[:start])
        for index in range(start, end, _LAYER):
            x = self.layer(x, frames, *tensors[index : index + _LAYER])
        if last:
            x = self.project(x, frames, *tensors[end:])
        return x

    def layer(
        self, x: Tensor, frames: int,
        norm1: Tensor, shift1: Tensor, norm2: Tensor, shift2: Tensor,
        qkv: Tensor, qkv_bias: Tensor, out: Tensor, out_bias: Tensor,
        up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """One layer over ``[F * n, W]``."""
        rows = x.shape[0]
        shape = (frames, rows // frames, self.heads, self.head)
        normed = layer_norm(x, norm1, shift1, self.eps)
        joined = ops.bias_add(self.matmul(normed, qkv), qkv_bias)
        q, k, v = ops.split(joined, self.width, -1)
        attended = attention(q.reshape(shape) * self.scale, k.reshape(shape), v.reshape(shape))
        x = x + ops.bias_add(self.matmul(attended.reshape(rows, self.width), out), out_bias)
        inner = ops.bias_add(self.matmul(layer_norm(x, norm2, shift2, self.eps), up), up_bias)
        inner = inner * ops.sigmoid(inner * 1.702)  # QuickGELU
        return x + ops.bias_add(self.matmul(inner, down), down_bias)

    def project(
        self, x: Tensor, frames: int, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor
    ) -> Tensor:
        """Features of the language model's width, ``[F * n, out]``; n without the class token."""
        x = x.reshape(frames, -1, self.width)
        if not self.with_class:
            # Taking a slice would take several times as long on CPU.
            x = ops.split(x, (1, x.shape[1] - 1), 1)[1]
        x = x.reshape(-1, self.width)
        inner = ops.gelu(ops.bias_add(self.matmul(x, up), up_bias), approximate="none")
        return ops.bias_add(self.matmul(inner, down), down_bias)

    @ms.jit
    def pool(self, x: Tensor, time: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Features ``[T * H * W, out]`` averaged by matrices ``[t, T]``, ``[h, H]``, ``[w, W]``."""
        rows, out = x.shape
        before, after = 1, rows
        for matrix in (time, height, width):
            target, size = matrix.shape
            after = after // size
            matrices = ops.tile(matrix.reshape(1, target, size), (before, 1, 1))
            x = self.batched(matrices, x.reshape(before, size, after * out))
            before = before * target
        return x.reshape(-1, out)
