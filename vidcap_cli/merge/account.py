"""The account of a merge: what became of every planned row, with a few cases of everything odd."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.merge.choosing import Choice
from vidcap_cli.merge.spill import Ints
from vidcap_cli.statuses import Status

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Example:
    """One row or result behind a number; ``row`` is None where it fits no planned row."""

    row: int | None
    path: str | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """A number and the first few cases of it."""

    count: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What became of every planned row: ``rows == ok + failed + missing``.

    ``duplicates`` are rows with more than one result, ``conflicts`` rows with different captions
    to choose from. ``unmatched`` are results that fit no planned row, ``mismatched`` those whose
    ``row_id`` and ``path`` name different rows: neither is used. ``flagged`` captions have flags,
    so many each of ``flags``. ``notes`` are sentences; ``failure`` is one on what was not written
    besides the table.
    """

    out: str
    rows: int
    ok: int
    failed: dict[str, Tally]
    missing: Tally
    duplicates: Tally
    conflicts: Tally
    unmatched: Tally
    mismatched: Tally
    flagged: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    missing_table: str | None = None
    notes: tuple[str, ...] = ()
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether every planned row has a caption."""
        return self.ok == self.rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "complete": self.complete}


class _Rows:
    """Counts planned rows, which come in order, and keeps the first few."""

    def __init__(self) -> None:
        self._count = 0
        self._examples: list[Example] = []

    def add(self, rows: Ints, example: Callable[[int], Example]) -> None:
        """Count rows; ``example`` shows one of them."""
        self._count += len(rows)
        self._examples += map(example, rows[: EXAMPLES - len(self._examples)].tolist())

    @property
    def tally(self) -> Tally:
        """What was counted."""
        return Tally(self._count, tuple(self._examples))


class Strays:
    """Counts results that are not used, which come in any order, and keeps the oldest few."""

    def __init__(self) -> None:
        self._count = 0
        self._oldest: list[tuple[int, Example]] = []

    def add(self, ages: Ints, example: Callable[[int], Example]) -> None:
        """Count results of these ages; ``example`` shows the one at a place."""
        self._count += len(ages)
        first = np.argsort(ages)[:EXAMPLES].tolist()
        self._oldest += [(int(ages[place]), example(place)) for place in first]
        self._oldest = sorted(self._oldest, key=lambda pair: pair[0])[:EXAMPLES]

    @property
    def tally(self) -> Tally:
        """What was counted."""
        return Tally(self._count, tuple(example for _, example in self._oldest))


def _taken(choice: Choice, row: int) -> str:
    return "; ".join(
        f"{f'{question}, ' if question else ''}taken: {chosen} | not: {' | '.join(others)}"
        for question, chosen, others in choice.captions(row)
    )


class Account:
    """Counts the planned rows as they are written."""

    def __init__(self) -> None:
        self._rows = self._ok = 0
        self._statuses: dict[str, _Rows] = {}  # other than ok
        self._duplicates, self._conflicts = _Rows(), _Rows()
        self._flags: Counter[str] = Counter()  # as they stand in the column

    def add(
        self,
        start: int,
        paths: pa.ChunkedArray,
        choice: Choice,
        written: Sequence[pa.ChunkedArray],
    ) -> None:
        """Count the rows from ``start`` on, of which these columns are ``written``: their statuses,
        errors and flags.
        """
        status, error, flags = written

        def example(row: int, detail: str | None) -> Example:
            return Example(start + row, paths[row].as_py(), detail)

        self._rows += len(status)
        ok = pc.equal(status, Status.OK)
        for found in pc.value_counts(flags.filter(ok)).to_pylist():
            self._flags[found["values"] or ""] += found["counts"]
        for name in pc.unique(status).to_pylist():
            rows = np.flatnonzero(pc.equal(status, name).to_numpy())
            if name == Status.OK:
                self._ok += len(rows)
            else:
                self._statuses.setdefault(name, _Rows()).add(
                    rows, lambda row: example(row, error[row].as_py())
                )
        self._duplicates.add(
            np.flatnonzero(choice.times > 1),
            lambda row: example(row, f"{choice.times[row]} results"),
        )
        self._conflicts.add(choice.conflicts, lambda row: example(row, _taken(choice, row)))

    @property
    def misses(self) -> bool:
        """Whether rows have no result."""
        return Status.MISSING in self._statuses

    def reconciliation(
        self,
        out: Path,
        missing: Path | None,
        *,
        unmatched: Tally,
        mismatched: Tally,
        notes: tuple[str, ...],
        failure: str,
    ) -> Reconciliation:
        """The account, once all rows were written to ``out``, and to ``missing`` if given."""
        flags: Counter[str] = Counter()
        del self._flags[""]
        for listed, rows in self._flags.items():
            flags.update(dict.fromkeys(listed.split(","), rows))
        tallies = {name: self._statuses[name].tally for name in sorted(self._statuses)}
        return Reconciliation(
            out=str(out),
            rows=self._rows,
            ok=self._ok,
            missing=tallies.pop(Status.MISSING, Tally()),
            failed=tallies,
            duplicates=self._duplicates.tally,
            conflicts=self._conflicts.tally,
            unmatched=unmatched,
            mismatched=mismatched,
            flagged=self._flags.total(),
            flags=dict(flags.most_common()),
            missing_table=str(missing) if missing else None,
            notes=notes,
            failure=failure,
        )
