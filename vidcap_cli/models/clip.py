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

from vidcap_cli.checkpoint.shares import WHOLE, Share
from vidcap_cli.models.kernels import Kernels
from vidcap_cli.models.sharding import Whole, sharding_of
from vidcap_cli.models.vision_config import ClipConfig
from vidcap_cli.models.vit import (
    BLOCK,
    MLP,
    ViTBlock,
    block_bytes,
    gelu_mlp,
    group_sizes,
    read_block,
)
from vidcap_cli.models.weights import Read, Weights, in_graphs, to_tensor
from vidcap_cli.processors import Size
from vidcap_cli.processors.pllava import Shape, averaging

_FRAMES = 4  # frames that go through the tower together
# Tensors that the first layers take besides.
_PATCH, _POSITIONS, _PRE_NORM, _PRE_NORM_BIAS = range(4)
_EMBED = 4


class ClipVision:
    """Tower and projector, their weights read by their names in ``ClipConfig.shapes``: what
    ``share`` has of them.

    ``pooled`` is PLLaVA's shape of the features of a video, None to keep all of every frame.
    """

    def __init__(
        self,
        config: ClipConfig,
        read: Read,
        kernels: Kernels,
        dtype: Any,
        pooled: Shape | None,
        *,
        share: Share = WHOLE,
    ) -> None:
        self.config, self._heads = config, config.heads // share.of
        self._kernels, self._dtype = kernels, kernels.numbers(dtype)
        self._pooled = pooled
        weights = Weights(read, kernels, dtype)
        self._parts = in_graphs([_read_layer(weights, index) for index in range(config.used)])
        self._parts[0][:0] = _read_embeddings(weights, config)
        for part in ("1", "2"):
            name = f"multi_modal_projector.linear_{part}"
            self._parts[-1] += weights.pair(name, biased=config.biased)
        self._graphs = _Graphs(config, sharding_of(kernels, share), self._heads)

    def __call__(
        self, vision: Mapping[str, NDArray[Any]]
    ) -> tuple[list[Tensor], NDArray[np.int64]]:
        """Embeddings ``[n, out]`` of the frames in ``pixel_values`` ``[T, 3, side, side]``, in
        parts, and the numbers of those that count: all of them.
        """
        pixels = vision["pixel_values"]
        features = []
        start = 0
        for count in group_sizes(len(pixels), _FRAMES):
            features.append(self._frames(pixels[start : start + count]))
            start += count
        if self._pooled is not None:
            joined = self._kernels.concat(features, 0)
            features = [self._pool(joined, len(pixels), self._pooled)]
        return features, np.arange(sum(part.shape[0] for part in features))

    def shapes(self, vision: Mapping[str, NDArray[Any]]) -> set[object]:
        """What graphs a video runs through."""
        return {("vision", count) for count in group_sizes(len(vision["pixel_values"]), _FRAMES)}

    def need(self, size: Size) -> int:
        """Bytes that a video takes at most, its pixels included."""
        config = self.config
        group = min(size.patches, _FRAMES * size.sequence)
        scores = self._kernels.vit_score_bytes(group // size.sequence, size.sequence, self._heads)
        working = scores + block_bytes(group, config.width, config.mlp)
        return working + 4 * size.patches * (2 * 3 * config.patch**2 + 4 * config.out)

    def _frames(self, pixels: NDArray[np.float32]) -> Tensor:
        count, grid, patch = len(pixels), self.config.grid, self.config.patch
        tiles = pixels[:, :, : grid * patch, : grid * patch]
        tiles = tiles.reshape(count, 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5)
        x = to_tensor(tiles.reshape(count * grid**2, -1), self._dtype)
        for index, part in enumerate(self._parts):
            first, last = index == 0, index == len(self._parts) - 1
            x = self._graphs.part(x, count, *part, first=first, last=last)
        return x

    def _pool(self, features: Tensor, frames: int, shape: Shape) -> Tensor:
        """Adaptive average pooling over time, height and width, an axis after the other."""
        grid = self.config.grid
        matrices = [
            to_tensor(averaging(size, target), self._dtype)
            for size, target in zip((frames, grid, grid), shape, strict=True)
        ]
        pooled: Tensor = self._graphs.pool(features, *matrices)
        return pooled


_TOWER = "vision_tower.vision_model"


def _read_embeddings(weights: Weights, config: ClipConfig) -> tuple[Tensor, ...]:
    embeddings = f"{_TOWER}.embeddings"
    patch = weights.read(f"{embeddings}.patch_embedding.weight").reshape(config.width, -1)
    positions = weights.read(f"{embeddings}.position_embedding.weight").copy()
    # The class token is the same for every frame; its embedding may be added beforehand.
    positions[0] += weights.read(f"{embeddings}.class_embedding")
    tensors = weights.kernels.weight(patch, weights.dtype), weights.row(positions)
    return (*tensors, *weights.pair(f"{_TOWER}.pre_layrnorm"))


def _read_layer(weights: Weights, index: int) -> tuple[Tensor, ...]:
    layer = f"{_TOWER}.encoder.layers.{index}"
    attention = f"{layer}.self_attn"
    return read_block(
        weights,
        norms=(f"{layer}.layer_norm1", f"{layer}.layer_norm2"),
        qkv=tuple(f"{attention}.{name}_proj" for name in "qkv"),
        out=f"{attention}.out_proj",
        mlp=(f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"),
    )


class _Graphs(nn.Cell):  # type: ignore[misc]
    """What is compiled. F frames, n features of each with the class token first, W the width."""

    def __init__(self, config: ClipConfig, sharding: Whole, heads: int) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = sharding.kernels
        self.width, self.eps, self.with_class = config.width, config.eps, config.with_class
        head_dim = config.width // config.heads
        self.block = ViTBlock(sharding, heads=heads, head_dim=head_dim, eps=config.eps)

    @ms.jit
    def part(self, x: Tensor, frames: int, *tensors: Tensor, first: bool, last: bool) -> Tensor:
        """Some layers over ``[F * n, W]``. The ``first`` are given patches, the ``last`` give
        features: their ``tensors`` begin with those of ``embed`` and end with the projector's.
        """
        start, end = _EMBED * first, len(tensors) - MLP * last
        if first:
            x = self.embed(x, frames, tensors[:start])
        for index in range(start, end, BLOCK):
            x = self.block(x, frames, tensors[index : index + BLOCK])
        if last:
            x = self.project(x, frames, tensors[end:])
        return x

    def embed(self, patches: Tensor, frames: int, tensors: tuple[Tensor, ...]) -> Tensor:
        """Patches ``[F * (n - 1), 3 * patch^2]`` to what enters the first layer, ``[F * n, W]``."""
        embedded = self.kernels.linear(patches, tensors[_PATCH]).reshape(frames, -1, self.width)
        first = ops.zeros((frames, 1, self.width), embedded.dtype)
        x = ops.concat((first, embedded), 1) + tensors[_POSITIONS]
        x = x.reshape(-1, self.width)
        return self.kernels.layer_norm(x, tensors[_PRE_NORM], tensors[_PRE_NORM_BIAS], self.eps)

    def project(self, x: Tensor, frames: int, mlp: tuple[Tensor, ...]) -> Tensor:
        """Features of the language model's width, ``[F * n, out]``; n without the class token."""
        x = x.reshape(frames, -1, self.width)
        if not self.with_class:
            # Taking a slice would take several times as long on CPU.
            x = self.kernels.split(x, (1, x.shape[1] - 1), 1)[1]
        return gelu_mlp(self.kernels, x.reshape(-1, self.width), mlp)

    @ms.jit
    def pool(self, x: Tensor, time: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Features ``[T * H * W, out]`` averaged by matrices ``[t, T]``, ``[h, H]``, ``[w, W]``."""
        rows, out = x.shape
        before, after = 1, rows
        for matrix in (time, height, width):
            target, size = matrix.shape
            after = after // size
            matrices = ops.tile(matrix.reshape(1, target, size), (before, 1, 1))
            x = ops.bmm(matrices, x.reshape(before, size, after * out))
            before = before * target
        return x.reshape(-1, out)
