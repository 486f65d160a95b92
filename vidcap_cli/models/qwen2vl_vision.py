"""The vision tower of Qwen2-VL: patches in, embeddings for the language model out.

Patches of one pair of frames attend to each other alone, so pairs are independent: they go through
the tower a few at a time, and memory depends on the size of a frame, not on the length of the
video. Some layers over a group of pairs are one graph. Pairs are filled up with patches that no
other looks at, so that frames of many sizes share few graphs.

Source: transformers 4.57 ``modeling_qwen2_vl.py``, ``Qwen2VisionTransformerPretrainedModel``.
"""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from numpy.typing import NDArray

from vidcap_cli.models.kernels import (
    Linear,
    Read,
    attention,
    groups,
    in_graphs,
    layer_norm,
    linear,
    need,
    to_tensor,
)
from vidcap_cli.models.vision_config import Qwen2VLVisionConfig
from vidcap_cli.processors import Size

GROUP = 2048  # patches that go through the tower together, if a single pair has no more
_LEAST = 512  # patches that do at least, empty pairs among them: less work than one graph more
_FEWEST, _ROUND = 128, 64  # the patches of a pair are filled up, at least, and to a multiple
_BLOCK, _MERGE = 12, 6  # tensors that they take
_NEVER = -3e4  # the score of a patch that must not be seen; float16 holds it, too


class Qwen2VLVision:
    """The tower, its weights read by their names in ``Qwen2VLVisionConfig.shapes``."""

    def __init__(self, config: Qwen2VLVisionConfig, read: Read, number: Any) -> None:
        self.config = config
        self._number = number
        patch = read("patch_embed.proj.weight").reshape(config.width, -1)
        blocks = [self._read_block(read, f"blocks.{i}", number) for i in range(config.depth)]
        self._parts = in_graphs(blocks)
        self._parts[0].insert(0, to_tensor(patch.T, number))
        self._parts[-1] += [
            *(to_tensor(read(f"merger.ln_q.{part}"), number) for part in ("weight", "bias")),
            *linear(read, "merger.mlp.0", number),
            *linear(read, "merger.mlp.2", number),
        ]
        self._math = _Math(config)

    def __call__(
        self, vision: Mapping[str, NDArray[Any]]
    ) -> tuple[list[Tensor], NDArray[np.int64]]:
        """Embeddings ``[n, out]`` of a video, in parts, and the numbers of those that count.

        It comes as ``pixel_values_videos`` ``[t * h * w, 1176]`` and ``video_grid_thw`` ``[1, 3]``;
        ``t * h * w / 4`` embeddings count.
        """
        pairs, height, width = map(int, vision["video_grid_thw"][0])
        size, filled = height * width, _filled(height * width)
        patches = vision["pixel_values_videos"].reshape(pairs, size, -1)
        parts = _groups(pairs, filled)
        if filled > size or sum(parts) > pairs:
            patches = np.pad(patches, ((0, sum(parts) - pairs), (0, filled - size), (0, 0)))
        hidden = np.repeat(np.arange(filled) >= size, self.config.heads).reshape(filled, -1)
        fill = ((0, filled - size), (0, 0))
        cos, sin = (np.pad(table, fill) for table in self._angles(height, width))
        tables = cos, sin, np.where(hidden, np.float32(_NEVER), np.float32(0))
        embedded = []
        start = 0
        for group in parts:
            rows = patches[start : start + group].reshape(group * filled, -1)
            seen = [to_tensor(np.tile(table, (group, 1)), ms.float32) for table in tables]
            embedded.append(self._group(to_tensor(rows, self._number), seen, group))
            start += group
        merged = self.config.merge**2
        used = np.arange(pairs)[:, None] * (filled // merged) + np.arange(size // merged)
        return embedded, used.reshape(-1)

    def shapes(self, vision: Mapping[str, NDArray[Any]]) -> set[object]:
        """What graphs a video runs through."""
        pairs, height, width = map(int, vision["video_grid_thw"][0])
        filled = _filled(height * width)
        return {("vision", group, filled) for group in _groups(pairs, filled)}

    def need(self, size: Size) -> int:
        """Bytes that a video takes at most, its patches included."""
        config = self.config
        filled = _filled(size.sequence)
        parts = _groups(size.patches // size.sequence, filled)
        working = need(max(parts) * filled, filled, config.width, config.mlp, config.heads)
        numbers = 3 * config.temporal * config.patch**2
        # Making the patches and filling them up takes three copies of them.
        return working + 4 * sum(parts) * filled * (3 * numbers + config.out)

    def _group(self, patches: Tensor, seen: list[Tensor], pairs: int) -> Tensor:
        x = patches
        for index, part in enumerate(self._parts):
            first, last = index == 0, index == len(self._parts) - 1
            x = self._math.part(x, *seen, pairs, *part, first=first, last=last)
        return x

    def _angles(self, height: int, width: int) -> list[NDArray[np.float32]]:
        """Cosines and sines ``[h * w, 2 * W]`` of the rows and columns of patches, for all heads of
        the queries, which they scale, too, and of the keys. Sines of the first half of a head are
        negative, as ``_Math.turned`` wants them.

        Patches come in groups of ``merge`` x ``merge``, as they are merged at the end.
        """
        merge, quarter = self.config.merge, self.config.width // self.config.heads // 2
        frequencies = 1.0 / 10_000.0 ** (
            np.arange(0, quarter, 2, dtype=np.float32) / np.float32(quarter)
        )
        tiles = (height // merge, merge, width // merge, merge)
        place = [
            index.reshape(tiles).transpose(0, 2, 1, 3).reshape(-1, 1).astype(np.float32)
            for index in np.indices((height, width))
        ]
        half = np.concatenate([index * frequencies for index in place], 1)
        heads, head = self.config.heads, self.config.width // self.config.heads
        scale = np.repeat(np.array([head**-0.5, 1.0], np.float32), self.config.width)
        cos, sin = np.cos(half), np.sin(half)
        pairs = np.concatenate([cos, cos], 1), np.concatenate([-sin, sin], 1)
        return [np.tile(pair, (1, 2 * heads)) * scale for pair in pairs]

    def _read_block(self, read: Read, name: str, number: Any) -> list[Tensor]:
        norms = [
            to_tensor(read(f"{name}.{norm}.{part}"), number)
            for norm in ("norm1", "norm2")
            for part in ("weight", "bias")
        ]
        dense: list[Linear] = [
            linear(read, f"{name}.{part}", number)
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ]
        return [*norms, *(tensor for pair in dense for tensor in pair)]


def _groups(pairs: int, filled: int) -> list[int]:
    """Pairs that go through the tower together, the last of them perhaps empty."""
    most, least = (max(1, patches // filled) for patches in (GROUP, _LEAST))
    # Powers of two, as the number of pairs often is.
    return groups(pairs, 1 << (most.bit_length() - 1), 1 << (least.bit_length() - 1))


def _filled(size: int) -> int:
    return max(_FEWEST, -(-size // _ROUND) * _ROUND)


class _Math(nn.Cell):  # type: ignore[misc]
    """What is compiled. N patches of some pairs, D a head's width, W the tower's."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.width = config.heads, config.width
        self.head = config.width // config.heads
        self.merged = config.width * config.merge**2
        self.matmul = ops.MatMul()

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotary position embedding of queries and keys ``[N, 2 * W]``, in float32.

        The sign of the half that is subtracted is in ``sin``.
        """
        wide = x.astype(ms.float32)
        first, second = ops.split(wide.reshape(-1, self.head), self.head // 2, -1)
        crossed = ops.concat((second, first), -1).reshape(x.shape)
        return (wide * cos + crossed * sin).astype(x.dtype)

    @ms.jit
    def part(
        self, x: Tensor, cos: Tensor, sin: Tensor, hidden: Tensor, pairs: int,
        *tensors: Tensor, first: bool, last: bool,
    ) -> Tensor:  # fmt: skip
        """Some layers over ``pairs`` pairs of frames ``[N, W]``.

        The ``first`` are given patches ``[N, 1176]``, and their ``tensors`` begin with the weight
        of the embedding: a convolution whose windows do not overlap is a product. The ``last``
        give embeddings, and theirs end with those of ``merge``.
        """
        start, end = int(first), len(tensors) - _MERGE * last
        if first:
            x = self.matmul(x, tensors[0])
        for index in range(start, end, _BLOCK):
            x = self.block(x, cos, sin, hidden, pairs, *tensors[index : index + _BLOCK])
        if last:
            x = self.merge(x, *tensors[end:])
        return x

    def block(
        self, x: Tensor, cos: Tensor, sin: Tensor, hidden: Tensor, pairs: int,
        norm1: Tensor, shift1: Tensor, norm2: Tensor, shift2: Tensor,
        qkv: Tensor, qkv_bias: Tensor, out: Tensor, out_bias: Tensor,
        up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """One layer over ``pairs`` pairs of frames ``[N, W]``.

        ``hidden`` ``[N, heads]`` is added to every score of a patch. It is one more number of its
        key, whose counterpart in the queries is 1: adding to the scores would take longer.
        """
        rows = x.shape[0]
        shape = (pairs, rows // pairs, self.heads, self.head)
        one = (*shape[:3], 1)
        normed = layer_norm(x, norm1, shift1, 1e-6)
        joined = ops.bias_add(self.matmul(normed, qkv), qkv_bias)
        qk, v = ops.split(joined, (2 * self.width, self.width), -1)
        q, k = ops.split(self.turned(qk, cos, sin), self.width, -1)
        q = ops.concat((q.reshape(shape), ops.ones(one, q.dtype)), -1)
        k = ops.concat((k.reshape(shape), hidden.astype(k.dtype).reshape(one)), -1)
        attended = attention(q, k, v.reshape(shape)).reshape(rows, self.width)
        x = x + ops.bias_add(self.matmul(attended, out), out_bias)
        inner = ops.bias_add(self.matmul(layer_norm(x, norm2, shift2, 1e-6), up), up_bias)
        inner = inner * ops.sigmoid(inner * 1.702)  # QuickGELU
        return x + ops.bias_add(self.matmul(inner, down), down_bias)

    def merge(
        self, x: Tensor, norm: Tensor, shift: Tensor,
        up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """Four neighbours become one embedding: ``[N, W]`` to ``[N / 4, out]``."""
        x = layer_norm(x, norm, shift, 1e-6).reshape(-1, self.merged)
        inner = ops.gelu(ops.bias_add(self.matmul(x, up), up_bias), approximate="none")
        return ops.bias_add(self.matmul(inner, down), down_bias)
