"""Which of the planned rows a command is about; the plan is that of the whole table."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Selection:
    """The first ``limit`` rows, and of these each ``of``-th, from row ``shard`` on."""

    limit: int | None = None
    shard: int = 0
    of: int = 1

    @classmethod
    def make(cls, limit: int | None, shard: str | None) -> "Selection":
        """From ``--limit`` and ``--shard I/N``."""
        index, of = map(int, (shard or "0/1").split("/"))
        return cls(limit, index, of)

    @property
    def is_shard(self) -> bool:
        """Whether other commands have the other rows."""
        return self.of > 1

    def widened(self, first: int, rows: int) -> "Selection":
        """The same with the ``first`` of all ``rows`` rows or more, 0 being none; without a limit
        where that makes it all.
        """
        if self.limit is None or not first:
            return self
        limit = max(self.limit, first)
        return replace(self, limit=None if limit >= rows else limit)

    @property
    def options(self) -> dict[str, Any]:
        """The options that mean it, by their flags' words."""
        found: dict[str, Any] = {} if self.limit is None else {"limit": self.limit}
        return found | ({"shard": f"{self.shard}/{self.of}"} if self.is_shard else {})

    def until(self, rows: int) -> int:
        """The first row that is not looked at any more, of ``rows``."""
        return rows if self.limit is None else min(self.limit, rows)

    def count(self, rows: int) -> int:
        """How many of ``rows`` rows are selected."""
        return len(range(self.shard, self.until(rows), self.of))

    def beyond(self, rows: int) -> int:
        """How many of ``rows`` rows come after the limit, of a shard its own."""
        return replace(self, limit=None).count(rows) - self.count(rows)

    def beyond_words(self, rows: int) -> str:
        """The same for people; nothing where there is none."""
        after = self.beyond(rows)
        whose = f"shard {self.shard}/{self.of}" if self.is_shard else "the table"
        come = f"row{' of' if after == 1 else 's of'} {whose} {'comes' if after == 1 else 'come'}"
        return f"{after:,} {come} after --limit {self.limit}" if after else ""

    def mask(self, rows: int) -> npt.NDArray[np.bool_]:
        """Whether each of ``rows`` rows is selected."""
        found = np.zeros(rows, np.bool_)
        found[self.shard : self.until(rows) : self.of] = True
        return found


ALL_ROWS = Selection()
