"""The ledger of a run: what its committed parts say of the planned rows.

A result counts when its part is as it was written and its ``path`` is the one planned for its
``row_id``. A part that is damaged, or that has a row of another plan, counts in no row: a caption
on the wrong video is worse than a row that is done again. Nothing here writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import RunDir, attempt_of
from vidcap_cli.rundir.plan import Plan
from vidcap_cli.statuses import Status
from vidcap_cli.tables import hashes

_GROUPS = 256  # row groups of rows.parquet whose hashes are kept: 128 MiB, 17 million rows


class RunParts:
    """Reads the parts of a run, each verified and, when it is first read, compared with the plan.

    A part is never replaced, so once is enough: it takes three times as long as to read it.
    """

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run = run
        self._rows = plan.rows
        self._compared: set[str] = set()
        self._starts: npt.NDArray[np.int64] | None = None
        self._hashes_of = lru_cache(_GROUPS)(self._read_hashes)

    def read(self, part: Path, columns: Sequence[str]) -> pa.Table:
        """``columns`` of a part, as ``parts.read_part`` gives them.

        Raises DamagedPartError when the part is damaged or is of another run, and RunError when
        the disk does not give it.
        """
        if part.name in self._compared:
            return read_part(part, columns)
        table = read_part(part, list(dict.fromkeys(["row_id", "path", *columns])))
        self._compare(part, table["row_id"].to_numpy(), table["path"])
        self._compared.add(part.name)
        return table.select(list(columns))

    def _compare(self, part: Path, row_ids: npt.NDArray[np.int64], paths: pa.ChunkedArray) -> None:
        """Raise DamagedPartError when rows of a part are not those planned."""
        if len(row_ids) and not 0 <= row_ids.min() <= row_ids.max() < self._rows:
            raise DamagedPartError(part, "this part has rows outside the plan; it is another run's")
        # A part without the column says nothing against its rows.
        if paths.null_count < len(paths):
            wrong = np.flatnonzero(hashes(paths) != self._planned(row_ids))
            if len(wrong):
                row, path = int(row_ids[wrong[0]]), paths[int(wrong[0])].as_py()
                raise DamagedPartError(
                    part,
                    f"this part has {path!r} for row {row}, where the plan has another path; "
                    "it is damaged or another run's",
                )

    def _planned(self, row_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A hash of each row's path: eight bytes, where the path would be a hundred.

        A part has rows that were planned near each other, so those of few row groups are wanted.
        """
        if self._starts is None:
            file = pq.read_metadata(self._run.rows)
            sizes = [file.row_group(number).num_rows for number in range(file.num_row_groups)]
            self._starts = np.cumsum([0, *sizes])
        groups = np.searchsorted(self._starts, row_ids, side="right") - 1
        found = np.empty(len(row_ids), np.int64)
        for group in np.unique(groups).tolist():
            inside = groups == group
            found[inside] = self._hashes_of(group)[row_ids[inside] - self._starts[group]]
        return found

    def _read_hashes(self, group: int) -> npt.NDArray[np.int64]:
        with pq.ParquetFile(self._run.rows) as file:
            return hashes(file.read_row_group(group, columns=["path"])["path"])


@dataclass(frozen=True, slots=True)
class Done:
    """What the committed parts say, by row: arrays of the plan's length.

    ``ok``: has a caption; ``any``: has a result of whatever status from the attempts asked
    about, where what an extension has kept is of attempt 0; ``attempts``: how many launches took
    the row up, as far as its results tell; ``written``: when its latest caption was, in nanoseconds
    since 1970. ``damaged`` are the parts that were found not to count since the last look.
    """

    ok: npt.NDArray[np.bool_]
    any: npt.NDArray[np.bool_]
    attempts: npt.NDArray[np.int32]
    written: npt.NDArray[np.int64]
    damaged: tuple[DamagedPartError, ...] = ()

    def kept(self, *, restart_failed: bool) -> npt.NDArray[np.bool_]:
        """The rows that a command leaves as they are: those with a caption and, unless it is to
        restart them, those that failed.
        """
        return self.ok if restart_failed else self.any


class Ledger:
    """Keeps what the parts of a run say; each part is read once, for parts never change."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self._run = run
        self.parts = RunParts(run, plan)
        self._seen: set[str] = set()
        self._ok = np.zeros(plan.rows, np.bool_)
        # The attempt of a row's latest result; of those that an extension has kept it is 0.
        self._latest = np.full(plan.rows, -1, np.int32)
        self._attempts = np.zeros(plan.rows, np.int32)
        self._written = np.zeros(plan.rows, np.int64)

    def read(self, since: int = 0) -> Done:
        """Read the parts that are new; ``Done.any`` counts attempt ``since`` and later ones."""
        damaged = []
        for part in self._new():
            try:
                self._add(part)
            except DamagedPartError as error:
                damaged.append(error)
            except RunError:
                # Another may stand for it since: then there is one that is new.
                if part.exists():
                    raise
        attempts, written = self._attempts.copy(), self._written.copy()
        return Done(self._ok.copy(), self._latest >= since, attempts, written, tuple(damaged))

    def _new(self) -> Iterator[Path]:
        """Parts that have not been seen, until there is none."""
        while parts := [part for part in self._run.part_files() if part.name not in self._seen]:
            self._seen.update(part.name for part in parts)
            yield from parts

    def _add(self, part: Path) -> None:
        table = self.parts.read(part, ["row_id", "status", "attempts"])
        row_ids = table["row_id"].to_numpy()
        good = pc.equal(table["status"], Status.OK).to_numpy()
        self._ok[row_ids[good]] = True
        np.maximum.at(self._written, row_ids[good], written_at(part))
        # Parts come in the order of attempts, but those of other nodes may be seen late.
        np.maximum.at(self._latest, row_ids, np.int32(attempt_of(part) or 0))
        np.maximum.at(self._attempts, row_ids, table["attempts"].fill_null(1).to_numpy())


def written_at(part: Path) -> int:
    """When a part was written, in nanoseconds since 1970; 0 where it has gone meanwhile."""
    try:
        return part.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def done_mask(run: RunDir, plan: Plan, since: int = 0) -> Done:
    """Read all parts of ``run`` once; see ``Ledger``."""
    return Ledger(run, plan).read(since)
