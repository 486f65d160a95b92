"""Tensor parallelism: the share that each rank of a group has of a model's weights.

Divided are the heads, the inner numbers of the MLP and the vocabulary, as Megatron-LM does it
(Shoeybi et al. 2019): a rank computes with its rows of the first product of attention and MLP and
with its columns of the second, and what comes out is summed over the group. Where there are fewer
heads of keys than ranks, several ranks keep the same one. The layers of a vision tower are divided
like those of the language model if their heads can be; norms, and what leads into the tower and out
of it, are whole on every rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.errors import ModelError
from vidcap_cli.models.decoder_config import DecoderConfig

Slices = tuple[slice, ...]

# The products in the layers of towers of which a rank has some rows, or some columns: those of its
# heads, or of its part of the MLP.
_ROWS = {
    "attn.qkv": "heads",
    **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "heads"),
    **dict.fromkeys(("mlp.fc1", "mlp.gate_proj", "mlp.up_proj"), "mlp"),
}
_COLUMNS = {
    **dict.fromkeys(("attn.proj", "self_attn.out_proj"), "heads"),
    **dict.fromkeys(("mlp.fc2", "mlp.down_proj"), "mlp"),
}


class Tower(Protocol):
    """Sizes of a vision tower, whichever family's."""

    @property
    def width(self) -> int:
        """Numbers of a patch between layers."""

    @property
    def heads(self) -> int:
        """Of a layer."""

    @property
    def mlp(self) -> int:
        """Inner numbers of an MLP."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, as in the files."""


@dataclass(frozen=True, slots=True)
class Share:
    """Share ``index`` of a model divided among ``of`` ranks; the first of one is all of it."""

    index: int = 0
    of: int = 1

    def part(self, number: int) -> slice:
        """What of ``number`` things in a row is this rank's."""
        return slice(number * self.index // self.of, number * (self.index + 1) // self.of)

    def config(self, whole: DecoderConfig) -> DecoderConfig:
        """The sizes of this rank's layers. Its vocabulary is the whole: every rank knows all ids.

        Raises ModelError when the heads cannot be divided.
        """
        if not divides(whole, self.of):
            raise ModelError(
                f"--tensor-parallel {self.of} does not divide the {whole.heads} heads of this "
                f"model, which share {whole.kv_heads} of keys and values: "
                f"{' or '.join(map(str, ways(whole)))} would."
            )
        mlp = self.part(whole.mlp)
        return replace(
            whole,
            heads=whole.heads // self.of,
            kv_heads=max(whole.kv_heads // self.of, 1),
            mlp=mlp.stop - mlp.start,
        )

    def slices(self, whole: DecoderConfig, name: str) -> Slices:
        """Which rows, or rows and columns, of the weight ``name`` in ``DecoderConfig.shapes``."""
        all_rows = slice(None)
        vocab, mlp = self.part(whole.vocab), self.part(whole.mlp)
        heads, kv_heads = self._heads(whole), self._kv_heads(whole)
        divided = {
            "embed_tokens": (vocab,),
            "lm_head": (vocab,),
            "q_proj": (heads,),
            "k_proj": (kv_heads,),
            "v_proj": (kv_heads,),
            "o_proj": (all_rows, heads),
            "gate_proj": (mlp,),
            "up_proj": (mlp,),
            "down_proj": (all_rows, mlp),
        }
        return divided.get(name.split(".")[-2], (all_rows,))

    def of_tower(self, tower: Tower) -> "Share":
        """The share of a vision tower: all of it where its heads cannot be divided."""
        return self if tower.heads % self.of == 0 else WHOLE

    def tower_part(self, tower: Tower, name: str, weight: NDArray[Any]) -> NDArray[Any]:
        """What of the weight ``name`` of ``tower`` this rank computes with.

        What is added to a sum over the ranks is the first's; the others add zeros.
        """
        product, kind = ".".join(name.split(".")[-3:-1]), name.rpartition(".")[2]
        if self.of == 1 or product not in _ROWS | _COLUMNS:
            return weight
        inner = self.part(tower.mlp)
        heads, head = self.part(tower.heads), tower.width // tower.heads
        numbers = {"heads": slice(heads.start * head, heads.stop * head), "mlp": inner}
        if product in _ROWS:
            kinds = np.split(weight, 3) if product == "attn.qkv" else [weight]
            return np.concatenate([rows[numbers[_ROWS[product]]] for rows in kinds])
        if kind == "weight":
            return weight[:, numbers[_COLUMNS[product]]]
        return weight if self.index == 0 else np.zeros_like(weight)

    def tower_parameters(self, tower: Tower) -> int:
        """How many numbers of a vision tower this rank keeps."""
        share, nothing = self.of_tower(tower), np.int8(0)
        return sum(
            share.tower_part(tower, name, np.broadcast_to(nothing, shape)).size
            for name, shape in tower.shapes().items()
        )

    def parameters(self, whole: DecoderConfig) -> int:
        """How many numbers of the language model this rank keeps."""
        return sum(
            math.prod(shape) // math.prod(shape[: len(some)]) * math.prod(_lengths(shape, some))
            for name, shape in whole.shapes().items()
            for some in [self.slices(whole, name)]
        )

    def _heads(self, whole: DecoderConfig) -> slice:
        part = self.part(whole.heads)
        return slice(part.start * whole.head_dim, part.stop * whole.head_dim)

    def _kv_heads(self, whole: DecoderConfig) -> slice:
        first = whole.kv_heads * self.index // self.of
        count = max(whole.kv_heads // self.of, 1)
        return slice(first * whole.head_dim, (first + count) * whole.head_dim)


def _lengths(shape: Sequence[int], slices: Slices) -> list[int]:
    """How many there are of each of the first axes."""
    return [len(range(size)[some]) for size, some in zip(shape, slices, strict=False)]


WHOLE = Share()


def divides(config: DecoderConfig, ranks: int) -> bool:
    """Whether a model can be divided among so many ranks."""
    heads, kv_heads = config.heads, config.kv_heads
    return heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)


def ways(config: DecoderConfig) -> list[int]:
    """Among how many ranks a model can be divided, 1 first."""
    return [ranks for ranks in range(1, config.heads + 1) if divides(config, ranks)]
