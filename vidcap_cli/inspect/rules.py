"""What is wrong with captions: rules that need no model and always say the same.

The rules for a single caption are here, the words of a caption as all rules take them, and the
loops of many captions at once. What only shows between captions is in ``likeness``. The thresholds
are told in the README, and the precision and recall of each rule on labelled captions in its test.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

Words = npt.NDArray[np.uint32]
Bounds = npt.NDArray[np.int64]

LONGEST = 20_000  # characters of a caption that are looked at


class Fault(StrEnum):
    """What may be wrong with a caption; in the order in which they are shown."""

    FAILED = "failed"
    EMPTY = "empty"
    CUT = "cut"
    LOOP = "loop"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    STOCK_OPENING = "stock_opening"
    OTHER_SCRIPT = "other_script"
    PROMPT = "prompt"
    LOW_CONFIDENCE = "low_confidence"


# Words. Chinese and Japanese have no spaces: there a character is a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Parts of letters, of which `re` knows nothing; not the full stops of Hindi (0964, 0965).
_MARKS = "\u0300-\u036f\u0900-\u0963\u0966-\u0dff\u0e00-\u0eff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])[^\W_]|[{_MARKS}])+(?:['’](?![{_CJK}])[^\W_]+)*")


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


# Cut: the caption ends in the middle of a sentence.
_CLOSING = "\"'”’»)]}*」』】）"
_ENDING = ".!?…。！？｡।؟۔՞։"
_OPEN_END = ",;:、，；：—–-(["
_SENTENCE_BEFORE = re.compile(rf"\w{{3,}}[.!?][{re.escape(_CLOSING)}]*\s|[。！？।]")
_ABBREVIATED = re.compile(r"\b(?:Mrs|etc|vol|fig)\.", re.IGNORECASE)
# fmt: off
_GOES_ON = frozenset({
    "a", "an", "the", "some", "several", "very", "its", "their", "his", "my", "your", "our",
    "and", "or", "but", "nor", "as", "than", "because", "while", "of", "to", "with", "for", "from",
    "by", "at", "into", "onto", "upon", "between", "which", "who", "whom", "whose",
    "is", "are", "was", "were", "be", "been", "being", "has", "have", "had",
})
# fmt: on
_LONG = 40  # words: nobody writes a sentence of so many and no full stop


def ends_mid_sentence(text: str, words: Sequence[str]) -> bool:
    """Whether the last sentence of a caption has no end.

    A caption without any full stop is taken for a title, unless its last word needs another one
    (in English) or it is long.
    """
    body = text.rstrip().rstrip(_CLOSING).rstrip()
    if not words or not body or body[-1] in _ENDING:
        return False
    line = body.rpartition("\n")[2]  # items of a list need no full stop
    before = _ABBREVIATED.sub("", line)
    return (
        body[-1] in _OPEN_END
        or words[-1] in _GOES_ON
        or line.count("(") > line.count(")")
        or _SENTENCE_BEFORE.search(before) is not None
        or len(words_of(line)) >= _LONG
    )


# Prompt: the caption says again what the model was asked, or shows the marks of a conversation.
_MARKUP = re.compile(
    r"<\|\w+\|>|</?(?:image|video|s|sys|SYS)>|<<SYS>>|\[/?INST\]|\b(?:USER|ASSISTANT|SYSTEM): ?"
    r"|###\s*(?:Human|Assistant|User|Instruction|Response)"
)
_CLAUSES = re.compile(r"[.!?:。！？：\n]+")
_LEAST_PROMPT = 4  # words
_LIKE_PROMPT = 85  # of 100, rapidfuzz's ratio


def repeats_prompt(text: str, prompts: Sequence[str]) -> bool:
    """Whether a sentence of a caption is one of its ``prompts``, or begins with it."""
    if _MARKUP.search(text):
        return True
    asked = _asked(tuple(prompts))
    for clause in _CLAUSES.split(text.lower()):
        said = clause.strip()
        for one in asked:
            if said.startswith(one) or fuzz.ratio(said, one) >= _LIKE_PROMPT:
                return True
    return False


@lru_cache(maxsize=1024)
def _asked(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """The sentences of prompts that are long enough to be told from others."""
    clauses = [clause.strip() for prompt in prompts for clause in _CLAUSES.split(prompt.lower())]
    return tuple(dict.fromkeys(one for one in clauses if len(words_of(one)) >= _LEAST_PROMPT))


# Scripts: the first word of a letter's name in Unicode says its script.
SCRIPTS = (
    "none", "Latin", "Chinese or Japanese", "Cyrillic", "Greek", "Arabic", "Hebrew", "Hangul",
    "Thai", "Devanagari", "Bengali", "Tamil", "Telugu", "Georgian", "Armenian", "other",
)  # fmt: skip
_LATIN, _HAN, _OTHER = map(SCRIPTS.index, ("Latin", "Chinese or Japanese", "other"))
_NAMED = {name.upper(): number for number, name in enumerate(SCRIPTS)} | dict.fromkeys(
    ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO"), _HAN
)
_QUOTED = re.compile(
    r"\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」|『[^』]*』|‘[^’]*’|\([^)]*\)|（[^）]*）"
)
_LETTERS = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+")


@cache
def _script(letter: str) -> int:
    if unicodedata.category(letter)[0] not in "LM":
        return 0
    name = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    unknown = _OTHER if " LETTER " in name else 0
    return _NAMED.get(name.split(" ")[0].split("-")[0], unknown)


def scripts_of(text: str) -> tuple[int, int, int, int]:
    """The two scripts that most letters are of, and their shares of the letters (percent).

    What is quoted or in brackets is left out, and so are names: words of the second script with a
    capital letter.
    """
    if text.isascii():
        return _LATIN, 0, 100, 0
    counted = _QUOTED.sub(" ", text)
    counts = _by_script(counted)
    if not counts:  # all of it is quoted
        counted, counts = text, _by_script(text)
    if not counts:
        return 0, 0, 0, 0
    first = max(counts, key=lambda script: counts[script])
    if len(counts) > 1:
        names = "".join(w for w in _LETTERS.findall(counted) if w[0].isupper())
        for script, number in _by_script(names).items():
            counts[script] -= number if script != first else 0
    total = sum(counts.values())
    others = [script for script, number in counts.items() if script != first and number]
    second = max(others, key=lambda script: counts[script], default=0)
    shares = [round(100 * counts.get(script, 0) / total) for script in (first, second)]
    return first, second, shares[0], shares[1]


def _by_script(text: str) -> dict[int, int]:
    counts: dict[int, int] = {}
    for letter, number in Counter(text).items():
        if script := _script(letter):
            counts[script] = counts.get(script, 0) + number
    return counts


# Loops: a phrase said again and again.
_LONGEST_PHRASE = 24  # words
_TIMES, _TIMES_ANY = 3, 5  # a phrase is repeated so often, or so often however short it is
_LEAST_LOOP = 8  # words that it then has in all
_GRAM = 5  # words
_LEAST_WORDS = 15  # of a caption of which a share is asked
_SAID_AGAIN = 0.3


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


# Low confidence: the model was far less sure of a caption than of most of the table.
_LEAST_SURE = 20  # captions whose confidence is known
_FENCE = 1.5


def unsure(logprobs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which mean log-probabilities lie below the lower quartile by more than 1.5 times the distance
    of the quartiles (Tukey, Exploratory Data Analysis, 1977); NaN is unknown.
    """
    known = logprobs[np.isfinite(logprobs)]
    if len(known) < _LEAST_SURE:
        return np.zeros(len(logprobs), np.bool_)
    lower, upper = np.percentile(known, [25, 75])
    low: npt.NDArray[np.bool_] = logprobs < lower - _FENCE * (upper - lower)
    return low


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


def difference(text: str, other: str) -> str:
    """The first words in which two captions differ."""
    one, two = words_of(text), words_of(other)
    for step in Indel.opcodes(one, two):
        if step.tag != "equal":
            start = min(step.src_start, step.dest_start)
            ours, theirs = (" ".join(words[start : start + 4]) for words in (one, two))
            return f"{ours or 'nothing'} … where that has {theirs or 'nothing'} …"
    return "for punctuation alone"
