"""The command that continues a run, as a user would type it anywhere on this machine."""

import shlex
from dataclasses import asdict
from pathlib import Path

from vidcap_cli.config import options_of
from vidcap_cli.families import FAMILIES
from vidcap_cli.launch.ranks import devices
from vidcap_cli.options import given, spelled
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan
from vidcap_cli.rundir.records import Attempt


def continue_command(run: RunDir, plan: Plan) -> str:
    """The command that continues the run, with the options that were not the default.

    The plan has those that alter captions or the table, the last launch the others.
    """
    name = str(plan.options.get("family", ""))
    last = next(reversed(run.attempts()), None)
    attempt = Attempt.read(last) if last else None
    values = {**(asdict(attempt.config) if attempt else {}), **plan.options}
    options = options_of(FAMILIES[name]) if name in FAMILIES else {}
    asked = given(options.values(), values) | plan.table_options
    if attempt and attempt.ranks != (devices(attempt.config.device_target) or 1):
        asked["worker_num"] = attempt.ranks
    words = ["vidcap", name, plan.meta, *spelled(asked)]
    # A run that starts over lies beside the one it will replace.
    place = RunDir(run.path.absolute()).settled.path
    output = Path(plan.table_options.get("output") or default_output(Path(plan.meta), name, None))
    if place != default_run_dir(output):
        words += ["--run-dir", str(place)]
    return shlex.join(words)
