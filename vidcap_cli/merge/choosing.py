"""Choosing: the best of the results of every row, and which rows have different captions.

Where questions have names a row has a caption for each: that of the best result which has one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.merge import answers
from vidcap_cli.merge.spill import Ints
from vidcap_cli.options import TEXT, Prefer
from vidcap_cli.statuses import Status

AGE, ROW = "age", "row"


@dataclass(frozen=True)
class Choice:
    """What was chosen for some rows that follow each other, counted from 0.

    ``best`` is by row the place of its best result, or -1; ``times`` how many it has,
    those of one run counted once. ``questions`` are the names of those that were asked, if they
    have any.
    """

    best: Ints
    times: Ints
    questions: tuple[str, ...]
    _results: pa.Table
    _several: Ints  # the results of rows that have several, by row, the best last
    _row: Ints
    _ok: npt.NDArray[np.bool_]
    _age: Ints

    def ranked(self, row: int) -> Ints:
        """The places of the results of a row, the best first."""
        start, stop = np.searchsorted(self._rows_of_several, [row, row + 1])
        return self._several[start:stop][::-1] if start < stop else self.best[row : row + 1]

    def value(self, place: int, column: str) -> str | None:
        """What a result has in a column of text."""
        found: str | None = self._results[column][place].as_py()
        return found

    def answers(self, place: int) -> answers.Answers:
        """What a result answers, by question."""
        return answers.read(self.value(place, answers.ANSWERS))

    def captions(self, row: int) -> Iterator[tuple[str, str, dict[str, int]]]:
        """Of a row with different captions: the question, if it has a name, the caption that was
        chosen, and the others with the age of each, oldest first.
        """
        places = self.ranked(row)
        said = [self._said(place) for place in places.tolist()]
        age = self._age[places].tolist()
        for question in self.questions or ("",):
            texts = [one.get(question) for one in said]
            chosen = next((text for text in texts if text is not None), "")
            others: dict[str, int] = {}
            for _, text in sorted(zip(age, texts, strict=True), key=lambda pair: pair[0]):
                if text is not None and text != chosen:
                    others.setdefault(text, age[texts.index(text)])
            if others:
                yield question, chosen, others

    def _said(self, place: int) -> dict[str, str]:
        """The captions of a result by question."""
        if self.questions:
            return answers.texts(self.answers(place))
        return {"": self._results[TEXT][place].as_py() or ""} if self._ok[place] else {}

    @cached_property
    def conflicts(self) -> Ints:
        """The rows with different captions."""
        by = answers.ANSWERS if self.questions else TEXT
        several = self._several if self.questions else self._several[self._ok[self._several]]
        rows = _different(self._results[by], self._row, several)
        if self.questions:  # they may have different answers, or answer different questions
            rows = np.array([row for row in rows.tolist() if any(self.captions(row))], np.int64)
        return rows

    @cached_property
    def _rows_of_several(self) -> Ints:
        return self._row[self._several]


def choose(
    results: pa.Table,
    start: int,
    rows: int,
    *,
    given: Ints,
    runs: Ints,
    prefer: Prefer,
    questions: Sequence[str] = (),
) -> Choice:
    """Choose for each of the ``rows`` rows from ``start`` on: a caption, then what ``prefer`` says.

    ``results`` has the columns ``row`` and ``age``, which is higher the newer a result is;
    ``given`` is by result the place of its source among the inputs, ``runs`` the number of the run
    that it is of, or -1.
    """
    row, age = results[ROW].to_numpy() - start, results[AGE].to_numpy()
    ok = np.asarray(pc.equal(results["status"], Status.OK).to_numpy(), np.bool_)
    times = np.bincount(row, minlength=rows)
    best = np.full(rows, -1, np.int64)
    best[row] = np.arange(len(row))
    # Few rows have several results; only these need to be sorted.
    several = np.flatnonzero(times[row] > 1)
    times -= _again(row[several], runs[several], rows)
    last = age[several]  # of results with the same key the newer one is better
    if prefer == "oldest":
        key = -age[several]
    elif prefer == "first":
        key, last = -given[several], -age[several]
    elif prefer == "longest":
        key = pc.utf8_length(_texts(results, several)).to_numpy()
    else:
        key = age[several]
    several = several[np.lexsort((last, key, ok[several], row[several]))]
    best[row[several]] = several  # of equal rows the last counts
    return Choice(best, times, tuple(questions), results, several, row, ok, age)


def _again(row: Ints, runs: Ints, rows: int) -> Ints:
    """By row how many of these results are further ones of the same run."""
    order = np.lexsort((runs, row))
    row, runs = row[order], runs[order]
    same = (row[1:] == row[:-1]) & (runs[1:] == runs[:-1]) & (runs[1:] >= 0)
    return np.bincount(row[1:][same], minlength=rows)


def _different(texts: pa.ChunkedArray, row: Ints, places: Ints) -> Ints:
    """The rows with different ones among the ``texts`` at ``places``, which are sorted by row."""
    same = row[places[1:]] == row[places[:-1]]
    left, right = (
        pc.fill_null(texts.take(pa.array(some)), "")
        for some in (places[:-1][same], places[1:][same])
    )
    differ = np.asarray(pc.not_equal(left, right).to_numpy(), np.bool_)
    rows: Ints = np.unique(row[places[:-1][same][differ]])
    return rows


def _texts(results: pa.Table, places: Ints) -> pa.ChunkedArray:
    return pc.fill_null(results[TEXT].take(pa.array(places)), "")
