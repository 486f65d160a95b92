"""Captions of a table judged: every rule on every row.

The table is read once, in blocks. Of a row some 200 bytes stay in memory, and its words lie in a
file without a name until all are judged.
"""

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli import repeats
from vidcap_cli.config import options_of
from vidcap_cli.errors import TableError
from vidcap_cli.families import FAMILIES
from vidcap_cli.inspect import likeness, rules
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.merge.sources import caption_ranges
from vidcap_cli.meta import names_of, no_paths
from vidcap_cli.options import PATH
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.tables import Table, hashes, is_text
from vidcap_cli.view.progress import Progress

OPENING = 3  # words
OPENING_SHARE, OPENING_LEAST = 0.1, 20  # of captions that differ
SCRIPT_SHARE = 5  # percent of the letters
FAULTS = tuple(Fault)
BIT = {fault: 1 << number for number, fault in enumerate(FAULTS)}
MEANS: dict[str, str] = {
    Fault.FAILED: "the status says that there is no caption",
    Fault.EMPTY: "no words, and no status that says why",
    Fault.CUT: "ends in the middle of a sentence, or was cut at its greatest length",
    Fault.LOOP: "says the same phrase again and again",
    Fault.DUPLICATE: "the caption of another video, word by word",
    Fault.NEAR_DUPLICATE: "nearly the caption of another video",
    Fault.STOCK_OPENING: "begins with the same words as many others",
    Fault.OTHER_SCRIPT: "letters of another script than most captions have",
    Fault.PROMPT: "repeats the prompt, or shows marks of a conversation",
    Fault.LOW_CONFIDENCE: "the model was far less sure of it than of most others",
}
_BLOCK = 8_192  # rows judged at once
_NONE = hash("")
_OPTIONAL = ("status", "error", "flags", "finish_reason", "prompt")
_LOGPROB = "logprob"


@dataclass(frozen=True, slots=True)
class Captions:
    """A table with captions: ``text`` names their column, ``extra`` those beside it."""

    table: Table
    text: str
    extra: Mapping[str, str]

    @classmethod
    def of(cls, table: Table, text: str) -> "Captions":
        """``table``, whose captions are in the column ``text``; TableError when they are none."""
        names = table.schema.names
        if table.path_column not in names:
            raise no_paths(table)
        if text not in names:
            raise TableError(
                f"{table.path}: no column is called `{text}`; found are {', '.join(names)}. Name "
                "the one with the captions with --caption-column"
            )
        for name in (table.path_column, text):
            if not is_text(table.schema.field(name).type):
                raise TableError(f"{table.path}: the column `{name}` holds no text; convert it")
        extra = {
            name: f"caption_{name}"
            for name in _OPTIONAL
            if f"caption_{name}" in table.schema.names
            and is_text(table.schema.field(f"caption_{name}").type)
        }
        if f"caption_{_LOGPROB}" in table.schema.names:
            extra[_LOGPROB] = f"caption_{_LOGPROB}"
        return cls(replace(table, ranges=caption_ranges(table, None)), text, extra)

    @property
    def columns(self) -> dict[str, str]:
        """What is judged, and the columns that it is in."""
        return {PATH: self.table.path_column, "text": self.text, **self.extra}

    @property
    def number(self) -> int | None:
        """How many rows there are, where the table says so before it is read."""
        is_parquet = self.table.form == "parquet"
        return pq.read_metadata(self.table.path).num_rows if is_parquet else None

    def blocks(self) -> Iterator[dict[str, list[str]]]:
        """The rows in blocks, as strings without null."""
        for cells, _ in self._blocks(()):
            yield cells

    def named_blocks(
        self, columns: Sequence[str] = ()
    ) -> Iterator[tuple[dict[str, list[str]], pa.RecordBatch]]:
        """The same, and other ``columns`` of the table as they are.

        Instead of its path a row has its name there: with the range of the video that it is about.
        """
        for cells, block in self._blocks([*self.table.ranges, *columns]):
            yield self._named(cells, block), block

    def _blocks(
        self, columns: Sequence[str]
    ) -> Iterator[tuple[dict[str, list[str]], pa.RecordBatch]]:
        for batch in self._batches(columns):
            for start in range(0, batch.num_rows, _BLOCK):
                block = batch.slice(start, _BLOCK)
                yield self._cells(block), block

    def rows(self, wanted: Sequence[int]) -> dict[int, dict[str, str]]:
        """A few rows by their numbers, which ascend; with their names, as ``named_blocks``."""
        found: dict[int, dict[str, str]] = {}
        start, waiting = 0, deque(wanted)
        for batch in self._batches(self.table.ranges):
            while waiting and waiting[0] < start + batch.num_rows:
                row = waiting.popleft()
                one = batch.slice(row - start, 1)
                cells = self._named(self._cells(one), one)
                found[row] = {name: values[0] for name, values in cells.items()}
            start += batch.num_rows
            if not waiting:
                break
        return found

    def _batches(self, more: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        return self.table.batches(list(dict.fromkeys([*self.columns.values(), *more])))

    def _named(self, cells: dict[str, list[str]], block: pa.RecordBatch) -> dict[str, list[str]]:
        with suppress(TableError):  # columns may be called like those, and hold no times
            cells[PATH] = names_of(self.table, block, pa.array(cells[PATH])).to_pylist()
        return cells

    def _cells(self, block: pa.RecordBatch) -> dict[str, list[str]]:
        return {n: _strings(self.table, block, column) for n, column in self.columns.items()}


def _strings(table: Table, block: pa.RecordBatch, column: str) -> list[str]:
    try:
        strings = block.column(column).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:  # bytes, lists
        raise TableError(f"{table.path}: the column `{column}` cannot be read: {error}") from error
    found: list[str] = pc.fill_null(strings, "").to_pylist()
    return found


@dataclass(slots=True)
class Judged:
    """What is known of each row when all are read; the arrays are as long as the table."""

    faults: npt.NDArray[np.uint16]
    words: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]  # the first row with the same caption
    alike: npt.NDArray[np.int64]  # another row with nearly the same, or -1
    stock: list[int]  # a row for each stock opening
    script: int
    statuses: Counter[str]
    logprobs: npt.NDArray[np.float64]  # NaN where nothing says it
    noted: Counter[str]  # flags that captioning gave, by the rows that have them

    def having(self, fault: Fault) -> npt.NDArray[np.int64]:
        """The rows with a flag."""
        return np.flatnonzero(self.faults & BIT[fault])

    @property
    def suspect(self) -> npt.NDArray[np.bool_]:
        """Which rows have a flag that says more than their status."""
        return (self.faults & ~np.uint16(BIT[Fault.FAILED])) > 0


def judge(captions: Captions) -> Judged:
    """All rows of a table with all their flags; raises TableError for one without rows."""
    with likeness.Shelf() as shelf, Progress("captions", captions.number) as progress:
        reading = _Reading(shelf)
        for block in captions.blocks():
            reading.take(block)
            progress.advance(len(block[PATH]))
        judged = reading.judged()
    if not len(judged.faults):
        raise TableError(f"{captions.table.path}: the table has a header but no rows")
    return judged


@dataclass(slots=True)
class _Reading:
    """Judges rows as they come; what shows only between captions is judged in the end."""

    shelf: likeness.Shelf
    _faults: list[npt.NDArray[np.uint16]] = field(default_factory=list)
    _words: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _texts: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _paths: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _openings: list[npt.NDArray[np.int64]] = field(default_factory=list)
    _scripts: list[npt.NDArray[np.int8]] = field(default_factory=list)
    _bands: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    _shelved: "array[int]" = field(default_factory=lambda: array("q"))  # rows, in its order
    _seen: set[int] = field(default_factory=set)  # hashes of captions on the shelf
    _statuses: Counter[str] = field(default_factory=Counter)
    _logprobs: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _noted: Counter[str] = field(default_factory=Counter)  # as they stand in a row
    _rows: int = 0

    def take(self, block: Mapping[str, list[str]]) -> None:
        """Judge a block of rows."""
        texts = [text[: repeats.LONGEST] for text in block["text"]]
        words = [repeats.words_of(text) for text in texts]
        numbers = [repeats.numbered(each) for each in words]
        bounds = np.cumsum([0, *map(len, words)])
        joined = [" ".join(each) for each in words]
        of_text = hashes(pa.array(joined))
        faults = _own_faults(block, texts, words)
        faults[repeats.loops(np.concatenate(numbers), bounds)] |= BIT[Fault.LOOP]
        self._faults.append(faults)
        self._words.append(np.diff(bounds).astype(np.int32))
        self._texts.append(of_text)
        self._paths.append(hashes(pa.array(block[PATH])))
        self._scripts.append(np.array([rules.scripts_of(text) for text in texts], np.int8))
        self._openings.append(_openings(words))
        self._shelve(numbers, of_text)
        self._statuses.update(block.get("status", ()))
        self._noted.update(block.get("flags", ()))
        self._logprobs.append(_numbers(block.get(_LOGPROB, [""] * len(texts))))
        self._rows += len(texts)

    def _shelve(self, numbers: Sequence[repeats.Words], of_text: npt.NDArray[np.int64]) -> None:
        """Put captions that are new and long enough on the shelf, with their signatures."""
        new = []
        for place, (found, text) in enumerate(zip(numbers, of_text.tolist(), strict=True)):
            if len(found) >= likeness.LEAST_WORDS and text not in self._seen:
                self._seen.add(text)
                self._shelved.append(self._rows + place)
                self.shelf.add(found)
                new.append(found)
        if new:
            bounds = np.cumsum([0, *map(len, new)])
            self._bands.append(likeness.signatures(np.concatenate(new), bounds))

    def judged(self) -> Judged:
        """All rows with all their flags."""
        faults = _together(self._faults, np.uint16)
        texts, paths = _together(self._texts, np.int64), _together(self._paths, np.int64)
        words = _together(self._words, np.int32)
        spoken = words > 0
        same, first = likeness.duplicates(texts, paths)
        faults[same & spoken] |= BIT[Fault.DUPLICATE]
        alike = self._alike(paths, first)
        faults[alike >= 0] |= BIT[Fault.NEAR_DUPLICATE]
        opening = _together(self._openings, np.int64)
        differing = (opening != _NONE) & (first == np.arange(len(first)))
        stock = likeness.openings(opening[differing], least=OPENING_LEAST, share=OPENING_SHARE)
        faults[np.isin(opening, stock)] |= BIT[Fault.STOCK_OPENING]
        spelled = sorted(int(np.argmax(opening == number)) for number in stock)
        script, other = _other_script(self._scripts, spoken)
        faults[other] |= BIT[Fault.OTHER_SCRIPT]
        logprobs = _together(self._logprobs, np.float64)
        logprobs[~spoken] = np.nan
        faults[rules.unsure(logprobs)] |= BIT[Fault.LOW_CONFIDENCE]
        return Judged(
            faults, words, first, alike, spelled, script, self._statuses, logprobs,
            _each(self._noted),
        )  # fmt: skip

    def _alike(
        self, paths: npt.NDArray[np.int64], first: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """For each row another with nearly its caption; copies have what the first of them has."""
        rows = np.asarray(self._shelved)
        found = likeness.near_duplicates(
            self._bands, self.shelf, lambda i, j: bool(paths[rows[i]] != paths[rows[j]])
        )
        alike = np.full(len(paths), -1, np.int64)
        alike[rows[found >= 0]] = rows[found[found >= 0]]
        return alike[first] if len(first) else alike


def _each(cells: Counter[str]) -> Counter[str]:
    """Flags that stand together in cells, each by itself."""
    found: Counter[str] = Counter()
    for cell, rows in cells.items():
        found.update(dict.fromkeys(filter(None, map(str.strip, cell.split(","))), rows))
    return found


def _numbers(cells: Sequence[str]) -> npt.NDArray[np.float64]:
    """What cells say, NaN where that is no number."""
    found = np.full(len(cells), np.nan)
    for place, cell in enumerate(cells):
        with suppress(ValueError):
            found[place] = float(cell)
    return found


def _openings(words: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Hashes of the first words of captions that go on after them."""
    return hashes(pa.array([" ".join(w[:OPENING]) if len(w) > OPENING else "" for w in words]))


def _together(arrays: list[Any], kind: npt.DTypeLike) -> Any:
    found = np.concatenate(arrays) if arrays else np.zeros(0, kind)
    arrays.clear()
    return found


def _own_faults(
    block: Mapping[str, list[str]], texts: Sequence[str], words: Sequence[Sequence[str]]
) -> npt.NDArray[np.uint16]:
    """What can be said of each caption alone, without its loops."""
    rows = len(texts)
    nothing = [""] * rows
    status = block.get("status", nothing)
    flags, reason = block.get("flags", nothing), block.get("finish_reason", nothing)
    prompt = block.get("prompt", nothing)
    faults = np.zeros(rows, np.uint16)
    for row, text in enumerate(texts):
        if status[row] == Status.MISSING:
            continue  # not done yet, which is no fault of its caption
        if status[row] not in ("", Status.OK):
            faults[row] = BIT[Fault.FAILED]
        elif not words[row]:
            faults[row] = BIT[Fault.EMPTY]
        else:
            told = reason[row] == "length" or Flag.CUT in flags[row].split(",")
            if told or rules.ends_mid_sentence(text, words[row]):
                faults[row] |= BIT[Fault.CUT]
            if Flag.REPETITIVE in flags[row].split(","):
                faults[row] |= BIT[Fault.LOOP]
            if rules.repeats_prompt(text, _prompts(prompt[row])):
                faults[row] |= BIT[Fault.PROMPT]
    return faults


def _prompts(own: str) -> tuple[str, ...]:
    """What a model was asked: as the row says, else the default."""
    return (own,) if own.strip() else _QUESTIONS


_QUESTIONS = tuple({str(options_of(family)["question"].default) for family in FAMILIES.values()})


def _other_script(
    scripts: list[npt.NDArray[np.int8]], spoken: npt.NDArray[np.bool_]
) -> tuple[int, npt.NDArray[np.bool_]]:
    """The script of most captions, and which have letters of another."""
    found: npt.NDArray[np.int8] = np.concatenate(scripts) if scripts else np.zeros((0, 4), np.int8)
    scripts.clear()
    counts = np.bincount(found[spoken, 0], minlength=len(rules.SCRIPTS))
    counts[0] = 0
    main = int(counts.argmax())
    ours = np.where(found[:, 0] == main, found[:, 2], np.where(found[:, 1] == main, found[:, 3], 0))
    return main, spoken & (found[:, 0] > 0) & (100 - ours >= SCRIPT_SHARE)
