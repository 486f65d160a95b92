"""The plan of a run: which rows are to be captioned, with which options, and what is left to do.

``plan.json`` and ``rows.parquet`` are written once, before a model is loaded, and never change:
a row is its position in META (``row_id``, from 0), and every result refers to it. Resuming is
arithmetic on rows: planned, minus those with a result to keep, is what an attempt's todo holds.
Whether the videos exist is not asked here; a rank gives a row without a file its own status.

Memory is bounded by a few machine words a row, whatever the table holds.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.addresses import is_remote, local
from vidcap_cli.atomic import atomic_write, committing
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, RunError, TableError
from vidcap_cli.options import PATH
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.tables import READABLE_WORDS, open_meta, paths, regroup, table_form

VERSION = 1
# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg",
    ".wmv", ".flv", ".ts", ".m2ts", ".mts", ".3gp", ".ogv", ".gif",
})
# fmt: on
TABLE, VIDEO, FOLDER = "table", "video", "folder"

# The errors of a name that is nobody's; after any other the file may well be there.
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
GROUP = 65_536  # rows in a row group of rows.parquet
PLANNED = pa.schema([pa.field("row_id", pa.int64(), nullable=False), ("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run set out to do.

    ``meta`` is META as an absolute path and ``kind`` what it is: table, video or folder.
    ``fingerprint`` is the SHA-256 of the table's bytes (with the column of the paths, unless it is
    called ``path``), of the folder's sorted relative listing,
    or of the video's path. A relative path in the table is looked for in ``bases``, in order.
    ``options`` are those that decide what the captions say, ``table_options`` those of the table
    to write, where not the default. ``rows_digest`` is the SHA-256 of rows.parquet, empty in plans
    of older versions.
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

    @property
    def path_column(self) -> str:
        """The column of META with the paths; plans of older versions do not say it."""
        return str(self.options.get("path_column", PATH))

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
        return cls(**{**values, "bases": tuple(values["bases"])})


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
    meta = _absolute(meta)
    kind = kind_of(meta)
    fingerprint = fingerprint_of(meta, kind, config.path_column)
    run.path.mkdir(parents=True, exist_ok=True)
    rows = 0
    with committing(run.rows) as temporary:
        with pq.ParquetWriter(temporary, PLANNED) as writer:
            for table in regroup(_planned(meta, kind, config.path_column), GROUP):
                writer.write_table(table, row_group_size=GROUP)
                rows += table.num_rows
        digest = _digest_of(temporary)
    plan = Plan(
        meta=str(meta),
        kind=kind,
        fingerprint=fingerprint,
        rows=rows,
        bases=(str(meta if kind == FOLDER else meta.parent), str(Path.cwd())),
        options=config.caption_options(),
        rows_digest=digest,
        table_options=table_options or {},
    )
    if finish:
        atomic_write(run.plan, plan.to_json().encode())
    return plan


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


def check_unchanged(plan: Plan, meta: Path, config: CaptionConfig) -> None:
    """Raise ``RunChangedError`` with every difference between the plan and what is asked now.

    META at another place is a change, even with the same bytes: its relative paths would name
    other videos. Another working directory alone is not; the plan's own keeps counting.
    """
    contents, others = _differences(plan, meta, config)
    if contents or others:
        raise _changed([*contents, *others], extends=not others)


def only_contents_changed(plan: Plan, meta: Path, config: CaptionConfig) -> bool:
    """Whether META has changed since the plan, False when nothing has.

    Raises RunChangedError when it is another META, or an option that captions depend on has
    changed.
    """
    contents, others = _differences(plan, meta, config)
    if others:
        raise _changed([*contents, *others], extends=False)
    return bool(contents)


def _changed(differences: list[str], *, extends: bool) -> RunChangedError:
    remedy = "Repeat the command as it was to continue the run, or add --fresh to start over"
    if extends:
        remedy += ", or --extend to keep the captions of the rows that are still there"
    listed = "\n  ".join(differences)
    return RunChangedError(
        f"the unfinished run was made with something else:\n  {listed}\n{remedy}"
    )


def _differences(plan: Plan, meta: Path, config: CaptionConfig) -> tuple[list[str], list[str]]:
    """What is different of META's contents, and what else."""
    contents, others = [], []
    meta = _absolute(meta)
    kind = kind_of(meta)
    if str(meta) != plan.meta:
        others.append(f"the table: {plan.meta} -> {meta}")
    if fingerprint_of(meta, kind, plan.path_column) != plan.fingerprint:
        rows = sum(batch.num_rows for batch in _planned(meta, kind, config.path_column))
        count = f"{plan.rows} -> {rows} rows" if rows != plan.rows else f"still {rows} rows"
        contents.append(f"the contents of {meta.name}: {count}")
    now = config.caption_options()
    before = {**config.usual_caption_options(), **plan.options}
    for name in dict.fromkeys([*plan.options, *now]):
        # Through JSON, as the plan's options went: a tuple and a list are the same option.
        new, called = json.loads(json.dumps(now.get(name))), config.called(name)
        if called and before.get(name) != new:
            others.append(f"{called}: {before.get(name)!r} -> {new!r}")
    return contents, others


def resolve(path: str, bases: Sequence[str]) -> Path:
    """The file a row means: absolute as it is, else under the first base where it exists.

    When it exists under none, the place where it was looked for first; an address of another
    machine then stays as it is. Never raises: a place that cannot be looked at (no permission, a
    disk that fails) is taken, and who opens it says why.
    """
    path = local(path)
    candidates = [Path(base) / path for base in bases]
    missing = Path(path) if is_remote(path) else candidates[0]
    return next((place for place in candidates if _may_exist(place)), missing)


def _may_exist(place: Path) -> bool:
    try:
        place.stat()
    except ValueError:  # a null character
        return False
    except OSError as error:
        return error.errno not in _NO_SUCH_FILE
    return True


def kind_of(meta: Path) -> str:
    """Whether META is a table, a folder or a video."""
    try:
        meta.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TableError(f"{meta}: there is no such file or folder; check the spelling") from error
    except OSError as error:
        raise TableError(f"{meta}: cannot be read: {error.strerror}") from error
    if meta.is_dir():
        return FOLDER
    if table_form(meta):
        return TABLE
    suffix = meta.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VIDEO
    raise TableError(
        f"{meta}: {suffix or 'a file without extension'} is neither a table "
        f"({READABLE_WORDS}) nor a video known by its extension; list it in a table"
    )


def fingerprint_of(meta: Path, kind: str, column: str = PATH) -> str:
    """The SHA-256 that tells whether META is still the same; see ``Plan``."""
    if kind == FOLDER:
        listing = [str(path.relative_to(meta)) for path in _videos(meta)]
        return hashlib.sha256("\0".join(listing).encode("utf-8", "surrogateescape")).hexdigest()
    if kind == VIDEO:
        return hashlib.sha256(os.fsencode(meta)).hexdigest()
    try:
        digest = _digest_of(meta)
    except FileNotFoundError as error:
        raise TableError(f"{meta}: there is no such file; check the spelling") from error
    except OSError as error:
        raise TableError(f"{meta}: cannot be read: {error.strerror}") from error
    if column == PATH:
        return digest
    return hashlib.sha256(f"{digest} {column}".encode("utf-8", "surrogateescape")).hexdigest()


def _absolute(path: Path) -> Path:
    # Symbolic links stay as the user wrote them: relative paths are relative to that place.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _damaged(path: Path, detail: str) -> str:
    return f"{path}: damaged ({detail}); restore it, or start over with --fresh"


def _planned(meta: Path, kind: str, column: str) -> Iterator[pa.RecordBatch]:
    """Yield the planned rows of META, whose paths are in ``column`` if it is a table."""
    start = 0
    for found in _paths(meta, kind, column):
        row_ids = pa.array(np.arange(start, start + len(found), dtype=np.int64))
        yield pa.RecordBatch.from_arrays([row_ids, found], schema=PLANNED)
        start += len(found)


def _paths(meta: Path, kind: str, column: str) -> Iterator[pa.Array]:
    if kind == TABLE:
        yield from paths(open_meta(meta, column))
        return
    try:
        str(meta).encode()
    except UnicodeEncodeError as error:
        raise TableError(f"{meta}: this name is not UTF-8: {str(meta)!a}; rename it") from error
    found = [meta] if kind == VIDEO else _videos(meta)
    yield pa.array([_written(path) for path in found], pa.string())


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
