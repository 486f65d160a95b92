"""Combining: a row is whole when all questions are answered, each by the best result that does."""

import json
from collections.abc import Sequence

import pyarrow as pa

from vidcap_cli.merge import answers
from vidcap_cli.merge.choosing import Choice
from vidcap_cli.statuses import Status
from vidcap_cli.tables import quoted

_STATUS, _ERROR, _FLAGS, _ANSWERS = 1, 2, 3, -1  # among the columns of results


def combine(added: list[pa.ChunkedArray], choice: Choice) -> list[answers.Answers]:
    """The answers of the rows whose best results have the columns ``added``.

    What the best result does not answer is taken from the next one that does; ``added`` is changed
    to tell of that. A row is ``ok`` with all of them: else it has the status of the best result
    without a caption, or is ``missing``, as one that was not asked everything.
    """
    said = [answers.read(text) for text in added[_ANSWERS].to_pylist()]
    names = choice.questions
    lacking = [
        row
        for row, best in enumerate(choice.best.tolist())
        if best >= 0 and not {*names} <= answers.texts(said[row]).keys()
    ]
    if not lacking:
        return said
    status, error, flags, text = (
        added[column].to_pylist() for column in (_STATUS, _ERROR, _FLAGS, _ANSWERS)
    )
    for row in lacking:
        rest = choice.ranked(row)[1:].tolist()
        for place in rest:
            had = answers.texts(said[row])
            more = choice.answers(place)
            new = [name for name in answers.texts(more) if name in names and name not in had]
            if new:
                said[row] |= {name: more[name] for name in new}
                flags[row] = _joined([flags[row], choice.value(place, "flags")])
                text[row] = json.dumps(said[row], ensure_ascii=False)
        lacks = [name for name in names if name not in answers.texts(said[row])]
        if not lacks:
            status[row], error[row] = Status.OK, None
        elif status[row] == Status.OK:
            failed = [place for place in rest if choice.value(place, "status") != Status.OK]
            status[row], error[row] = (
                (choice.value(failed[0], "status"), choice.value(failed[0], "error"))
                if failed
                else (Status.MISSING, f"no answer to {quoted(lacks)}")
            )
    for column, values in ((_STATUS, status), (_ERROR, error), (_FLAGS, flags), (_ANSWERS, text)):
        added[column] = pa.chunked_array([pa.array(values, added[column].type)])
    return said


def _joined(flags: Sequence[str | None]) -> str | None:
    """The flags of several results, each once."""
    found = dict.fromkeys(flag for one in flags if one for flag in one.split(","))
    return ",".join(found) or None
