"""The caption command: from what the user typed to an output table and an exit code.

It settles which model, which run directory and which output are meant, has ``run`` do the work
and ``merge`` write the table, and says how it went. Captions of a single video and of the demo go
to stdout and leave nothing behind unless an output is named.
"""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from vidcap_cli.addresses import address_of, is_remote, local, tidy
from vidcap_cli.checkpoint.called import bundled
from vidcap_cli.checks import (
    check_columns,
    check_places,
    check_replaced,
    check_together,
    with_model,
)
from vidcap_cli.config import CaptionConfig
from vidcap_cli.disk import reason
from vidcap_cli.dry_run import dry_run
from vidcap_cli.engine import check_engine
from vidcap_cli.errors import (
    INCOMPLETE,
    OK,
    RunChangedError,
    RunError,
    StoppedError,
    TableError,
    UsageError,
)
from vidcap_cli.families import bundled_models
from vidcap_cli.launch.follower import join
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import Leader, leading
from vidcap_cli.launch.ranks import cluster_for
from vidcap_cli.launch.surroundings import look_around, placed
from vidcap_cli.merge.account import Reconciliation
from vidcap_cli.merge.merge import merge
from vidcap_cli.next_steps import Ending
from vidcap_cli.options import NANO
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.remote.cache import caching
from vidcap_cli.remote.table import bring_table
from vidcap_cli.request import Request, notice
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.plan import TABLE, VIDEO, kind_of, read_paths
from vidcap_cli.rundir.replacing import may_replace, note_table
from vidcap_cli.rundir.summary import Ended
from vidcap_cli.view.live import make_view
from vidcap_cli.view.stdout import print_captions, print_json
from vidcap_cli.view.summary import SHARD, Outcome, summary
from vidcap_cli.view.tally import RunState
from vidcap_cli.view.words import count, lost_words, size


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
        request.say(f"{output} exists; nothing to do (--skip-if-existing).")
        return OK
    check_together(request.run, request.config, shown=shown)
    check_columns(request.table, meta, request.config)
    if not request.launch.node_rank:
        check_places(request, meta, None if shown else output)
    config = with_model(request)
    looks_only = request.run.dry_run or request.run.calibrate
    if looks_only:
        run_dir = request.run.run_dir or default_run_dir(output, request.selection)
        job = _job(request, meta, run_dir, config)
        return dry_run(request, job, None if shown else output)
    with (
        _working_place(request, output, temporary=shown) as (run_dir, target),
        caching(Places.of(run_dir).settled.path),
    ):
        job = _job(request, meta, run_dir, config)
        if request.launch.node_rank:
            shows = {"quiet": request.run.quiet, "verbose": request.run.verbose}
            say = request.say
            return join(run_dir, job.cluster, request.launch.log_dir, say, **shows)
        with leading(job) as leader:
            _say_what_is_kept(leader, request)
            whole, run = _lead(leader, request, target, shown=shown)
        if request.run.as_json:
            table = None if request.selection.is_shard else target
            print_json(run, table, request.caption_columns, shown=shown)
        elif shown:
            print_captions(target, request.caption_columns)
    return OK if whole else INCOMPLETE


def _meta(given: Path) -> tuple[Path, Path]:
    """META, and the place beside which its output goes: here for one that is elsewhere."""
    meant = local(str(given))
    if not is_remote(meant) or given.exists():
        meta = tidy(Path(meant))
        meta = meta.resolve() if meta.name == ".." else meta  # what is made of it has its name
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
        selection=request.selection,
        table_options=request.table_options,
    )


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
    request.say(f"{newer}{then} ({read_paths(leader.run, [row])[row]}){how}.")


def _say_what_is_kept(leader: Leader, request: Request) -> None:
    if leader.moved_from:
        request.say(f"{leader.moved_from} is {leader.plan.meta} now: its run goes on.")
    if leader.captions_lost:
        request.say(lost_words(leader.captions_lost) + ".")
    if leader.captioned_besides and leader.selection.is_shard:
        captions = count(leader.captioned_besides, "caption")
        request.say(f"{captions} of rows not asked for stay in the run, for vidcap merge.")


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
    request.say(f"{words}; {over}.")


def _say_shards(leader: Leader, request: Request) -> None:
    """Say that a new run has all rows, where shards of the table were begun."""
    run = leader.run.settled.path
    begun = sorted(run.parent.glob(f"{glob.escape(run.stem)}.*-of-*.vidcap"))
    if begun and not leader.selection.is_shard and not leader.finished_before:
        request.say(
            f"{begun[0]} has a shard of this table; without --shard all rows are captioned."
        )


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
        check_replaced(request, places, request.meta, target)
        place = leader.run.settled.path if shard else target
        title += f" {Path(leader.plan.meta).name} → {place.name}"
    request.say_limit(leader.selection, leader.rows)
    _say_shards(leader, request)
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
    outcome = _outcome(leader, request, view.state, account, ok=ok, seconds=took.seconds)
    if shown:
        outcome = replace(outcome, tries_again=False)
    else:
        output = settled.path if shard else target
        ending = _ending(request, outcome, settled.path, target)
        outcome = replace(outcome, output=str(output), steps=ending.steps())
    whole = ok == leader.rows
    if not whole or not (request.run.quiet or (shown and not outcome.flagged)):
        summary(outcome)
    after = leader.selection.beyond_words(leader.plan.rows)
    if after and not shown:
        request.say(f"  {after}; without it the run goes on")
    _say_besides(request, view.state, whole=whole)
    return whole, settled


def _outcome(
    leader: Leader,
    request: Request,
    state: RunState,
    account: Reconciliation | None,
    *,
    ok: int,
    seconds: float,
) -> Outcome:
    """How the run ended, of whose rows ``ok`` have a caption; where things lie is not known yet."""
    asked, plan = request.run, leader.plan
    return Outcome(
        rows=leader.rows,
        ok=ok,
        failed=state.failed_by,
        kind=SHARD if leader.selection.is_shard else plan.kind,
        bases=plan.bases if plan.kind == TABLE else (),
        left_alone=leader.left_alone,
        # Elsewhere they stand right above, as they happened.
        failures=state.failures if asked.quiet or asked.verbose else (),
        captioned=state.ok,
        seconds=seconds,
        tries_again=asked.restart_failed == "all",
        flagged=account.flagged if account else 0,
        flags=account.flags if account else {},
    )


def _say_besides(request: Request, state: RunState, *, whole: bool) -> None:
    """Say what memory a rank took, and what msrun makes of the exit code."""
    taken = max((rank.memory for rank in state.ranks.values()), default=0)
    if request.run.verbose and taken:
        request.say(f"a rank took {size(taken)} of memory at most.")
    around = look_around(os.environ)
    if not whole and around and around.starter == "msrun":
        request.say("msrun calls exit code 3 an exception; it says that rows have no caption.")


def _ending(request: Request, outcome: Outcome, run: Path, target: Path) -> Ending:
    return Ending(
        typed=request.typed,
        asked=request.run,
        table=request.table_options,
        meta=request.meta,
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
        # A full disk, or no folder any more: told already. Nor does an interrupt after a stop hide
        # what that has to say.
        also = (KeyboardInterrupt,) if ended == "stopped" else ()
        with suppress(OSError, RunError, *also):
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
        if account.failure:
            raise RunError(account.failure)
    except RunChangedError as error:
        how = "with --extend in place of --fresh" if request.run.fresh else "with --extend"
        raise RunChangedError(
            f"{leader.plan.meta}: the table has changed since the run was planned. Every caption "
            f"is kept in {run}: repeat the command {how}, which keeps the captions of the rows "
            "that are still there, or restore the table and repeat it."
        ) from error
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


@contextmanager
def _working_place(
    request: Request, output: Path, *, temporary: bool
) -> Iterator[tuple[Path, Path]]:
    """The run directory and the table to write; in a temporary folder for captions on stdout."""
    if not temporary:
        yield request.run.run_dir or default_run_dir(output, request.selection), output
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
