"""The vision tower of Qwen2-VL: patches in, embeddings for the language model out.

Patches of one pair of frames attend to each other alone, so pairs are independent: they go through
the tower a few at a time, and memory depends on the size of a frame, not on the length of the
video. Some layers over a group of pairs are one graph. Pairs are padded with patches that no other
looks at, so that frames of many sizes share few graphs.

Source: transformers 4.57 ``modeling_qwen2_vl.py``, ``Qwen2VisionTransformerPretrainedModel``.
"""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vidcap_cli.checkpoint.shares import WHOLE, Share
from vidcap_cli.models.kernels import Kernels
from vidcap_cli.models.rope import patch_rope
from vidcap_cli.models.sharding import Whole, sharding_of
from vidcap_cli.models.vision_config import Qwen2VLVisionConfig
from vidcap_cli.models.vit import (
    Tensors,
    ViTBlock,
    block_bytes,
    gelu_mlp,
    group_sizes,
    read_block,
)
from vidcap_cli.models.weights import Read, Weights, in_graphs, to_tensor
from vidcap_cli.processors import Size

GROUP = 2048  # patches that go through the tower together, if a single pair has no more
_LEAST = 512  # patches that do at least, empty pairs among them: less work than one graph more
_FEWEST = 128  # patches that a pair is padded to at least
# Tensors that the last blocks take besides: a norm, then an MLP.
_NORM, _NORM_BIAS, _MERGER_MLP = range(3)
EPS = 1e-6


class Qwen2VLVision:
    """The tower, its weights read by their names in ``Qwen2VLVisionConfig.shapes``: what ``share``
    has of them.
    """

    def __init__(
        self,
        config: Qwen2VLVisionConfig,
        read: Read,
        kernels: Kernels,
        dtype: Any,
        *,
        share: Share = WHOLE,
    ) -> None:
        self.config, self.heads = config, config.heads // share.of
        self.sharding = sharding_of(kernels, share)
        self.kernels, self._dtype = kernels, kernels.numbers(dtype)
        weights = Weights(read, kernels, dtype)
        blocks = [self.read_block(weights, f"blocks.{index}") for index in range(config.depth)]
        self._parts = in_graphs(blocks)
        # A convolution whose windows do not overlap is a product.
        patch = read("patch_embed.proj.weight").reshape(config.width, -1)
        self._parts[0].insert(0, kernels.weight(patch, dtype))
        merger = self.read_merger(weights)
        self._parts[-1] += merger
        self._graphs = self.graphs(len(blocks[0]), len(merger))

    def __call__(
        self, vision: Mapping[str, NDArray[Any]]
    ) -> tuple[list[Tensor], NDArray[np.int64]]:
        """Embeddings ``[n, out]`` of a video, in parts, and the numbers of those that count.

        It comes as ``pixel_values_videos`` ``[t * h * w, 1176]`` and ``video_grid_thw`` ``[1, 3]``;
        ``t * h * w / 4`` embeddings count.
        """
        pairs, height, width = map(int, vision["video_grid_thw"][0])
        size, padded = height * width, self._padded(height * width)
        order, merged = self.order(height, width), self.config.merge**2
        patches = vision["pixel_values_videos"].reshape(pairs, size, -1)
        if order is not None:
            patches = patches[:, _of_patches(order, merged)]
        groups = _groups(pairs, padded)
        if padded > size or sum(groups) > pairs:
            patches = np.pad(patches, ((0, sum(groups) - pairs), (0, padded - size), (0, 0)))
        turns = {group: self._rope(height, width, group) for group in set(groups)}
        embedded = []
        start = 0
        for group in groups:
            rows = to_tensor(
                patches[start : start + group].reshape(group * padded, -1), self._dtype
            )
            masks = self._masks(height, width, padded, group)
            embedded.append(self._group(rows, turns[group], masks, group))
            start += group
        place = np.arange(size // merged) if order is None else np.argsort(order)
        used = np.arange(pairs)[:, None] * (padded // merged) + place
        return embedded, used.reshape(-1)

    def shapes(self, vision: Mapping[str, NDArray[Any]]) -> set[object]:
        """What graphs a video runs through."""
        pairs, height, width = map(int, vision["video_grid_thw"][0])
        padded = self._padded(height * width)
        return {("vision", group, padded) for group in _groups(pairs, padded)}

    def need(self, size: Size) -> int:
        """Bytes that a video takes at most, its patches included."""
        config = self.config
        padded = self._padded(size.sequence)
        groups = _groups(size.patches // size.sequence, padded)
        scores = self.kernels.vit_score_bytes(max(groups), padded, self.heads)
        working = scores + block_bytes(max(groups) * padded, config.width, config.mlp)
        numbers = 3 * config.temporal * config.patch**2
        # Making the patches and padding them takes three copies of them.
        return working + 4 * sum(groups) * padded * (3 * numbers + config.out)

    def read_block(self, weights: Weights, block: str) -> Tensors:
        """The tensors of a layer at the places that its graph knows."""
        return read_block(
            weights,
            norms=(f"{block}.norm1", f"{block}.norm2"),
            qkv=(f"{block}.attn.qkv",),
            out=f"{block}.attn.proj",
            mlp=(f"{block}.mlp.fc1", f"{block}.mlp.fc2"),
        )

    def read_merger(self, weights: Weights) -> Tensors:
        """The tensors of the merger: a norm, then an MLP."""
        return *weights.pair("merger.ln_q"), *read_mlp(weights)

    def graphs(self, block: int, merger: int) -> "Graphs":
        """What is compiled, of layers with so many tensors and such a merger."""
        return Graphs(self.config, self.sharding, self.heads, block, merger)

    def order(self, height: int, width: int) -> NDArray[np.int64] | None:  # noqa: ARG002
        """The order of a frame's tokens on their way through the tower; None for their own."""
        return None

    def masks(self, height: int, width: int, padded: int, group: int) -> list[Tensor]:
        """What patches see, for each layer; none where they see all."""
        mask = self.kernels.patch_mask(height * width, padded, group, self.heads)
        return [] if mask is None else [mask] * self.config.depth

    def _masks(self, height: int, width: int, padded: int, group: int) -> list[list[Tensor]]:
        """The same for each graph."""
        masks = self.masks(height, width, padded, group)
        return in_graphs([[mask] for mask in masks]) if masks else [[] for _ in self._parts]

    def _group(
        self,
        patches: Tensor,
        rope: tuple[Tensor, Tensor],
        masks: list[list[Tensor]],
        pairs: int,
    ) -> Tensor:
        x = patches
        for index, (part, seen) in enumerate(zip(self._parts, masks, strict=True)):
            first, last = index == 0, index == len(self._parts) - 1
            given = (x, *rope, pairs, len(seen), *seen)
            x = self._graphs.part(*given, *part, first=first, last=last)
        return x

    def _padded(self, patches: int) -> int:
        """The patches of a pair, those included that it is filled up with."""
        return max(_FEWEST, self.kernels.padded(patches))

    def _rope(self, height: int, width: int, pairs: int) -> tuple[Tensor, Tensor]:
        """The tables of the queries and keys of ``pairs``, in float32."""
        config, size = self.config, height * width
        tables = patch_rope(height, width, config.merge, config.width // config.heads)
        if (order := self.order(height, width)) is not None:
            patches = _of_patches(order, config.merge**2)
            tables = tables[0][patches], tables[1][patches]
        fill = ((0, self._padded(size) - size), (0, 0))
        cos, sin = (np.tile(np.pad(table, fill), (pairs, 1)) for table in tables)
        return self.kernels.rope_tables(cos, sin, 2 * self.heads, ms.float32)


def read_mlp(weights: Weights) -> Tensors:
    """The MLP of the merger."""
    return *weights.pair("merger.mlp.0"), *weights.pair("merger.mlp.2")


def _of_patches(order: NDArray[np.int64], merged: int) -> NDArray[np.int64]:
    """The order of patches, of which ``merged`` are a token, from that of tokens."""
    return (order[:, None] * merged + np.arange(merged)).reshape(-1)


def _groups(pairs: int, padded: int) -> list[int]:
    """Pairs that go through the tower together, the last of them perhaps empty."""
    most, least = (max(1, patches // padded) for patches in (GROUP, _LEAST))
    # Powers of two, as the number of pairs often is.
    return group_sizes(pairs, 1 << (most.bit_length() - 1), 1 << (least.bit_length() - 1))


class Graphs(nn.Cell):  # type: ignore[misc]
    """What is compiled. N patches of some pairs, W the tower's width.

    A layer has ``size`` tensors, and ``heads`` here; what merges patches has ``merger``.
    """

    block_of: type[ViTBlock] = ViTBlock

    def __init__(
        self, config: Qwen2VLVisionConfig, sharding: Whole, heads: int, size: int, merger: int
    ) -> None:
        super().__init__(auto_prefix=False)
        self.kernels, self.size, self.merger = sharding.kernels, size, merger
        self.merged = config.width * config.merge**2
        head_dim = config.width // config.heads
        self.block = self.block_of(sharding, heads=heads, head_dim=head_dim, eps=EPS)

    @ms.jit
    def part(
        self, x: Tensor, cos: Tensor, sin: Tensor, pairs: int, masks: int,
        *tensors: Tensor, first: bool, last: bool,
    ) -> Tensor:  # fmt: skip
        """Some layers over ``pairs`` pairs of frames ``[N, W]``.

        ``tensors`` begin with so many ``masks``, one for each layer or none. The ``first`` layers
        are given patches ``[N, 1176]``, and the weight of the embedding follows. The ``last`` give
        embeddings, and the end is what ``merge`` takes. (A tuple of masks would be a constant:
        compiled for every value.)
        """
        start, end = masks + int(first), len(tensors) - self.merger * last
        if first:
            x = self.kernels.linear(x, tensors[masks])
        for index in range((end - start) // self.size):
            at = start + index * self.size
            mask = tensors[index] if masks else None
            x = self.block(x, pairs, tensors[at : at + self.size], (cos, sin), mask)
        if last:
            x = self.merge(x, tensors[-self.merger :])
        return x

    def merge(self, x: Tensor, tensors: Tensors) -> Tensor:
        """Four neighbours become one embedding: ``[N, W]`` to ``[N / 4, out]``."""
        x = self.kernels.layer_norm(x, tensors[_NORM], tensors[_NORM_BIAS], EPS)
        return gelu_mlp(self.kernels, x.reshape(-1, self.merged), tensors[_MERGER_MLP:])
