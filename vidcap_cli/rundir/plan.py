"""The plan of a run: which rows are to be captioned, with which options, and what is left to do.

``plan.json`` and ``rows.parquet`` are written once, before a model is loaded, and never change, but
for the place of a table that has moved (``rundir.changes``). A row is its position in META
(``row_id``, from 0), and every result refers to it. Resuming is arithmetic on rows: planned, minus
those with a result to keep, is what an attempt's todo holds. Whether the videos exist is not asked
here; a rank gives a row without a file its own status.

Memory is bounded by a few machine words a row, whatever the table holds.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.atomic import atomic_write, committing
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError, TableError, UsageError
from vidcap_cli.meta import BOUNDS, open_meta, row_names, row_questions
from vidcap_cli.options import PATH
from vidcap_cli.remote.cache import Cache
from vidcap_cli.remote.table import base_of
from vidcap_cli.rundir.clips import Cutting, write_clips
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.tables import READABLE_WORDS, Table, regroup, table_form
from vidcap_cli.video import DECORD
from vidcap_cli.video.by_decord import NO_SPANS
from vidcap_cli.view.words import absent, quoted_here

VERSION = 1
# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg",
    ".wmv", ".flv", ".ts", ".m2ts", ".mts", ".3gp", ".ogv", ".gif",
})
# fmt: on
_PICTURE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".avif",
    }
)
_LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
TABLE, VIDEO, FOLDER = "table", "video", "folder"

GROUP = 65_536  # rows in a row group of rows.parquet
PLANNED = pa.schema([pa.field("row_id", pa.int64(), nullable=False), ("path", pa.string())])
ASKED = PLANNED.append(pa.field("question", pa.string()))  # where rows have questions of their own


@dataclass(frozen=True, slots=True)
class Reading:
    """How META's rows are read: the column of paths, those of ranges, how videos are cut."""

    column: str = PATH
    ranges: tuple[str, ...] = ()
    cutting: Cutting = field(default_factory=Cutting)

    @property
    def cuts(self) -> bool:
        """Whether a row of META may be several to caption."""
        return bool(self.cutting.length) or len(self.ranges) == 1

    def __str__(self) -> str:
        words = [self.column] if self != Reading() else []
        if self.ranges or self.cutting.length:
            words += [*self.ranges, str(self.cutting.length), str(self.cutting.stride)]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run set out to do.

    ``meta`` is META as an absolute path and ``kind`` what it is: table, video or folder.
    ``fingerprint`` is the SHA-256 of the table's bytes, of the folder's sorted relative listing,
    or of the video's path, with how they are read where that is not the usual way. ``ranges`` are
    the columns of ranges. A relative path in the table is looked for in ``bases``, in order.
    ``options`` are those that decide what the captions say, ``table_options`` those of the table
    to write, where not the default. ``rows_digest`` is the SHA-256 of rows.parquet, empty in plans
    of older versions; ``clips_digest`` that of clips.parquet where the rows are those of it.
    """

    meta: str
    kind: str
    fingerprint: str
    rows: int
    bases: tuple[str, ...]
    options: dict[str, Any]
    version: int = VERSION
    rows_digest: str = ""
    table_options: dict[str, Any] = field(default_factory=dict)
    ranges: tuple[str, ...] = ()
    clips_digest: str = ""

    @property
    def path_column(self) -> str:
        """The column of META with the paths; plans of older versions do not say it."""
        return str(self.options.get("path_column", PATH))

    @property
    def identity(self) -> str:
        """Plans with the same one have the same rows; how videos are cut depends on the files."""
        return f"{self.fingerprint} {self.rows_digest}" if self.clips_digest else self.fingerprint

    @property
    def reading(self) -> Reading:
        """How the rows of META were read."""
        length, stride = (self.options.get(name) for name in ("clip_length", "stride"))
        return Reading(self.path_column, self.ranges, Cutting(length, stride))

    @property
    def questions(self) -> tuple[str, ...]:
        """The names of what is asked; none where it is one question without a name."""
        asked = self.options.get("question")
        return tuple(asked) if isinstance(asked, dict) else ()

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The inverse of ``to_json``; keys that this version does not know are ignored.

        Raises ValueError, TypeError, KeyError or AttributeError when ``text`` is no plan.
        """
        known = {one.name for one in fields(cls)}
        values = {key: value for key, value in json.loads(text).items() if key in known}
        options = (values["options"], values.get("table_options", {}))
        if not isinstance(values["rows"], int) or not all(isinstance(one, dict) for one in options):
            raise TypeError("a field has the wrong type")
        lists = {name: tuple(values[name]) for name in ("bases", "ranges") if name in values}
        return cls(**{**values, **lists})


def make_plan(
    meta: Path,
    run: RunDir,
    config: CaptionConfig,
    table_options: dict[str, Any] | None = None,
    *,
    finish: bool = True,
) -> Plan:
    """Read META, refuse what cannot be worked with, and write the plan into ``run``.

    ``rows.parquet`` comes first and ``plan.json`` last: a run directory with a plan is complete.
    Without ``finish`` that is left to the caller.
    """
    meta = absolute(meta)
    kind = kind_of(meta)
    reading, table = reading_of(meta, kind, config)
    fingerprint = fingerprint_of(meta, kind, reading)
    bases = (str(meta) if kind == FOLDER else base_of(meta), str(Path.cwd()))
    run.path.mkdir(parents=True, exist_ok=True)
    if reading.cuts:
        table = _cut(meta, kind, table, run=run, bases=bases, config=config)
    rows = 0
    with committing(run.rows) as temporary:
        schema = ASKED if config.question_column else PLANNED
        with pq.ParquetWriter(temporary, schema) as writer:
            for part in regroup(planned_rows(meta, kind, table, config.question_column), GROUP):
                writer.write_table(part, row_group_size=GROUP)
                rows += part.num_rows
        digest = _digest_of(temporary)
    plan = Plan(
        meta=str(meta),
        kind=kind,
        fingerprint=fingerprint,
        rows=rows,
        bases=bases,
        options=config.caption_options(),
        rows_digest=digest,
        table_options=table_options or {},
        ranges=reading.ranges,
        clips_digest=_digest_of(run.clips) if reading.cuts else "",
    )
    if finish:
        atomic_write(run.plan, plan.to_json().encode())
    return plan


def reading_of(meta: Path, kind: str, config: CaptionConfig) -> tuple[Reading, Table | None]:
    """How META is read, and META if it is a table."""
    cutting = Cutting(config.clip_length, config.stride)
    table = open_meta(meta, config.path_column, config.ranges) if kind == TABLE else None
    reading = Reading(config.path_column, table.ranges if table else (), cutting)
    if (reading.ranges or reading.cuts) and config.reader == DECORD:
        raise UsageError(f"--reader decord: {NO_SPANS}")
    return reading, table


def _cut(
    meta: Path,
    kind: str,
    table: Table | None,
    *,
    run: RunDir,
    bases: tuple[str, ...],
    config: CaptionConfig,
) -> Table:
    """Write META with a row for each clip into ``run``, and open that."""
    if table:
        source, batches = table, table.batches
    else:
        source = Table(meta, kind, pa.schema([(PATH, pa.string())]))
        batches = partial(_listed, meta, kind)
    cutting = Cutting(config.clip_length, config.stride)
    cache = Cache.of(run.settled.path, config.cache_size)
    write_clips(
        source,
        batches,
        run.clips,
        cutting,
        bases=bases,
        timeout=config.decode_timeout,
        cache=cache,
    )
    return open_clips(run, source.path_column)


def open_clips(run: RunDir, column: str, digest: str = "") -> Table:
    """The table of a run whose rows are not those of META; RunError unless it has this digest."""
    table = open_meta(run.clips, column, ",".join(BOUNDS))
    if digest and _digest_of(run.clips) != digest:
        raise RunError(_damaged(run.clips, "not the one that plan.json was written with"))
    return table


def read_plan(run: RunDir) -> Plan:
    """The plan in ``run``; ``RunError`` when there is none or it cannot be understood."""
    try:
        text = run.plan.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RunError(f"{run.path}: not a run directory, it has no {run.plan.name}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise RunError(_damaged(run.plan, str(error))) from error
    try:
        plan = Plan.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(_damaged(run.plan, str(error))) from error
    if plan.version > VERSION:
        raise RunError(
            f"{run.plan}: written by a newer vidcap (plan version {plan.version}, this one knows "
            f"{VERSION}); update vidcap, or start over with --fresh"
        )
    _check_rows(run, plan)
    return plan


def _check_rows(run: RunDir, plan: Plan) -> None:
    """Raise RunError unless rows.parquet is the one that ``plan`` was written with."""
    try:
        rows = pq.read_metadata(run.rows).num_rows
        digest = _digest_of(run.rows) if plan.rows_digest else ""
    except (pa.ArrowException, ValueError, OSError) as error:
        raise RunError(_wrong_rows(run, str(error).splitlines()[0])) from error
    if rows != plan.rows:
        raise RunError(_wrong_rows(run, f"{rows} rows where plan.json has {plan.rows}"))
    if digest != plan.rows_digest:
        raise RunError(_wrong_rows(run, "not the one that plan.json was written with"))


def _wrong_rows(run: RunDir, detail: str) -> str:
    return (
        f"{run.rows}: damaged or another run's ({detail}); restore it, or start over with --fresh "
        f"(a copy of {run.parts} keeps the captions: vidcap merge takes it with --meta)"
    )


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kind_of(meta: Path) -> str:
    """Whether META is a table, a folder or a video."""
    try:
        meta.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TableError(absent(meta)) from error
    except OSError as error:
        raise TableError(f"{meta}: cannot be read: {error.strerror}") from error
    if meta.is_dir():
        return FOLDER
    if table_form(meta):
        return TABLE
    suffix = meta.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VIDEO
    raise TableError(f"{meta}: {_no_meta(meta, suffix)}")


def _no_meta(meta: Path, suffix: str) -> str:
    """What to say of a file that is no META, and what helps."""
    if suffix in _PICTURE_SUFFIXES:
        return "is a picture, and vidcap captions videos"
    if suffix in _LIST_SUFFIXES:
        csv = meta.with_suffix(".csv")
        return (
            "is no table. One path a line is made a table by the line `path` before them: "
            f"(echo path; cat {quoted_here(meta)}) > {quoted_here(csv)}"
        )
    return (
        f"{suffix or 'a file without extension'} is neither a table ({READABLE_WORDS}) nor a video "
        "known by its extension; if it is a video, list it in a table, in the column path"
    )


def fingerprint_of(meta: Path, kind: str, reading: Reading = Reading()) -> str:
    """The SHA-256 that tells whether META is still the same; see ``Plan``."""
    if kind == FOLDER:
        listing = [str(path.relative_to(meta)) for path in _videos(meta)]
        digest = hashlib.sha256("\0".join(listing).encode("utf-8", "surrogateescape")).hexdigest()
    elif kind == VIDEO:
        digest = hashlib.sha256(os.fsencode(meta)).hexdigest()
    else:
        try:
            digest = _digest_of(meta)
        except FileNotFoundError as error:
            raise TableError(absent(meta, "file")) from error
        except OSError as error:
            raise TableError(f"{meta}: cannot be read: {error.strerror}") from error
    if reading == Reading():
        return digest
    return hashlib.sha256(f"{digest} {reading}".encode("utf-8", "surrogateescape")).hexdigest()


def absolute(path: Path) -> Path:
    """``path`` from the root on."""
    # Symbolic links stay as the user wrote them: relative paths are relative to that place.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _damaged(path: Path, detail: str) -> str:
    return f"{path}: damaged ({detail}); restore it, or start over with --fresh"


def planned_rows(
    meta: Path, kind: str, table: Table | None, questions: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of ``table``, or the videos that META is, as ``PLANNED``, with the column
    ``questions`` as ``ASKED``.
    """
    start = 0
    columns: Iterator[tuple[pa.Array, ...]]
    if table is None:
        columns = ((batch.column(0),) for batch in _listed(meta, kind))
    else:
        columns = row_questions(table, questions) if questions else zip(row_names(table))
    for found in columns:
        row_ids = pa.array(np.arange(start, start + len(found[0]), dtype=np.int64))
        schema = ASKED if len(found) > 1 else PLANNED
        yield pa.RecordBatch.from_arrays([row_ids, *found], schema=schema)
        start += len(row_ids)


def _listed(meta: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Yield the paths of a video, or of those in a folder, as the column of a table."""
    try:
        str(meta).encode()
    except UnicodeEncodeError as error:
        raise TableError(f"{meta}: this name is not UTF-8: {str(meta)!a}; rename it") from error
    found = [meta] if kind == VIDEO else _videos(meta)
    paths = pa.array([_written(path) for path in found], pa.string())
    yield pa.RecordBatch.from_arrays([paths], [PATH])


def _written(path: Path) -> str:
    r"""A path as a table can hold it.

    One that is not UTF-8 is written with escapes (``\xff``), which is no file's name: its row says
    so, and the others are captioned.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    if text != str(path) and os.path.lexists(text):
        raise TableError(
            f"{text}: two files are written like this, and one is not UTF-8; rename it"
        )
    return text


def _videos(folder: Path) -> list[Path]:
    """The videos in ``folder`` and below, sorted; hidden files and folders are left out."""

    def fail(error: OSError) -> None:
        raise TableError(f"{error.filename}: cannot be read: {error.strerror}") from error

    found: list[Path] = []
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:  # a link back up would go round for ever
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(root, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES
        ]
    if not found:
        known = " ".join(sorted(VIDEO_SUFFIXES))
        raise TableError(f"{folder}: no videos in this folder or below; known are {known}")
    return sorted(found)


def read_paths(run: RunDir, rows: list[int]) -> dict[int, str]:
    """The paths of a few planned rows, as META writes them."""
    table = pq.read_table(run.rows, filters=[("row_id", "in", rows)])
    return dict(zip(table["row_id"].to_pylist(), table["path"].to_pylist(), strict=True))
