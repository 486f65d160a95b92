"""Tensor parallelism: the share that each rank of a group has of a language model's weights.

Divided are the heads, the inner numbers of the MLP and the vocabulary, as Megatron-LM does it
(Shoeybi et al. 2019): a rank computes with its rows of the first product of attention and MLP and
with its columns of the second, and what comes out is summed over the group. Where there are fewer
heads of keys than ranks, several ranks keep the same one. Norms and the vision tower are whole on
every rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vidcap_cli.errors import ModelError
from vidcap_cli.models.decoder_config import DecoderConfig

Slices = tuple[slice, ...]


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
