"""Which of the planned rows a command is about; the plan is that of the whole table."""

from dataclasses import dataclass

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

    def until(self, rows: int) -> int:
        """The first row that is not looked at any more, of ``rows``."""
        return rows if self.limit is None else min(self.limit, rows)

    def count(self, rows: int) -> int:
        """How many of ``rows`` rows are selected."""
        return len(range(self.shard, self.until(rows), self.of))

    def mask(self, rows: int) -> npt.NDArray[np.bool_]:
        """Whether each of ``rows`` rows is selected."""
        found = np.zeros(rows, np.bool_)
        found[self.shard : self.until(rows) : self.of] = True
        return found
