"""The rows that a merged table has: those of META, or those that runs have planned."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from vidcap_cli.addresses import is_remote, local, locate, resolve
from vidcap_cli.errors import RunChangedError, UsageError
from vidcap_cli.merge.sources import Source, caption_ranges
from vidcap_cli.meta import names_of, open_meta, with_paths
from vidcap_cli.option_values import NO_RANGES
from vidcap_cli.options import PATH
from vidcap_cli.remote.table import base_of
from vidcap_cli.rundir.changes import bases_now, located
from vidcap_cli.rundir.plan import TABLE, Reading, fingerprint_of, open_clips
from vidcap_cli.spans import parted
from vidcap_cli.tables import Table, open_table


@dataclass(frozen=True, slots=True)
class Target:
    """The planned rows; ``rows`` is None until they are counted.

    ``bases`` are the folders that relative paths start from.
    """

    table: Table
    identity: str
    rows: int | None
    bases: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of META; a row without a path raises TableError."""
        for batch, _ in with_paths(self.table, self.table.batches(columns)):
            yield batch

    def paths(self, rows: pa.Table) -> pa.ChunkedArray:
        """The paths of ``rows``, as they are written."""
        return rows[self.table.path_column].cast(pa.string())

    def names(self, rows: pa.Table, first: int) -> pa.ChunkedArray:
        """What tells the clips of ``rows``, from number ``first`` on: path, and range if any."""
        paths = self.paths(rows)
        if not self.table.ranges:
            return paths
        return pa.chunked_array([names_of(self.table, rows, paths, first)])

    def relative(self, rows: pa.Table, folder: Path) -> pa.Table:
        """``rows`` with paths relative to ``folder``; those of other places stay."""
        start = folder.absolute()

        def moved(path: str) -> str:
            found = resolve(path, self.bases)
            return path if is_remote(found) else os.path.relpath(found, start)

        return self._with_paths(rows, map(moved, self.paths(rows).to_pylist()))

    def todo(self, rows: pa.Table, folder: Path) -> pa.Table:
        """``rows`` for a table in ``folder``, whose paths mean the same files there.

        Never by way of ``..``, which may lead elsewhere behind a symbolic link.
        """
        if os.path.realpath(folder) == os.path.realpath(self.bases[0]):
            return rows
        inside = os.path.join(folder, "")  # noqa: PTH118 - a Path would drop the slash

        def moved(path: str) -> str:
            if is_remote(path) or os.path.isabs(local(path)):  # noqa: PTH117 - a name, not a file
                return path
            file, span = locate(path, self.bases)
            bounds = path[len(parted(path)[0]) :] if span else ""
            return (file if "/../" in file else file.removeprefix(inside)) + bounds

        return self._with_paths(rows, map(moved, self.paths(rows).to_pylist()))

    def _with_paths(self, rows: pa.Table, paths: Iterable[str]) -> pa.Table:
        column = self.table.path_column
        field = rows.schema.field(column)
        written = pa.array(paths, pa.string()).cast(field.type)
        return rows.set_column(rows.schema.get_field_index(column), field, written)


def find_target(
    sources: Sequence[Source], meta: Path | None, path_column: str | None, ranges: str | None
) -> Target:
    """The rows of ``meta`` or of the table that runs among ``sources`` were planned from.

    Raises UsageError where that is none or several, RunChangedError where it has changed since.
    """
    planned = [source for source in sources if source.plan is not None]
    if meta is not None:
        if meta.is_dir():
            raise UsageError(f"--meta {meta}: is a folder; name a table that has its videos")
        if not meta.is_file():
            raise UsageError(f"--meta {meta}: there is no such table; check the spelling")
        of_run = None if path_column or ranges else _planned_from(meta, planned)
        return of_run or _of_table(meta, planned, path_column, ranges)
    if not planned:
        raise UsageError(
            "part files and captioned tables alone do not say which rows were planned: name the "
            "table of videos with --meta"
        )
    if len({source.plan.fingerprint for source in planned if source.plan}) > 1:
        names = ", ".join(str(source.name) for source in planned)
        raise UsageError(
            f"{names}: these runs were made from different tables; say with --meta which table's "
            "rows the result should have"
        )
    return _planned_rows(planned)


def _planned_from(meta: Path, planned: Sequence[Source]) -> Target | None:
    """The rows of a run that was planned from just this table, read and cut as it was then."""
    seen: dict[Reading, str] = {}
    for source in planned:
        assert source.plan is not None
        plan = source.plan
        if plan.reading not in seen:
            seen[plan.reading] = fingerprint_of(meta, TABLE, plan.reading)
        if seen[plan.reading] == plan.fingerprint:
            return _rows_of_run(source, meta)
    return None


def _rows_of_run(source: Source, meta: Path) -> Target:
    """The rows of a run of ``meta``, which has not changed since."""
    plan, run = source.plan, source.run
    assert plan
    assert run
    if plan.clips_digest:
        table = open_clips(run, plan.path_column, plan.clips_digest)
    else:
        table = open_meta(meta, plan.path_column, ",".join(plan.ranges) or NO_RANGES)
    return Target(table, plan.identity, plan.rows, bases_now(plan, meta.absolute()))


def _of_table(
    meta: Path, planned: Sequence[Source], path_column: str | None, ranges: str | None
) -> Target:
    """The rows of a table as it is; unless it is named, the column of paths is that of a run."""
    names = open_table(meta).schema.names
    columns = (source.plan.path_column for source in planned if source.plan)
    column = path_column or next((name for name in columns if name in names), PATH)
    table = open_meta(meta, column, ranges)
    table = replace(table, ranges=caption_ranges(table, ranges))
    identity = fingerprint_of(meta, TABLE, Reading(column, table.ranges))
    bases = (base_of(meta.absolute()), str(Path.cwd()))
    return Target(table, identity, None, bases)


def _planned_rows(planned: Sequence[Source]) -> Target:
    """META as it was when the runs were planned, or what the plan kept of it."""
    changed = None
    for source in planned:
        assert source.plan is not None
        assert source.run
        plan = located(source.run, source.plan)
        meta = Path(plan.meta)
        if plan.kind == TABLE and meta.is_file():
            if fingerprint_of(meta, TABLE, plan.reading) == plan.fingerprint:
                return _rows_of_run(source, meta)
            changed = changed or (meta, source.name)
    if changed:
        meta, name = changed
        raise RunChangedError(
            f"{meta}: the table has changed since {name} was planned, so its rows may be others. "
            f"Restore it; or name the table whose rows you want with --meta (--meta {meta} takes "
            "it as it is now: the captions then go by path)"
        )
    first = planned[0]
    assert first.plan is not None
    if first.plan.clips_digest:
        return _rows_of_run(first, Path(first.plan.meta))
    gone = (
        f"{first.plan.meta} is gone: the result has its column `path` only. If the table lies "
        "elsewhere now, name it with --meta"
    )
    return replace(only_paths(first), notes=(gone,) if first.plan.kind == TABLE else ())


def only_paths(source: Source) -> Target:
    """The rows of a run by the names that its plan has."""
    plan, run = source.plan, source.run
    assert plan
    assert run
    table = open_table(run.rows)
    only_path = Table(table.path, table.form, pa.schema([table.schema.field(PATH)]))
    return Target(only_path, plan.identity, plan.rows, plan.bases)
