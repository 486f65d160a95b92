"""How captions are edited on their way to the table; the parts keep what the model wrote.

Everything here works on whole columns, and says the same each time: fixed lists, no model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.statuses import Flag

NOUNS = ("video", "clip", "video clip", "footage", "scene", "image")
VERBS = (
    "shows", "depicts", "captures", "features", "presents", "displays", "showcases", "portrays",
    "begins with", "starts with", "opens with",
)  # fmt: skip
_NOUN = rf"(?:the|this)\s+(?:(?:short|given|provided)\s+)?(?:{'|'.join(NOUNS)})"
_SEE = r"we\s+(?:can\s+)?see\s+"
_IN = rf"in\s+{_NOUN}(?:,\s+(?:{_SEE})?|\s+{_SEE})"
_SHOWS = rf"{_NOUN}\s+(?:{'|'.join(VERBS)})\s+(?:that\s+)?"
_OPENING = rf"(?i)^\s*(?:{_IN}(?:{_SHOWS})?|{_SHOWS})"

# A space follows the end of a sentence, but not in Chinese and Japanese.
_CLOSING = r"""["'”’»)\]*]"""  # noqa: RUF001
_END = rf"(?:[.!?…]{_CLOSING}*(?:\s|$)|[。！？][」』”’）]*)"  # noqa: RUF001
_AFTER_LAST_SENTENCE = rf"(?s)^(.*{_END}).*?$"
# Marks that end no sentence: of abbreviations and initials, of numbers in a list, and of speech
# where the sentence goes on.
_NO_END = (
    r"\b((?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|approx|[A-Z])\.)(\s)",
    r"(?m)^(\s*\d{1,3}\.)(\s)",
    rf"((?:[!?…]{_CLOSING}*|\.{_CLOSING}+))(\s+\p{{Ll}})",
)
_ON = "\x1e"  # put behind them; no caption has it


@dataclass(frozen=True, slots=True)
class Edits:
    """What is done to every caption, in this order; nothing by default.

    ``trim_to_sentence`` ends a caption with the flag ``cut`` at its last full sentence; one that
    has none stays. ``strip_prefix`` removes a stock opening and capitalises what follows.
    ``prefix`` and ``suffix`` are put around what does not have them yet.
    """

    prefix: str = ""
    suffix: str = ""
    strip_prefix: bool = False
    trim_to_sentence: bool = False

    def apply(self, texts: pa.ChunkedArray, flags: pa.ChunkedArray) -> pa.ChunkedArray:
        """Captions as they are written; null stays null. ``flags`` are words joined by commas."""
        if self.trim_to_sentence:
            texts = _where(_has_word(flags, Flag.CUT), _trimmed, texts)
        if self.strip_prefix:
            texts = _where(pc.match_substring_regex(texts, rf"{_OPENING}\S"), _stripped, texts)
        if self.prefix:
            begun = pc.starts_with(texts, self.prefix)
            texts = pc.if_else(begun, texts, _joined(self.prefix, texts))
        if self.suffix:
            ended = pc.ends_with(texts, self.suffix)
            texts = pc.if_else(ended, texts, _joined(texts, self.suffix))
        return texts


def _where(
    mask: pa.ChunkedArray,
    edit: Callable[[pa.ChunkedArray], pa.ChunkedArray],
    texts: pa.ChunkedArray,
) -> pa.ChunkedArray:
    """``texts`` with those edited that ``mask`` has; the others cost nothing."""
    mask = pc.fill_null(mask, False)
    if not pc.any(mask).as_py():
        return texts
    edited = edit(texts.filter(mask))
    whole = (column.combine_chunks() for column in (texts, mask, edited))
    return pa.chunked_array([pc.replace_with_mask(*whole)])


def _has_word(words: pa.ChunkedArray, word: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(words, rf"(^|,){word}(,|$)")


def _trimmed(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each up to its last full sentence, or as it is."""
    for pattern in _NO_END:
        texts = pc.replace_substring_regex(texts, pattern, rf"\1{_ON}\2")
    texts = pc.replace_substring_regex(texts, _AFTER_LAST_SENTENCE, r"\1")
    texts = pc.utf8_rtrim_whitespace(texts)
    return pc.replace_substring(texts, _ON, "")


def _stripped(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each without its opening, which all of them have; one that is nothing else stays."""
    rest = pc.replace_substring_regex(texts, _OPENING, "", max_replacements=1)
    texts = pc.if_else(pc.equal(rest, ""), texts, rest)
    first = pc.utf8_upper(pc.utf8_slice_codeunits(texts, 0, 1))
    return _joined(first, pc.utf8_slice_codeunits(texts, 1))


def _joined(*sides: pa.ChunkedArray | str) -> pa.ChunkedArray:
    # A bare str is a narrow string, which the kernel does not mix with wide ones.
    kind = next(side.type for side in sides if not isinstance(side, str))
    columns = [pa.scalar(side, kind) if isinstance(side, str) else side for side in sides]
    return pc.binary_join_element_wise(*columns, pa.scalar("", kind))
