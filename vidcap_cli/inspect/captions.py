"""A table with captions: how long they are, and which of them are suspect and why.

The table is read once to judge every caption (``judging``), and again for the rows to show and to
export.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidcap_cli import repeats
from vidcap_cli.disk import check_output
from vidcap_cli.errors import UsageError
from vidcap_cli.finishing import WORTH_A_TRY, completing_steps
from vidcap_cli.inspect import rules
from vidcap_cli.inspect.command import words_of_paths
from vidcap_cli.inspect.gallery.make import Gallery, make_gallery
from vidcap_cli.inspect.histogram import histogram
from vidcap_cli.inspect.judging import BIT, FAULTS, MEANS, OPENING, Captions, Judged, judge
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.merge.columns import caption_column
from vidcap_cli.merge.replacing import check_captions
from vidcap_cli.merge.sources import plan_beside
from vidcap_cli.options import PATH
from vidcap_cli.statuses import Status
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import cut_short, selectable
from vidcap_cli.view.steps import Step, made_of
from vidcap_cli.view.words import count, one_line

FLAGS_COLUMN = "quality_flags"  # of the exported table
_EXAMPLES = 3
_SHOWN = 72  # characters of a caption


def captions_report(
    captions: Captions, export: Path | None = None, gallery: Gallery | None = None
) -> Report:
    """The report on a table with captions; ``export`` gets the rows that have a flag.

    Raises TableError for a damaged table and UsageError when ``export`` or ``gallery`` cannot be
    written.
    """
    table = captions.table.path
    if export:
        _check_export(export, captions)
    if gallery:
        gallery.place.check(table)
    judged = judge(captions)
    examples = _examples(captions, judged)
    if export:
        _export(captions, judged, export)
    told = ""
    if gallery:
        beside = plan_beside(table)  # whose table may lie elsewhere
        bases = [str(table.absolute().parent), *(beside.bases if beside else ()), str(Path.cwd())]
        told = make_gallery(gallery, captions, judged, title=table.name, bases=bases)
    return _report(captions, judged, examples, export, told)


@dataclass(frozen=True, slots=True)
class _Row:
    path: str
    text: str
    status: str
    error: str


def _examples(captions: Captions, judged: Judged) -> dict[int, _Row]:
    """The rows to show, by number: the first of each flag, and those they are like."""
    shown = set(judged.stock)
    for fault in FAULTS:
        rows = _shown(judged, fault)
        shown.update(rows)
        partners = {Fault.DUPLICATE: judged.first, Fault.NEAR_DUPLICATE: judged.alike}.get(fault)
        if partners is not None:
            shown.update(int(partners[row]) for row in rows)
    return {
        row: _Row(cells[PATH], cells["text"], cells.get("status", ""), cells.get("error", ""))
        for row, cells in captions.rows(sorted(shown)).items()
    }


def _shown(judged: Judged, fault: Fault) -> list[int]:
    rows = judged.having(fault)
    if fault == Fault.DUPLICATE:  # the first of a few captions, not one caption three times
        _, places = np.unique(judged.first[rows], return_index=True)
        others = rows[judged.first[rows] != rows]
        _, places = np.unique(judged.first[others], return_index=True)
        rows = others[np.sort(places)]
    found: list[int] = rows[:_EXAMPLES].tolist()
    return found


def _evidence(fault: Fault, row: int, judged: Judged, rows: Mapping[int, _Row]) -> str:
    """What of a caption shows that the flag is right."""
    found = rows[row]
    text = one_line(found.text)
    match fault:
        case Fault.FAILED:
            return f"{found.status}: {one_line(found.error)}" if found.error else found.status
        case Fault.CUT:
            return f"… {text[-_SHOWN:]}" if len(text) > _SHOWN else text
        case Fault.LOOP:
            phrase, times = repeats.phrase_of(repeats.words_of(found.text[: repeats.LONGEST]))
            return f"{times} times: {_clipped(phrase)}" if times > 2 else _clipped(text)
        case Fault.DUPLICATE:
            return f"{_clipped(text)} (as row {judged.first[row]:,})"
        case Fault.NEAR_DUPLICATE:
            other = int(judged.alike[row])
            return f"as row {other:,}, but {rules.difference(found.text, rows[other].text)}"
        case Fault.LOW_CONFIDENCE:
            text = f"{judged.logprobs[row]:.2f}: {text}"
    return _clipped(text) or "nothing"


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1].rstrip() + "…"


def _report(
    captions: Captions, judged: Judged, rows: Mapping[int, _Row], export: Path | None, made: str
) -> Report:
    flagged = int(np.count_nonzero(judged.faults))
    spoken = judged.words[judged.words > 0]
    others = _other_answers(captions)
    total = len(judged.faults)
    name, done = str(captions.table.path), _done(judged)
    share = _share(flagged, done) + (f" of {done:,} done" if done < total else "")
    facts = [
        Fact("rows", f"{total:,}", total),
        Fact("with a caption", f"{len(spoken):,}", len(spoken)),
        Fact("column", captions.text + (f", not {', '.join(others)}" if others else "")),
        Fact("script", rules.SCRIPTS[judged.script]),
        Fact("with a flag", f"{flagged:,}{f' ({share})' if flagged else ''}", flagged),
    ]
    statuses = {name or "none": n for name, n in judged.statuses.most_common()}
    if statuses:
        words = ", ".join(f"{status} {n:,}" for status, n in statuses.items())
        facts.insert(2, Fact("status", one_line(words), statuses))
    if judged.noted:
        words = ", ".join(f"{flag} {n:,}" for flag, n in judged.noted.most_common())
        facts.append(Fact("noted by captioning", one_line(words), dict(judged.noted)))
    lengths = []
    if len(spoken):
        fact, lines = histogram("words in a caption", spoken)
        facts.append(fact)
        lengths.append(lines)
    sections = [Section("captions", tuple(facts)), *lengths]
    sections.append(Section("flags", tuple(_flag(f, judged, rows) for f in FAULTS)))
    for fault in FAULTS:
        shown = _shown(judged, fault)
        facts = [
            Fact(
                f"row {row:,}",
                f"{one_line(rows[row].path)} · {_evidence(fault, row, judged, rows)}",
            )
            for row in shown
        ]
        if facts:
            sections.append(Section(f"{fault}, for example", tuple(facts), only_shown=True))
    verdict = f"{count(flagged, 'row')} of {total:,} {'has' if flagged == 1 else 'have'} a flag"
    steps = [] if export or made else _steps(captions, judged, flagged, others)
    if export:
        verdict += f"; written to {export}"
    if made:
        verdict += f"; {made}"
    short = cut_short(captions.table)
    problems = (Problem(short, serious=False),) if short else ()
    doubtful = flagged > 0 or bool(short)
    return Report(
        "captions", name, verdict, tuple(sections), problems, tuple(steps), doubtful=doubtful
    )


def _steps(captions: Captions, judged: Judged, flagged: int, others: Sequence[str]) -> list[Step]:
    table, found = captions.table.path, caption_column(captions.table.schema.names)
    look = ("inspect", table, *words_of_paths(captions.table.path_column))
    named = () if captions.text == found else ("--caption-column", captions.text)
    steps = completing_steps(captions.table, _lacking(judged), captions.text)
    if flagged:
        html = (*look, *named, "--html", made_of(table, "gallery.html"))
        steps.append(Step.of("to look at them beside their videos", *html))
        rows = (*look, *named, "--export-flagged", made_of(table, "flagged.csv"))
        steps.append(Step.of("for all of them as a table, to leave them out", *rows))
    for name in others:
        answers = (*look, "--caption-column", name)
        steps.append(Step.of(f"to judge the captions in {name}", *answers))
    steps.append(Step.of("to look into its videos", *look, "--videos"))
    return steps


def _other_answers(captions: Captions) -> list[str]:
    """The other columns with captions where several questions were asked, as the run tells that
    lies beside its table.
    """
    plan = plan_beside(captions.table.path)
    asked = plan.questions if plan else ()
    if captions.text not in asked:
        return []
    return [name for name in asked if name != captions.text and name in captions.table.schema.names]


def _lacking(judged: Judged) -> int:
    """How many rows have no caption, where some of them may get one."""
    if judged.statuses:
        if not any(judged.statuses[status] for status in WORTH_A_TRY):
            return 0
        return judged.statuses.total() - judged.statuses[Status.OK]
    return int(np.count_nonzero(judged.words == 0))


def _done(judged: Judged) -> int:
    """How many rows have a result; of those that are not done yet nothing can be wrong."""
    return len(judged.faults) - judged.statuses[Status.MISSING]


def _flag(fault: Fault, judged: Judged, rows: Mapping[int, _Row]) -> Fact:
    of_rows = fault in (Fault.FAILED, Fault.EMPTY)
    whole = _done(judged) if of_rows else int(np.count_nonzero(judged.words))
    found = len(judged.having(fault))
    words, figures = MEANS[fault], (f"{found:,}", _share(found, whole))
    value: dict[str, Any] = {"rows": found, "share": found / whole if found else 0.0}
    value["examples"] = [
        {
            "row": row,
            "path": rows[row].path,
            "text": rows[row].text[: repeats.LONGEST],
            "evidence": _evidence(fault, row, judged, rows),
        }
        for row in _shown(judged, fault)
    ]
    if fault == Fault.STOCK_OPENING and judged.stock:
        openings = [" ".join(repeats.words_of(rows[row].text)[:OPENING]) for row in judged.stock]
        words += ": " + ", ".join(openings)
        value["openings"] = openings
    return Fact(fault, words, value, figures)


def _share(part: int, whole: int) -> str:
    return f"{max(0.1, 100 * part / whole):.1f} %" if part else ""


def _check_export(export: Path, captions: Captions) -> None:
    output_form(export)
    if export.resolve() == captions.table.path.resolve():
        raise UsageError(f"--export-flagged {export}: is the table itself; name another file")
    check_output(export)
    check_captions(export, captions.table, captions.text)


def _export(captions: Captions, judged: Judged, export: Path) -> None:
    """Write the rows with a flag, all their columns and one more with the flags."""
    schema = captions.table.schema
    others = [column for column in schema if column.name != FLAGS_COLUMN]
    kept = selectable(pa.schema(others, schema.metadata))
    names = np.array([_spelled(mask) for mask in range(1 << len(FAULTS))], object)
    start = 0
    with writing(
        export, kept.append(pa.field(FLAGS_COLUMN, pa.string())), output_form(export)
    ) as write:
        for batch in captions.table.batches(kept.names):
            faults = judged.faults[start : start + batch.num_rows]
            start += batch.num_rows
            rows = pa.Table.from_batches([batch]).cast(kept).filter(pa.array(faults > 0))
            flags = pa.array(names[faults[faults > 0]], pa.string())
            write(rows.append_column(FLAGS_COLUMN, flags))


def _spelled(mask: int) -> str:
    return ",".join(fault for fault in FAULTS if mask & BIT[fault])
