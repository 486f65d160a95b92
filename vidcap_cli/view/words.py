"""How numbers, times and text from outside are written for people."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

from vidcap_cli.view.terminal import width_of


def one_line(text: str) -> str:
    """``text`` on one line; what a terminal might obey is replaced."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """``text`` with control characters and what is not Unicode (odd file names) replaced.

    So are marks that change the direction of writing: they can make a line show what it does not
    say. Every text from outside goes through here, or ``one_line`` or ``lines``, to a terminal.
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def lines(text: str) -> str:
    """``text`` printable, its line breaks kept."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


def wrapped(text: str, width: int | None, hanging: int = 0) -> str:
    """A line folded between words at ``width`` columns, the rest of it ``hanging`` columns deep.

    A word that is longer than that, such as a path, stays whole; without a ``width`` all does.
    """
    if width is None or len(text) < width // 2:
        return text
    from rich.cells import cell_len  # noqa: PLC0415 - not for TAB and --help

    found, (line, *words) = [], text.split(" ")
    for word in words:
        if line.strip() and cell_len(line) + 1 + cell_len(word) > width:
            found.append(line.rstrip())
            line = " " * hanging + word
        else:
            line = f"{line} {word}"
    return "\n".join([*found, line])


def folded(text: str, stream: TextIO | None = None) -> str:
    """``lines`` of it for stderr, folded between words where that is a terminal."""
    width = width_of(stream or sys.stderr)
    indents = [(line, len(line) - len(line.lstrip())) for line in lines(text).split("\n")]
    return "\n".join(wrapped(line, width, indent) for line, indent in indents)


def figure(value: float) -> str:
    """A speed with three digits or more: 8.3, 412, 1,204; the same of one that was written down."""
    value = round(value, 1)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def setting(value: object) -> str:
    """The value of an option: on, 4, 0.5, a text as it is, 'a=b' for several by their names."""
    match value:
        case None:
            return "not given"
        case bool():
            return "on" if value else "off"
        case float():
            return str(value).removesuffix(".0")
        case dict():
            return ", ".join(f"{name}={one}" for name, one in value.items())
    return str(value)


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """The one of ``known`` that is most like ``name``, if any is ``alike`` (of 1) at least."""
    from difflib import get_close_matches  # noqa: PLC0415 - for errors only

    return next(iter(get_close_matches(name, list(known), 1, alike)), None)


def quoted_here(path: Path) -> str:
    """A file as a word of a command that is pasted here, short where it lies here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


_NAMES = 10_000  # of a folder that are compared
_SHARD = re.compile(r"\.(\d+)-of-\d+(?=\.)")  # in the name of its run directory


def absent(path: Path, thing: str = "file or folder") -> str:
    """That there is no such thing at ``path``, with the name there that is most like it."""
    gone = path
    while gone.parent != gone and not gone.parent.exists():
        gone = gone.parent
    words = f"{path}: there is no such {thing}"
    try:
        with os.scandir(gone.parent) as entries:
            names = [entry.name for entry in islice(entries, _NAMES)]
    except OSError:
        names = []
    if shard := _SHARD.search(gone.name):  # another shard is no other spelling of this one
        names = [name for name in names if shard[0] in name]
    stem = nearest(gone.stem, {Path(name).stem for name in names})  # endings are alike anyhow
    near = nearest(gone.name, [name for name in names if Path(name).stem == stem])
    if near is None and shard:
        return f"{words}; copy it here from where shard {shard[1]} was captioned"
    if near is None:
        return f"{words}; check the spelling"
    meant = gone.parent / near / path.relative_to(gone)
    return f"{words}; did you mean {meant if meant.exists() else gone.parent / near}?"


def lost_words(captions: int) -> str:
    """That so many captions have no row in a table that has changed."""
    one = captions == 1
    of = "is of a row" if one else "are of rows"
    return (
        f"{count(captions, 'caption')} {of} that the table has no more: "
        f"{'it goes' if one else 'they go'} with the old run once this has finished; "
        f"another output (-o) keeps {'it' if one else 'them'}"
    )


def count(number: int, thing: str) -> str:
    """How many of a thing whose plural takes an s: 1 video, 2,000 videos."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 245 seconds are 0:04:05."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def duration(seconds: float) -> str:
    """Two units at most: 8 s, 4 min 12 s, 1 h 56 min, 2 d 3 h."""
    whole = max(0, round(seconds))
    for size, unit, small, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few words: 0, 1, 2, 3, 5 are 0-3, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def parse_size(text: str) -> int | None:
    """Bytes of a number with a unit, in decimal units as ``size`` writes them; None for others."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip(), re.IGNORECASE)
    scale = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    return int(float(match[1]) * scale[match[2].upper()]) if match else None


def size(number: float) -> str:
    """Bytes in decimal units, as disks and downloads are measured: 1.9 MB, 16.6 GB."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number:,.0f} bytes"
