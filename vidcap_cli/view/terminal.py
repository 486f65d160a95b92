"""The terminal that is written to: how wide it is, and rich's console on it."""

import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_LEAST = 20  # columns


def width_of(stream: TextIO) -> int | None:
    """The columns of a terminal; None where ``stream`` is none, and lines may have any length."""
    if not stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    columns = int(told) if told.isdigit() else 0
    if not columns:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            columns = 80
    return max(_LEAST, columns or 80)  # pseudo-terminals may say 0


def console(*, stderr: bool = True) -> "Console":
    """The console of rich on stderr or stdout, which takes every dumb terminal for 80 columns."""
    from rich.console import Console  # noqa: PLC0415 - not for TAB and --help

    found = Console(stderr=stderr, highlight=False)
    width = width_of(sys.stderr if stderr else sys.stdout)
    if width and found.is_dumb_terminal:
        found.size = (width, 25)
    return found


def folding(console: "Console") -> int | None:
    """The columns at which lines on a console are folded; None off a terminal."""
    return console.width if console.is_terminal else None
