"""``--dry-run``: what a run would do, from the table and a sample of its videos. Writes nothing."""

import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidcap_cli.config import CaptionConfig
from vidcap_cli.processors import load_captioner
from vidcap_cli.rundir.ledger import done_mask
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan, check_unchanged, make_plan, read_plan, resolve
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.video import Clip, Rule, probe
from vidcap_cli.video.pool import DecodePool
from vidcap_cli.view.words import one_line, printable

SAMPLE = 32
_PROBE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Figures of a sample of the table's videos, per video: means of what the model would get."""

    sampled: int
    unreadable: int
    seconds: float
    frames: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Planned:
    """What a dry run found: of the ``rows`` that it is about, ``left`` have no caption yet."""

    plan: Plan
    rows: int
    left: int
    estimate: Estimate


def look_ahead(
    meta: Path, run: RunDir | None, config: CaptionConfig, selection: Selection
) -> Planned:
    """Plan ``meta`` as a run would, in a temporary folder, and sample its videos.

    ``run`` is the run directory that would be continued, if any.
    """
    with TemporaryDirectory() as place:
        scratch = RunDir(Path(place))
        plan = make_plan(meta, scratch, config)
        paths = _sample(scratch, selection.until(plan.rows))
    left = rows = selection.count(plan.rows)
    if run and run.is_run:
        before = read_plan(run)
        check_unchanged(before, meta, config)
        left = int((~done_mask(run, before).ok & selection.mask(before.rows)).sum())
    return Planned(plan, rows, left, estimate([str(resolve(p, plan.bases)) for p in paths], config))


def estimate(paths: list[str], config: CaptionConfig) -> Estimate:
    """Probe ``paths`` in decoder processes, so that a bad file cannot hang the command.

    PyAV counts the frames, also where the run is to read by decord.
    """
    rule = load_captioner(config).rule
    found = []
    with DecodePool(rule, workers=config.decoders, timeout=_PROBE_SECONDS, read=_probe) as pool:
        for row, path in enumerate(paths):
            pool.submit(row, path)
        while pool.pending:
            decoded = pool.next()
            if decoded and decoded.clip:
                found.append(decoded.clip)
    seconds = [clip.source_frames / clip.source_fps for clip in found]
    frames = [len(clip.indices) for clip in found]
    tokens = [
        rule.tokens(len(clip.indices), clip.source_height, clip.source_width) for clip in found
    ]
    means = [float(np.mean(values)) if values else 0.0 for values in (seconds, frames, tokens)]
    return Estimate(len(paths), len(paths) - len(found), *means)


def _probe(path: str, rule: Rule) -> Clip:
    """In a decoder process: a clip of one black pixel, for the rest that it tells."""
    info = probe(path)
    return Clip(
        frames=np.zeros((1, 1, 1, 3), np.uint8),
        indices=rule.indices(info.frames, info.fps),
        reader=info.reader,
        source_frames=info.frames,
        source_fps=info.fps,
        source_height=info.height,
        source_width=info.width,
        flags=info.flags,
    )


def _sample(run: RunDir, rows: int) -> list[str]:
    """The paths of a few of the first ``rows`` rows, evenly spread; reads few row groups."""
    wanted = np.unique(np.linspace(0, rows - 1, min(rows, SAMPLE)).astype(np.int64))
    with pq.ParquetFile(run.rows) as file:
        size = file.metadata.row_group(0).num_rows
        groups = {
            int(group): file.read_row_group(int(group), ["path"])["path"]
            for group in np.unique(wanted // size)
        }
    return [str(groups[int(row // size)][int(row % size)]) for row in wanted]


def show(planned: Planned, config: CaptionConfig, *, places: dict[str, str]) -> None:
    """Print what would be done to stdout."""
    rows, in_all = planned.rows, planned.plan.rows
    guess = planned.estimate
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_row("rows", f"{rows:,}" + (f" of {in_all:,}" if rows < in_all else ""))
    table.add_row("to caption", f"{planned.left:,}")
    table.add_row(
        "model", Text(f"{printable(config.model)} ({config.family}, engine {config.engine})")
    )
    table.add_row("question", Text(one_line(config.question)))
    table.add_row("sample", f"{guess.sampled} videos, {guess.unreadable} of them cannot be read")
    table.add_row("a video has", f"{guess.seconds:.1f} s, {guess.frames:.0f} frames sampled")
    table.add_row("visual tokens", f"{guess.tokens:,.0f} a video")
    total = planned.left * guess.tokens
    table.add_row("in all", f"about {planned.left * guess.frames:,.0f} frames, {total:,.0f} tokens")
    for name, place in places.items():
        table.add_row(name, Text(printable(place)))
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(table)
