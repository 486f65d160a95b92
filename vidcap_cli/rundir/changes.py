"""What has changed since a run was planned: META, where it lies, the options captions depend on.

A run goes on with the same contents of META, also where all of it lies at another place: moved,
mounted elsewhere, copied to another machine. Its relative paths then start from there. They would
name other videos only where both places hold some: these are compared, by their sizes. Of a folder
the rows are absolute paths, so a run of one that has moved makes way for a new one, which keeps its
captions (``rundir.extension``).
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vidcap_cli.addresses import is_remote, local, locate
from vidcap_cli.atomic import atomic_write
from vidcap_cli.checkpoint.called import model_name
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, TableError
from vidcap_cli.remote.table import base_of
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import (
    FOLDER,
    TABLE,
    VIDEO,
    Plan,
    absolute,
    fingerprint_of,
    kind_of,
    planned_rows,
    reading_of,
)
from vidcap_cli.view.words import count, setting

_COMPARED = 1000  # videos, the first of META
# A model that is the same wherever it lies: a commit on the hub, or bundled.
_SAME_ANYWHERE = re.compile(r".*/(models--[^/]+/snapshots/[^/]+|vidcap_cli/nano/[^/]+)")


def check_unchanged(
    plan: Plan,
    meta: Path,
    config: CaptionConfig,
    *,
    run: RunDir | None = None,
    failed: int | None = None,
) -> None:
    """Raise ``RunChangedError`` with every difference between the plan and what is asked now.

    Another place of META or the model alone is none, nor is another working directory. A run that
    is finished but for ``failed`` rows is told so; ``run`` is where the plan lies.
    """
    contents, others = _differences(plan, meta, config)
    if contents or others:
        same = plan.meta == str(absolute(meta))
        raise _changed(contents, others, run, same_place=same, failed=failed)


def is_unchanged(plan: Plan, meta: Path, config: CaptionConfig) -> bool:
    """Whether nothing of META and the options that captions depend on differs from the plan."""
    return not any(_differences(plan, meta, config))


def only_contents_changed(
    plan: Plan,
    meta: Path,
    config: CaptionConfig,
    *,
    run: RunDir | None = None,
    failed: int | None = None,
) -> bool:
    """Whether META has changed since the plan, False when nothing has.

    Raises RunChangedError when it is another META, or an option that captions depend on has
    changed; ``run`` and ``failed`` as in ``check_unchanged``.
    """
    contents, others = _differences(plan, meta, config)
    if others:
        same = plan.meta == str(absolute(meta))
        raise _changed(contents, others, run, same_place=same, failed=failed)
    return bool(contents)


def folder_has_moved(plan: Plan, meta: Path, config: CaptionConfig) -> bool:
    """Whether META is the folder of the plan at another place, and nothing else has changed."""
    elsewhere = plan.kind == FOLDER and str(absolute(meta)) != plan.meta
    return elsewhere and is_unchanged(plan, meta, config)


def placed_now(plan: Plan, meta: Path, config: CaptionConfig) -> Plan:
    """The plan with META and the model where they are now, of which nothing else has changed."""
    options = {**plan.options, "model": config.model}
    meta = absolute(meta)
    return replace(plan, meta=str(meta), bases=bases_now(plan, meta), options=options)


def bases_now(plan: Plan, meta: Path) -> tuple[str, ...]:
    """Where relative paths start from with META here; the places of before keep counting."""
    if str(meta) == plan.meta:
        return plan.bases
    return tuple(dict.fromkeys((*_starts(plan.kind, meta), *plan.bases)))


def keep_place(run: RunDir, plan: Plan, meta: Path, config: CaptionConfig) -> Plan:
    """``placed_now``, which the run directory keeps."""
    now = placed_now(plan, meta, config)
    if now != plan:
        atomic_write(run.plan, now.to_json().encode())
    return now


def located(run: RunDir, plan: Plan) -> Plan:
    """The plan as ``placed_now``, of a META that has gone and lies beside the run directory."""
    beside = absolute(run.settled.path).with_name(Path(plan.meta).name)
    if Path(plan.meta).exists() or plan.kind == VIDEO:
        return plan
    with suppress(TableError):
        if (
            kind_of(beside) == plan.kind
            and fingerprint_of(beside, plan.kind, plan.reading) == plan.fingerprint
        ):
            return replace(plan, meta=str(beside), bases=bases_now(plan, beside))
    return plan


def _starts(kind: str, meta: Path) -> tuple[str, str]:
    """Where relative paths of META start from."""
    return str(meta) if kind == FOLDER else base_of(meta), str(Path.cwd())


def _changed(
    contents: Sequence[str],
    others: Sequence[str],
    run: RunDir | None,
    *,
    same_place: bool,
    failed: int | None,
) -> RunChangedError:
    """The differences of META's ``contents`` and ``others``, and what may be done now."""
    what, purpose = "the unfinished run", "continue the run"
    if failed is not None:
        what, purpose = "the run there, which has finished,", ""
    if failed:
        what = f"the run there, finished but for {count(failed, 'failed row')},"
        purpose = "try these rows again"
    extension = again = ""
    if not others:
        extension = "--extend keeps the captions of the rows that are still there. "
    elif purpose:
        grown = " but with --extend" if contents and same_place else ""
        again = f", or repeat the command as it was{grown} to {purpose}"
    listed = "\n  ".join([*contents, *others])
    what = f"{run.settled.path}: {what}" if run else what
    return RunChangedError(
        f"{what} was made with something else:\n  {listed}\n{extension}Name another output with "
        f"-o to keep both (another --run-dir, too, where you give one){again}, or add --fresh to "
        "start over: its captions go when the new ones are there"
    )


def _differences(plan: Plan, meta: Path, config: CaptionConfig) -> tuple[list[str], list[str]]:
    """What is different of META's contents, and what else."""
    contents: list[str] = []
    others: list[str] = []
    meta = absolute(meta)
    kind = kind_of(meta)
    if fingerprint_of(meta, kind, plan.reading) != plan.fingerprint:
        change = "changed"
        if not plan.reading.cuts:
            _, table = reading_of(meta, kind, config)
            rows = sum(batch.num_rows for batch in planned_rows(meta, kind, table))
            change = f"{plan.rows} -> {rows} rows" if rows != plan.rows else f"still {rows} rows"
        contents.append(f"the contents of {meta.name}: {change}")
    if str(meta) != plan.meta:
        told = _other_meta(plan, meta, kind, config, same=not contents)
        # Beside the old one relative paths mean the same files: as if that had changed.
        beside = kind == plan.kind == TABLE and meta.parent == Path(plan.meta).parent
        (contents if contents and beside else others).extend(told)
    now = config.caption_options()
    before = {**config.usual_caption_options(), **plan.options}
    for name in dict.fromkeys([*plan.options, *now]):
        # Through JSON, as the plan's options went: a tuple and a list are the same option.
        new, called = json.loads(json.dumps(now.get(name))), config.called(name)
        if called and before.get(name) != new:
            if name == "model" and _same_model(plan, config):
                continue
            was = _setting(before.get(name), name, plan.options)
            others.append(f"{called}: {was} -> {_setting(new, name, now)}")
    return contents, others


def _other_meta(
    plan: Plan, meta: Path, kind: str, config: CaptionConfig, *, same: bool
) -> list[str]:
    """The difference where META, at another place with the ``same`` contents, is not the plan's."""
    told = f"the table: {plan.meta} -> {meta}"
    before = Path(plan.meta)
    if kind != plan.kind or kind == VIDEO or not (same or before.name == meta.name):
        return [told]
    names = _first_names(meta, kind, config)
    if other := next(_other_videos(plan, meta, names), None):
        return [f"{told}: {other}"]
    if same or not before.exists() or _has_copies(plan, meta, names, config):
        return []
    return [told]


def _first_names(meta: Path, kind: str, config: CaptionConfig) -> list[str]:
    """The first paths of META."""
    _, table = reading_of(meta, kind, config)
    batches = planned_rows(meta, kind, table)
    names = (str(name) for batch in batches for name in batch.column("path").to_pylist())
    return list(islice(names, _COMPARED))


def _has_copies(plan: Plan, meta: Path, names: Sequence[str], config: CaptionConfig) -> bool:
    """Whether META, changed since, is a copy of the one that is still at the place of the plan:
    a row of both is the same video. One that has none in common is another table.
    """
    if plan.kind == FOLDER:
        return any(_at_both_places(plan, meta, names))
    with suppress(TableError):
        before = set(_first_names(Path(plan.meta), plan.kind, config))
        common = [name for name in names if name in before]
        return any(map(_is_absolute, common)) or any(_at_both_places(plan, meta, common))
    return False


def _other_videos(plan: Plan, meta: Path, names: Sequence[str]) -> Iterator[str]:
    """Videos that are at META's place and at the one of the plan, and are not the same."""
    for name, before, now in _at_both_places(plan, meta, names):
        if before != now:
            yield f"{name} has {now:,} bytes there, and {before:,} at the place before"


def _at_both_places(plan: Plan, meta: Path, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """The videos with relative paths that are at the place of the plan and at META's, each with
    its size at both.
    """
    before, now = plan.bases, _starts(plan.kind, meta)
    if plan.kind == FOLDER:
        before, names = (plan.meta,), [str(Path(name).relative_to(meta)) for name in names]
    for name in names:
        if _is_absolute(name):
            continue
        then, there = _size(name, before), _size(name, now)
        if then is not None and there is not None:
            yield name, then, there


def _is_absolute(name: str) -> bool:
    """Whether a path means the same wherever its table lies."""
    return is_remote(name) or Path(local(name)).is_absolute()


def _size(name: str, bases: Sequence[str]) -> int | None:
    with suppress(OSError, ValueError):
        return Path(locate(name, bases)[0]).stat().st_size
    return None


def _same_model(plan: Plan, config: CaptionConfig) -> bool:
    """Whether the model is the plan's at another place."""
    before, now = str(plan.options.get("model")), config.model
    if plan.options.get("model_fingerprint") != config.model_fingerprint:
        return False
    ends = [match and match[1] for match in map(_SAME_ANYWHERE.fullmatch, (before, now))]
    if ends[0] and ends[0] == ends[1]:
        return True
    return bool(config.model_fingerprint) and (
        Path(before).name == Path(now).name and not Path(before).exists()
    )


def _setting(value: Any, name: str, options: Mapping[str, Any]) -> str:
    """The value of an option in a list of differences, a text in quotes."""
    if name == "model" and value:
        value = model_name(str(value), str(options.get("family", "")))
    return repr(value) if isinstance(value, str) else setting(value)
