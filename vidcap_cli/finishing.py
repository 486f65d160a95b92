"""Finishing a table that is captioned in part, in three commands.

``vidcap merge TABLE --meta META -o ALL --missing TODO`` writes which rows have no caption, a
caption command captions these, and the same merge with what that wrote has all of them. Each of
the three says what the next one is.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from itertools import chain
from itertools import count as count_from
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.config import CaptionConfig
from vidcap_cli.declaring import spelled
from vidcap_cli.errors import RunError, TableError, UsageError
from vidcap_cli.families import RECOMMENDED
from vidcap_cli.inspect.command import caption_like, caption_step, continue_command
from vidcap_cli.merge.account import Reconciliation
from vidcap_cli.merge.columns import STATUS, CaptionColumns, caption_column
from vidcap_cli.meta import open_meta, with_paths
from vidcap_cli.option_values import NO_RANGES
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import TABLE, Plan, kind_of, read_plan
from vidcap_cli.statuses import PASSING, Status
from vidcap_cli.table_writer import WRITABLE
from vidcap_cli.tables import Table, cut_short, hashes, is_text, open_table
from vidcap_cli.view.steps import Step, made_of
from vidcap_cli.view.words import count

# What may have a caption when it is asked for once more. Of rows of the scripts' tables without one
# nothing is known: merge calls them empty.
WORTH_A_TRY = {*PASSING, Status.MISSING}
_READABLE = 20  # words of a command


def is_captioned(table: Path, column: str = TEXT) -> bool:
    """Whether ``table`` can be read, and has a column with captions, of several one of these."""
    try:
        names = open_table(table).schema.names
    except TableError:
        return False
    if "," in column:
        return bool({*column.split(",")} & {*names})
    return caption_column(names, column) is not None


def caption_counts(table: Table, column: str) -> tuple[int, int]:
    """How many rows of a table have a caption, and how many lack one, where some may get one."""
    has_status = STATUS in table.schema.names
    captioned = lacking = worth = 0
    for batch in table.batches([column, *([STATUS] if has_status else [])]):
        blank = pc.invert(_has_words(batch.column(0)))
        captioned += len(blank) - blank.true_count
        lacking += blank.true_count
        if has_status:
            status = pc.fill_null(batch.column(1).cast(pa.large_string()), "")
            again = pa.array([*WORTH_A_TRY, ""], pa.large_string())
            blank = pc.and_(blank, pc.is_in(status, again))
        worth += blank.true_count
    return captioned, lacking if worth else 0


def completing_steps(table: Table, rows: int, column: str) -> list[Step]:
    """To caption ``rows`` rows without a caption in a table: by its run, if that lies beside it.

    ``column`` is the one with its captions.
    """
    if not rows or cut_short(table):  # which merge refuses
        return []
    run = RunDir(default_run_dir(table.path))
    if run.is_run:
        with suppress(RunError):
            return [Step(_purpose(rows), continue_command(run, read_plan(run)))]
    step = lacking_step(
        table.path,
        table.path,
        path_column=table.path_column,
        ranges=",".join(table.ranges) or None,
        column=column,
    )
    return [Step(_purpose(rows), step.command)]


def or_completed(table: Table, column: str) -> str:
    """What to say besides where a table with captions in ``column`` is refused: how to caption the
    rows that lack one. Empty where all or none have one.
    """
    names = table.schema.names
    if column not in names or not is_text(table.schema.field(column).type):
        return ""
    captioned, lacking = caption_counts(table, column)
    steps = completing_steps(table, lacking, column) if captioned else []
    return "".join(f". {one.purpose.capitalize()}:\n\n    {one.command}" for one in steps)


def _purpose(rows: int) -> str:
    return f"to caption the {count(rows, 'row')} without a caption"


def refusal(output: Path, meta: Path, config: CaptionConfig, column: str, *, run: bool) -> str:
    """Why a run does not replace the table that is at its ``output``, and what to do instead.

    ``column`` is where its captions go, of several questions with commas between; ``run`` is
    whether there is a run at all.
    """
    why = "not as this run wrote it" if run else "without a run directory"
    words = f"{output} is there already, {why}, and is left as it is. "
    instead = "Name another output with -o, or have it replaced with --fresh."
    if not is_captioned(output, column):
        return words + instead
    if kind_of(meta) != TABLE:
        return words + instead + or_completed(open_table(output), column)
    if rows := _whole(output, meta, config, column):
        have = "The row has a caption" if rows == 1 else f"All {rows:,} rows have a caption"
        return f"{words}{have} there: nothing is to do. {instead}"
    step = lacking_step(
        output, meta, path_column=config.path_column, ranges=config.ranges, column=column
    )
    words += f"{step.purpose.capitalize()} there:\n\n    {step.command}\n\n"
    return f"{words}Or {instead[0].lower()}{instead[1:]}"


def _whole(output: Path, meta: Path, config: CaptionConfig, column: str) -> int:
    """How many rows META has where each has a caption in a table, by path letter by letter.

    0 where one has none, and where rows are ranges, which that table may tell otherwise.
    """
    try:
        planned = open_meta(meta, config.path_column, config.ranges)
        written = open_meta(output, config.path_column, NO_RANGES)
        names = written.schema.names
        texts = column.split(",") if "," in column else [caption_column(names, column)]
        if planned.ranges or config.clip_length or not {*texts} <= {*names}:
            return 0
        rows = np.concatenate(
            [
                hashes(paths)
                for _, paths in with_paths(planned, planned.batches([planned.path_column]))
            ]
        )
        found = [
            hashes(paths.filter(reduce(pc.and_, map(_has_words, batch.columns[1:]))))
            for batch, paths in with_paths(written, written.batches([written.path_column, *texts]))
        ]
    except UsageError:
        return 0
    return len(rows) if np.isin(rows, np.concatenate(found)).all() else 0


def _has_words(texts: pa.Array) -> pa.Array:
    words = pc.utf8_trim_whitespace(texts.cast(pa.large_string()))
    return pc.fill_null(pc.not_equal(words, ""), False)


def lacking_step(
    table: Path,
    meta: Path,
    *,
    path_column: str = PATH,
    ranges: str | None = None,
    column: str = TEXT,
) -> Step:
    """To join the captions in ``table`` to the rows of ``meta``, and write which have none."""
    asked: dict[str, Any] = {}
    if path_column != PATH:
        asked["path_column"] = path_column
    if ranges:
        asked["ranges"] = ranges
    if column != TEXT:
        asked["caption_column"] = column
    questions = tuple(column.split(",")) if "," in column else ()
    columns = CaptionColumns(questions=questions) if questions else CaptionColumns(column)
    try:
        columns.check(open_meta(meta, path_column, ranges))
    except UsageError:
        asked["overwrite_column"] = True
    suffix = meta.suffix if meta.suffix in WRITABLE else ".csv"
    every, todo = (meta.with_name(f"{meta.stem}_{name}{suffix}") for name in ("all", "todo"))
    every, todo = _short(every), _short(_free(todo))
    return Step.of(
        "to caption the rows without a caption",
        *("merge", _short(table), "--meta", _short(meta), *spelled(asked)),
        *("-o", every, "--missing", todo),
    )


def steps_after_merge(
    account: Reconciliation, inputs: Sequence[Path], meta: Path | None, asked: Mapping[str, Any]
) -> list[Step]:
    """To caption the rows that a merge wrote as missing, and to merge once more with these.

    ``asked`` are the options of the merge that are not the default, but its output.
    """
    if not account.missing_table or not _left(account):
        return []
    todo = Path(account.missing_table)
    found = _caption(todo, inputs, asked)
    if found is None:
        return []
    first, written = found
    purpose = _purpose(account.rows - account.ok)
    if not any(RunDir(path).is_run for path in inputs):
        purpose += ", with the model of the others if that is another"
    place = ("--meta", meta) if meta else ()
    others = [it for it in inputs if it.absolute() != written]  # it may be one of them already
    join = ("merge", *others, _short(written), *place, *spelled(asked), "-o", account.out)
    return [Step(purpose, first), Step.of("when that has finished, to join its captions", *join)]


def todo_step(account: Reconciliation, typed: Sequence[str]) -> list[Step]:
    """To have the merge that was ``typed`` write the rows without a caption, which it did not."""
    out = Path(account.out)
    if not _left(account) or len(typed) > _READABLE:
        return []
    suffix = out.suffix if out.suffix in WRITABLE else ".csv"
    todo = _free(out.with_name(made_of(out, f"todo{suffix}")))
    lacking = count(account.rows - account.ok, "row")
    purpose = f"to write the {lacking} without a caption to a table of their own"
    return [Step.of(purpose, *typed, "--missing", todo)]


def _left(account: Reconciliation) -> int:
    """How many rows have no caption and may get one."""
    rows = {**account.failed, Status.MISSING: account.missing}
    return sum(rows[status].count for status in {*WORTH_A_TRY, Status.EMPTY} & {*rows})


def _caption(
    todo: Path, inputs: Sequence[Path], asked: Mapping[str, Any]
) -> tuple[str, Path] | None:
    """The command that captions ``todo``, as the newest run among ``inputs`` did; its table."""
    plans: list[tuple[RunDir, Plan]] = []
    runs = [run for run in map(RunDir, inputs) if run.is_run]
    for run in sorted(runs, key=lambda run: run.plan.stat().st_mtime, reverse=True):
        with suppress(RunError):
            plans.append((run, read_plan(run)))
    if plans:
        run, plan = plans[0]
        written = default_output(todo, str(plan.options["family"]), None)
        if plan.questions:  # others may have asked more
            asked_by = [dict(one.options["question"]) for _, one in reversed(plans)]
            every = {name: text for one in asked_by for name, text in one.items()}
            plan = replace(plan, options={**plan.options, "question": every})
    columns = str(asked.get("caption_column", "")).split(",")
    if len(columns) > 1 and not (plans and {*columns} <= {*plan.questions}):
        return None  # what the other questions were is not known
    if plans:
        return caption_like(run, plan, todo), written
    ranges = spelled({"ranges": asked["ranges"]}) if "ranges" in asked else []
    table = open_meta(todo, asked.get("path_column", PATH), asked.get("ranges"))
    step = caption_step(todo, *ranges, table=table)
    return step.command, default_output(todo, RECOMMENDED.command, None)


def _free(path: Path) -> Path:
    """``path``, with a number where there is a file: a run may have been planned from that."""
    numbered = (path.with_name(f"{path.stem}{number}{path.suffix}") for number in count_from(2))
    return next(it for it in chain([path], numbered) if not it.exists())


def _short(path: Path) -> Path:
    """``path`` from the working directory, where it lies in that."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
