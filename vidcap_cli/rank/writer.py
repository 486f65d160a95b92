"""The part writer: commits finished rows soon, from a thread of its own.

A caption can take minutes, and a row that finished before it must not wait: so the thread, not
the rank's loop, watches the clock. A failed commit (a full disk) surfaces at the next ``add``.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from vidcap_cli.errors import RevokedError, RunError
from vidcap_cli.rundir.parts import Result


class PartWriter:
    """Collects results and commits each at most ``flush_seconds`` after it was added.

    ``write(sequence, results)`` commits a part of that number, FileExistsError when it is taken;
    ``first`` is the first number that is free. ``committed(rows)`` is called once they are on the
    disk.
    """

    def __init__(
        self,
        write: Callable[[int, list[Result]], None],
        flush_seconds: float,
        committed: Callable[[int], None],
        *,
        first: int = 0,
    ) -> None:
        self._write_part = write
        self._flush_seconds = flush_seconds
        self._committed = committed
        self._sequence = first
        self._waiting: list[Result] = []
        self._due = 0.0
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._watch, name="part-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if kind is None:
            self._raise_failure()

    def add(self, result: Result) -> None:
        """Take a finished row.

        Raises RunError when an earlier commit failed, RevokedError when it was refused.
        """
        self._raise_failure()
        with self._changed:
            if not self._waiting:
                self._due = time.monotonic() + self._flush_seconds
                self._changed.notify()
            self._waiting.append(result)

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._closing and not (self._waiting and time.monotonic() >= self._due):
                    rest = max(self._due - time.monotonic(), 0) if self._waiting else None
                    self._changed.wait(rest)
                batch, self._waiting = self._waiting, []
                last = self._closing
            if batch:
                try:
                    self._write(batch)
                    self._committed(len(batch))
                except Exception as error:  # noqa: BLE001 - raised again in the rank's loop
                    self._error = error
                    return
            if last:
                return

    def _write(self, batch: list[Result]) -> None:
        """Commit a part under the next name that nobody has taken."""
        while True:
            sequence = self._sequence
            self._sequence += 1
            with suppress(FileExistsError):
                self._write_part(sequence, batch)
                return

    def _raise_failure(self) -> None:
        if isinstance(self._error, RevokedError):
            raise self._error
        if self._error is not None:
            raise RunError(f"cannot write captions: {self._error}") from self._error
