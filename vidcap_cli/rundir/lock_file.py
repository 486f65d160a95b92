"""A lock for file systems that have none: a file that whoever comes first makes, and keeps up.

Making a file that must be new is atomic on every shared folder (open(2), O_EXCL; NFS since
version 3). Its holder writes it anew every few seconds. Who finds one that stays as it is for long,
or whose process on this host is gone, takes it away and makes its own.
"""

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import psutil

from vidcap_cli.atomic import replace_file
from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.rundir.nodes import BEAT_SECONDS, LOST_SECONDS
from vidcap_cli.view.words import folded

_LOOK_SECONDS = 0.5


class LockFile:
    """The lock ``path``, held from entering to leaving.

    Entering raises RunError when somebody holds it, UsageError where it cannot be made. A holder
    that finds it taken away, because it was frozen for too long, sends itself SIGTERM.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = f"{os.getpid()} {uuid4().hex}"
        self._beats = count()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="lock", daemon=True)

    def __enter__(self) -> None:
        seen, since, told = self._read(), time.monotonic(), False
        while not self._make():
            time.sleep(_LOOK_SECONDS)
            now, waited = self._read(), time.monotonic() - since
            if now != seen and seen and now:
                raise RunError(
                    f"{self._path.parent}: {_holder(now)} leads this run; wait for it or stop it."
                )
            seen = now
            if (seen and not _may_live(seen)) or waited > LOST_SECONDS:
                self._take_away(seen)
            elif waited > BEAT_SECONDS and not told:
                told = True
                print(  # noqa: T201
                    folded(
                        f"{self._path} is of {_holder(seen)}; looking for {LOST_SECONDS:g} s "
                        "whether that gets on"
                    ),
                    file=sys.stderr,
                )
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self._thread.join()
        if self._is_ours():
            self._path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether somebody holds it, as far as one look can tell."""
        words = self._read()
        return _may_live(words) if words else self._path.exists()  # it may have just been made

    def _make(self) -> bool:
        try:
            file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            raise UsageError(
                f"{self._path}: cannot be made ({error.strerror}); give another --run-dir."
            ) from error
        with os.fdopen(file, "w", encoding="utf-8") as made:
            made.write(self._words())
        return True

    def _keep_up(self) -> None:
        while not self._leaving.wait(BEAT_SECONDS):
            if not self._is_ours():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            with suppress(OSError):  # a full disk: the next time may do
                replace_file(self._path, self._words().encode())

    def _words(self) -> str:
        return f"{socket.gethostname()} {self._name} {next(self._beats)}"

    def _is_ours(self) -> bool:
        return f" {self._name} " in self._read()

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _take_away(self, seen: str) -> None:
        """Remove the file that says ``seen``, and none that somebody else has made meanwhile."""
        away = self._path.with_name(f"{self._path.name}.{uuid4().hex}")
        with suppress(OSError):
            if self._read() == seen:
                self._path.rename(away)
                if away.read_text(encoding="utf-8", errors="replace") != seen:
                    away.rename(self._path)
                else:
                    away.unlink()


def _holder(words: str) -> str:
    host, pid, *_ = [*words.split(), "?", "?"]
    return f"process {pid} on {host}"


def _may_live(words: str) -> bool:
    """Whether the holder may be there: one on this host can be looked up."""
    host, pid, *_ = [*words.split(), "", ""]
    if not host:
        return False
    return host != socket.gethostname() or not pid.isdigit() or psutil.pid_exists(int(pid))
