"""The KV cache: keys and values of the sequences in the making, in slots of equal length.

Lengths are powers of two, so that a decode step is compiled for few. The cache grows to what the
slots reserve, and shrinks when a long sequence has left.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from mindspore import Tensor

from vidcap_cli.models.decoder_config import cache_length
from vidcap_cli.models.device import eagerly
from vidcap_cli.models.kernels import Cache, GroupedQueryAttention, Kernels


class KVCache:
    """Of ``slots`` sequences. A slot is in use once it has reserved tokens.

    ``length`` is the tokens that every slot has room for, ``lengths`` those that each holds.
    ``rope_deltas`` are added to the numbers of tokens to give their positions.
    """

    def __init__(
        self,
        kernels: Kernels,
        attention: GroupedQueryAttention,
        *,
        layers: int,
        slots: int,
        dtype: Any,
    ) -> None:
        self.length = 0
        self.lengths = np.zeros(slots, np.int64)
        self.rope_deltas = np.zeros(slots, np.int64)
        self._reserved = np.zeros(slots, np.int64)
        self._kernels, self._dtype, self._layers = kernels, dtype, layers
        # Keys and values of all layers in turn, ``[slots * rows, length, width]`` each.
        self._rows, self._width = attention.cache_rows, attention.cache_width
        self._caches: dict[int, list[Cache]] = {}

    @property
    def positions(self) -> Any:
        """Positions ``[slots]`` of the next tokens."""
        return self.lengths + self.rope_deltas

    @property
    def tensors(self) -> list[Tensor]:
        """What a decode step reads and writes."""
        return list(chain.from_iterable(self._caches[self.length]))

    def index(self) -> tuple[Tensor, Tensor]:
        """Where the next tokens go, and the last token to look at ``[slots * rows, 1, 1]``."""
        last = np.repeat(self.lengths, self._rows)
        where = self._kernels.cache_index(last, self.length)
        return where, Tensor(last.astype(np.int32).reshape(-1, 1, 1))

    def insert(
        self, slot: int, tensors: Sequence[Tensor], *, length: int, reserve: int, rope_delta: int
    ) -> None:
        """Fill a free slot with keys and values ``[rows, n, width]`` of all layers in turn.

        The first ``length`` tokens count; ``reserve`` is how many there will be at most.
        """
        self._reserved[slot] = max(reserve, tensors[0].shape[1])
        self._fit()
        with eagerly():
            self._fill(slot, tensors)
        self.lengths[slot], self.rope_deltas[slot] = length, rope_delta

    def free(self, slot: int) -> None:
        """Forget the sequence in a slot."""
        self.lengths[slot] = self.rope_deltas[slot] = self._reserved[slot] = 0

    def advance(self) -> None:
        """Count the tokens that a step has written."""
        self.lengths += self._reserved > 0

    def _fit(self) -> None:
        """Use the shortest cache that holds what every slot reserved; move what is there.

        A cache once made stays, and so does what was compiled for it: together they take less than
        twice the longest.
        """
        length = cache_length(int(self._reserved.max()))
        if length == self.length:
            return
        before = self._caches.get(self.length, [])
        if length not in self._caches:
            self._caches[length] = self._new(length)
        self.length = length
        for slot in map(int, np.flatnonzero(self.lengths)):
            first, tokens = slot * self._rows, int(self.lengths[slot])
            kept = [self._kernels.read_cache(it, first, self._rows, tokens) for it in before]
            self._fill(slot, kept)

    def _new(self, length: int) -> list[Cache]:
        shape = (len(self.lengths) * self._rows, length, self._width)
        return [
            self._kernels.new_cache(f"cache_{length}_{index}", shape, self._dtype)
            for index in range(2 * self._layers)
        ]

    def _fill(self, slot: int, tensors: Sequence[Tensor]) -> None:
        self._kernels.fill_cache(self._caches[self.length], slot * self._rows, tensors)
