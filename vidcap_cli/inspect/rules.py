"""What is wrong with captions: rules that need no model and always say the same.

The rules for a single caption are here, but for its loops (``vidcap_cli.repeats``), which ranks
look for, too. What only shows between captions is in ``likeness``. The thresholds are told in the
README, and the precision and recall of each rule on labelled captions in its test.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz
from rapidfuzz.distance import Indel

from vidcap_cli.repeats import MARKS, words_of


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
_LETTERS = re.compile(rf"(?:[^\W\d_]|[{MARKS}])+")


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


def difference(text: str, other: str) -> str:
    """The first words in which two captions differ."""
    one, two = words_of(text), words_of(other)
    for step in Indel.opcodes(one, two):
        if step.tag != "equal":
            start = min(step.src_start, step.dest_start)
            ours, theirs = (" ".join(words[start : start + 4]) for words in (one, two))
            return f"{ours or 'nothing'} … where that has {theirs or 'nothing'} …"
    return "for punctuation alone"
