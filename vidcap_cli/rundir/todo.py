"""The todo of a launch: the planned rows that are left, in an Arrow file that ranks map."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.atomic import committing
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.plan import GROUP, PLANNED, Plan
from vidcap_cli.tables import regroup

_TODO = pa.schema(
    [*PLANNED, pa.field("attempts", pa.int32(), nullable=False), ("question", pa.string())]
)


def write_todo(
    run: RunDir,
    plan: Plan,
    attempt: AttemptDir,
    *,
    skip: npt.NDArray[np.bool_] | None = None,
    limit: int | None = None,
    attempts_before: npt.NDArray[np.int32] | None = None,
) -> int:
    """Write the attempt's todo, the planned rows below ``limit`` without those in ``skip``.

    ``skip`` and ``attempts_before`` are by row, of the plan's length. Returns the number of
    rows. The attempt's folder is made if need be.
    """
    attempt.path.mkdir(parents=True, exist_ok=True)
    count = 0
    batches = _left(run, plan.rows if limit is None else limit, skip, attempts_before)
    with committing(attempt.todo) as temporary, pa.ipc.new_file(temporary, _TODO) as writer:
        for table in regroup(batches, GROUP):
            # One batch of exactly this length: Todo finds a row by division.
            writer.write_batch(table.combine_chunks().to_batches()[0])
            count += table.num_rows
    return count


def _left(
    run: RunDir,
    limit: int,
    skip: npt.NDArray[np.bool_] | None,
    attempts_before: npt.NDArray[np.int32] | None,
) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(run.rows) as file:
        for batch in file.iter_batches(batch_size=GROUP):
            row_ids = batch.column("row_id").to_numpy()
            if row_ids[0] >= limit:
                return
            keep = row_ids < limit
            if skip is not None:
                keep &= ~skip[row_ids]
            before = np.zeros(len(row_ids), np.int32)
            if attempts_before is not None:
                before = attempts_before[row_ids].astype(np.int32)
            asked = "question" in batch.schema.names
            full = pa.RecordBatch.from_arrays(
                [
                    *batch.select(PLANNED.names).columns,
                    pa.array(before),
                    batch.column("question") if asked else pa.nulls(len(before), pa.string()),
                ],
                schema=_TODO,
            )
            yield full.filter(pa.array(keep))


class Todo:
    """The rows of an attempt, mapped into memory: processes that read it share the pages."""

    def __init__(self, path: Path) -> None:
        self._map = pa.memory_map(str(path))
        self._file = pa.ipc.open_file(self._map)
        batches = self._file.num_record_batches
        self._group = self._file.get_batch(0).num_rows if batches else 0
        last = self._file.get_batch(batches - 1).num_rows if batches else 0
        self._rows = self._group * (batches - 1) + last if batches else 0

    def __len__(self) -> int:
        return self._rows

    def rows(self, start: int, stop: int) -> list[tuple[int, str, int, str | None]]:
        """``(row_id, path, attempts before, own question)`` of the rows at positions ``start`` to
        ``stop``.
        """
        found: list[tuple[int, str, int, str | None]] = []
        position, stop = max(start, 0), min(stop, self._rows)
        while position < stop:
            number, offset = divmod(position, self._group)
            piece = self._file.get_batch(number).slice(offset, stop - position)
            found += zip(*(column.to_pylist() for column in piece.columns), strict=True)
            position += piece.num_rows
        return found
