"""The errors vidcap raises on purpose, and the exit code each one ends the command with.

A message is one or two sentences: what was wrong, where, and what to do next. Anything else that
escapes is a bug and keeps its traceback.
"""

from pathlib import Path
from typing import ClassVar

OK = 0
FAILED = 1
USAGE = 2
INCOMPLETE = 3
INTERRUPTED = 130


class VidcapError(Exception):
    """Base of the errors a user can act on; ends the command with ``exit_code``."""

    exit_code: ClassVar[int] = FAILED


class UsageError(VidcapError):
    """An argument, option or input table that cannot be worked with."""

    exit_code: ClassVar[int] = USAGE


class TableError(UsageError):
    """A table that cannot be read as one: the message names file, row and remedy."""


class ModelError(VidcapError):
    """A checkpoint folder that is missing, incomplete or of another family."""

    exit_code: ClassVar[int] = USAGE


class RunError(VidcapError):
    """The run as a whole failed; finished rows are on disk."""


class RevokedError(RunError):
    """The launch of this rank is over for who leads the run: it commits nothing any more."""


class DamagedPartError(RunError):
    """A part file that is not as it was written, or whose rows are another run's.

    The message is ``part`` and what is wrong with it, without a full stop: who reads parts adds
    what to do.
    """

    def __init__(self, part: Path, fault: str) -> None:
        super().__init__(f"{part}: {fault}")
        self.part = part


class RunChangedError(UsageError):
    """A run was made from another table or with other options."""


class StoppedError(VidcapError):
    """The user stopped the run; finished rows are on disk."""

    exit_code: ClassVar[int] = INTERRUPTED


class OutOfMemoryError(Exception):
    """The device had no room for a prompt: the status of a row, never the end of a command."""
