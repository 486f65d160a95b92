"""The standing of a run: what its parts say of every row, why rows failed, which took longest.

Where ``ledger`` keeps what a launch has to know, this reads all parts anew, for people: the
status of each row, and of those that failed all that is known. Nothing here writes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.rundir.ledger import RunParts
from vidcap_cli.rundir.parts import SCHEMA
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan
from vidcap_cli.rundir.selection import ALL_ROWS, Selection
from vidcap_cli.statuses import Status

FAILED = ("row_id", "path", "status", "error", "attempts", "rank")
FAILED_SCHEMA = pa.schema([SCHEMA.field(name) for name in FAILED])
_SLOW = ("row_id", "path", "infer_s", "decode_s", "frames", "new_tokens")
_SLOWEST = 5
_CAUSES = 1000  # that are told apart; the rest is counted by status
_LONGEST_CAUSE = 100  # characters
_OWN = re.compile(r"(?<!\w)/[^\s'\":,;()]+|0x[0-9a-fA-F]+|(?<![A-Za-z])\d+(?:[.,:]\d+)*")


@dataclass(slots=True)
class Cause:
    """Why ``rows`` rows failed: ``words`` are the error of all, without paths and numbers.

    ``row``, ``path`` and ``error`` are those of one of them.
    """

    status: str
    words: str
    rows: int
    row: int
    path: str
    error: str

    def as_dict(self) -> dict[str, Any]:
        """The cause as JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Slow:
    """A row that took long: ``infer_s`` seconds in the model and ``decode_s`` for its frames."""

    row: int
    path: str
    infer_s: float
    decode_s: float
    frames: int | None
    new_tokens: int | None

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Standing:
    """How rows stand: ``statuses`` counts the latest result of each row (a caption is never
    superseded), ``causes`` are the most frequent first, ``slowest`` the slowest first,
    ``damaged`` says what is wrong with parts that count in no row. ``outside`` are captions of rows
    that are not meant.
    """

    statuses: Counter[str]
    causes: tuple[Cause, ...] = ()
    slowest: tuple[Slow, ...] = ()
    damaged: tuple[str, ...] = ()
    outside: int = 0

    @property
    def ok(self) -> int:
        """Rows with a caption."""
        return self.statuses[Status.OK]

    @property
    def failed(self) -> int:
        """Rows that have a result and no caption."""
        return self.statuses.total() - self.ok


class _MovedError(Exception):
    """Another part stands for one since it was listed."""


def read_standing(
    run: RunDir, plan: Plan, selection: Selection = ALL_ROWS, parts: RunParts | None = None
) -> Standing:
    """How the rows of ``selection`` stand; ``parts`` may have read parts of the run before.

    Reads every part, twice: memory is some bytes a row, whatever the errors say.
    """
    parts = parts or RunParts(run, plan)
    while True:
        try:
            return _Reading(run, plan, selection, parts).standing()
        except _MovedError:
            continue


def failed_rows(run: RunDir, plan: Plan, selection: Selection = ALL_ROWS) -> Iterator[pa.Table]:
    """The rows of ``selection`` that failed, part by part, with the columns ``FAILED``.

    Raises RunError when parts are joined while they are read.
    """
    try:
        yield from _Reading(run, plan, selection, RunParts(run, plan)).failed()
    except _MovedError as error:
        raise RunError(
            f"{run.path}: its ranks joined parts meanwhile; repeat the command"
        ) from error


class _Reading:
    """One reading of the parts that there are now."""

    def __init__(self, run: RunDir, plan: Plan, selection: Selection, parts: RunParts) -> None:
        self._files = run.part_files()
        self._parts = parts
        self._names: list[str] = [Status.OK]
        self._status: npt.NDArray[np.int16] = np.full(plan.rows, -1, np.int16)
        self._origin: npt.NDArray[np.int32] = np.full(plan.rows, -1, np.int32)
        self._seconds = np.zeros(plan.rows, np.float32)
        self._selected = selection.mask(plan.rows)
        self._outside = np.zeros(plan.rows, np.bool_)
        self._damaged: list[str] = []
        for number, file in enumerate(self._files):
            self._take(number, file)

    def _take(self, number: int, file: Path) -> None:
        try:
            table = self._read(file, ("row_id", "status", "infer_s", "decode_s"))
        except DamagedPartError as error:
            self._damaged.append(str(error))
            return
        rows = table["row_id"].to_numpy()
        codes = self._codes(table["status"])
        model, frames = (table[name].fill_null(0).to_numpy() for name in ("infer_s", "decode_s"))
        self._outside[rows[(codes == 0) & ~self._selected[rows]]] = True
        open_ = (self._status[rows] != 0) & self._selected[rows]
        self._status[rows[open_]] = codes[open_]
        self._origin[rows[open_]] = number
        self._seconds[rows[open_]] = (model + frames)[open_]

    def _codes(self, statuses: pa.ChunkedArray) -> npt.NDArray[np.int16]:
        """The numbers of ``statuses`` among the names."""
        told = statuses.combine_chunks().dictionary_encode()
        names = told.dictionary.to_pylist()
        self._names += sorted(set(names) - set(self._names))
        numbers = np.array([self._names.index(name) for name in names], np.int16)
        codes: npt.NDArray[np.int16] = numbers[told.indices.to_numpy()]
        return codes

    def _read(self, file: Path, columns: tuple[str, ...]) -> pa.Table:
        try:
            return self._parts.read(file, columns)
        except DamagedPartError:
            raise
        except RunError as error:
            if file.exists():
                raise
            raise _MovedError from error

    def standing(self) -> Standing:
        """What they say."""
        numbers = np.bincount(self._status + 1, minlength=1 + len(self._names))[1:].tolist()
        statuses = +Counter(dict(zip(self._names, numbers, strict=True)))
        outside = int(self._outside.sum())
        return Standing(statuses, self._causes(), self._slowest(), tuple(self._damaged), outside)

    def failed(self) -> Iterator[pa.Table]:
        """The rows that failed."""
        return self._rows(self._status > 0, FAILED)

    def _rows(self, wanted: npt.NDArray[np.bool_], columns: tuple[str, ...]) -> Iterator[pa.Table]:
        """``columns`` of the ``wanted`` rows, from the parts that their results are from."""
        for number in np.unique(self._origin[wanted]).tolist():
            table = self._read(self._files[number], columns)
            rows = table["row_id"].to_numpy()
            theirs = wanted[rows] & (self._origin[rows] == number)
            # Of several results of a row in a part the last one counts.
            last = len(rows) - 1 - np.unique(rows[::-1], return_index=True)[1]
            yield table.take(pa.array(last[theirs[last]]))

    def _causes(self) -> tuple[Cause, ...]:
        found: dict[tuple[str, str], Cause] = {}
        for table in self.failed():
            for row in table.to_pylist():
                status, path, error = row["status"], row["path"] or "", row["error"] or ""
                words = cause(error, path)
                if (status, words) not in found and len(found) >= _CAUSES:
                    words = "others"
                one = found.setdefault(
                    (status, words), Cause(status, words, 0, row["row_id"], path, error)
                )
                one.rows += 1
        return tuple(sorted(found.values(), key=lambda one: (-one.rows, one.row)))

    def _slowest(self) -> tuple[Slow, ...]:
        done = np.flatnonzero((self._status == 0) & (self._seconds > 0))
        seconds = self._seconds[done]
        if len(done) > _SLOWEST:  # few are to be put in order
            slow = seconds >= np.partition(seconds, -_SLOWEST)[-_SLOWEST]
            done, seconds = done[slow], seconds[slow]
        order = np.argsort(-seconds, kind="stable")[:_SLOWEST]
        wanted = np.zeros(len(self._status), np.bool_)
        wanted[done[order]] = True
        found = [Slow(**_named(row)) for t in self._rows(wanted, _SLOW) for row in t.to_pylist()]
        return tuple(sorted(found, key=lambda slow: (-slow.infer_s - slow.decode_s, slow.row)))


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": row["row_id"],
        "path": row["path"] or "",
        "infer_s": round(row["infer_s"] or 0.0, 3),
        "decode_s": round(row["decode_s"] or 0.0, 3),
        "frames": row["frames"],
        "new_tokens": row["new_tokens"],
    }


def cause(error: str, path: str) -> str:
    """What ``error`` has in common with the same error of other rows: no paths, no numbers."""
    first = next((line.strip() for line in error.splitlines() if line.strip()), "")
    first = first.replace(path, "…") if path else first
    words = " ".join(_OWN.sub("…", first).split())
    if len(words) <= _LONGEST_CAUSE:
        return words
    return words[: _LONGEST_CAUSE - 1].rsplit(" ", 1)[0] + " …"
