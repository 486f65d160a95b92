"""What is at the place of a table that a merge writes: kept where it has captions of its own.

The same merge again, or one with more inputs, replaces its table: all captions of that are in the
inputs. Any other table stays, under another name.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.merge import answers
from vidcap_cli.merge.columns import CaptionColumns, caption_column
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.sources import Source, read_source
from vidcap_cli.merge.spill import Ints
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.tables import Table, hashes, open_table

_READ = ("row_id", PATH, TEXT, "status", "flags")


@dataclass(slots=True)
class Replaced:
    """The file at ``path``, which makes way for a table; ``kept`` is where it is then, if it is."""

    path: Path
    says_more: bool
    kept: Path | None = None

    def keep(self, _new: Path) -> None:
        """Give it another name, if it says more than what replaces it."""
        if self.says_more:
            self.kept = _another_name(self.path)

    def notes(self) -> Iterator[str]:
        """Where it is."""
        if self.kept:
            yield f"{self.path} was there, with what no input has; that is kept as {self.kept}"


def says_more(
    path: Path,
    sources: Sequence[Source],
    columns: CaptionColumns,
    edits: Edits,
    kept: Sequence[str] = (),
) -> bool:
    """Whether a table at ``path`` has a caption that is in none of ``sources``.

    Captions are known as they are and as ``edits`` leave them, whatever their rows. True also of
    what has none, or cannot be read: nobody knows what it is for. A table of rows without captions
    that takes its place has the columns ``kept``: then they tell nothing, and only captions count.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        own = _captions(path, columns, kept)
    except (TableError, pa.ArrowException):
        return True
    if not len(own):
        return not kept
    texts = (_texts(source, columns, edits) for source in sources)
    return _some_lack(own, chain.from_iterable(texts))


def check_captions(out: Path, table: Table | None, column: str | None = None) -> None:
    """Raise UsageError where there is a table at ``out`` with captions that ``table`` has not.

    They are in the ``column`` of both, or where they are as a rule.
    """
    columns = CaptionColumns(column or TEXT)
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        own = _captions(out, columns, ())
    except (TableError, pa.ArrowException):
        return
    name = table and (column or caption_column(table.schema.names))
    batches = table.batches([name]) if table and name else ()
    texts = (batch.column(0).cast(pa.large_string()) for batch in batches)
    if len(own) and _some_lack(own, texts):
        raise UsageError(f"{out}: is there already, with captions of its own; name another file")


def _some_lack(own: Ints, texts: Iterable[pa.Array | pa.ChunkedArray]) -> bool:
    """Whether some of the sorted hashes ``own`` are of none of the ``texts``."""
    found = np.zeros(len(own), np.bool_)
    for some in texts:
        known = _hashes(some)
        place = np.minimum(np.searchsorted(own, known), len(own) - 1)
        found[place[own[place] == known]] = True
    return not found.all()


def _captions(path: Path, columns: CaptionColumns, kept: Sequence[str]) -> Ints:
    """The hashes of the captions in a table, sorted."""
    table = open_table(path)
    names = {*columns.captions, caption_column(table.schema.names, columns.caption)} - {*kept}
    asked = [name for name in table.schema.names if name in names]
    found = [np.array([], np.int64)]
    for batch in table.batches(asked) if asked else ():
        found += [np.unique(_hashes(batch.column(name).cast(pa.large_string()))) for name in asked]
    return np.unique(np.concatenate(found))


def _texts(
    source: Source, columns: CaptionColumns, edits: Edits
) -> Iterator[pa.Array | pa.ChunkedArray]:
    """The captions of a source, as they are and edited."""
    more = [answers.ANSWERS] if columns.questions else []
    for table in read_source(source, [*_READ, *more]):
        yield table[TEXT]
        yield edits.apply(table[TEXT].cast(pa.string()), flags=table["flags"].cast(pa.string()))
        for one in (Edits(), edits) if more else ():
            yield from answers.columns(table[answers.ANSWERS], columns.questions, one)


def _hashes(texts: pa.Array | pa.ChunkedArray) -> Ints:
    """Those of the texts that are not blank."""
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
    return hashes(texts.filter(pc.invert(blank)))


def _another_name(path: Path) -> Path:
    """Give what is at ``path`` another name beside it; it keeps the old one until it is replaced,
    where files can have two.
    """
    for number in count(1):
        kept = path.with_name(f"{path.stem}.old{'' if number == 1 else f'-{number}'}{path.suffix}")
        with suppress(FileExistsError):
            try:
                kept.hardlink_to(path)
            except FileExistsError:
                raise
            except OSError as error:
                if kept.exists():
                    raise FileExistsError from error
                path.rename(kept)
            return kept
    raise AssertionError
