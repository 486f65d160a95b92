"""What is at the place of a table that a merge writes: kept where it has captions of its own.

The same merge again, or one with more inputs, replaces its table: all captions of that are in the
inputs, also where it was made with other edits. Any other table stays, under another name: one
with a caption that no input has, or with one in a row that has none now.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, count, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.merge import answers
from vidcap_cli.merge.columns import STATUS, CaptionColumns, caption_column, columns_before
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.sources import Source, read_source
from vidcap_cli.merge.spill import Ints
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.tables import Table, hashes, is_text, open_table

_READ = ("row_id", PATH, TEXT, "status", "flags")
_SOME = 2  # different captions
_GUESSES = 8


@dataclass(slots=True)
class Replaced:
    """The file at ``path``, which makes way for a table; ``kept`` is where it is then, if it is."""

    path: Path
    says_more: bool = False
    captioned: Ints | tuple[()] = ()
    kept: Path | None = None

    def compare(self, first: int, paths: pa.ChunkedArray, has: npt.NDArray[np.bool_]) -> None:
        """Look at rows from number ``first`` on that take the place of its own: these ``paths``,
        which ``has`` says to have a caption. It says more where one of its captions has none
        instead.
        """
        own = self.captioned[first : first + len(has)]
        if len(own):
            lost = (own == hashes(paths)[: len(own)]) & ~has[: len(own)]
            self.says_more |= bool(lost.any())

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
    *,
    meta: Sequence[str],
    kept: Sequence[str] = (),
) -> bool:
    """Whether a table at ``path`` has a caption that is in none of ``sources``; its columns that
    are ``meta``'s hold none.

    Captions are known as they are and as ``edits`` leave them, or as other edits would leave all
    of them, whatever their rows. True also of what has none, or cannot be read: nobody knows what
    it is for. A table of rows without captions that takes its place has the columns ``kept``: then
    they tell nothing, and only captions count.
    """
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        own, one = _captions(path, columns, kept, meta)
    except (TableError, pa.ArrowException):
        return True
    if not len(own):
        return not kept

    def lacks(every: Sequence[Edits]) -> bool:
        texts = (_texts(source, columns, every) for source in sources)
        return _some_lack(own, chain.from_iterable(texts))

    if not lacks([Edits(), edits]):
        return False
    # One caption alone may as well have been edited by hand.
    return len(own) < _SOME or all(lacks([each]) for each in _made_by(one, sources, columns))


def captioned(path: Path, columns: CaptionColumns, path_column: str) -> Ints:
    """By row of a table the hash of its path where it has a caption, else 0; none of what cannot be
    read as a table.
    """
    found = [np.array([], np.int64)]
    with suppress(TableError, pa.ArrowException):
        table = open_table(path)
        names = {*columns.captions, caption_column(table.schema.names, columns.caption)}
        asked = [name for name in table.schema.names if name in names and name != path_column]
        if asked and path_column in table.schema.names:
            for batch in table.batches([path_column, *asked]):
                said = np.zeros(batch.num_rows, np.bool_)
                for name in asked:
                    said |= ~_blank(batch.column(name).cast(pa.large_string())).to_numpy(False)
                found.append(np.where(said, hashes(batch.column(path_column)), 0))
    return np.concatenate(found)


def _made_by(caption: str, sources: Sequence[Source], columns: CaptionColumns) -> list[Edits]:
    """The edits that may have made ``caption`` of one of the sources, those with the least added
    text first.
    """
    found: dict[Edits, int] = {}
    for strip, trim in product((False, True), repeat=2):
        plain = Edits(strip_prefix=strip, trim_to_sentence=trim)
        for texts in chain.from_iterable(_texts(source, columns, [plain]) for source in sources):
            for text in texts.unique().to_pylist():
                if text and text.strip() and text in caption:
                    prefix, _, suffix = caption.partition(text)
                    made = replace(plain, prefix=prefix, suffix=suffix)
                    found[made] = len(prefix) + len(suffix)
    return sorted(found, key=lambda made: found[made])[:_GUESSES]


def check_captions(out: Path, table: Table | None, column: str | None = None) -> None:
    """Raise UsageError where there is a table at ``out`` with captions that ``table`` has not.

    They are in the ``column`` of both, or where they are as a rule.
    """
    columns = CaptionColumns(column or TEXT)
    if not out.is_file() or not out.stat().st_size:
        return
    try:
        own, _ = _captions(out, columns)
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
        known = hashes(_said(some))
        place = np.minimum(np.searchsorted(own, known), len(own) - 1)
        found[place[own[place] == known]] = True
    return not found.all()


def _captions(
    path: Path, columns: CaptionColumns, kept: Sequence[str] = (), meta: Sequence[str] = ()
) -> tuple[Ints, str]:
    """The hashes of the captions in a table, sorted, and the first of them as it is.

    Answers to other questions than are asked now stand between those columns that are ``meta``'s,
    where that is known, and the last one with captions.
    """
    table = open_table(path)
    there = table.schema.names
    last = caption_column(there, columns.caption)
    others = columns_before(there, last, meta) if last and meta and STATUS in there else []
    names = {*columns.captions, last, *others} - {*kept}
    asked = [
        name
        for name in there
        if name in names and (name not in others or is_text(table.schema.field(name).type))
    ]
    found, first = [np.array([], np.int64)], ""
    for batch in table.batches(asked) if asked else ():
        for name in asked:
            texts = _said(batch.column(name).cast(pa.large_string()))
            found.append(np.unique(hashes(texts)))
            first = first or (str(texts[0]) if len(texts) else "")
    return np.unique(np.concatenate(found)), first


def _texts(
    source: Source, columns: CaptionColumns, every: Sequence[Edits]
) -> Iterator[pa.Array | pa.ChunkedArray]:
    """The captions of a source, as ``every`` edit leaves them."""
    more = [answers.ANSWERS] if columns.questions else []
    for table in read_source(source, [*_READ, *more]):
        texts, flags = (table[name].cast(pa.string()) for name in (TEXT, "flags"))
        said = [answers.read(one) for one in table[answers.ANSWERS].to_pylist()] if more else []
        for edits in every:
            yield edits.apply(texts, flags=flags)
            if more:
                yield from answers.columns(said, columns.questions, edits)


def _said(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Those of the texts that are not blank."""
    return texts.filter(pc.invert(_blank(texts)))


def _blank(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)


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
