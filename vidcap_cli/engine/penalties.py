"""What it costs a token to have been there before: as transformers' logits processors have it.

Two rules, both off by default. The repetition penalty (Keskar et al. 2019) divides the logit of a
token seen before if it is positive, and multiplies it if it is not. With ``no_repeat_ngram_size`` n
no n tokens follow each other that did before (Paulus et al. 2017). Both count the prompt, too, as
transformers does where it is given as ids.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.generation import Generation
from vidcap_cli.config import CaptionConfig

# What a caption that repeats itself is decoded with once more (``--retry-repetitive``): the larger
# of this penalty and this many times the one before; and these tokens, or fewer, do not come again.
RETRY_PENALTY, RETRY_TIMES, RETRY_NGRAM = 1.2, 1.1, 5


@dataclass(frozen=True, slots=True)
class Penalties:
    """The two rules: a penalty of 1 and a size of 0 change nothing."""

    repetition: float = 1.0
    ngram_size: int = 0

    @classmethod
    def of(cls, config: CaptionConfig, generation: Generation) -> "Penalties":
        """The user's, else the checkpoint's."""
        repetition, ngram_size = config.repetition_penalty, config.no_repeat_ngram_size
        return cls(
            generation.repetition_penalty if repetition is None else repetition,
            generation.no_repeat_ngram_size if ngram_size is None else ngram_size,
        )

    def stronger(self) -> "Penalties":
        """Those of a caption that is decoded once more."""
        ngram_size = min(self.ngram_size or RETRY_NGRAM, RETRY_NGRAM)
        return Penalties(max(RETRY_PENALTY, RETRY_TIMES * self.repetition), ngram_size)


class Repetition:
    """What the sequences in ``slots`` slots hold, and what that costs each token of ``vocab``."""

    def __init__(self, slots: int, vocab: int) -> None:
        # By slot and token: 1 for one that costs nothing, the penalty, 0 for one that is banned.
        self.factors = np.ones((slots, vocab), np.float32)
        self._sequences: dict[int, _Sequence] = {}

    def begin(self, slot: int, ids: NDArray[np.int64], penalties: Penalties) -> None:
        """A slot has a prompt."""
        self.free(slot)
        if penalties == Penalties():
            return
        known = ids[ids < self.factors.shape[1]]  # a place of the video may be no token
        self.factors[slot, known] = penalties.repetition
        self._sequences[slot] = _Sequence(self.factors[slot], ids.tolist(), penalties)

    def append(self, slot: int, token: int) -> None:
        """A slot has a token more."""
        if sequence := self._sequences.get(slot):
            sequence.append(token)

    def free(self, slot: int) -> None:
        """A slot is free."""
        if self._sequences.pop(slot, None):
            self.factors[slot] = 1

    def any(self, slots: Iterable[int]) -> bool:
        """Whether any of ``slots`` has a token that costs something."""
        return any(slot in self._sequences for slot in slots)


class _Sequence:
    """One that is penalised: its tokens cost what ``factors`` ``[vocab]`` say."""

    def __init__(self, factors: NDArray[np.float32], ids: list[int], penalties: Penalties) -> None:
        self._factors, self._penalties = factors, penalties
        self._size = penalties.ngram_size
        # By n - 1 tokens those that have come after them.
        self._following: dict[tuple[int, ...], set[int]] = {}
        self._banned: set[int] = set()
        self._ids = ids
        for end in range(self._size, len(ids) + 1) if self._size else ():
            *before, last = ids[end - self._size : end]
            self._following.setdefault(tuple(before), set()).add(last)
        self._ban()

    def append(self, token: int) -> None:
        self._ids.append(token)
        self._factors[token] = self._penalties.repetition
        if self._size and len(self._ids) >= self._size:
            *before, last = self._ids[-self._size :]
            self._following.setdefault(tuple(before), set()).add(last)
        self._ban()

    def _ban(self) -> None:
        """Ban what would repeat the last tokens and what came after them."""
        if not self._size:
            return
        for token in self._banned:  # each has been there, or it would not have been banned
            self._factors[token] = self._penalties.repetition
        last = tuple(self._ids[len(self._ids) - self._size + 1 :])
        self._banned = {t for t in self._following.get(last, ()) if t < len(self._factors)}
        for token in self._banned:
            self._factors[token] = 0
