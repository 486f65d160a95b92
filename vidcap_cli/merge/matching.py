"""Matching: which results belong to which planned row.

The results are read once and set aside on the disk in blocks of planned rows. Those that go by
path do not know their rows yet: they are first set aside by the hash of their path, as are the
planned rows, so that a part of the planned paths at a time is in memory. That bounds the memory
however many rows and results there are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.merge.account import Example, Strays
from vidcap_cli.merge.choosing import AGE, ROW
from vidcap_cli.merge.sources import Source, read_source, result_schema
from vidcap_cli.merge.spill import Ints, Spill
from vidcap_cli.meta import with_names
from vidcap_cli.options import PATH
from vidcap_cli.tables import Table, hashes, is_gzip

_HASH = "hash"
_PATHS = 1 << 19  # planned paths in memory at once, roughly
_ROW_BYTES, _ROW_BYTES_GZIP = 64, 8  # of a row in a text file, to estimate their number
_MOST = 128 << 20  # bytes of results in memory at once


@dataclass(frozen=True, slots=True)
class Results:
    """All results, in ``columns`` of ``parts.SCHEMA``; ``sources`` come oldest first.

    They are numbered oldest first, and this number is a result's age. ``ends`` has by source the
    age after that of its last result, once all were read.
    """

    sources: list[Source]
    columns: tuple[str, ...]
    ends: list[int] = field(default_factory=list)

    def read(self) -> Iterator[tuple[int, Ints, pa.Table]]:
        """Yield the results of every source: its number, their ages, and what they are."""
        age = 0
        for number, source in enumerate(self.sources):
            for table in read_source(source, self.columns):
                yield number, np.arange(age, age + table.num_rows), table
                age += table.num_rows
            self.ends.append(age)

    def numbers(self, ages: Ints) -> Ints:
        """By result the number of its source."""
        return np.searchsorted(self.ends, ages, side="right")

    def name(self, age: int) -> Path:
        """What the source of a result was called."""
        return self.sources[int(self.numbers(np.array([age]))[0])].name


def read_results(sources: Sequence[Source], columns: tuple[str, ...]) -> Results:
    """The results of ``sources``, none of which is read yet."""
    return Results(sorted(sources, key=lambda source: (source.time, source.given)), columns)


class Matches:
    """The results of every planned row, to be read in blocks of ``block`` rows.

    ``rows`` is the number of planned rows if it is known. ``unmatched`` are the results that fit
    none of them, ``mismatched`` those whose ``row_id`` and ``path`` name different ones; both are
    complete when all blocks and ``rest`` were read.
    """

    def __init__(
        self, results: Results, by_row: Spill, loose: Sequence[bool], rows: int | None, block: int
    ) -> None:
        self.rows = rows
        self.unmatched = Strays()
        self.mismatched = Strays()
        self._results = results
        self._by_row = by_row
        self._loose = np.array(loose, np.bool_)
        self._block = block

    @property
    def need_all_rows(self) -> bool:
        """Whether every planned row must be seen to tell which results fit."""
        return self.rows is None or bool(self._loose.any())

    def add(self, table: pa.Table, age: Ints, row: Ints) -> None:
        """Set results aside with their rows; a negative one is no row."""
        inside = row >= 0
        if not inside.all():
            self.stray(table.filter(pa.array(~inside)), age[~inside])
            table, age, row = table.filter(pa.array(inside)), age[inside], row[inside]
        schema = self._by_row.schema
        columns = [pa.array(age), pa.array(row), *table.select(schema.names[2:]).columns]
        self._by_row.add(pa.Table.from_arrays(columns, schema=schema), row // self._block)

    def stray(self, table: pa.Table, age: Ints) -> None:
        """Count results that fit no row."""
        self.unmatched.add(
            age,
            lambda place: Example(
                None, table[PATH][place].as_py(), f"in {self._results.name(int(age[place]))}"
            ),
        )

    def pieces(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """Parts of a block whose results fit into memory together: first row, rows."""
        step = -(-count // (1 + self._by_row.bytes_of(start // self._block) // _MOST))
        for first in range(start, start + count, step):
            yield first, min(step, start + count - first)

    def of(self, start: int, paths: pa.ChunkedArray, limit: int | None) -> pa.Table:
        """The results of the rows from ``start`` on, which have these ``paths``.

        They all lie in one block. Of rows from ``limit`` on no example shows the path, and none of
        their results is given.
        """
        found = [self._by_row.schema.empty_table()]
        for table in self._by_row.read(start // self._block):
            row = table[ROW].to_numpy()
            inside = (row >= start) & (row < start + len(paths))
            found.append(table if inside.all() else table.filter(pa.array(inside)))
        table = pa.concat_tables(found).combine_chunks()
        if self._loose.any():
            table = self._agreeing(table, start, paths, limit)
        if limit is None or start + len(paths) <= limit:
            return table
        return table.filter(pc.less(table[ROW], limit))

    def given(self, table: pa.Table) -> Ints:
        """By result the place of its source among the inputs."""
        given = np.array([source.given for source in self._results.sources], np.int64)
        return given[self._results.numbers(table[AGE].to_numpy())]

    def rest(self, rows: int) -> None:
        """Count the results with a ``row_id`` beyond the ``rows`` that there are."""
        if self._loose.any():
            for bucket in self._by_row.buckets():
                if (bucket + 1) * self._block > rows:
                    for table in self._by_row.read(bucket):
                        beyond = table.filter(pc.greater_equal(table[ROW], rows))
                        self.stray(beyond, beyond[AGE].to_numpy())

    def _agreeing(
        self, table: pa.Table, start: int, paths: pa.ChunkedArray, limit: int | None
    ) -> pa.Table:
        """Without results from parts without a plan whose path is another row's."""
        age, row = table[AGE].to_numpy(), table[ROW].to_numpy()
        planned = paths.take(pa.array(row - start)).cast(pa.large_string())
        same = pc.fill_null(pc.equal(table[PATH], planned), False)
        wrong = ~np.asarray(same.to_numpy(), np.bool_)
        wrong &= self._loose[self._results.numbers(age)]
        lost = np.flatnonzero(wrong)

        def example(place: int) -> Example:
            at = int(lost[place])
            known = limit is None or row[at] < limit
            detail = f"{table[PATH][at].as_py()!r} in {self._results.name(int(age[at]))}"
            return Example(int(row[at]), planned[at].as_py() if known else None, detail)

        self.mismatched.add(age[lost], example)
        return table.filter(pa.array(~wrong)) if len(lost) else table


@contextmanager
def match(
    results: Results,
    table: Table,
    rows: int | None,
    identity: str,
    *,
    folder: Path,
    block: int,
) -> Iterator[Matches]:
    """Find the results of each row of ``table``, whose length is ``rows`` if that is known.

    Results of a plan with this identity go by ``row_id``. Parts that come without a plan do
    so where their path agrees. Everything else goes by path. What memory does not hold lies in
    files in ``folder`` until the block ends.
    """
    loose = [s.plan is None and not s.is_table for s in results.sources]
    by_path = [
        s.is_table or (s.plan is not None and s.plan.identity != identity) for s in results.sources
    ]
    found = result_schema(results.columns)
    rest = [field for field in found if field.name not in ("row_id", PATH)]
    path = [found.field(PATH)]
    age, row, number = ((name, pa.int64()) for name in (AGE, ROW, _HASH))
    with Spill(folder, pa.schema([age, row, *(path if any(loose) else []), *rest])) as by_row:
        matches = Matches(results, by_row, loose, rows, block)
        with (
            Spill(folder, pa.schema([age, number, *path, *rest])) as waiting,
            Spill(folder, pa.schema([row, number, *path])) as planned,
        ):
            parts = 1 + _estimate(table, rows) // _PATHS
            for source, ages, one in results.read():
                if by_path[source]:
                    _set_aside(waiting, one, pa.array(ages), parts)
                else:
                    matches.add(one, ages, one["row_id"].fill_null(-1).to_numpy())
            if any(by_path):
                matches.rows = 0
                columns = [table.path_column, *table.ranges]
                for _, names in with_names(table, table.batches(columns)):
                    row_ids = np.arange(matches.rows, matches.rows + len(names))
                    one = pa.table({PATH: names.cast(pa.large_string())})
                    _set_aside(planned, one, pa.array(row_ids), parts)
                    matches.rows += len(names)
            for part in waiting.buckets():
                _join(planned, waiting, part, matches)
        yield matches


def _estimate(table: Table, rows: int | None) -> int:
    """About how many rows there are."""
    if rows is None and table.form == "parquet":
        return int(pq.read_metadata(table.path).num_rows)
    of_a_row = _ROW_BYTES_GZIP if is_gzip(table.path) else _ROW_BYTES
    return rows or table.path.stat().st_size // of_a_row


def _set_aside(spill: Spill, table: pa.Table, first: pa.Array, parts: int) -> None:
    """Add rows, ``first`` being the first column, to the one of ``parts`` buckets of their path."""
    number = hashes(table[PATH])
    columns = [first, pa.array(number), *table.select(spill.schema.names[2:]).columns]
    spill.add(pa.Table.from_arrays(columns, schema=spill.schema), number % parts)


def _join(planned: Spill, waiting: Spill, part: int, matches: Matches) -> None:
    """Find the rows of the results in a bucket; the planned paths of that bucket are in memory."""
    tables = list(planned.read(part))
    rows = pa.concat_tables(tables or [planned.schema.empty_table()]).combine_chunks()
    del tables
    order = np.argsort(rows[_HASH].to_numpy())
    known, row_ids = rows[_HASH].to_numpy()[order], rows[ROW].to_numpy()[order]
    paths = rows[PATH]
    for table in waiting.read(part):
        age, number = table[AGE].to_numpy(), table[_HASH].to_numpy()
        by_hash = np.argsort(number)  # the searches then walk through memory once
        first = np.searchsorted(known, number[by_hash])
        # Every pair with the same hash; a path may be that of many rows, so some at a time.
        ends = np.cumsum(np.searchsorted(known, number[by_hash], side="right") - first)
        most = 1 + (_MOST >> 2) * table.num_rows // table.nbytes
        lost = np.ones(len(age), np.bool_)
        for start in range(0, int(ends[-1]), most):
            pair = np.arange(start, min(start + most, ends[-1]))
            at = np.searchsorted(ends, pair, side="right")
            place, result = first[at] + pair - np.append(0, ends)[at], by_hash[at]
            same = pc.equal(paths.take(pa.array(order[place])), table[PATH].take(pa.array(result)))
            keep = np.asarray(pc.fill_null(same, False).to_numpy(), np.bool_)
            result, place = result[keep], place[keep]
            lost[result] = False
            matches.add(table.take(pa.array(result)), age[result], row_ids[place])
        if lost.any():
            matches.stray(table.filter(pa.array(lost)), age[lost])
