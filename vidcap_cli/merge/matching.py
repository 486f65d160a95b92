"""Matching: which result belongs to which planned row, and which one is the best of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.merge.sources import Source, read_source, result_schema
from vidcap_cli.options import Prefer
from vidcap_cli.statuses import Status
from vidcap_cli.tables import PATH, Table, paths, regroup

Ints = npt.NDArray[np.int64]

_LOOKUP_ROWS = 1 << 20  # META rows matched at once: each time the result paths are hashed anew


@dataclass(frozen=True, slots=True)
class Results:
    """All results, oldest first: the position of a result is its age.

    ``table`` has columns of ``parts.SCHEMA``; ``source`` says by result which of ``sources`` it
    is from, and ``ok`` whether it is a caption.
    """

    table: pa.Table
    source: Ints
    sources: list[Source]
    ok: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Matches:
    """Pairs of a planned row and a result for it (``row[i]``, ``result[i]``).

    ``unmatched`` and ``mismatched`` are the results in no pair: those that fit no planned row,
    and those whose ``row_id`` and ``path`` name different ones.
    """

    rows: int
    row: Ints
    result: Ints
    unmatched: Ints
    mismatched: Ints


def read_results(sources: Sequence[Source], columns: Sequence[str]) -> Results:
    """Read all sources, the one written last at the end."""
    ordered = sorted(sources, key=lambda source: (source.time, source.given))
    tables = [read_source(source, columns) for source in ordered]
    lengths = [table.num_rows for table in tables]
    whole = pa.concat_tables([result_schema(columns).empty_table(), *tables]).combine_chunks()
    ok = np.asarray(pc.equal(whole["status"], Status.OK).to_numpy(), np.bool_)
    return Results(whole, np.repeat(np.arange(len(ordered)), lengths), ordered, ok)


def match(results: Results, table: Table, rows: int | None, fingerprint: str) -> Matches:
    """Find the results of each row of ``table``, whose length is ``rows`` if that is known.

    Results of a plan with this fingerprint go by ``row_id``. Parts that come without a plan do
    so where their path agrees. Everything else goes by path.
    """

    def each(flags: Sequence[bool]) -> npt.NDArray[np.bool_]:
        return np.array(flags, np.bool_)[results.source]

    trusted = each(
        [s.plan is not None and s.plan.fingerprint == fingerprint for s in results.sources]
    )
    loose = each([s.plan is None and not s.is_table for s in results.sources])
    code = row_code = np.empty(0, np.int64)
    if rows is None or not trusted.all():
        coded = results.table[PATH].combine_chunks().dictionary_encode()
        # A result without a path (-2) agrees with no row, not even one of unknown path (-1).
        code = coded.indices.fill_null(-2).to_numpy().astype(np.int64)
        row_code = _row_codes(table, coded.dictionary)
        rows = len(row_code)
    row_id = results.table["row_id"].fill_null(-1).to_numpy()
    inside = (row_id >= 0) & (row_id < rows)
    agrees = inside & trusted
    check = np.flatnonzero(inside & loose)
    agrees[check[row_code[row_id[check]] == code[check]]] = True
    by_id = np.flatnonzero(agrees)
    path_rows, path_results = _join(code, np.flatnonzero(~trusted & ~loose), row_code)
    mismatched = inside & loose & ~agrees
    rest = ~mismatched
    rest[by_id] = False
    rest[path_results] = False
    return Matches(
        rows=rows,
        row=np.concatenate([row_id[by_id], path_rows]),
        result=np.concatenate([by_id, path_results]),
        unmatched=np.flatnonzero(rest),
        mismatched=np.flatnonzero(mismatched),
    )


def first_rows(matches: Matches, rows: int) -> Matches:
    """The matches of the first ``rows`` rows."""
    rows = min(rows, matches.rows)
    within = matches.row < rows
    return Matches(
        rows,
        matches.row[within],
        matches.result[within],
        matches.unmatched,
        matches.mismatched,
    )


def _row_codes(table: Table, known: pa.Array) -> Ints:
    """For every row of ``table`` the index of its path in ``known``, or -1."""
    batches = (
        pa.RecordBatch.from_arrays([column.cast(known.type)], [PATH]) for column in paths(table)
    )
    found: list[Ints] = [
        pc.fill_null(pc.index_in(block[PATH], value_set=known), -1).to_numpy().astype(np.int64)
        for block in regroup(batches, _LOOKUP_ROWS)
    ]
    return np.concatenate(found)


def _join(code: Ints, results: Ints, row_code: Ints) -> tuple[Ints, Ints]:
    """All pairs of a row and one of ``results`` with the same path."""
    if not len(results):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    import pandas as pd  # noqa: PLC0415 (half a second, only for results that go by path)

    rows = np.flatnonzero(row_code >= 0)
    left = pd.DataFrame({"code": row_code[rows], "row": rows})
    pairs = left.merge(pd.DataFrame({"code": code[results], "result": results}), on="code")
    return pairs["row"].to_numpy(np.int64), pairs["result"].to_numpy(np.int64)


def choose(results: Results, matches: Matches, prefer: Prefer) -> Ints:
    """For every row the index of its best result, or -1: a caption, then what ``prefer`` says."""
    row, result = matches.row, matches.result
    if prefer == "oldest":
        key = -result
    elif prefer == "first":
        given = np.array([-source.given for source in results.sources], np.int64)
        key = given[results.source[result]]
    elif prefer == "longest":
        lengths = pc.fill_null(pc.utf8_length(results.table["text"]), 0)
        key = lengths.to_numpy().astype(np.int64)[result]
    else:
        key = result
    order = np.lexsort((result, key, results.ok[result], row))
    row, result = row[order], result[order]
    last = np.flatnonzero(np.append(row[1:] != row[:-1], True)) if len(row) else row
    best = np.full(matches.rows, -1, np.int64)
    best[row[last]] = result[last]
    return best


def conflicts(results: Results, matches: Matches) -> dict[int, list[str]]:
    """The rows with different captions to choose from, in order, and these, oldest first."""
    several = np.bincount(matches.row, weights=results.ok[matches.result], minlength=1) > 1
    keep = np.flatnonzero(several[matches.row] & results.ok[matches.result])
    if not len(keep):
        return {}
    import pandas as pd  # noqa: PLC0415 (half a second, only for rows with several captions)

    keep = keep[np.argsort(matches.result[keep], kind="stable")]
    texts = results.table["text"].take(pa.array(matches.result[keep])).to_pylist()
    frame = pd.DataFrame({"row": matches.row[keep], "text": texts}).drop_duplicates()
    frame = frame[frame.duplicated("row", keep=False)].sort_values("row", kind="stable")
    found: dict[int, list[str]] = {}
    for row, text in zip(frame["row"].tolist(), frame["text"].tolist(), strict=True):
        found.setdefault(row, []).append(text)
    return found
