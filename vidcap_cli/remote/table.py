"""A table of videos elsewhere: brought to a folder here, with the address that it came from."""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

from vidcap_cli.atomic import atomic_write, committing
from vidcap_cli.errors import UsageError
from vidcap_cli.remote.access import unreadable
from vidcap_cli.remote.cache import caching
from vidcap_cli.tables import READABLE_WORDS, table_form
from vidcap_cli.video import VideoError

_REMOTE, _ADDRESS = ".remote", "address"


def bring_table(address: str) -> Path:
    """Download a table into the folder ``NAME.remote`` of the working directory.

    Beside it the folder has its address, from which relative paths start. Raises UsageError.
    """
    name = Path(urlsplit(address).path).name
    if why := unreadable(address):
        raise UsageError(f"{address}: {why}")
    if not table_form(Path(name)):
        raise UsageError(
            f"{address}: is no table by its name ({READABLE_WORDS}); videos elsewhere are "
            "captioned from a table that names them"
        )
    folder = Path(name).absolute().with_suffix(_REMOTE)
    mark = folder / _ADDRESS
    if folder.exists() and (not mark.is_file() or mark.read_text("utf-8") != address):
        raise UsageError(
            f"{folder}: is in the way of the table of {address}; move it, or work elsewhere"
        )
    folder.mkdir(exist_ok=True)
    atomic_write(mark, address.encode())
    try:
        with (
            caching(folder) as cache,
            cache.held(address) as file,
            committing(folder / name) as temporary,
        ):
            shutil.copyfile(file, temporary)
    except VideoError as error:
        raise UsageError(f"{address}: {error}") from error
    return folder / name


def base_of(meta: Path) -> str:
    """Where relative paths in a table start from: its folder, or where it was downloaded from."""
    mark = meta.parent / _ADDRESS
    if meta.parent.suffix == _REMOTE and mark.is_file():
        address = mark.read_text("utf-8").partition("?")[0]
        return address[: address.rindex("/")]
    return str(meta.parent)
