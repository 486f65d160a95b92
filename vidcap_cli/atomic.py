"""Commits: a file that is there is whole, whenever a process or the machine died.

A commit writes a temporary file beside the place, flushes it, renames it, and flushes the folder.
"""

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{32}\.tmp")
_PROBE_BYTES = 65_536
_STEM_BYTES = 100  # of a name, in that of its temporary file: names may have 255, in places 143
# What file systems without locks answer.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_ABANDONED_SECONDS = 86_400.0


def atomic_write(
    path: Path, data: bytes, *, replace: bool = True, by_way_of: Path | None = None
) -> None:
    """Make ``path`` hold ``data``: after a crash at any instant it has all of it or is untouched.

    Both file and folder are flushed to the disk before this returns. ``replace`` as in ``commit``,
    ``by_way_of`` as in ``committing``.
    """
    with committing(path, replace=replace, by_way_of=by_way_of) as temporary:
        temporary.write_bytes(data)


def replace_file(path: Path, data: bytes) -> None:
    """Make ``path`` hold ``data`` for whoever reads it; after a crash of the machine it may not."""
    temporary, lock = _locked_temporary(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(lock)


@contextmanager
def committing(
    path: Path, *, replace: bool = True, by_way_of: Path | None = None
) -> Iterator[Path]:
    """Hand out a temporary file; what is written there becomes ``path``.

    It lies beside ``path``, so that the rename never crosses file systems, or in the folder
    ``by_way_of`` of the same one: who removes that folder with what is in it can be sure that
    nothing is committed from there any more. It is flushed to the disk before the rename. When the
    block raises, it is removed and ``path`` is as it was. Until then this process holds a lock on
    it, which tells ``sweep`` that somebody still writes it. ``replace`` as in ``commit``.
    """
    temporary, lock = _locked_temporary(path, by_way_of)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        commit(temporary, path, replace=replace)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the name that means something to a user
        with suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(lock)


def probe(path: Path) -> None:
    """Write, flush and remove a small file beside ``path``, named like a commit of it.

    Raises the OSError of a place that is missing, read-only or full, or of a name too long.
    """
    with suppress(FileNotFoundError):
        path.lstat()  # its own name, which is longer than that of the small file
    temporary, lock = _locked_temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(lock)
        temporary.unlink(missing_ok=True)


def _locked_temporary(path: Path, folder: Path | None = None) -> tuple[Path, int]:
    """A new temporary file for ``path``, and the descriptor that holds its lock."""
    while True:
        temporary = (folder or path.parent) / f".{_stem(path.name)}.{uuid4().hex}.tmp"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # without locks (some network folders) its age tells, see sweep
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        os.close(file)  # a sweep came between creating and locking


def _stem(name: str) -> str:
    """What a temporary file has of the name that it will have."""
    return os.fsencode(name)[:_STEM_BYTES].decode("utf-8", "ignore")


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what commits that were cut off left in ``folder``, or only those of the file ``name``.

    A temporary file that a living process still writes is locked by it, and stays. Where there are
    no locks one stays that was written within a day.
    """
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for path in list(folder.iterdir()):
            match = _TEMPORARY.fullmatch(path.name)
            meant = match and (name is None or _stem(name) == match[1])
            if meant and path.is_file() and not path.is_symlink():
                _remove_abandoned(path)


def is_temporary(path: Path) -> bool:
    """Whether a name is that of a file that is being committed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            age = time.time() - os.fstat(file.fileno()).st_mtime
            if error.errno not in NO_LOCKS or age < _ABANDONED_SECONDS:
                return
        path.unlink()


def commit(temporary: Path, path: Path, *, replace: bool = True) -> None:
    """Rename a finished, flushed temporary file onto ``path`` and flush the folder.

    Without ``replace`` a file that is there stays, also one that comes at this very moment:
    FileExistsError.
    """
    if replace:
        temporary.replace(path)
    else:
        _rename_to_new(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """A second name in place of a rename: the system makes none that exists."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:  # some network folders know no second names
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)
    else:
        temporary.unlink()
