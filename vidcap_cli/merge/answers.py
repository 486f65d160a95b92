"""Answers to questions that have names: a column for each, out of what a part says of all of them.

A part has them as JSON (``Result.answers``), a table with captions as columns of these names.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.errors import UsageError
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.sources import Source, read_source
from vidcap_cli.options import TEXT
from vidcap_cli.tables import open_table, quoted

ANSWERS = "answers"

Answers = dict[str, dict[str, Any]]  # by the names of questions, as parts have them


def questions_of(
    sources: Sequence[Source], column: str, given: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the questions that ``sources`` answer, ``given`` ones first; none where there
    is one without a name.

    Raises UsageError where they have nothing to do with each other, or with ``column``, the name
    that was asked for: captions to another question have no column in the table.
    """
    found: dict[str, tuple[str, ...]] = {}
    for source in sources:
        if not source.is_table:
            found.setdefault(str(source.name), _names(source))
    names = tuple(dict.fromkeys([*given, *(name for each in found.values() for name in each)]))
    if not names:
        return ()
    without = [source for source, each in found.items() if not each]
    if without:
        raise UsageError(
            f"{without[0]}: was asked one question, others {', '.join(names)}; merge it apart, and "
            f"what comes of that with the others: --caption-column {','.join([TEXT, *names])}"
        )
    for source in sources:
        if source.is_table and not set(names) & {*open_table(source.name).schema.names}:
            raise UsageError(
                f"{source.name}: its captions are in `{source.captions}`, others in "
                f"{quoted(names)}; merge it apart, rename that column to one of these, or keep "
                f"both with --caption-column {','.join([*names, str(source.captions)])}"
            )
    if column != TEXT:
        raise UsageError(
            f"--caption-column {column}: the columns have the names of the questions "
            f"({', '.join(names)}); leave it out"
        )
    return names


def _names(source: Source) -> tuple[str, ...]:
    if source.plan:
        return source.plan.questions
    found: dict[str, None] = {}
    for table in read_source(source, ["row_id", ANSWERS]):
        for answers in pc.unique(pc.drop_null(table[ANSWERS])).to_pylist():
            found |= dict.fromkeys(read(answers))
    return tuple(found)


def columns(rows: Sequence[Answers], names: Sequence[str], edits: Edits) -> list[pa.ChunkedArray]:
    """The captions of each question, edited."""
    return [_column([row.get(name) or {} for row in rows], edits) for name in names]


def _column(answers: Sequence[Mapping[str, Any]], edits: Edits) -> pa.ChunkedArray:
    texts, flags = (
        pa.chunked_array([pa.array([answer.get(key) for answer in answers], pa.string())])
        for key in ("text", "flags")
    )
    return edits.apply(texts, flags=flags)


def texts(answers: Answers) -> dict[str, str]:
    """The captions among ``answers``."""
    return {name: one["text"] for name, one in answers.items() if one.get("text")}


def read(text: str | None) -> Answers:
    """What a cell says, by the names of questions; nothing where it is none of vidcap's."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    whole = isinstance(found, dict) and all(isinstance(it, dict) for it in found.values())
    return found if whole else {}
