"""A run directory: what was planned, how each launch went, what came of the rows, what is next.

Reads what the run left in files and nothing else, so it works while the run goes on, after it
died, and on another machine that sees the folder.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.inspect.command import continue_command
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.rundir.events import EventReader
from vidcap_cli.rundir.ledger import RunParts
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.plan import Plan, read_plan
from vidcap_cli.rundir.records import Attempt, RankExit, read_errors, read_exits
from vidcap_cli.statuses import Status
from vidcap_cli.view.tally import RankState, RunState
from vidcap_cli.view.words import count, duration, figure, one_line

_LISTED = 8


@dataclass(frozen=True, slots=True)
class Rows:
    """What the parts say of the planned rows: ``statuses`` counts the latest result of each row
    (a caption is never superseded), ``failed`` a few rows as (path, status, error), ``damaged``
    what is wrong with parts that count in no row.
    """

    statuses: Counter[str]
    failed: tuple[tuple[str, str, str], ...]
    damaged: tuple[str, ...] = ()


def run_report(run: RunDir) -> Report:
    """The report on a run. Raises RunError when its plan is damaged."""
    plan = read_plan(run)
    rows = read_rows(run, plan)
    ok = rows.statuses[Status.OK]
    failed = rows.statuses.total() - ok
    sections = [Section("plan", _plan_facts(plan)), Section("rows", _row_facts(plan.rows, rows))]
    problems = [
        Problem(f"{one_line(path)} · {status}: {one_line(error)}", serious=False)
        for path, status, error in rows.failed
    ]
    if failed > len(rows.failed):
        problems.append(Problem(f"and {failed - len(rows.failed):,} more rows", serious=False))
    problems += _damage(run, plan, rows)
    for folder in run.attempts():
        sections.append(Section(f"launch {folder.number}", _attempt_facts(folder)))
        problems += _errors(folder)
    verdict, next_step = _standing(run, plan, ok=ok, failed=failed)
    problems += next_step
    return Report("run", str(run.path), verdict, tuple(sections), tuple(problems))


def _standing(run: RunDir, plan: Plan, *, ok: int, failed: int) -> tuple[str, list[Problem]]:
    """Where the run stands in one sentence, and what continues it."""
    left = plan.rows - ok - failed
    if is_led(run):
        return f"goes on: {ok:,} of {plan.rows:,} captioned, {left:,} left", []
    finished = run.finished.is_file()
    if finished and not left and not failed:
        return "finished: every row has a caption", []
    command = continue_command(run, plan)
    if not left and not failed:
        why = "every row is captioned, but the table is not written yet"
        return "not finished", [Problem(why, command, serious=False)]
    parts = [f"{left:,} rows left"] if left else []
    parts += [f"{failed:,} failed"] if failed else []
    why = "rows are left: continue the run" if left else "failed rows can be tried again"
    step = Problem(why, command, serious=False)
    return f"{'finished' if finished else 'not finished'}: {', '.join(parts)}", [step]


def _damage(run: RunDir, plan: Plan, rows: Rows) -> list[Problem]:
    remedy = f"its rows are done again by {continue_command(run, plan)}"
    problems = [Problem(fault, remedy) for fault in rows.damaged]
    aside = run.damaged_parts()
    if aside:
        what = f"{count(len(aside), 'damaged part')} set aside earlier, such as {aside[0]}"
        problems.append(Problem(what, serious=False))
    return problems


def read_rows(run: RunDir, plan: Plan) -> Rows:
    """Read every part: bounded memory a row, whatever the errors say."""
    names: list[str] = [Status.OK]
    status: npt.NDArray[np.int16] = np.full(plan.rows, -1, np.int16)
    origin: npt.NDArray[np.int32] = np.full(plan.rows, -1, np.int32)
    files = run.part_files()
    parts = RunParts(run, plan)
    damaged = []
    for number, file in enumerate(files):
        try:
            table = parts.read(file, ["row_id", "status"])
        except DamagedPartError as error:
            damaged.append(str(error))
            continue
        except RunError:
            if file.exists():
                raise
            return read_rows(run, plan)  # another part stands for it since
        row_ids = table["row_id"].to_numpy()
        values = table["status"].to_pylist()
        names += sorted(set(values) - set(names))
        codes = np.array([names.index(value) for value in values], np.int16)
        open_ = status[row_ids] != 0
        status[row_ids[open_]] = codes[open_]
        origin[row_ids[open_]] = number
    codes, numbers = np.unique(status[status >= 0], return_counts=True)
    statuses = Counter({names[c]: int(n) for c, n in zip(codes, numbers, strict=True)})
    shown = np.flatnonzero(status > 0)[:_LISTED]
    failed = [_failure(parts, files[origin[row]], int(row)) for row in shown]
    return Rows(statuses, tuple(failed), tuple(damaged))


def _failure(parts: RunParts, file: Path, row: int) -> tuple[str, str, str]:
    table = parts.read(file, ["row_id", "path", "status", "error"])
    place = int(np.flatnonzero(table["row_id"].to_numpy() == row)[-1])
    found = table.slice(place, 1).to_pylist()[0]
    return found["path"] or "", found["status"], found["error"] or ""


def _plan_facts(plan: Plan) -> tuple[Fact, ...]:
    options = {k: v for k, v in plan.options.items() if k != "model_fingerprint"}
    return (
        Fact(plan.kind, plan.meta),
        Fact("rows", f"{plan.rows:,}", plan.rows),
        *(Fact(name.replace("_", " "), str(value), value) for name, value in options.items()),
    )


def _row_facts(planned: int, rows: Rows) -> tuple[Fact, ...]:
    left = planned - rows.statuses.total()
    failed = [(name, n) for name, n in rows.statuses.most_common() if name != Status.OK]
    return (
        Fact("captioned", f"{rows.statuses[Status.OK]:,}", rows.statuses[Status.OK]),
        *(Fact(name, f"{number:,}", number) for name, number in failed),
        Fact("left", f"{left:,}", left),
    )


def _attempt_facts(folder: AttemptDir) -> tuple[Fact, ...]:
    attempt = Attempt.read(folder)
    exits = {end.rank: end for end in read_exits(folder)}
    state = RunState(total=attempt.rows)
    for rank in range(attempt.ranks):
        for event in EventReader(folder.events(rank)).read():
            state.take(rank, event)
    works = {rank: state.ranks.get(rank, RankState()) for rank in range(attempt.ranks)}
    begun = [work for work in works.values() if work.first is not None]
    rows = sum(work.ok + work.failed for work in begun)
    facts = [Fact("rows to do", f"{attempt.rows:,}", attempt.rows)]
    if begun:
        seconds = max(w.last for w in begun) - min(w.first for w in begun if w.first is not None)
        speed = rows / seconds * 3600 if seconds > 0 else None
        words = f"{count(rows, 'row')} in {duration(seconds)}"
        words += f", {figure(speed)} videos/h" if speed else ""
        facts.append(Fact("done", words, {"rows": rows, "seconds": seconds, "per_hour": speed}))
    for rank, work in works.items():
        end = exits.get(rank)
        facts.append(Fact(f"rank {rank}", _rank_words(work, end), _rank_data(work, end)))
    return tuple(facts)


def _rank_words(work: RankState, end: RankExit | None) -> str:
    words = [end.words if end and end.code else work.state, f"{work.ok:,} ok"]
    if work.failed:
        words.append(f"{work.failed:,} failed")
    if work.restarts:
        words.append(f"short of memory, so started anew {count(work.restarts, 'time')}")
    if work.tokens_per_second is not None:
        words.append(f"{figure(work.tokens_per_second)} tokens/s")
    if work.wait_share is not None:
        words.append(f"waiting {work.wait_share:.0%}")
    return " · ".join(words)


def _rank_data(work: RankState, end: RankExit | None) -> dict[str, Any]:
    return {
        "state": work.state,
        "exit_code": None if end is None else end.code,
        "ok": work.ok,
        "failed": work.failed,
        "restarts": work.restarts,
        "new_tokens": work.new_tokens,
        "busy_s": work.busy_s,
        "wait_s": work.wait_s,
    }


def _errors(folder: AttemptDir) -> list[Problem]:
    """The exceptions that ended ranks of this launch, the earliest first."""
    problems = []
    for error in read_errors(folder):
        message = error.message.strip()
        first = message.splitlines()[0] if message else error.type
        what = f"launch {folder.number}: rank {error.rank} failed: {first}"
        problems.append(Problem(what, serious=False))
    return problems
