"""The lock of a run: one process leads it, and others can tell that it is there.

The kernel releases the lock with the death of its holder, however that dies.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.rundir.paths import RunDir

# Who only looks whether a run is led holds its lock for an instant: ask more than once.
_TRIES = 3
_PAUSE_SECONDS = 0.2


@contextmanager
def leadership(run: RunDir) -> Iterator[None]:
    """Lead ``run``, whose folder exists.

    Raises RunError when another process leads it or has just removed it, and UsageError where the
    file system knows no locks.
    """
    with _lock_file(run) as lock:
        for _ in range(_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            except OSError as error:
                raise UsageError(
                    f"{run.lock}: cannot be locked ({error.strerror}); give a --run-dir on a file "
                    "system with locks."
                ) from error
        else:
            raise RunError(f"another vidcap is working on {run.path}; wait for it or stop it.")
        # Who held the lock before may have renamed or removed the folder with the file in it.
        if not _is_at(lock, run.lock):
            raise RunError(f"another vidcap has just replaced {run.path}; repeat the command.")
        yield


def _lock_file(run: RunDir) -> BinaryIO:
    try:
        return run.lock.open("a+b")
    except FileNotFoundError as error:
        raise RunError(f"{run.path} has just been removed; repeat the command.") from error
    except OSError as error:
        raise UsageError(
            f"{run.lock}: cannot be opened ({error.strerror}); give another --run-dir."
        ) from error


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def is_led(run: RunDir) -> bool:
    """Whether a process leads ``run``, as far as can be told."""
    try:
        with run.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such run, or none that this user may lead
        return False
    return False
