"""Matching: which results belong to which planned row.

The results are read once and set aside on the disk in blocks of planned rows. Those that go by
path do not know their rows yet: they are first set aside by the hash of their path, as are the
planned rows, so that a part of the planned paths at a time is in memory. That bounds the memory
however many rows and results there are.

Paths are the same letter by letter. A result that fits no row so goes to the rows whose path means
the same file (``./a.mp4``, ``/videos/a.mp4``), read as a run reads the paths of its table.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.addresses import local, meaning
from vidcap_cli.merge.account import Example, Strays
from vidcap_cli.merge.choosing import AGE, ROW
from vidcap_cli.merge.sources import Source, read_source, result_schema
from vidcap_cli.merge.spill import Ints, Spill
from vidcap_cli.merge.target import Target
from vidcap_cli.meta import with_names
from vidcap_cli.options import PATH
from vidcap_cli.table_text import is_gzip
from vidcap_cli.tables import Table, hashes

_HASH = "hash"
_WRITTEN = "written"  # the path of a result as it stands in its table
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
    complete when all blocks and ``rest`` were read. ``meant`` results fit by what their paths mean;
    ``alike`` are those unmatched whose files are called as those of planned rows.
    """

    def __init__(
        self, results: Results, by_row: Spill, loose: Sequence[bool], rows: int | None, block: int
    ) -> None:
        self.rows = rows
        self.unmatched = Strays()
        self.mismatched = Strays()
        self.meant = self.alike = 0
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

    def runs(self, table: pa.Table) -> Ints:
        """By result the number of the run that it is of, or -1: of a run's parts it is one."""
        numbers: dict[Path, int] = {}
        runs = [source.run for source in self._results.sources]
        of = [numbers.setdefault(run.path.resolve(), len(numbers)) if run else -1 for run in runs]
        return np.array(of, np.int64)[self._results.numbers(table[AGE].to_numpy())]

    def source(self, age: int) -> str:
        """What the input was called that a result of this age is from."""
        return str(self._results.name(age))

    def notes(self) -> Iterator[str]:
        """What is to be said of paths that are written in several ways."""
        if self.meant:
            fits = "result fits" if self.meant == 1 else "results fit"
            yield f"{self.meant:,} {fits} by the file that is meant; META writes its path otherwise"
        if self.alike:
            many = (
                "results that fit no planned row are about files that are called as those of META"
            )
            one = "result that fits no planned row is about a file that is called as one of META"
            which = f"{self.alike:,} {one if self.alike == 1 else many}"
            paths = "where paths differ only in how they are written, write them alike"
            yield f"{which}: {paths}"

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
def match(results: Results, target: Target, folder: Path, *, block: int) -> Iterator[Matches]:
    """Find the results of each row of ``target``, which are handed out by pieces of ``block`` rows.

    Results of a plan with its identity go by ``row_id``. Parts that come without a plan do
    so where their path agrees. Everything else goes by path. What memory does not hold lies in
    files in ``folder`` until the block ends.
    """
    table = target.table
    loose = [s.plan is None and not s.is_table for s in results.sources]
    by_path = [
        s.is_table or (s.plan is not None and s.plan.identity != target.identity)
        for s in results.sources
    ]
    found = result_schema(results.columns)
    rest = [field for field in found if field.name not in ("row_id", PATH)]
    path = [found.field(PATH)]
    age, row, number = ((name, pa.int64()) for name in (AGE, ROW, _HASH))
    with Spill(folder, pa.schema([age, row, *(path if any(loose) else []), *rest])) as by_row:
        matches = Matches(results, by_row, loose, target.rows, block)
        with (
            Spill(folder, pa.schema([age, number, *path, *rest])) as waiting,
            Spill(folder, pa.schema([row, number, *path])) as planned,
            Spill(folder, pa.schema([age, number, *path, *rest])) as lost,
        ):
            parts = 1 + _estimate(table, target.rows) // _PATHS
            for source, ages, one in results.read():
                if by_path[source]:
                    _set_aside(waiting, one, pa.array(ages), parts)
                else:
                    matches.add(one, ages, one["row_id"].fill_null(-1).to_numpy())
            if any(by_path):
                matches.rows = 0
                for names in _names_of(table):
                    row_ids = np.arange(matches.rows, matches.rows + len(names))
                    one = pa.table({PATH: names})
                    _set_aside(planned, one, pa.array(row_ids), parts)
                    matches.rows += len(names)

            def lose(found: pa.Table, _age: Ints) -> None:
                lost.add(found, np.zeros(found.num_rows, np.int64))

            for part in waiting.buckets():
                _join(planned, waiting, part, matches, lose)
            if lost.buckets():
                _Meant(matches, lost, results, table, target.bases).match(folder, parts)
        yield matches


def _names_of(table: Table) -> Iterator[pa.Array]:
    """The names of the planned rows."""
    columns = [table.path_column, *table.ranges]
    for _, names in with_names(table, table.batches(columns)):
        yield names.cast(pa.large_string())


@dataclass(frozen=True, slots=True)
class _Meant:
    """Matches the results in ``lost``, whose paths are those of no row as they are written.

    Files are looked for in the file system, but only those called as one of these results is.
    """

    matches: Matches
    lost: Spill
    results: Results
    table: Table
    bases: Sequence[str]

    def match(self, folder: Path, parts: int) -> None:
        """Give each its rows, or count it as a stray; by way of files in ``folder``."""
        found = [hashes(_file_names(one[PATH])) for one in self.lost.read(0)]
        files = np.unique(np.concatenate(found))
        written = pa.field(_WRITTEN, pa.large_string())
        with (
            Spill(folder, self.lost.schema.append(written)) as waiting,
            Spill(folder, pa.schema([(ROW, pa.int64()), *list(self.lost.schema)[1:3]])) as planned,
        ):
            self._look_for_results(waiting, parts)
            seen = self._look_for_rows(planned, files, parts)

            def lose(table: pa.Table, age: Ints) -> None:
                table = _with_path(table, table[_WRITTEN])
                names = hashes(_file_names(table[PATH]))
                self.matches.alike += int(seen[np.searchsorted(files, names)].sum())
                self.matches.meant -= len(age)
                self.matches.stray(table, age)

            for part in waiting.buckets():
                _join(planned, waiting, part, self.matches, lose)

    def _look_for_results(self, waiting: Spill, parts: int) -> None:
        for table in self.lost.read(0):
            age = table[AGE].to_numpy()
            meant = np.empty(len(age), object)
            sources = self.results.numbers(age)
            for source in np.unique(sources):
                its = np.flatnonzero(sources == source)
                names = table[PATH].take(pa.array(its)).to_pylist()
                bases = self.results.sources[source].bases
                meant[its] = [name and meaning(name, bases) for name in names]
            meant_table = _with_path(table, pa.array(meant, pa.large_string()))
            _set_aside(
                waiting, meant_table.append_column(_WRITTEN, table[PATH]), pa.array(age), parts
            )
            self.matches.meant += len(age)

    def _look_for_rows(self, planned: Spill, files: Ints, parts: int) -> npt.NDArray[np.bool_]:
        """Which of the ``files`` are names of planned rows' files."""
        seen = np.zeros(len(files), np.bool_)
        start = 0
        for names in _names_of(self.table):
            file = hashes(_file_names(names))
            place = np.minimum(np.searchsorted(files, file), len(files) - 1)
            near = files[place] == file
            seen[place[near]] = True
            here = names.filter(pa.array(near)).to_pylist()
            meant = [meaning(name, self.bases) for name in here]
            table = pa.table({PATH: pa.array(meant, pa.large_string())})
            _set_aside(planned, table, pa.array(start + np.flatnonzero(near)), parts)
            start += len(names)
        return seen


def _file_names(names: Any) -> Any:
    """How the files are called that an array of ``names`` of rows means, without their folders."""
    if pc.any(pc.starts_with(names, "file:", ignore_case=True)).as_py():
        plain = [name and local(name) for name in names.to_pylist()]
        names = pa.array(plain, pa.large_string())
    return pc.replace_substring_regex(names, r"(?s)^.*/|#t=[\d.,]+$", "")


def _with_path(table: pa.Table, path: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(PATH), table.schema.field(PATH), path)


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


def _join(
    planned: Spill,
    waiting: Spill,
    part: int,
    matches: Matches,
    lose: Callable[[pa.Table, Ints], None],
) -> None:
    """Find the rows of the results in a bucket; the planned paths of that bucket are in memory.

    ``lose`` takes those that have none, with their ages.
    """
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
            lose(table.filter(pa.array(lost)), age[lost])
