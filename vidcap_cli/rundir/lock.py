"""The lock of a run: one process leads it, and others can tell that it is there.

The kernel releases a lock with the death of its holder, however that dies. Some shared folders have
no locks (Lustre mounted without ``flock``), or locks that other nodes know nothing of
(``localflock``, NFS with ``nolock`` or ``local_lock``). There a ``LockFile`` is held besides.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vidcap_cli.atomic import NO_LOCKS
from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.rundir.lock_file import LockFile
from vidcap_cli.rundir.paths import RunDir

# Who only looks whether a run is led holds its lock for an instant: ask more than once.
_TRIES = 3
_PAUSE_SECONDS = 0.2
# Mount options with which locks are those of one node.
_LOCAL = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}


@contextmanager
def leadership(run: RunDir) -> Iterator[None]:
    """Lead ``run``, whose folder exists.

    Raises RunError when another process leads it or has just removed it, and UsageError where no
    lock can be made.
    """
    with _lock_file(run) as lock:
        shared = _lock(lock, run)
        # Who held the lock before may have renamed or removed the folder with the file in it.
        if not _is_at(lock, run.lock):
            raise RunError(f"another vidcap has just replaced {run.path}; repeat the command.")
        if shared:
            yield
            return
        with LockFile(run.held):
            yield


def is_led(run: RunDir) -> bool:
    """Whether a process leads ``run``, as far as can be told."""
    try:
        with run.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such run, none that this user may lead, or no locks
        pass
    return LockFile(run.held).is_held()


def _lock(lock: BinaryIO, run: RunDir) -> bool:
    """Lock the file; whether all nodes know of it."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise UsageError(
                f"{run.lock}: cannot be locked ({error.strerror}); give another --run-dir."
            ) from error
        else:
            return not _mount_options(run.path) & _LOCAL
    raise RunError(f"another vidcap is working on {run.path}; wait for it or stop it.")


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


def _mount_options(path: Path) -> set[str]:
    """With which options the file system of ``path`` is mounted (proc(5), mountinfo)."""
    found: tuple[int, set[str]] = (0, set())
    with suppress(OSError):
        real = path.resolve()
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            place = fields[4].encode().decode("unicode_escape")
            if real.is_relative_to(place) and len(place) >= found[0]:
                found = len(place), set(fields[-1].split(","))
    return found[1]
