"""The disk: tried before the work is done, and named when it fails in the middle.

A video takes seconds to minutes, so a place that cannot be written to is told at the start: a
small file is really written there and flushed. What goes wrong later ends in a sentence.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vidcap_cli.atomic import probe, sweep
from vidcap_cli.errors import RunError, UsageError

# What a place may say at any time; a broken pipe or a lost child is another matter.
# fmt: off
_FAULTS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT,
    errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENOTEMPTY, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENODEV, errno.ENXIO, errno.EBUSY, errno.ENOTCONN,
    errno.EMFILE, errno.ENFILE,
})
# fmt: on


def reason(error: OSError) -> str:
    """Why, without the number and the name: "No space left on device"."""
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def faults_told(place: Path) -> Iterator[None]:
    """Turn a fault of the disk into a RunError that names the file, or else ``place``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FAULTS:
            raise
        raise RunError(
            f"{error.filename or place}: {reason(error)}. Every row that was committed is kept; "
            "make room or put the place right, and repeat the command to continue."
        ) from error


def check_output(out: Path) -> None:
    """Raise UsageError unless a table can be written to ``out``; nothing stays behind.

    What a command left there that was cut off while it wrote ``out`` is removed.
    """
    try:
        if not out.parent.is_dir():
            raise UsageError(f"{out}: the folder {out.parent} does not exist; create it first")
        if out.is_dir():
            raise UsageError(f"{out}: is a folder; name a file")
        if out.exists() and not out.is_file():
            raise UsageError(f"{out}: is not a regular file; name another")
        sweep(out.parent, out.name)
        probe(out)
    except OSError as error:
        raise UsageError(
            f"{out}: nothing can be written there ({reason(error)}); name an output elsewhere "
            "with -o"
        ) from error


def check_log_dir(folder: Path) -> None:
    """Make ``folder`` if need be; UsageError when logs cannot be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder, "log")
        probe(folder / "log")
    except OSError as error:
        raise UsageError(
            f"{folder}: logs cannot be written there ({reason(error)}); give another --log-dir"
        ) from error
