"""A run directory: what was planned, how each launch went, what came of the rows, what is next.

Reads what the run left in files and nothing else, so it works while the run goes on, after it
died, and on another machine that sees the folder.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vidcap_cli.addresses import is_remote
from vidcap_cli.checkpoint.called import model_name
from vidcap_cli.config import options_of
from vidcap_cli.declaring import spelled
from vidcap_cli.disk import check_output
from vidcap_cli.errors import RunError, TableError, UsageError
from vidcap_cli.families import FAMILIES
from vidcap_cli.inspect.command import continue_command, output_of, words_of_paths
from vidcap_cli.inspect.launches import Going, Launch
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.merge.replacing import check_captions
from vidcap_cli.rundir.changes import located
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.plan import TABLE, Plan, fingerprint_of, read_plan
from vidcap_cli.rundir.records import read_errors
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.rundir.standing import (
    FAILED_SCHEMA,
    Cause,
    Slow,
    Standing,
    failed_rows,
    read_standing,
)
from vidcap_cli.statuses import PASSING, Status
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.view.steps import Step, again, made_of
from vidcap_cli.view.summary import SHARD, lasting_words
from vidcap_cli.view.words import count, duration, figure, one_line, setting

if TYPE_CHECKING:
    from vidcap_cli.inspect.gallery.make import Gallery

_LISTED = 8  # causes of failures


def run_report(run: RunDir, failed: Path | None = None, gallery: "Gallery | None" = None) -> Report:
    """The report on a run; ``failed`` gets the rows that failed, all of them, as a table.

    Raises RunError when the plan is damaged, and UsageError when ``failed`` or ``gallery`` cannot
    be written.
    """
    if failed:
        _check_table(failed, run)
    if gallery:
        gallery.place.check(run.path)
    plan = located(run, read_plan(run))
    scope = Scope.read(run).selection
    standing = read_standing(run, plan, scope)
    launches = [Launch.read(folder) for folder in run.attempts()]
    led = is_led(run) and not _makes_way(run)
    going = Going.of(launches[-1], standing) if launches and led else None
    left = scope.count(plan.rows) - standing.statuses.total()
    rows = _row_facts(plan.rows, scope, standing, going, left)
    rows += [*(going.facts() if going else ()), *_end_facts(run)]
    sections = [Section("plan", _plan_facts(plan)), Section("rows", tuple(rows))]
    sections += _details(standing)
    problems = _damage(run, plan, standing)
    replacing, going_on = _replacing(run, plan)
    problems += replacing
    if left and not led and not is_remote(plan.meta) and not Path(plan.meta).exists():
        gone = f"{plan.meta} is not there any more: the run goes on once it lies there again, or"
        problems.append(Problem(f"{gone} beside the run directory", serious=False))
    for launch in launches:
        over = not (going and launch is launches[-1])
        sections.append(Section(f"launch {launch.folder.number}", launch.facts(over=over)))
        sections += launch.speed()
        problems += _errors(launch.folder)
    verdict, steps = _verdict(run, plan, scope, standing, led=led)
    if going:
        failures = standing.failed + going.failed(left)
        verdict = going.verdict(scope.count(plan.rows), failures, going.left(left))
    steps = going_on or steps
    if failed:
        _write_failed(failed, failed_rows(run, plan, scope))
        verdict += f"; {count(standing.failed, 'failed row')} written to {failed}"
    elif standing.failed:
        words = ("inspect", run.path, "--failed", made_of(run.path, "failed.csv"))
        steps.append(Step.of("for the failed rows, all of them, as a table", *words))
    if gallery:
        from vidcap_cli.inspect.gallery.of_run import make_gallery_of_run  # noqa: PLC0415 - judges

        verdict += f"; {make_gallery_of_run(gallery, run, plan)}"
    doubtful = bool(standing.failed) or verdict.startswith("not ")
    return Report(
        "run", str(run.path), verdict, tuple(sections), tuple(problems), tuple(steps), doubtful
    )


def _check_table(failed: Path, run: RunDir) -> None:
    output_form(failed)
    if failed.resolve().is_relative_to(run.path.resolve()):
        raise UsageError(f"--failed {failed}: lies in the run directory; name a file outside")
    check_output(failed)
    check_captions(failed, None)


def _write_failed(failed: Path, tables: Iterable[pa.Table]) -> None:
    with writing(failed, FAILED_SCHEMA, output_form(failed)) as write:
        for table in tables:
            write(table.cast(FAILED_SCHEMA))


def _makes_way(run: RunDir) -> bool:
    """Whether the command that is at work here works on a run that is to replace this one."""
    places = Places.of(run.path)
    return run.path != places.coming.path and places.begun and is_led(places.coming)


def _verdict(
    run: RunDir, plan: Plan, scope: Selection, standing: Standing, *, led: bool
) -> tuple[str, list[Step]]:
    """Where the run stands in one sentence, and what continues it; ``led``: it goes on."""
    rows = scope.count(plan.rows)
    failed, left = standing.failed, rows - standing.statuses.total()
    if led:
        return f"goes on: {standing.ok:,} of {rows:,} captioned, {left:,} left", []
    finished = run.finished.is_file()
    command = continue_command(run, plan)
    changed = not finished and _has_changed(plan)
    if changed:  # without it the command is refused
        command += " --extend"
    if not left and not failed:
        if not finished:
            words = "not finished: every row is captioned, but the table is not written"
            told = "; that of the videos has changed since" if changed else ""
            return words + told, [Step("to write it", command)]
        which = f" of {_scope_words(scope)}" if rows < plan.rows else ""
        after = _after_words(plan, scope)
        return f"finished: every row{which} has a caption{after}", _look(plan)
    parts = [f"{count(left, 'row')} left"] if left else []
    parts += [f"{failed:,} failed"] if failed else []
    words = f"{'finished' if finished else 'not finished'}: {', '.join(parts)}"
    words += _after_words(plan, scope)
    if left:
        purpose = "to continue the run"
        if finished:
            have = "1 row has" if left == 1 else f"{left:,} rows have"
            words = f"not whole: it had finished, but {have} no result any more; parts are gone"
            purpose = "to do these rows again, unless the parts are found"
        return words, [Step(purpose, command)]
    failures = {status: n for status, n in standing.statuses.items() if status != Status.OK}
    if lasting := lasting_words(failures, SHARD if scope.is_shard else plan.kind):
        words += f"; {lasting}"
    if any(status in PASSING for status in failures):
        return words, [again(failed, command)]
    return words, _look(plan) if finished and standing.ok else []


def _has_changed(plan: Plan) -> bool:
    """Whether the table that was planned is there, with other contents."""
    meta = Path(plan.meta)
    with suppress(TableError):
        there = plan.kind == TABLE and meta.is_file()
        return there and fingerprint_of(meta, TABLE, plan.reading) != plan.fingerprint
    return False


def _after_words(plan: Plan, scope: Selection) -> str:
    """What is said of the rows of the table after ``--limit``."""
    after = scope.beyond_words(plan.rows)
    return f"; {after}" if after else ""


def _look(plan: Plan) -> list[Step]:
    """To look at the captions, if their table is where it was written."""
    table = output_of(plan)
    paths = words_of_paths(plan.path_column)
    return [Step.of("to look at the captions", "inspect", table, *paths)] if table.is_file() else []


def _damage(run: RunDir, plan: Plan, standing: Standing) -> list[Problem]:
    if standing.damaged:
        command = continue_command(run, plan)
    problems = [Problem(f"{it}; its rows are done again by", command) for it in standing.damaged]
    aside = run.damaged_parts()
    if aside:
        what = f"{count(len(aside), 'damaged part')} set aside earlier, such as {aside[0]}"
        problems.append(Problem(what, serious=False))
    return problems


def _replacing(run: RunDir, plan: Plan) -> tuple[list[Problem], list[Step]]:
    """What is said of the run that was begun to replace this one, and what continues that."""
    places = Places.of(run.path)
    coming = places.coming
    if not places.begun:
        return [], []
    try:
        new = read_plan(coming)
        scope = Scope.read(coming).selection
        ok = read_standing(coming, new, scope).ok
    except RunError as error:
        return [Problem(f"{coming.path} was begun to replace this run: {error}", serious=False)], []
    captioned = f"{ok:,} of its {count(scope.count(new.rows), 'row')} are captioned"
    what = f"{coming.path}, which is to replace this run,"
    if is_led(coming):
        look = Step.of("to look at that", "inspect", coming.path)
        return [Problem(f"{what} goes on: {captioned}", serious=False)], [look]
    # A finished run for the same is left alone without it.
    same = (plan.fingerprint, plan.options) == (new.fingerprint, new.options)
    command = continue_command(coming, new) + (" --fresh" if same else "")
    problem = Problem(f"{what} was cut off: {captioned}", serious=False)
    return [problem], [Step("to go on with it", command)]


def _plan_facts(plan: Plan) -> tuple[Fact, ...]:
    """The plan, with the options that its family has; people are told those that are set."""
    family = FAMILIES.get(str(plan.options.get("family", "")))
    known = {"family", *(options_of(family) if family else plan.options)}
    options = {name: value for name, value in plan.options.items() if name in known}
    return (
        Fact(plan.kind, plan.meta),
        Fact("rows", f"{plan.rows:,}", plan.rows),
        *(
            Fact(name.replace("_", " "), _setting(plan, name, value), value)
            for name, value in options.items()
        ),
    )


def _setting(plan: Plan, name: str, value: Any) -> str:
    """The value of an option, as people write it."""
    if value is None:
        return ""
    if name == "model":
        return model_name(str(value), str(plan.options.get("family", "")))
    return setting(value)


def _scope_words(scope: Selection) -> str:
    """The options that say which rows are meant."""
    return " ".join(spelled(scope.options))


def _row_facts(
    planned: int, scope: Selection, standing: Standing, going: Going | None, left: int
) -> list[Fact]:
    """The rows that the last command was about, and how they stand on the disk, where ``left`` have
    no result; of a run that goes on also what is not there yet.
    """
    rows = scope.count(planned)
    failed = [(name, n) for name, n in standing.statuses.most_common() if name != Status.OK]
    after = scope.beyond(planned)
    asked = f"{rows:,} of {planned:,}: {_scope_words(scope)}" if rows < planned else f"{rows:,}"
    on_disk, waiting = "", []
    if going and going.waiting:
        on_disk = f" on the disk, {going.waiting:,} more made"
        waiting.append(Fact("captioned not on disk", "", going.waiting))
    if going and (more := going.failed(left)):
        waiting.append(Fact("failed not on disk", f"{more:,}, not on the disk yet", more))
    left = going.left(left) if going else left
    return [
        Fact("asked for", asked, rows),
        Fact("captioned", f"{standing.ok:,}{on_disk}", standing.ok),
        *_outside(scope, standing),
        *(Fact(name, f"{number:,}", number) for name, number in failed),
        *waiting,
        Fact("left", f"{left:,}", left),
        *([Fact("after --limit", f"{after:,}", after)] if after else []),
    ]


def _outside(scope: Selection, standing: Standing) -> list[Fact]:
    if not standing.outside:
        return []
    words = f"{standing.outside:,} of rows outside {_scope_words(scope)}"
    return [Fact("captioned besides", words, standing.outside)]


def _details(standing: Standing) -> list[Section]:
    """Why rows failed, the most frequent cause first, and which took longest."""
    data = (
        Fact("failures", "", [cause.as_dict() for cause in standing.causes]),
        Fact("slowest", "", [slow.as_dict() for slow in standing.slowest]),
    )
    slowest = tuple(
        Fact(f"{slow.infer_s + slow.decode_s:,.1f} s", _slow_words(slow))
        for slow in standing.slowest
    )
    return [
        Section("details", data),
        Section("failures", _failures(standing), only_shown=True),
        Section("slowest", slowest, only_shown=True),
    ]


def _failures(standing: Standing) -> tuple[Fact, ...]:
    facts = [Fact(cause.status, _cause_words(cause)) for cause in standing.causes[:_LISTED]]
    more = standing.causes[_LISTED:]
    if more:
        rows = sum(cause.rows for cause in more)
        facts.append(Fact("others", f"{count(rows, 'row')} for {count(len(more), 'more cause')}"))
    return tuple(facts)


def _cause_words(cause: Cause) -> str:
    error = one_line(cause.error) or "no reason is told"
    path = one_line(cause.path)
    if cause.rows == 1:
        return f"{path} · {error}"
    return f"{cause.rows:,} rows · {error} · such as {path}"


def _slow_words(slow: Slow) -> str:
    words = [one_line(slow.path), f"{slow.infer_s:,.1f} s in the model"]
    words.append(f"{slow.decode_s:,.1f} s for its frames")
    if slow.frames is not None:
        words.append(count(slow.frames, "frame"))
    if slow.new_tokens is not None:
        words.append(count(slow.new_tokens, "token"))
    return " · ".join(words)


def _end_facts(run: RunDir) -> list[Fact]:
    """What the last command made, and the pace that it told: from start to end."""
    try:
        told = json.loads(run.summary.read_bytes())
        captions, seconds = int(told["captions"]), float(told["seconds"])
        words = f"{told['ended']}, {count(captions, 'caption')} in {duration(seconds)}"
        if captions and told["captions_per_hour"]:
            words += f", {figure(told['captions_per_hour'])} videos/h from start to end"
    except (OSError, ValueError, TypeError, KeyError):
        return []
    value = {name: told[name] for name in ("ended", "captions", "seconds", "captions_per_hour")}
    return [Fact("last command", words, value)]


def _errors(folder: AttemptDir) -> list[Problem]:
    """The exceptions that ended ranks of this launch, the earliest first."""
    problems = []
    for error in read_errors(folder):
        message = error.message.strip()
        first = message.splitlines()[0] if message else error.type
        what = f"launch {folder.number}: rank {error.rank} failed: {first}"
        problems.append(Problem(what, serious=False))
    return problems
