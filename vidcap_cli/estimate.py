"""``--dry-run``: what a run would do, from the table and its videos. Writes nothing.

Of up to ``WHOLE`` rows that are left to do all videos are looked into, so frames and tokens are
those of the run; of more, or where it takes too long, a sample, and totals are told with their
error. The weights need not be there: sizes are those of ``config.json``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.addresses import is_remote, locate
from vidcap_cli.calibration import Measured, enough
from vidcap_cli.checkpoint.called import model_name
from vidcap_cli.config import CaptionConfig
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.inspect.video import probe_only
from vidcap_cli.inspect.videos import Bad, cause_words, causes_of, opened
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.processors import load_captioner
from vidcap_cli.rank_memory import memory_facts, rank_memory, short_of_memory
from vidcap_cli.remote.cache import caching
from vidcap_cli.rundir.changes import bases_now, check_unchanged
from vidcap_cli.rundir.extension import Wanted, captions_lost, kept_rows
from vidcap_cli.rundir.ledger import done_mask
from vidcap_cli.rundir.newer import newer_videos
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places, failed_in, rows_there
from vidcap_cli.rundir.plan import TABLE, Plan, make_plan, read_plan
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.spans import Span
from vidcap_cli.statuses import Status
from vidcap_cli.tables import hashes
from vidcap_cli.video import Clip
from vidcap_cli.view.words import count, duration, figure, lost_words, one_line, printable, size

WHOLE = 2000
SAMPLE = 200
_FEW = 30  # of which the spread tells little of the error
_REMOTE = 32  # of videos that are downloaded for it
_CAUSES = 8
_SECONDS = 20.0  # after which no more of them are looked into


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the model would get of the videos that were looked into: arrays, an item a video.

    Those are all of the ``left`` rows to do where ``sampled`` is as many; those of the arrays could
    be read, ``bad`` are the others. ``words`` are the tokens of a prompt besides the visual ones.
    """

    left: int
    sampled: int
    seconds: npt.NDArray[np.float64]
    frames: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    words: int
    bad: tuple[Bad, ...] = ()

    @property
    def unreadable(self) -> int:
        """How many of them cannot be read."""
        return self.sampled - len(self.frames)

    @property
    def whole(self) -> bool:
        """Whether all were looked into."""
        return self.sampled == self.left

    def total(self, values: npt.NDArray[np.int64]) -> tuple[float, float]:
        """The sum of ``values`` over all rows to do, and its error: two standard deviations."""
        if not self.sampled:
            return 0.0, 0.0
        each = np.zeros(self.sampled)
        each[: len(values)] = values  # one that cannot be read gives none
        share = self.sampled / self.left
        error = 2 * each.std() * self.left * np.sqrt((1 - share) / self.sampled)
        return float(each.mean() * self.left), float(error)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a dry run found: of the rows of ``selection`` that it is about, ``left`` are to be
    captioned.

    ``left_alone`` failed before and are not to be tried again. ``uncut`` are videos to caption that
    were to be cut into clips, and whose length cannot be told; ``twice`` rows to caption repeat
    another. An extension leaves out ``captions_lost`` captions.
    """

    plan: Plan
    selection: Selection
    left: int
    left_alone: int
    estimate: Estimate
    uncut: tuple[str, ...] = ()
    twice: int = 0
    captions_lost: int = 0

    @property
    def rows(self) -> int:
        """How many rows it is about."""
        return self.selection.count(self.plan.rows)


def look_ahead(
    meta: Path,
    run: RunDir | None,
    config: CaptionConfig,
    selection: Selection,
    *,
    extended: Places | None = None,
    restart_failed: bool = True,
    restart_changed: bool = False,
) -> Planned:
    """Plan ``meta`` as a run would, in a temporary folder, and look into its videos.

    ``run`` is the run directory that would be continued, if any; ``extended`` are the places of the
    one that would be extended.
    """
    with TemporaryDirectory() as place, caching(Path(place), config.cache_size):
        scratch = RunDir(Path(place))
        plan = make_plan(meta, scratch, config)
        left_alone = lost = 0
        held = kept_rows(Wanted(meta, config, {}), extended, scratch, plan) if extended else None
        there = held.rows if held else rows_there(run, selection) if run else 0
        selection = selection.widened(there, plan.rows)
        to_do = selection.mask(plan.rows)
        if held and extended:
            lost = captions_lost(extended.settled, scratch, plan)
            to_do[held.ok] = False
            if not restart_failed:
                left_alone = int(to_do[held.failed].sum())
                to_do[held.failed] = False
        elif run and run.is_run:
            before = read_plan(run)
            check_unchanged(before, meta, config, run=run, failed=failed_in(run))
            done = done_mask(run, before)
            kept = done.kept(restart_failed=restart_failed)
            plan = replace(plan, bases=bases_now(before, Path(plan.meta)))
            if restart_changed:
                kept &= ~newer_videos(run, replace(before, bases=plan.bases), done, to_do)
            left_alone = int((to_do & kept & ~done.ok).sum())
            to_do &= ~kept
        left = np.flatnonzero(to_do)
        videos = [locate(path, plan.bases) for path in _sample(scratch, left)]
        if any(is_remote(video) for video, _ in videos):
            videos = videos[:_REMOTE]
        figures = estimate(videos, config, len(left))
        uncut = _uncut(scratch, to_do) if config.clip_length else ()
        twice = 0 if config.question_column else _repeated(scratch, to_do)
    return Planned(plan, selection, len(left), left_alone, figures, uncut, twice, lost)


def estimate(
    videos: Sequence[tuple[str, Span | None]], config: CaptionConfig, left: int
) -> Estimate:
    """Probe ``videos`` of the ``left`` rows to do, in decoder processes that a bad file may hang.

    PyAV counts the frames, also where the run is to read by decord.
    """
    captioner = load_captioner(config)
    rule = captioner.rule
    found: list[Clip] = []
    bad: list[Bad] = []
    sampled, began = 0, time.monotonic()
    for decoded in opened(videos, rule, probe_only, "videos", config.cache_size):
        sampled += 1
        if decoded.clip:
            found.append(decoded.clip)
        else:
            bad.append(Bad(decoded.path, decoded.status, decoded.error or ""))
        if time.monotonic() - began > _SECONDS:
            break
    tiny = np.zeros((2, 28, 28, 3), np.uint8)
    return Estimate(
        left=left,
        sampled=sampled,
        seconds=np.array([clip.source_frames / clip.source_fps for clip in found]),
        frames=np.array([len(clip.indices) for clip in found], np.int64),
        tokens=np.array(
            [
                rule.tokens(len(clip.indices), clip.source_height, clip.source_width)
                for clip in found
            ],
            np.int64,
        ),
        words=captioner.size(tiny).tokens - rule.tokens(*tiny.shape[:3]),
        bad=tuple(bad),
    )


def _sample(run: RunDir, rows: npt.NDArray[np.int64]) -> list[str]:
    """The paths of ``rows``, in an order of no meaning, or of some of them where they are many."""
    number = len(rows) if len(rows) <= WHOLE else SAMPLE
    wanted = np.random.default_rng(0).choice(rows, number, replace=False)
    with pq.ParquetFile(run.rows) as file:
        size = file.metadata.row_group(0).num_rows
        groups = {
            int(group): file.read_row_group(int(group), ["path"])["path"]
            for group in np.unique(wanted // size)
        }
    return [str(groups[int(row // size)][int(row % size)]) for row in wanted]


def _repeated(run: RunDir, wanted: npt.NDArray[np.bool_]) -> int:
    """How many of the ``wanted`` rows are about what another one is."""
    with pq.ParquetFile(run.rows) as file:
        found = [hashes(batch.column(0)) for batch in file.iter_batches(columns=["path"])]
    names = np.concatenate(found)[wanted]
    return len(names) - len(np.unique(names))


def _uncut(run: RunDir, wanted: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """The paths of the ``wanted`` rows that are whole videos."""
    with pq.ParquetFile(run.rows) as file:
        paths = file.read(["path"])["path"].filter(pa.array(wanted))
    return tuple(paths.filter(pc.invert(pc.match_substring(paths, "#t="))).to_pylist())


def report(
    planned: Planned,
    config: CaptionConfig,
    cluster: Cluster,
    *,
    title: str,
    places: dict[str, str],
    measured: Measured | None = None,
    on_cpu: bool,
    weights: bool = True,
) -> Report:
    """What would be done. ``places`` say where output goes; ``weights``: whether they are there."""
    rows, in_all, guess = planned.rows, planned.plan.rows, planned.estimate
    of_all = f" of {in_all:,}" if rows < in_all else ""
    failed = f", without {planned.left_alone:,} that failed before (--restart-failed none)"
    failed = failed if planned.left_alone else ""
    model = model_name(config.model, config.family)
    ranks = f"{cluster.worker_num}, {count(config.slots, 'video')} at a time each"
    what = (
        Fact("rows", f"{rows:,}{of_all}", rows),
        Fact("to caption", f"{planned.left:,}{failed}", planned.left),
        Fact("model", f"{printable(model)} ({config.family}, engine {config.engine})"),
        *(
            Fact(f"question {name}".strip(), one_line(text))
            for name, text in config.questions.items()
        ),
        Fact("ranks", ranks, cluster.worker_num),
        *(Fact(name, place) for name, place in places.items()),
    )
    sections = [Section("run", what)]
    sample = _sample_fact(planned)
    problems = _problems(planned)
    if len(guess.frames):
        held = rank_memory(int(guess.tokens.max()) + guess.words, config, on_cpu=on_cpu)
        sections += [
            Section("videos", (sample, *_video_facts(guess))),
            Section("memory of a rank", memory_facts(held, on_cpu=on_cpu)),
        ]
        if short := short_of_memory(held, config.memory_limit, cluster, on_cpu=on_cpu):
            problems.append(Problem(short, serious=False))
    else:
        sections.append(Section("videos", (sample,)))
    wanted = enough(config, cluster)
    time = _time_facts(measured, planned.left, wanted)
    sections.append(Section("time", time, only_shown=measured is None))
    if not weights:
        problems.append(Problem("the weights of the model are not here yet", serious=False))
    if measured and measured.rows < min(wanted, planned.left):
        text = f"{count(measured.rows, 'video')} say little of the pace"
        text += f": --calibrate {wanted}" if wanted < planned.left else ", and all are too few"
        problems.append(Problem(text, serious=False))
    verdict = "nothing was captioned" if measured is None else "nothing was kept"
    doubtful = bool(guess.bad)
    return Report("plan", title, verdict, tuple(sections), tuple(problems), doubtful=doubtful)


def _sample_fact(planned: Planned) -> Fact:
    """Which videos were looked into."""
    guess = planned.estimate
    sampled = "all " if guess.whole and guess.sampled != 1 else ""
    sampled += count(guess.sampled, "video")
    if guess.unreadable:
        which = f"{guess.unreadable:,} of them" if guess.sampled > 1 else "which"
        sampled += f", {which} cannot be read"
    sampled = sampled if planned.left else "none: no row is left to caption"
    value = {"videos": guess.sampled, "unreadable": guess.unreadable, "all": guess.whole}
    return Fact("sample", sampled, value)


def _problems(planned: Planned) -> list[Problem]:
    """Why videos cannot be read; that none can is serious where no row has a caption."""
    guess = planned.estimate
    why = causes_of(guess.bad)
    problems = [Problem(cause_words(one), serious=False) for one in why[:_CAUSES]]
    if any(one["status"] == Status.MISSING_FILE for one in why) and planned.plan.kind == TABLE:
        places = " or ".join(dict.fromkeys(planned.plan.bases))
        problems.append(Problem(f"relative paths start from {places}", serious=False))
    if planned.captions_lost:
        problems.append(Problem(lost_words(planned.captions_lost), serious=False))
    if planned.twice:
        one = planned.twice == 1
        text = f"{count(planned.twice, 'row')} {'repeats' if one else 'repeat'} the path of another"
        problems.append(Problem(f"{text}; each is captioned", serious=False))
    if planned.uncut and not guess.whole:  # else each has been told
        which = f"{count(len(planned.uncut), 'video')} cannot be cut into clips"
        such = f"such as {one_line(planned.uncut[0])}"
        problems.append(Problem(f"{which}, {such}: no length can be told", serious=False))
    if guess.bad and not len(guess.frames):
        what = "none of the videos" if guess.whole else f"none of {guess.sampled:,} videos"
        problems.append(Problem(f"{what} can be read", serious=planned.left == planned.rows))
    return problems


def _video_facts(guess: Estimate) -> tuple[Fact, ...]:
    frames, tokens = float(guess.frames.mean()), float(guess.tokens.mean())
    few = not guess.whole and len(guess.frames) < _FEW
    totals = {"frames": guess.total(guess.frames), "visual_tokens": guess.total(guess.tokens)}
    words = [
        f"{'' if guess.whole else 'about '}{total:,.0f} {name.replace('_', ' ')}"
        + ("" if guess.whole or few else f" (± {error / total:.0%})")
        for name, (total, error) in totals.items()
    ]
    if few:
        words[-1] += f", going by {count(len(guess.frames), 'video')} alone"
    value: dict[str, int | None] = {name: round(total) for name, (total, _) in totals.items()}
    errors = {name: None if few else round(error) for name, (_, error) in totals.items()}
    value |= {f"{name}_error": error for name, error in errors.items()}
    most = int(guess.tokens.max())
    return (
        Fact(
            "a video has",
            f"{guess.seconds.mean():.1f} s, {count(round(frames), 'frame')} sampled",
            {"seconds": float(guess.seconds.mean()), "frames": frames},
        ),
        Fact(
            "visual tokens",
            f"{tokens:,.0f} a video, {most:,} at most, with this model and options"
            if guess.sampled > 1
            else f"{most:,}, with this model and options",
            {"mean": tokens, "most": most},
        ),
        Fact("other tokens", f"{guess.words} of the prompt", guess.words),
        Fact("in all", ", ".join(words), value),
    )


def _time_facts(measured: Measured | None, left: int, wanted: int) -> tuple[Fact, ...]:
    if not left:
        return (Fact("to caption them", "nothing is left to caption", 0),)
    if measured is None:
        words = f"not measured: --calibrate {wanted} captions {wanted} of the videos to tell"
        if wanted >= left:
            few = f"{count(left, 'video')} {'is' if left == 1 else 'are'} too few to tell a pace"
            words = f"not measured: {few}"
        return (Fact("to caption them", words, None),)
    seconds = measured.seconds(left)
    if measured.per_second is None or seconds is None:
        words = f"unknown: none of {count(measured.rows, 'video')} got a caption"
        return (Fact("to caption them", words, None),)
    pace = measured.per_second * 3600
    shrunk = f", {measured.shrunk} of them shown smaller" if measured.shrunk else ""
    return (
        Fact("to caption them", f"about {duration(seconds)}", round(seconds, 1)),
        Fact("pace", f"{figure(pace)} videos/h with these ranks", round(pace, 1)),
        Fact("start", f"{duration(measured.start)} in which nothing is captioned", measured.start),
        Fact("memory of a rank", f"{size(measured.memory)} at most", measured.memory),
        Fact(
            "measured with",
            f"{count(measured.rows, 'video')}, {measured.ok} captioned{shrunk}",
            {"videos": measured.rows, "captioned": measured.ok, "shrunk": measured.shrunk},
        ),
    )
