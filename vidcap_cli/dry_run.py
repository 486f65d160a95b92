"""``--dry-run`` and ``--calibrate``: what a run would do, and what it would take."""

from pathlib import Path

from vidcap_cli.checkpoint.folder import has_weights
from vidcap_cli.checks import check_replaced
from vidcap_cli.errors import FAILED, OK
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.ranks import devices
from vidcap_cli.request import Request
from vidcap_cli.rundir.places import Places, complete


def dry_run(request: Request, job: Job, output: Path | None) -> int:
    """Tell what the run of ``job`` would do and, with ``--calibrate``, measure how fast."""
    from vidcap_cli.estimate import look_ahead, report  # noqa: PLC0415 - for this option only
    from vidcap_cli.inspect.report import render  # noqa: PLC0415

    config = job.config
    run, places = None, Places.of(job.run_dir)
    if output:
        run = places.choose(job.selection, job.is_same, fresh=job.fresh)
        if not complete(run, job.selection):
            check_replaced(request, places, job.meta, output)
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
    request.say_limit(planned.selection, planned.rows)
    measured = None
    if request.run.calibrate and planned.left:
        from vidcap_cli.calibration import measure  # noqa: PLC0415

        rows, quiet = planned.plan.rows, request.run.quiet
        measured = measure(job, rows, request.run.calibrate, quiet=quiet)
    told = {"run directory": str(run.path) if run else "temporary"}
    if not job.selection.is_shard:
        told = {"output": str(output or "stdout"), **told}
    found = report(
        planned,
        config,
        job.cluster,
        title=f"vidcap {config.family} {'--demo' if request.run.demo else job.meta.name}",
        places=told,
        measured=measured,
        on_cpu=not devices(config.device_target),
        weights=has_weights(Path(config.model)),
    )
    render(found, as_json=request.run.as_json)
    if after := planned.selection.beyond_words(planned.plan.rows):
        request.say(f"  {after}")
    return OK if found.ok else FAILED
