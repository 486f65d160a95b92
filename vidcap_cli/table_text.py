"""The text of a table on the disk: its bytes without compression, its lines, its encoding.

A table is UTF-8; of one that is not the error says which encoding its bytes show, and how to
convert it.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from vidcap_cli.errors import TableError
from vidcap_cli.view.words import quoted_here

GZIP = ".gz"
_LOOKED_AT = 4 << 20  # bytes, to tell the encoding
_HIGH = bytes(range(0x80, 0x100))  # what is no ASCII


def is_gzip(path: Path) -> bool:
    """Whether the file is compressed with gzip, by its name."""
    return path.suffix.lower() == GZIP


def bare_name(path: Path) -> str:
    """The name of a file as it was before gzip."""
    return path.stem if is_gzip(path) else path.name


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the readers raise on a damaged file into a ``TableError``."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError, zlib.error) as error:
        detail = str(error).splitlines()[0]
        raise TableError(
            f"{path}: cannot be read, the file looks damaged or is not what its name says: {detail}"
        ) from error


def binary(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a table, without compression."""
    return gzip.open(path) if is_gzip(path) else path.open("rb")


def lines(path: Path) -> Iterator[str]:
    """The lines with their ends; TableError at the first that is not UTF-8."""
    with (
        readable(path),
        binary(path) as data,
        io.TextIOWrapper(data, "utf-8-sig", "surrogateescape", newline="") as file,
    ):
        for number, line in enumerate(file, 1):
            if not line.isascii() and any("\udc80" <= char <= "\udcff" for char in line):
                raise TableError(f"{path}: line {number} is not UTF-8. {_conversion(path)}")
            yield line


def _conversion(path: Path) -> str:
    """How to make a table UTF-8, from the encoding that its bytes show."""
    copy = path.with_name(f"utf8-{path.name}")
    convert = f"iconv -f {{}} -t UTF-8 {quoted_here(path)} > {quoted_here(copy)}"
    guess = _encoding(path)
    if guess is None:
        command = convert.format("ENCODING")
        return f"Save it as UTF-8, or convert it from the encoding that it has: {command}"
    name, of = guess
    return f"It looks like {name}{of}; convert it: {convert.format(name)}"


def _encoding(path: Path) -> tuple[str, str] | None:
    """The encoding of a text that is not UTF-8, and whose it is, if its bytes show one.

    Letters of Western Europe stand alone among ASCII; what GB 2312 has are pairs of such bytes.
    """
    with binary(path) as file:
        data = file.read(_LOOKED_AT)
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "UTF-16", ""
    data = data.rstrip(_HIGH) if len(data) == _LOOKED_AT else data  # it may end within a letter
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", data)]
    if not runs:
        return None
    if all(length % 2 == 0 for length in runs) and _decodes(data, "gb2312"):
        return "GB18030", " (Chinese)"
    if sum(length == 1 for length in runs) > len(runs) / 2 and _decodes(data, "cp1252"):
        return "WINDOWS-1252", " (Western Europe)"
    return None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True
