"""What a path means that a person or another program wrote: ``~/x``, ``file:///x``, ``s3://x``.

Only files of this machine are read. An address of another place is told from the name of a file
by its scheme, of two letters at least, with which few files begin.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from vidcap_cli.errors import UsageError

NOT_READ = "remote files are not read; download them or mount the place, and give that path"
_FILE = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
# One slash is what a Path leaves of two.
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def local(path: str) -> str:
    """``path`` with the home folder for ``~/``, and without ``file://`` and its escapes."""
    if path.startswith("~/"):
        return os.path.expanduser(path)  # noqa: PTH111 - a Path would drop a trailing slash
    found = _FILE.fullmatch(path)
    return unquote(found[1], errors="surrogateescape") if found else path


def is_remote(path: str | Path) -> bool:
    """Whether it is an address of another machine, as it was written."""
    return _SCHEME.match(str(path)) is not None


def named(path: Path) -> Path:
    """The file or folder that an argument means; raises UsageError for one elsewhere."""
    meant = Path(local(str(path)))
    if is_remote(meant) and not meant.exists():
        raise UsageError(f"{str(path).replace(':/', '://', 1)}: {NOT_READ}")
    return meant
