"""``scope.json``: which rows the last command of a run was about, and what its table has.

The plan is that of the whole table. What is said of a run (how many rows are left, which command
continues it) is about the rows that were asked for, so these are noted when a command begins; and
``table_rows`` when it has written a table: how many first rows of META that has. A later command
never writes a smaller one. ``written`` are the digests of all tables that the run has written, by
which it knows its own (``rundir.replacing``).
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from vidcap_cli.atomic import atomic_write
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.selection import Selection


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that the last command was about; ``table_options`` are those of the table that was
    written last, None where there is none. ``written`` is None of a version that did not note it.
    """

    selection: Selection = field(default_factory=Selection)
    table_rows: int = 0
    table_options: dict[str, Any] | None = None
    written: tuple[str, ...] | None = ()

    def write(self, run: RunDir) -> None:
        """Note it in the run directory."""
        atomic_write(run.scope, json.dumps(asdict(self), ensure_ascii=False).encode())

    @classmethod
    def read(cls, run: RunDir) -> Self:
        """What is noted; all rows and no table where nothing is, or the file is damaged."""
        try:
            noted = json.loads(run.scope.read_bytes())
            limit, shard, of = (noted["selection"][name] for name in ("limit", "shard", "of"))
            numbers = (shard, of, noted["table_rows"], 0 if limit is None else limit)
            options, written = noted["table_options"], noted.get("written")
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return cls()
        sound = all(type(number) is int and number >= 0 for number in numbers) and shard < of
        sound = sound and isinstance(options, dict | None) and isinstance(written, list | None)
        if not sound:
            return cls()
        known = None if written is None else tuple(map(str, written))
        return cls(Selection(limit, shard, of), noted["table_rows"], options, known)
