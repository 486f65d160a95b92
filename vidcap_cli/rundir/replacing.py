"""Which tables a run may replace: those that it wrote, as it wrote them.

Any other file at the place of the output may hold captions that nobody else has: what another
program wrote, what was merged, what somebody has edited. A table is known by the digest of its
bytes, which the run notes before the table appears.
"""

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places, read_finished
from vidcap_cli.rundir.scope import Scope


def note_table(run: RunDir, file: Path) -> None:
    """Note that ``run`` wrote ``file``, whatever it will be called."""
    scope = Scope.read(run)
    replace(scope, written=(*(scope.written or ()), _digest(file))).write(run)


def may_replace(places: Places, table: Path) -> bool:
    """Whether nothing is lost at ``table`` when a run of ``places`` writes it anew."""
    if not table.is_file() or not table.stat().st_size:
        return True
    digest = _digest(table)
    runs = (places.settled, places.coming, places.replaced_run)
    return any(_wrote(run, digest) for run in runs)


def _wrote(run: RunDir, digest: str) -> bool:
    scope = Scope.read(run)
    if scope.written is None or not run.scope.is_file():  # of a version that did not note it
        return scope.table_rows > 0 or read_finished(run) is not None
    return digest in scope.written


def _digest(file: Path) -> str:
    found = file.stat()
    return _digest_of(file, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _digest_of(file: Path, *_state: int) -> str:
    """Kept while the file is in this state: a large table is not read each time it is asked for."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
