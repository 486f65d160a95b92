"""Rows set aside on the disk in buckets, each of which is later read alone."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]

_PENDING = 32 << 20  # bytes collected before they are sorted into buckets and written


@contextmanager
def faults_named(folder: Path) -> Iterator[None]:
    """A full disk says where: the files that are written to here have no name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise


class Spill:
    """Writes first, then reads; ``schema`` is that of every table.

    Holds a bounded part of the rows in memory. The file in ``folder`` has no name (on network
    folders one that begins with ``.nfs``): however this process ends, nothing is left of it.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._folder = folder
        with faults_named(self._folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._writer: pa.RecordBatchFileWriter | None = pa.ipc.new_file(self._file, schema)
        self._reader: pa.RecordBatchFileReader | None = None
        self._batches: dict[int, list[int]] = {}  # by bucket, the numbers of its batches
        self._bytes: dict[int, int] = {}
        self._written = 0
        self._pending: list[tuple[pa.Table, Ints]] = []
        self._pending_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, table: pa.Table, buckets: Ints) -> None:
        """Set rows aside; ``buckets[i]`` is the bucket of row ``i``."""
        if not table.num_rows:
            return
        self._pending.append((table, buckets))
        self._pending_bytes += table.nbytes
        if self._pending_bytes >= _PENDING:
            self._sort_out()

    def buckets(self) -> list[int]:
        """Those that have rows, in order; from now on nothing can be added."""
        self._finish()
        return sorted(self._batches)

    def bytes_of(self, bucket: int) -> int:
        """What the rows of a bucket take in memory."""
        self._finish()
        return self._bytes.get(bucket, 0)

    def read(self, bucket: int) -> Iterator[pa.Table]:
        """The rows of a bucket, in tables of bounded size; their order is lost."""
        self._finish()
        assert self._reader is not None
        for number in self._batches.get(bucket, ()):
            yield pa.Table.from_batches([self._reader.get_batch(number)])

    def _sort_out(self) -> None:
        """Write what is pending, the rows of each bucket together."""
        tables, buckets = zip(*self._pending, strict=True)
        self._pending, self._pending_bytes = [], 0
        table, bucket = pa.concat_tables(tables).combine_chunks(), np.concatenate(buckets)
        del tables
        order = np.argsort(bucket)
        bucket = bucket[order]
        if bucket[0] != bucket[-1]:
            table = table.take(pa.array(order))
        starts = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
        for start, stop in zip(starts, [*starts[1:], len(bucket)], strict=True):
            self._write(int(bucket[start]), table.slice(start, stop - start))

    def _write(self, bucket: int, table: pa.Table) -> None:
        assert self._writer is not None
        for batch in table.to_batches():
            with faults_named(self._folder):
                self._writer.write_batch(batch)
            self._batches.setdefault(bucket, []).append(self._written)
            self._bytes[bucket] = self._bytes.get(bucket, 0) + batch.nbytes
            self._written += 1

    def _finish(self) -> None:
        if self._writer is None:
            return
        if self._pending:
            self._sort_out()
        with faults_named(self._folder):
            self._writer.close()
            self._file.flush()
        self._writer = None
        self._reader = pa.ipc.open_file(self._file)
