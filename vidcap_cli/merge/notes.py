"""What is to be said of inputs that may not be what somebody who merges them believes."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidcap_cli.addresses import is_remote, local
from vidcap_cli.checkpoint.called import model_name
from vidcap_cli.config import CaptionConfig
from vidcap_cli.merge.columns import STATUS, CaptionColumns, columns_before
from vidcap_cli.merge.matching import Results
from vidcap_cli.merge.sources import Source
from vidcap_cli.merge.target import Target
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.places import Places, read_finished
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.tables import open_table, quoted
from vidcap_cli.view.words import setting

_SOME = 8  # shards that are named


def on_inputs(
    sources: Sequence[Source],
    results: Results,
    target: Target,
    columns: CaptionColumns,
    *,
    misses: bool,
) -> Iterator[str]:
    """Sentences on ``sources``, as they were named, and their ``results``; ``misses`` if rows have
    none.
    """
    yield from _other_options(sources)
    yield from _other_captions(sources, target, columns)
    yield from _left_out(sources)
    yield from _not_whole(results)
    if misses:
        yield from _shards_left_out(sources)


def at_work(sources: Sequence[Source]) -> Iterator[str]:
    """Sentences on runs that go on meanwhile."""
    for source in sources:
        if source.run and is_led(source.run):
            yield (
                f"a command is at work on {source.name}: captions that its ranks have not put on "
                "the disk yet are left out"
            )


def on_paths(out: Path, target: Target) -> Iterator[str]:
    """A sentence on relative paths in ``out``, where that lies elsewhere than the rows' table."""
    start = target.bases[0]
    if is_remote(start) or os.path.realpath(start) == os.path.realpath(out.absolute().parent):
        return
    first = next(target.batches([target.table.path_column]), None)
    name = str(first.column(0)[0]) if first and first.num_rows else "/"
    if not is_remote(name) and not Path(local(name)).is_absolute():
        yield (
            f"relative paths in {out} start from {start}, not from where it lies: --relative-to "
            f"{shlex.quote(str(out.parent))} writes them for that place"
        )


def _other_options(sources: Sequence[Source]) -> tuple[str, ...]:
    """A note when the runs to be merged were asked different things, as people call these."""
    asked = [_distinct(source.plan.options, sources) for source in sources if source.plan]
    families = [CaptionConfig(str(options.get("family", "")), "") for options in asked]
    said: dict[str, set[str]] = {}
    for options in asked:  # older versions have fewer
        for name, value in options.items():
            said.setdefault(name, set()).add(_spelled(name, value, options))
    differ = {name: sorted(values) for name, values in said.items() if len(values) > 1}
    if differ.keys() & {"family", "model"}:  # then their files are others, of course
        differ.pop("model_fingerprint", None)
    told = [
        called if name == "model_fingerprint" else f"{called}: {', '.join(found)}"
        for name, found in differ.items()
        if (called := families[0].called(name)) and all(one.called(name) for one in families)
    ]
    if not told:
        return ()
    listed = "; ".join(told)
    return (f"the runs were made with different options ({listed}): their captions are mixed",)


def _distinct(options: Mapping[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """The options of a plan without those questions that have the same text in all plans with them:
    others are in other columns.
    """
    plans = [source.plan for source in sources if source.plan and source.plan.questions]
    texts: dict[str, set[str]] = {}
    for plan in plans:
        for name, text in plan.options["question"].items():
            texts.setdefault(name, set()).add(text)
    questions = options.get("question")
    if not isinstance(questions, dict):
        return dict(options)
    differ = {name: text for name, text in questions.items() if len(texts[name]) > 1}
    return {name: it for name, it in options.items() if name != "question"} | (
        {"question": differ} if differ else {}
    )


def _other_captions(
    sources: Sequence[Source], target: Target, columns: CaptionColumns
) -> Iterator[str]:
    """Notes on columns of tables that may have captions to other questions: no run says so."""
    found = dict.fromkeys(columns.questions)
    for source in sources:
        if source.captions:
            names = open_table(source.name).schema.names
            others = columns_before(names, source.captions, target.table.schema.names)
            found |= dict.fromkeys([*others, source.captions] if STATUS in names else [])
    if len(found) > max(1, len(columns.questions)):
        yield (
            f"the columns {quoted([*found])} of tables may all have captions: if they answer "
            f"several questions, add --caption-column {shlex.quote(','.join(found))}"
        )


def _spelled(name: str, value: Any, options: Mapping[str, Any]) -> str:
    """The value of an option of a plan, as people write it."""
    if name == "model" and value:
        return model_name(str(value), str(options.get("family", "")))
    return setting(value)


def _not_whole(results: Results) -> Iterator[str]:
    """Notes on runs that have fewer results than they had when they finished."""
    for source, number in zip(results.sources, np.diff(results.ends, prepend=0), strict=True):
        done = read_finished(source.run) if source.run and source.name == source.run.path else None
        if done and number < done.rows:
            yield (
                f"{source.name} has fewer results ({number:,}) than when it finished "
                f"({done.rows:,}): parts of it are gone; copy them from where it was made, or "
                "repeat its command"
            )


def _shards_left_out(sources: Sequence[Source]) -> Iterator[str]:
    """Notes on shards whose runs are not among the inputs, where those of others are."""
    runs = [source.run for source in sources if source.run]
    selections = [Scope.read(run).selection for run in runs]
    if all(selection.is_shard for selection in selections):
        for of in sorted({selection.of for selection in selections}):
            there = {selection.shard for selection in selections if selection.of == of}
            lack = [f"{shard}/{of}" for shard in range(of) if shard not in there]
            if lack:
                some = f"{', '.join(lack[:_SOME])}{' …' if len(lack) > _SOME else ''}"
                which = f"shard {some} is" if len(lack) == 1 else f"shards {some} are"
                yield f"{which} not among the inputs"


def _left_out(sources: Sequence[Source]) -> Iterator[str]:
    """Notes on runs that were begun to replace one of those merged, and are not among them."""
    runs = {source.run.path.resolve(): source for source in sources if source.run}
    for path, source in runs.items():
        places = Places.of(path)
        if places.begun and places.coming.path not in runs:
            yield (
                f"{source.name}.next, begun to replace it, is left out: name it, too, or finish it "
                "by its command (vidcap inspect tells it)"
            )
