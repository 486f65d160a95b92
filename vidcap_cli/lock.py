"""The lock of a run: one process leads it, and others can tell that it is there.

The kernel releases the lock with the death of its holder, however that dies.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vidcap_cli.errors import RunError
from vidcap_cli.rundir import RunDir

# Who only looks whether a run is led holds its lock for an instant: ask more than once.
_TRIES = 3
_PAUSE_SECONDS = 0.2


@contextmanager
def leadership(run: RunDir) -> Iterator[None]:
    """Lead ``run``, whose folder is made if need be; RunError when another process does."""
    run.path.mkdir(parents=True, exist_ok=True)
    with run.lock.open("a+b") as lock:
        for _ in range(_TRIES):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_PAUSE_SECONDS)
        else:
            raise RunError(f"another vidcap is working on {run.path}; wait for it or stop it.")
        yield


def is_led(run: RunDir) -> bool:
    """Whether a process leads ``run``."""
    try:
        with run.lock.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
