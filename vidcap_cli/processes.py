"""Linux process facts: who dies with whom, and who inherits orphans (prctl(2)).

Without these a rank or decoder could outlive a parent that was killed with SIGKILL. On other
systems the functions do nothing. ``python -m vidcap_cli.processes MODULE ...`` runs a module that
dies with the process named by VIDCAP_PARENT.
"""

import ctypes
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ADOPTION_SECONDS = 60.0
_STDERR = 2


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as the process ``parent`` dies.

    The signal follows the parent a process has at that moment. msrun starts the ranks and
    leaves, so a rank first waits until ``parent``, a subreaper, has adopted it. When ``parent``
    is gone already, this process ends here.
    """
    if sys.platform != "linux":
        return
    deadline = time.monotonic() + _ADOPTION_SECONDS
    while os.getppid() != parent:
        if not _alive(parent) or time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.02)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the two calls
        os._exit(1)


def free_port() -> int:
    """A port that nobody listens on here now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listened_on(port: int) -> bool:
    """Whether somebody listens on a TCP port of this machine; True where that cannot be known."""
    try:
        sockets = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    ends = (line.split()[1:4] for line in sockets)  # local and remote address, state
    return any(local.endswith(f":{port:04X}") and state == "0A" for local, _, state in ends)


def leave_now(code: int) -> NoReturn:
    """End this process without what libraries do at the end of one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_anew(environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by one that was started with the same words in ``environment``.

    Number, parent and the signal at the parent's death stay. All files but the standard ones are
    closed by the kernel in the same instant, so that a driver lets go of what the process had of
    its device (not tried on a device).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    for file in map(int, (path.name for path in Path("/proc/self/fd").iterdir())):
        if file > _STDERR:
            with suppress(OSError):  # the one that listed them
                os.set_inheritable(file, False)
    words = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, words, environment)  # noqa: S606 - there is no word for a shell


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parent has left."""
    if sys.platform == "linux":
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    die_with(int(os.environ["VIDCAP_PARENT"]))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
