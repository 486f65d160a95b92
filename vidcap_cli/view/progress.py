"""How far a command has come that looks at many things: a bar on a terminal, else a line now and
then.
"""

import sys
import time
from types import TracebackType
from typing import Self

from vidcap_cli.view.terminal import console

LINE_SECONDS = 30.0  # from one line to the next


class Progress:
    """Shown on stderr while it is entered; ``total`` None is a number that is not known yet."""

    def __init__(self, things: str, total: int | None = None) -> None:
        self._things = f" of {total:,} {things}" if total else f" {things}"
        self._done, self._told = 0, time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            # Only for a terminal.
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
            from rich.progress import Progress as Bar  # noqa: PLC0415

            self._bar = Bar(
                TextColumn("{task.completed:,.0f}" + self._things),
                BarColumn(),
                TimeElapsedColumn(),
                console=console(),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, things: int = 1) -> None:
        """So many more are done."""
        self._done += things
        if self._bar:
            self._bar.advance(self._task, things)
        elif time.monotonic() - self._told > LINE_SECONDS:
            self._told = time.monotonic()
            print(f"{self._done:,}{self._things}", file=sys.stderr, flush=True)  # noqa: T201
