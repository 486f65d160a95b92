"""Captions that are alike: the same words, nearly the same words, the same first words.

Equal captions have equal hashes. Those that are nearly equal are found by MinHash signatures of
their pairs of words (Broder 1997), put into bands: two captions that agree in a band are compared
word by word. The permutations are datasketch's. Its index of bands takes 2.8 kB a caption, and its
sketches 45 us each; here all captions of a block are sketched at once, and the bands sorted one
after the other, in 128 bytes a caption.
"""

import tempfile
from array import array
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
from datasketch import MinHash
from rapidfuzz.distance import Indel

from vidcap_cli.repeats import Bounds, Words

Hashes = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]

NEARLY = 0.9  # of 1, rapidfuzz's normalized_similarity of the words
LEAST_WORDS = 12  # one word makes a shorter caption another one
BANDS = 16
_ROWS = 4  # numbers of a signature in a band: captions that share a third of their pairs may meet
_MULTIPLIED, _ADDED = MinHash(BANDS * _ROWS).permutations
_ODD = np.uint32(0x9E3779B1)


def signatures(words: Words, bounds: Bounds) -> npt.NDArray[np.uint64]:
    """The bands of captions, 16 numbers each, of which nearly equal captions share some.

    Caption i is ``words[bounds[i]:bounds[i + 1]]``, two words at least.
    """
    if len(bounds) == 1:
        return np.zeros((0, BANDS), np.uint64)
    pairs = (words[:-1] * _ODD) ^ words[1:]
    pairs ^= pairs >> np.uint32(15)
    pairs = np.append(pairs * _ODD, np.uint32(0))  # which ends the last caption, and is in none
    places = np.stack([bounds[:-1], bounds[1:] - 1], axis=1).ravel()
    bands = np.zeros((len(bounds) - 1, BANDS), np.uint64)
    for number, (times, plus) in enumerate(zip(_MULTIPLIED, _ADDED, strict=True)):
        least = np.minimum.reduceat(pairs * times + plus, places)[::2]
        band = bands[:, number // _ROWS]
        band *= np.uint64(0x9E3779B97F4A7C15)
        band += least
    return bands


class Shelf:
    """The words of captions in a file without a name, to be compared in any order."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._ends = array("q", [0])
        self._words: npt.NDArray[np.uint32] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._words = None
        self._file.close()

    def add(self, words: Words) -> None:
        """Add the words of the next caption."""
        try:
            self._file.write(words.tobytes())
        except OSError as error:
            error.filename = error.filename or tempfile.gettempdir()
            raise
        self._ends.append(self._ends[-1] + len(words))

    def __getitem__(self, place: int) -> list[int]:
        if self._words is None:
            self._file.flush()
            self._words = np.memmap(self._file, np.uint32, "r") if self._ends[-1] else None
        assert self._words is not None
        found: list[int] = self._words[self._ends[place] : self._ends[place + 1]].tolist()
        return found


def duplicates(texts: Hashes, paths: Hashes) -> tuple[npt.NDArray[np.bool_], Rows]:
    """Which rows have the caption of another path, and for each the first row of that caption."""
    order = np.argsort(texts, kind="stable")
    starts = np.flatnonzero(np.diff(texts[order], prepend=texts[order[:1]] - 1))
    sizes = np.diff(starts, append=len(order))
    low = np.minimum.reduceat(paths[order], starts) if len(starts) else paths[:0]
    high = np.maximum.reduceat(paths[order], starts) if len(starts) else paths[:0]
    found = np.zeros(len(texts), np.bool_)
    first = np.zeros(len(texts), np.int64)
    found[order] = np.repeat(low != high, sizes)
    first[order] = np.repeat(order[starts], sizes)
    return found, first


def near_duplicates(
    bands: Sequence[npt.NDArray[np.uint64]],
    shelf: Shelf,
    differ: Callable[[int, int], bool],
) -> Rows:
    """For each caption on the shelf another that is nearly the same, or -1.

    ``bands`` has their signatures, a block of them each. Captions that agree in a band are compared
    with the first of them and with the one before; ``differ(i, j)`` says whether they are of
    different videos.
    """
    alike: Rows = np.full(sum(map(len, bands)), -1, np.int64)
    for band in range(BANDS if len(alike) else 0):
        values = np.concatenate([block[:, band] for block in bands])
        order = np.argsort(values, kind="stable")
        same = np.diff(values[order]) == 0
        first = 0
        for place in np.flatnonzero(same).tolist():
            if place == 0 or not same[place - 1]:
                first = order[place]
            one, other = int(order[place]), int(order[place + 1])
            for before in dict.fromkeys((one, int(first))):
                if (alike[before] < 0 or alike[other] < 0) and differ(before, other):
                    _compare(shelf, alike, before, other)
    return alike


def _compare(shelf: Shelf, alike: Rows, one: int, other: int) -> None:
    if Indel.normalized_similarity(shelf[one], shelf[other], score_cutoff=NEARLY) >= NEARLY:
        alike[one] = other if alike[one] < 0 else alike[one]
        alike[other] = one if alike[other] < 0 else alike[other]


def openings(first_words: Hashes, *, least: int, share: float) -> npt.NDArray[np.int64]:
    """The hashes of first words that begin a ``share`` of these captions, and ``least`` of them."""
    values, counts = np.unique(first_words, return_counts=True)
    return values[counts >= max(least, share * len(first_words))]
