"""What a path means that a person or another program wrote: ``~/x``, ``file:///x``, ``s3://x``.

Only files of this machine are read. An address of another place is told from the name of a file
by its scheme, of two letters at least, with which few files begin.
"""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from vidcap_cli.errors import UsageError
from vidcap_cli.spans import Span, parted
from vidcap_cli.spans import named as named_row

INSTEAD = "download them or mount the place, and give that path"
NOT_READ = f"remote files are not read; {INSTEAD}"
_FILE = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
# The errors of a name that is nobody's; after any other the file may well be there.
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# One slash is what a Path leaves of two.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_WEB = re.compile(r"https?:", re.IGNORECASE)


def local(path: str) -> str:
    """``path`` with the home folder for ``~/``, and without ``file://`` and its escapes."""
    if path.startswith("~/"):
        return os.path.expanduser(path)  # noqa: PTH111 - a Path would drop a trailing slash
    found = _FILE.fullmatch(path)
    return unquote(found[1], errors="surrogateescape") if found else path


def is_remote(path: str | Path) -> bool:
    """Whether it is an address of another machine, as it was written."""
    return _SCHEME.match(str(path)) is not None


def address_of(path: str | Path) -> str:
    """An address as it was written, of whose two slashes a Path leaves one."""
    return re.sub(r"^([a-z][a-z0-9+.-]+:/)(?!/)", r"\1/", str(path), flags=re.IGNORECASE)


def named(path: Path) -> Path:
    """The file or folder that an argument means; raises UsageError for one elsewhere."""
    meant = Path(local(str(path)))
    if is_remote(meant) and not meant.exists():
        raise UsageError(
            f"{address_of(path)}: only captioning reads a table that is elsewhere; download it or "
            "mount the place, and give that path"
        )
    return meant


def tidy(path: Path) -> Path:
    """``path`` from the root, without ``..`` where that is the same place."""
    plain = Path(os.path.normpath(path.absolute()))
    return plain if os.path.realpath(plain) == os.path.realpath(path) else path.absolute()


def resolve(path: str, bases: Sequence[str]) -> Path:
    """The file a row means: absolute as it is, else under the first base where it exists.

    When it exists under none, the place where it was looked for first; an address of another
    machine then stays as it is. Never raises: a place that cannot be looked at (no permission, a
    disk that fails) is taken, and who opens it says why.
    """
    path = local(path)
    places = (Path(base, path) for base in bases)
    if found := next(filter(_may_exist, places), None):
        return found
    return Path(path) if is_remote(path) else Path(bases[0], path)


def _may_exist(place: Path) -> bool:
    try:
        place.stat()
    except ValueError:  # a null character
        return False
    except OSError as error:
        return error.errno not in _NO_SUCH_FILE
    return True


def locate(name: str, bases: Sequence[str]) -> tuple[str, Span | None]:
    """The file that a row of this name means, and the range of it, if it means one.

    A file that is called like a path with a range is that file. An address stays as it is written.
    """
    path, span = parted(name)
    whole = resolve(name, bases)
    if span is None or _may_exist(whole):
        return _address(name, whole), None
    return _address(path, resolve(path, bases)), span


def meaning(name: str, bases: Sequence[str]) -> str:
    """The name of a row by the file that it means: the same however that is written."""
    file, span = locate(name, bases)
    return named_row(os.path.realpath(file) if "/../" in file else file, span)


def _address(path: str, found: Path) -> str:
    """What is opened: an address as it is written; beside one, the name of a file is a name, in
    which a web address has to escape ``#``, ``?`` and ``%``.
    """
    if not is_remote(found) or is_remote(path):
        return path if is_remote(found) else address_of(found)
    address, name = address_of(found), str(Path(path))
    web = _WEB.match(address) and address.endswith(f"/{name}")
    return address.removesuffix(name) + quote(name, errors="surrogateescape") if web else address
