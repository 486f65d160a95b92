"""Choosing: the best of the results of every row, and which rows have different captions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.merge.spill import Ints
from vidcap_cli.options import TEXT, Prefer
from vidcap_cli.statuses import Status

AGE, ROW = "age", "row"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for some rows that follow each other, counted from 0.

    ``best`` is by row the place of its best result, or -1; ``times`` how many it has,
    those of one run counted once; ``conflicts`` are the rows with different captions.
    """

    best: Ints
    times: Ints
    conflicts: Ints
    _results: pa.Table
    _row: Ints
    _ok: npt.NDArray[np.bool_]
    _age: Ints

    def captions(self, row: int) -> tuple[str, dict[str, int]]:
        """The caption that was chosen of a row with several, and the others with the age of each,
        oldest first.
        """
        places = np.flatnonzero((self._row == row) & self._ok)
        oldest_first = places[np.argsort(self._age[places])]
        chosen, *texts = _texts(self._results, np.append(self.best[row], oldest_first)).to_pylist()
        others: dict[str, int] = {}
        for text, age in zip(texts, self._age[oldest_first].tolist(), strict=True):
            if text != chosen:
                others.setdefault(text, age)
        return chosen, others


def choose(
    results: pa.Table, start: int, rows: int, *, given: Ints, runs: Ints, prefer: Prefer
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
    return Choice(
        best, times, _conflicts(results, row, several[ok[several]]), results, row, ok, age
    )


def _again(row: Ints, runs: Ints, rows: int) -> Ints:
    """By row how many of these results are further ones of the same run."""
    order = np.lexsort((runs, row))
    row, runs = row[order], runs[order]
    same = (row[1:] == row[:-1]) & (runs[1:] == runs[:-1]) & (runs[1:] >= 0)
    return np.bincount(row[1:][same], minlength=rows)


def _conflicts(results: pa.Table, row: Ints, captions: Ints) -> Ints:
    """The rows with different texts among ``captions``, which are sorted by row."""
    same = row[captions[1:]] == row[captions[:-1]]
    left, right = captions[:-1][same], captions[1:][same]
    differ = pc.not_equal(_texts(results, left), _texts(results, right))
    rows: Ints = np.unique(row[left[np.asarray(differ.to_numpy(), np.bool_)]])
    return rows


def _texts(results: pa.Table, places: Ints) -> pa.ChunkedArray:
    return pc.fill_null(results[TEXT].take(pa.array(places)), "")
