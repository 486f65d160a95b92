"""The caption command: from what the user typed to an output table and an exit code.

It settles which model, which run directory and which output are meant, has ``run`` do the work
and ``merge`` write the table, and says how it went. Captions of a single video and of the demo go
to stdout and leave nothing behind unless an output is named.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vidcap_cli.addresses import address_of, is_remote, local
from vidcap_cli.checkpoint.called import bundled, model_folder
from vidcap_cli.checkpoint.files import fingerprint, read_json
from vidcap_cli.checkpoint.folder import check_model, has_weights
from vidcap_cli.checkpoint.generation import sampling_keys
from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.config import CaptionConfig
from vidcap_cli.disk import check_log_dir, check_output, reason
from vidcap_cli.engine import check_engine
from vidcap_cli.errors import FAILED, INCOMPLETE, OK, RunError, StoppedError, TableError, UsageError
from vidcap_cli.families import bundled_models
from vidcap_cli.finishing import refusal
from vidcap_cli.launch.follower import join
from vidcap_cli.launch.leader import Job, Leader, leading, read_paths
from vidcap_cli.launch.ranks import cluster_for, devices
from vidcap_cli.launch.surroundings import look_around, placed
from vidcap_cli.merge.account import Reconciliation
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.merge.merge import merge
from vidcap_cli.merge.sidecars import RANGES
from vidcap_cli.meta import check_questions, open_meta
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.next_steps import Ending
from vidcap_cli.options import (
    NANO,
    NANO_QUESTIONS,
    PATH,
    TEXT,
    LaunchOptions,
    RunOptions,
    TableOptions,
    declared,
    given,
)
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.processors import load_captioner
from vidcap_cli.remote.cache import caching
from vidcap_cli.remote.table import bring_table
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places, complete, read_finished
from vidcap_cli.rundir.plan import TABLE, VIDEO, kind_of
from vidcap_cli.rundir.replacing import may_replace, note_table
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.rundir.summary import Ended
from vidcap_cli.table_writer import output_form
from vidcap_cli.view.live import make_view
from vidcap_cli.view.stdout import print_captions, print_json
from vidcap_cli.view.summary import Outcome, summary
from vidcap_cli.view.tally import RunState
from vidcap_cli.view.words import count, folded, size


@dataclass(frozen=True, slots=True)
class Request:
    """What a caption command was asked. ``meta`` None goes with ``run.demo``.

    ``config.model`` is what the user called it, not yet a folder; ``typed`` are the words after
    ``vidcap``.
    """

    meta: Path | None
    config: CaptionConfig
    table: TableOptions = field(default_factory=TableOptions)
    run: RunOptions = field(default_factory=RunOptions)
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    typed: tuple[str, ...] = ()


def caption(request: Request) -> int:
    """Carry out the command; the exit code is 0 when every row has a caption, else 3."""
    around = look_around(os.environ)
    if around and around.idle and request.launch.node_rank is None:
        return OK  # another process of this node leads its ranks
    request = replace(request, launch=placed(request.launch, around))
    check_engine(request.config.engine)
    if request.run.demo:
        request = _demo(request)
    if request.meta is None:
        raise UsageError("name the table, video or folder to caption, or try --demo.")
    meta, place = _meta(request.meta)
    family = request.config.family
    shown = request.table.output is None and (request.run.demo or kind_of(meta) == VIDEO)
    output = request.table.output or default_output(place, family, request.table.form)
    if request.run.skip_if_existing and not shown and output.is_file():
        _say(request, f"{output} exists; nothing to do (--skip-if-existing).")
        return OK
    _check_together(request.run, request.config, shown=shown)
    _check_columns(request.table, meta, request.config)
    if not request.launch.node_rank:
        _check_places(request, meta, None if shown else output)
    config = _with_model(request)
    looks_only = request.run.dry_run or request.run.calibrate
    if looks_only:
        run_dir = request.run.run_dir or default_run_dir(output, _selection(request))
        job = _job(request, meta, run_dir, config)
        return _dry_run(request, job, None if shown else output)
    with (
        _working_place(request, output, temporary=shown) as (run_dir, target),
        caching(Places.of(run_dir).settled.path),
    ):
        job = _job(request, meta, run_dir, config)
        if request.launch.node_rank:
            shows = {"quiet": request.run.quiet, "verbose": request.run.verbose}
            say = partial(_say, request)
            return join(run_dir, job.cluster, request.launch.log_dir, say, **shows)
        with leading(job) as leader:
            _say_what_is_kept(leader, request)
            whole, run = _lead(leader, request, target, shown=shown)
        if request.run.as_json:
            print_json(run, target, _caption_columns(request), shown=shown)
        elif shown:
            print_captions(target, _caption_columns(request))
    return OK if whole else INCOMPLETE


def _meta(given: Path) -> tuple[Path, Path]:
    """META, and the place beside which its output goes: here for one that is elsewhere."""
    meant = local(str(given))
    if not is_remote(meant) or given.exists():
        meta = Path(meant).absolute()
        return meta, meta
    meta = bring_table(address_of(given))
    return meta, Path(meta.name).absolute()


def _job(request: Request, meta: Path, run_dir: Path, config: CaptionConfig) -> Job:
    return Job(
        meta=meta,
        run_dir=run_dir,
        config=config,
        cluster=cluster_for(request.launch, config.device_target, config.tensor_parallel),
        fresh=request.run.fresh,
        extend=request.run.extend,
        restart_failed=request.run.restart_failed == "all",
        restart_changed=request.run.restart_changed,
        selection=_selection(request),
        table_options=_table_options(request.table),
    )


def _check_together(run: RunOptions, config: CaptionConfig, *, shown: bool) -> None:
    """Refuse options that say nothing together."""
    if run.quiet and run.verbose:
        raise UsageError("--quiet and --verbose are opposites; leave one out.")
    if run.extend and run.fresh:
        raise UsageError("--extend keeps captions and --fresh does not; leave one out.")
    if run.extend and config.question_column:
        raise UsageError(
            "--extend keeps captions by path alone; leave out --question-column, or it."
        )
    if run.shard and shown:
        raise UsageError("--shard is for tables and folders, whose captions are merged in the end.")


def _with_model(request: Request) -> CaptionConfig:
    """What ranks are told, the model a folder that they can all caption with."""
    family = request.config.family
    weights = not request.run.dry_run or request.run.calibrate is not None
    model = model_folder(request.config.model, family, weights=weights)
    check_model(model, family, weights=weights)
    _check_share(request.config, model)
    _say_sampling(request, model)
    config = replace(request.config, model=str(model), model_fingerprint=fingerprint(model))
    load_captioner(config)  # refuses now what every rank would refuse
    if request.config.model in bundled_models(family):
        _say_what_toys_know(request)
    return config


def _say_what_toys_know(request: Request) -> None:
    config = request.config
    if config.question_column or not set(config.questions.values()) <= {*NANO_QUESTIONS}:
        known = " and ".join(f'"{question}"' for question in NANO_QUESTIONS)
        _say(
            request,
            f"{config.model} is a toy that knows two questions, word for word: {known}. What it "
            "answers to others means nothing.",
        )


def _check_share(config: CaptionConfig, model: Path) -> None:
    """Refuse a number of ranks that cannot share a model."""
    ranks = config.tensor_parallel
    if ranks > 1 and config.engine != "graph":
        raise UsageError(f"--tensor-parallel goes with --engine graph, not with {config.engine}.")
    if ranks > 1 and devices(config.device_target) and find_spec("hccl") is None:
        raise UsageError(
            "--tensor-parallel needs CANN's Python package hccl, which MindSpore asks for: source "
            "CANN's set_env.sh, or pip install $ASCEND_HOME_PATH/lib64/hccl-*.whl."
        )
    Share(0, ranks).config(DecoderConfig.read(read_json(model / "config.json")))


def _say_sampling(request: Request, model: Path) -> None:
    ignored = sampling_keys(model)
    if ignored:
        keys = ", ".join(ignored)
        _say(
            request,
            f"the model asks for sampling ({keys}); vidcap decodes greedily and ignores it.",
        )


def _check_columns(table: TableOptions, meta: Path, config: CaptionConfig) -> None:
    """Refuse at once what the merge would refuse when all videos have been captioned."""
    questions = tuple(name for name in config.questions if name)
    if questions and table.caption_column != TEXT:
        raise UsageError("--caption-column says what --question NAME=TEXT says; leave one out.")
    columns = CaptionColumns(
        table.caption_column,
        overwrite=table.overwrite_column,
        everything=table.all_columns,
        questions=questions,
    )
    if questions and config.question_column:
        raise UsageError(
            "--question-column goes with one question, not with several that have names."
        )
    if kind_of(meta) == TABLE:
        opened = open_meta(meta, config.path_column, config.ranges)
        columns.check(opened)
        if config.question_column:
            check_questions(opened, config.question_column)
        if table.sidecar and opened.ranges:
            raise UsageError(RANGES)
    elif config.path_column != PATH or config.ranges or config.question_column:
        flag = "--question-column" if config.question_column else "--ranges"
        flag = "--path-column" if config.path_column != PATH else flag
        raise UsageError(f"{meta}: is not a table; leave out {flag}")
    if table.sidecar and config.clip_length:
        raise UsageError(RANGES)
    if config.stride and not config.clip_length:
        raise UsageError("--stride is about the clips of --clip-length; name that too.")


def _table_options(table: TableOptions) -> dict[str, Any]:
    """What was asked of the table to write, as words of the command line are."""
    absolute = replace(table, output=table.output and table.output.absolute())
    return given(declared(TableOptions).values(), asdict(absolute))


def _check_places(request: Request, meta: Path, output: Path | None) -> None:
    """Refuse at once an output or a folder of logs that could not be written in the end."""
    if output:
        output_form(output, request.table.form)
        real = output.resolve()
        run_dir = (request.run.run_dir or default_run_dir(output, _selection(request))).resolve()
        if real == meta.resolve():
            raise UsageError(f"{output}: is the table of videos itself; name another file with -o")
        if real.is_relative_to(run_dir):
            raise UsageError(
                f"{output}: lies inside the run directory {run_dir}; name a file outside with -o, "
                "or another --run-dir"
            )
        check_output(output)
        places = Places.of(run_dir)
        if read_finished(places.settled) is None:  # of another it is asked whether it is done
            _check_replaced(request, places, meta, output)
    if request.launch.log_dir and not (request.run.dry_run or request.run.calibrate):
        check_log_dir(request.launch.log_dir)


def _check_replaced(request: Request, places: Places, meta: Path, output: Path) -> None:
    """Refuse to replace a table that the run has not written: its captions may be nowhere else."""
    if not (request.run.fresh or request.run.shard or may_replace(places, output)):
        raise UsageError(refusal(output, meta, request.config, request.table.caption_column))


def _dry_run(request: Request, job: Job, output: Path | None) -> int:
    """Tell what the run of ``job`` would do and, with ``--calibrate``, measure how fast."""
    from vidcap_cli.estimate import look_ahead, report  # noqa: PLC0415 - for this option only
    from vidcap_cli.inspect.report import render  # noqa: PLC0415

    config = job.config
    run, places = None, Places.of(job.run_dir)
    if output:
        run = places.choose(job.selection, job.is_same, fresh=job.fresh)
        if not complete(run, job.selection):
            _check_replaced(request, places, job.meta, output)
    before = None if job.fresh and run and not job.goes_on(run) else run
    extended = places if job.extend and places.settled.is_run else None
    planned = look_ahead(
        job.meta,
        before,
        config,
        job.selection,
        extended=extended,
        restart_failed=job.restart_failed,
        restart_changed=job.restart_changed,
    )
    measured = None
    if request.run.calibrate and planned.left:
        from vidcap_cli.calibration import measure  # noqa: PLC0415

        rows, quiet = planned.plan.rows, request.run.quiet
        measured = measure(job, rows, request.run.calibrate, quiet=quiet)
    told = {
        "output": "none, but the run directory"
        if job.selection.is_shard
        else str(output or "stdout"),
        "run directory": str(run.path) if run else "temporary",
    }
    found = report(
        planned,
        config,
        job.cluster,
        title=f"vidcap {config.family} {job.meta.name}",
        places=told,
        measured=measured,
        on_cpu=not devices(config.device_target),
        weights=has_weights(Path(config.model)),
    )
    render(found, as_json=request.run.as_json)
    return OK if found.ok else FAILED


def _say_changed(leader: Leader, request: Request) -> None:
    """Say whether videos have been made anew since they were captioned."""
    changed = int(leader.changed.sum())
    if not changed:
        return
    row = int(leader.changed.argmax())
    newer = "1 video is newer than its caption, which stays"
    if changed > 1:
        newer = f"{changed:,} videos are newer than their captions, which stay"
    then = " until there is a new one" if request.run.restart_changed else ""
    how = "" if then else "; --restart-changed makes new ones"
    _say(request, f"{newer}{then} ({read_paths(leader.run, [row])[row]}){how}.")


def _say_what_is_kept(leader: Leader, request: Request) -> None:
    if leader.moved_from:
        _say(request, f"{leader.moved_from} is {leader.plan.meta} now: its run goes on.")
    if leader.captioned_besides and leader.selection.is_shard:
        captions = count(leader.captioned_besides, "caption")
        _say(request, f"{captions} of rows outside the shard stay in the run, for vidcap merge.")


def _say_done(leader: Leader, request: Request, target: Path) -> None:
    """Say that there is nothing to do."""
    asked, whole = request.run.limit, leader.selection.until(leader.plan.rows)
    place = leader.run.path if leader.selection.is_shard else target
    words = f"finished: all {leader.rows:,} rows have a caption in {place}"
    if asked and asked < whole:
        words += f", of which --limit {asked} removes none"
    begun = Places.of(leader.run.path)
    over = "--fresh starts over"
    if begun.begun:
        over = f"{begun.coming.path} was cut off, and --fresh goes on with it"
    leader.summarise("finished", RunState(leader.rows, leader.rows), 0.0)
    _say(request, f"{words}; {over}.")


def _say_limit(leader: Leader, request: Request) -> None:
    """Say that the table has more rows than it is asked to have."""
    limit, shard = request.run.limit, leader.selection.is_shard
    if limit and not shard and leader.selection != _selection(request):
        rows = f"{leader.rows:,} rows already, which stay"
        _say(request, f"--limit {limit}: the table has {rows}; --fresh makes a smaller one.")


def _lead(leader: Leader, request: Request, target: Path, *, shown: bool) -> tuple[bool, RunDir]:
    """Have the run done and its table written; whether every row has a caption, and the run."""
    _say_changed(leader, request)
    shard = leader.selection.is_shard  # its rows become a table with those of the others
    if not shown and leader.is_done and (shard or target.is_file()):
        _say_done(leader, request, target)
        return True, leader.run
    title = f"vidcap {request.config.family}"
    if not shown and request.meta:
        places = Places.of(leader.run.settled.path)
        _check_replaced(request, places, request.meta, target)
        place = leader.run.settled.path if shard else target
        title += f" {request.meta.name} → {place.name}"
    _say_limit(leader, request)
    view = make_view(
        title=title,
        total=leader.rows - leader.left_alone,
        finished=leader.finished_before,
        quiet=request.run.quiet,
        verbose=request.run.verbose,
    )
    account = None
    with _summarised(leader, view.state) as took:
        with view:
            leader.work(view)
        if not shard:
            account = _merged(leader, request, target, shown=shown)
    ok = account.ok if account else leader.captioned()
    settled = leader.settle(failed=leader.rows - ok)
    state, asked = view.state, request.run
    outcome = Outcome(
        rows=leader.rows,
        ok=ok,
        failed=state.failed_by,
        left_alone=leader.left_alone,
        # Elsewhere they stand right above, as they happened.
        failures=state.failures if asked.quiet or asked.verbose else (),
        captioned=state.ok,
        seconds=took.seconds,
        tries_again=asked.restart_failed == "all" and not shown,
        flagged=account.flagged if account else 0,
        flags=account.flags if account else {},
    )
    if not shown:
        output = settled.path if shard else target
        ending = _ending(request, outcome, settled.path, target)
        outcome = replace(outcome, output=str(output), steps=ending.steps())
    whole = ok == leader.rows
    if not whole or not (asked.quiet or (shown and not outcome.flagged)):
        summary(outcome)
    after = leader.plan.rows - leader.selection.until(leader.plan.rows)
    if after and not (shown or request.run.quiet):
        rows = f"{count(after, 'row')} of the table {'comes' if after == 1 else 'come'}"
        _say(
            request, f"  {rows} after --limit {leader.selection.limit}; without it the run goes on"
        )
    taken = max((rank.memory for rank in state.ranks.values()), default=0)
    if asked.verbose and taken:
        _say(request, f"a rank took {size(taken)} of memory at most.")
    around = look_around(os.environ)
    if not whole and around and around.starter == "msrun":
        _say(request, "msrun calls exit code 3 an exception; it says that rows have no caption.")
    return whole, settled


def _ending(request: Request, outcome: Outcome, run: Path, target: Path) -> Ending:
    return Ending(
        typed=request.typed,
        asked=request.run,
        table=_table_options(request.table),
        path_column=request.config.path_column,
        run=run,
        target=target,
        ok=outcome.ok,
        flagged=outcome.flagged,
        failed=outcome.failed,
    )


@dataclass(slots=True)
class _Took:
    """How long the work took, once it has ended."""

    seconds: float = 0.0


@contextmanager
def _summarised(leader: Leader, state: RunState) -> Iterator[_Took]:
    """However the work ends, the run directory has a summary of it then."""
    began, took = time.monotonic(), _Took()
    ended: Ended = "failed"
    try:
        yield took
        ended = "finished"
    except (StoppedError, KeyboardInterrupt):
        ended = "stopped"
        raise
    finally:
        took.seconds = time.monotonic() - began
        with suppress(OSError, RunError):  # a full disk, or no folder any more: told already
            leader.summarise(ended, state, took.seconds)


def _merged(leader: Leader, request: Request, target: Path, *, shown: bool) -> Reconciliation:
    """Write the table of a run that has all its results."""
    run, asked = leader.run.path, asdict(request.table)
    del asked["output"]
    if shown:
        asked["form"] = None
    places = Places.of(leader.run.settled.path)
    if not (shown or request.run.fresh or may_replace(places, target)):
        raise RunError(
            f"{target}: was not there when videos began to be captioned, and is left as it is. "
            f"Every caption is kept in {run}: move it away and repeat the command."
        )
    try:
        before = partial(note_table, leader.run)
        account = merge([run], target, limit=leader.selection.limit, before=before, **asked)
    except UsageError as error:
        fault = error.__cause__
        if isinstance(error, TableError) or not isinstance(fault, OSError):
            raise
        # The place was right when the run began. Another -o would mean another run.
        raise RunError(
            f"{target}: cannot be written any more ({reason(fault)}). Every caption is kept in "
            f"{run}: put the place right and repeat the command, or merge it elsewhere with "
            "vidcap merge."
        ) from error
    if request.table.sidecar and not request.run.quiet:
        notice("\n".join(account.notes))
    return account


def _demo(request: Request) -> Request:
    """The bundled clips, by the bundled model that ``--model`` names, else by nano."""
    config = request.config
    if request.meta:
        raise UsageError(f"--demo captions the bundled clips; leave it out, or {request.meta}.")
    if config.model not in bundled_models(config.family):
        config = replace(config, model=NANO)
    return replace(request, meta=bundled("clips") / "clips.csv", config=config)


def _selection(request: Request) -> Selection:
    return Selection.make(request.run.limit, request.run.shard)


@contextmanager
def _working_place(
    request: Request, output: Path, *, temporary: bool
) -> Iterator[tuple[Path, Path]]:
    """The run directory and the table to write; in a temporary folder for captions on stdout."""
    if not temporary:
        yield request.run.run_dir or default_run_dir(output, _selection(request)), output
        return
    try:
        place = Path(tempfile.mkdtemp(prefix="vidcap-"))
    except OSError as error:
        raise UsageError(
            f"no temporary folder can be made ({error.strerror}); set TMPDIR, or give -o"
        ) from error
    keep = False
    try:
        yield request.run.run_dir or place / "run", place / "captions.parquet"
    except RunError:
        keep = True  # its logs explain the failure
        notice(f"the run directory is kept in {place}")
        raise
    finally:
        if not keep:
            shutil.rmtree(place)


def _caption_columns(request: Request) -> list[str]:
    """What the columns with captions are called."""
    return [name or request.table.caption_column for name in request.config.questions]


def _say(request: Request, text: str) -> None:
    """Say ``text`` unless nothing is to be said."""
    if not request.run.quiet:
        notice(text)


def notice(text: str) -> None:
    """Say something to the user that is not data."""
    print(folded(text), file=sys.stderr)  # noqa: T201
