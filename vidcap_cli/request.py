"""What a caption command was asked, and what it says to who asked."""

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vidcap_cli.config import CaptionConfig
from vidcap_cli.declaring import declared, given
from vidcap_cli.options import LaunchOptions, RunOptions, TableOptions
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.view.words import folded


@dataclass(frozen=True, slots=True)
class Request:
    """What a caption command was asked. ``meta`` None goes with ``run.demo``.

    ``config.model`` is what the user called it, not yet a folder; ``typed`` are the words after
    ``vidcap``.
    """

    meta: Path | None
    config: CaptionConfig
    table: TableOptions = field(default_factory=TableOptions)
    run: RunOptions = field(default_factory=RunOptions)
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    typed: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """The rows that are asked for."""
        return Selection.make(self.run.limit, self.run.shard)

    @property
    def caption_columns(self) -> list[str]:
        """What the columns with captions are called."""
        return [name or self.table.caption_column for name in self.config.questions]

    @property
    def table_options(self) -> dict[str, Any]:
        """What was asked of the table to write, as words of the command line are."""
        absolute = replace(self.table, output=self.table.output and self.table.output.absolute())
        return given(declared(TableOptions).values(), asdict(absolute))

    def say_limit(self, meant: Selection, rows: int) -> None:
        """Say why the command is about the ``rows`` rows of ``meant``, where those are more than
        ``--limit`` asks for.
        """
        limit = self.run.limit
        if not limit or meant == self.selection:
            return
        words = f"the table has {rows:,} rows already, which stay; --fresh makes a smaller one"
        if self.run.extend:
            words = f"captions of before are among the first {rows:,} rows, which the table keeps"
        elif meant.is_shard:
            until = f"--limit {meant.limit}" if meant.limit else "the end of the table"
            words = f"the shard goes to {until} already, which stays; --fresh makes a smaller one"
        self.say(f"--limit {limit}: {words}.")

    def say(self, text: str) -> None:
        """Say ``text`` unless nothing is to be said."""
        if not self.run.quiet:
            notice(text)


def notice(text: str) -> None:
    """Say something to the user that is not data."""
    print(folded(text), file=sys.stderr)  # noqa: T201
