"""Commands that a user may type next, anywhere on this machine."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidcap_cli.addresses import tidy
from vidcap_cli.checkpoint.called import model_name
from vidcap_cli.config import options_of
from vidcap_cli.declaring import given, spelled
from vidcap_cli.errors import UsageError
from vidcap_cli.families import FAMILIES, RECOMMENDED
from vidcap_cli.launch.ranks import devices
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.presets import presets
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.tables import Table
from vidcap_cli.view.steps import Step


def continue_command(run: RunDir, plan: Plan) -> str:
    """The command that continues the run, with the options that were not the default.

    The plan has those that alter captions or the table, the last launch the others; which rows
    are meant the last command has noted.
    """
    name = str(plan.options.get("family", ""))
    asked = _asked(run, plan) | plan.table_options
    selection = Scope.read(run).selection
    words = ["vidcap", name, plan.meta, *spelled(asked | selection.options)]
    # A run that starts over lies beside the one it will replace.
    place = RunDir(tidy(run.path)).settled.path
    if place.resolve() != default_run_dir(output_of(plan), selection).resolve():
        words += ["--run-dir", str(place)]
    return shlex.join(words)


def caption_like(run: RunDir, plan: Plan, meta: Path) -> str:
    """The command that captions another table with the same columns as the run does its own."""
    columns = {
        name: value
        for name, value in plan.table_options.items()
        if name in ("caption_column", "overwrite_column")
    }
    words = ["vidcap", str(plan.options.get("family", "")), str(meta)]
    return shlex.join([*words, *spelled(_asked(run, plan) | columns)])


def _asked(run: RunDir, plan: Plan) -> dict[str, Any]:
    """The options of the run that were not the default, but those of its table."""
    name = str(plan.options.get("family", ""))
    last = next(reversed(run.attempts()), None)
    attempt = Attempt.read(last) if last else None
    values = {**(asdict(attempt.config) if attempt else {}), **plan.options}
    options = options_of(FAMILIES[name]) if name in FAMILIES else {}
    asked = given(options.values(), values)
    if attempt and attempt.ranks != (devices(attempt.config.device_target) or 1):
        asked["worker_num"] = attempt.ranks
    if "model" in asked:
        asked["model"] = model_name(str(asked["model"]), name)
    return asked


def output_of(plan: Plan) -> Path:
    """The table that the run writes."""
    asked = plan.table_options
    name = str(plan.options.get("family", ""))
    return Path(asked.get("output") or default_output(Path(plan.meta), name, asked.get("format")))


def caption_step(target: Path, *options: str, table: Table | None = None) -> Step:
    """The command that captions a table, a folder or a video with the recommended model.

    A column that its captions would take is left alone, where another can be named.
    """
    usual = str(RECOMMENDED.defaults["model"])
    named = Path(usual).is_dir() or "--model" in presets([RECOMMENDED.command]).words
    hub_name = RECOMMENDED.hub_name if devices("auto") else RECOMMENDED.small_hub_name
    model = () if named else ("--model", hub_name)
    purpose = f"to caption {'it' if target.is_file() else 'them'}"
    column: tuple[str, ...] = ()
    if table and not _takes(table, usual_column()):
        other = ("--caption-column", _OTHER)
        column = other if _takes(table, _OTHER) else ("--overwrite-column",)
        purpose += " anew, in another column" if column == other else " anew"
    paths = words_of_paths(table.path_column) if table else []
    return Step.of(purpose, RECOMMENDED.command, target, *model, *paths, *options, *column)


def words_of_paths(column: str) -> list[str]:
    """The option that names the ``column`` of paths, where it is not the usual one."""
    return [] if column == PATH else spelled({"path_column": column})


_OTHER = "caption"


def usual_column() -> str:
    """What captions are called here unless it is said: by a variable, a file, or else ``text``."""
    return _said("--caption-column") or TEXT


def usual_path_columns() -> list[str]:
    """What the column of paths is called here, where a variable or a file says it."""
    said = _said("--path-column")
    return [said] if said else []


def _said(flag: str) -> str | None:
    words = presets([RECOMMENDED.command]).words
    return words[words.index(flag) + 1] if flag in words else None


def _takes(table: Table, column: str) -> bool:
    """Whether captions called so have a place in ``table``."""
    try:
        CaptionColumns(column).check(table)
    except UsageError:
        return False
    return True
