"""Values of options, read from words of the command line; ValueError is a wrong one."""

import importlib.util
import re
from pathlib import Path

from vidcap_cli.view.words import parse_size, size

NO_RANGES = "none"  # no column has ranges of videos
# Bytes a decoder needs to work at all: FFmpeg, NumPy and a video of ordinary size.
LEAST_DECODE_MEMORY = 256_000_000
_NAMED = re.compile(r"([^\W\d]\w*)=(.*\S.*)", re.DOTALL)  # a question with a name


def models(incomplete: str) -> list[str]:
    """What TAB offers for a model: nano and the folders here, or nothing.

    For nothing every shell completes names of files itself, quotes them, and lets one descend
    into folders; so it does for all arguments that are paths. Only where nano is still possible
    has the choice to be ours, and then a name that a shell would quote is left out.
    """
    if not "nano".startswith(incomplete):
        return []
    names = [path.name for path in Path().glob(f"{incomplete}*") if path.is_dir()]
    return ["nano", *(f"{name}/" for name in sorted(names) if re.fullmatch(r"\w[\w.-]*", name))]


def as_bytes(text: str) -> int:
    """Bytes of a number, or of one with k, M, G or T (powers of 1000)."""
    found = parse_size(text)
    if found is None:
        raise ValueError("write a number and a unit, such as 12G or 800M.")
    return found


def as_decoder_bytes(text: str) -> int:
    """Bytes, enough for a decoder to work in at all."""
    found = as_bytes(text)
    if found < LEAST_DECODE_MEMORY:
        raise ValueError(f"a decoder needs {size(LEAST_DECODE_MEMORY)} or more.")
    return found


def as_question(text: str) -> str:
    """``text``, or for ``@FILE`` what that file says."""
    if not text.startswith("@"):
        return text
    file = Path(text[1:])
    try:
        found = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8; convert it.") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    if not found:
        raise ValueError(f"{file} says nothing; write the text into it.")
    return found


def as_questions(texts: list[str]) -> str | dict[str, str]:
    """One question, or several by their names, each written NAME=TEXT or NAME=@FILE."""
    if not all(text.strip() for text in texts):
        raise ValueError("it says nothing; write a question, or leave it out.")
    found = [_NAMED.fullmatch(text) for text in texts]
    if len(texts) == 1 and not found[0]:
        return as_question(texts[0])
    questions = {}
    for text, named in zip(texts, found, strict=True):
        if not named:
            raise ValueError(f"several questions need names: write NAME=TEXT, not {text[:40]!r}.")
        if named[1] in questions:
            raise ValueError(f"two questions are called {named[1]}; rename one.")
        questions[named[1]] = as_question(named[2])
    return questions


def as_shape(text: str) -> str:
    """``text`` if it is written T-H-W."""
    if not re.fullmatch(r"[1-9]\d*-[1-9]\d*-[1-9]\d*", text):
        raise ValueError("write T-H-W, such as 4-12-12.")
    return text


def as_ranges(text: str) -> str:
    """``text`` if it names one column, or two with a comma between, or says none."""
    names = text.split(",")
    if len(names) > 2 or not all(name.strip() for name in names):
        raise ValueError(f"write START,END, the column with lists of ranges, or {NO_RANGES}.")
    return text


def as_shard(text: str) -> str:
    """``text`` if it is written I/N, I from 0 on and less than N."""
    found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError("write I/N, such as 0/4 to 3/4.")
    return text


def as_bool(text: str) -> str:
    """``text`` if msrun takes it for true or false."""
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("write True or False.")
    return text


def as_reader(name: str) -> str:
    """The reader that ``name`` means; one that is not installed is a wrong value."""
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise ValueError("decord is not installed: pip install decord2.")
    return "pyav" if name == "auto" else name
