"""Captions that say the same again and again: one rule, for ranks and for ``inspect``.

The words of a caption, as all rules about captions take them, are here, too. Nothing asks a model,
and the answer is the same each time.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Bounds = npt.NDArray[np.int64]

LONGEST = 20_000  # characters of a caption that are looked at

_LONGEST_PHRASE = 24  # words
_TIMES, _TIMES_ANY = 3, 5  # a phrase is repeated so often, or so often however short it is
_LEAST_LOOP = 8  # words that it then has in all
_GRAM = 5  # words
_SHORTEST = 4  # words in a row that every caption has twice that repeats itself, by either rule
_LEAST_WORDS = 15  # of a caption of which a share is asked
_SAID_AGAIN = 0.3

# Words. Chinese and Japanese have no spaces: there a character is a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Parts of letters, of which `re` knows nothing; not the full stops of Hindi (0964, 0965).
MARKS = "\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_]|[{MARKS}])+(?:['’](?![{_CJK}])[^\W_]+)*")


_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")  # the same, in half the time


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())


def numbered(words: Sequence[str]) -> Words:
    """A number for each word, the same on every machine."""
    return np.fromiter(map(_number, words), np.uint32, len(words))


@lru_cache(maxsize=1 << 16)
def _number(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def is_repetitive(text: str) -> bool:
    """Whether a caption says a phrase again and again, as ``loops`` judges."""
    words = words_of(text[:LONGEST])
    runs = list(zip(*(words[place:] for place in range(_SHORTEST)), strict=False))
    if len(set(runs)) == len(runs):  # of most captions: a fiftieth of the time of ``loops``
        return False
    numbers = numbered(words)
    return bool(loops(numbers, np.array([0, len(numbers)]))[0])


def loops(words: Words, bounds: Bounds) -> npt.NDArray[np.bool_]:
    """Which captions say a phrase again and again; caption i is ``words[bounds[i]:bounds[i+1]]``.

    Either a phrase follows itself, or much of the caption are runs of five words that it had before
    (as in the filters of Rae et al., Scaling Language Models, 2021, table A1).
    """
    lengths = np.diff(bounds)
    row = np.repeat(np.arange(len(lengths)), lengths)
    found = said_again(words, bounds) >= _SAID_AGAIN
    for phrase in range(1, _LONGEST_PHRASE + 1):
        times = np.minimum(lengths // phrase, _TIMES_ANY)
        if not (times >= _TIMES).any():
            break
        same = (words[phrase:] == words[:-phrase]) & (row[phrase:] == row[:-phrase])
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        starts, runs = edges[::2], edges[1::2] - edges[::2]
        repeated = runs // phrase + 1
        whole = repeated * phrase
        loop = (repeated >= _TIMES) & (whole >= _LEAST_LOOP) | (repeated >= _TIMES_ANY)
        found[row[starts[loop]]] = True
    return found


def said_again(words: Words, bounds: Bounds) -> npt.NDArray[np.float64]:
    """The share (0 to 1) of a caption's words that lie in runs of five words it had before."""
    lengths = np.diff(bounds)
    share = np.zeros(len(lengths))
    if len(words) < _GRAM:
        return share
    row = np.repeat(np.arange(len(lengths)), lengths)
    whole = row[_GRAM - 1 :] == row[: 1 - _GRAM]
    key = row[: 1 - _GRAM].astype(np.uint64)
    for place in range(_GRAM):
        stop = len(words) - _GRAM + 1 + place
        key = key * np.uint64(0x9E3779B97F4A7C15) + words[place:stop]
    places = np.flatnonzero(whole)
    order = places[np.argsort(key[places], kind="stable")]
    again = order[1:][key[order[1:]] == key[order[:-1]]]
    covered = np.zeros(len(words), np.bool_)
    for place in range(_GRAM):
        covered[again + place] = True
    counts = np.bincount(row[covered], minlength=len(lengths))
    enough = lengths >= _LEAST_WORDS
    share[enough] = counts[enough] / lengths[enough]
    return share


def phrase_of(words: Sequence[str]) -> tuple[str, int]:
    """The phrase that a looping caption repeats most in succession, and how often."""
    said, often, most = "", 1, 0
    for phrase in range(1, min(_LONGEST_PHRASE, len(words) // 2) + 1):
        run = 0
        for place in range(phrase, len(words)):
            run = run + 1 if words[place] == words[place - phrase] else 0
            times = run // phrase + 1
            if times > 1 and times * phrase > most:
                said = " ".join(words[place - phrase + 1 : place + 1])
                often, most = times, times * phrase
    return said, often
