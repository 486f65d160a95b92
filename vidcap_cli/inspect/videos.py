"""Many videos looked into at once: what they hold, which of them cannot be read and why."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from vidcap_cli.inspect.histogram import bar, histogram
from vidcap_cli.inspect.report import Fact, Section
from vidcap_cli.inspect.video import RULE, RULES, Probed, probe_while_time
from vidcap_cli.remote.cache import Anywhere, caching
from vidcap_cli.rundir.standing import cause
from vidcap_cli.spans import Span
from vidcap_cli.statuses import Flag
from vidcap_cli.video import Rule
from vidcap_cli.video.decoder import Read
from vidcap_cli.video.pool import Decoded, DecodePool
from vidcap_cli.view.progress import Progress
from vidcap_cli.view.words import count, duration, one_line

_PROBE_SECONDS = 60.0  # as --decode-timeout is of a run
_WHOLE_SECONDS = 10.0
_MOST_WORKERS = 16
_LISTED = 6
_DRAWN = 10  # videos, of which a picture says more than their range


@dataclass(frozen=True, slots=True)
class Bad:
    """A video that could not be looked into: status as in part files and a sentence."""

    path: str
    status: str
    error: str


@dataclass(slots=True)
class Survey:
    """What ``videos`` hold: arrays by place among them; those that are not ``readable`` have 0.

    ``bad`` says why, by place. Of those ``glanced`` at one frame was decoded, of the others all
    that a run would read.
    """

    videos: int
    bad: dict[int, Bad] = field(default_factory=dict)
    codecs: Counter[str] = field(default_factory=Counter)
    containers: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    rotated: int = 0
    glanced: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    frames: npt.NDArray[np.int64] = field(init=False)
    height: npt.NDArray[np.int64] = field(init=False)
    width: npt.NDArray[np.int64] = field(init=False)
    fps: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.frames, self.height, self.width = np.zeros((3, self.videos), np.int64)
        self.fps = np.zeros(self.videos, np.float64)

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which of them could be read."""
        return self.frames > 0

    def add(self, place: int, probed: Probed) -> None:
        """A video could be read."""
        info = probed.info
        self.glanced += not probed.whole
        self.frames[place], self.fps[place] = info.frames, info.fps
        self.height[place], self.width[place] = info.height, info.width
        self.codecs[info.codec] += 1
        self.containers[info.container] += 1
        self.sizes[info.width, info.height] += 1
        self.rotated += bool(info.rotation)
        self.flags.update(info.flags)


Video = tuple[str, Span | None]  # a file, and the range that is meant of it


def survey(videos: Sequence[Video]) -> Survey:
    """Probe ``videos`` in parallel, with a bar on a terminal.

    Whether a run gets their frames is judged as it would, by reading them, while that takes
    ``_WHOLE_SECONDS``; of more videos by one frame.
    """
    found = Survey(len(videos))
    read = partial(probe_while_time, until=time.monotonic() + _WHOLE_SECONDS)
    for decoded in opened(videos, RULE, read, "videos"):
        if isinstance(decoded.clip, Probed):
            found.add(decoded.row_id, decoded.clip)
        else:
            error = decoded.error or ""
            found.bad[decoded.row_id] = Bad(decoded.path, decoded.status, error)
    return found


def opened(
    videos: Sequence[Video], rule: Rule, read: Read, things: str, cache_size: int | None = None
) -> Iterator[Decoded]:
    """``read`` on each of ``videos`` in parallel, in any order; ``row_id`` is its place.

    On a terminal a bar counts the ``things``. Files elsewhere take ``cache_size`` bytes at most.
    """
    if not videos:
        return
    workers = min(os.cpu_count() or 1, _MOST_WORKERS, len(videos))
    with (
        Progress(things, len(videos)) as progress,
        TemporaryDirectory() as run,
        caching(Path(run), cache_size) as cache,
        DecodePool(
            rule, workers=workers, timeout=_PROBE_SECONDS, read=Anywhere(read, cache)
        ) as pool,
    ):
        waiting = iter(enumerate(videos))
        while True:
            while pool.pending < 4 * workers and (one := next(waiting, None)):
                place, (file, span) = one
                pool.submit(place, file, span)
            decoded = pool.next()
            if decoded is None:
                return
            yield decoded
            progress.advance()


def survey_sections(found: Survey, rows: int) -> list[Section]:
    """The videos that were opened, of so many ``rows`` whose files are there."""
    good = found.readable
    readable = int(good.sum())
    facts = [
        Fact("opened", count(found.videos, "video"), found.videos),
        Fact("readable", f"{readable:,}", readable),
    ]
    if found.glanced:
        words = f"{found.glanced:,} of them: others may be damaged. inspect VIDEO reads all of one"
        facts.append(Fact("by one frame", words, found.glanced))
    pictures = []
    if readable:
        frames, fps = found.frames[good], found.fps[good]
        seconds = frames / fps
        together = float(seconds.mean()) * rows * readable / found.videos
        about = "" if rows == found.videos else "about "
        for label, values, unit in (
            ("duration", seconds, "s"), ("frames", frames, ""), ("frame rate", fps, "a second"),
        ):  # fmt: skip
            fact, picture = histogram(label, values, unit)
            facts.append(fact)
            pictures.append(picture)
        facts += [
            Fact("duration of all", f"{about}{duration(together)}", round(together)),
            _frame_sizes(found.sizes),
            _common("codec", found.codecs),
            _common("container", found.containers),
            Fact("rotated", f"{found.rotated:,}", found.rotated),
            Fact("hdr", f"{found.flags[Flag.HDR]:,}", found.flags[Flag.HDR]),
        ]
        if found.flags:
            facts.append(_common("flags", found.flags))
        facts += _model_facts(found, good)
        pictures.append(_bars("frame size", {f"{w} x {h}": n for (w, h), n in found.sizes.items()}))
        pictures.append(_bars("codec", found.codecs))
    drawn = pictures if readable >= _DRAWN else []
    return [Section("videos opened", tuple(facts)), *(one for one in drawn if len(one.facts) > 1)]


_SETTINGS = "as the published checkpoints do, by default options; --dry-run tells it of others"


def _model_facts(found: Survey, good: npt.NDArray[np.bool_]) -> list[Fact]:
    """What the models would get of them."""
    facts = [Fact("a model sees", _SETTINGS)]
    columns = (found.frames, found.fps, found.height, found.width)
    videos = list(zip(*(values[good].tolist() for values in columns), strict=True))
    for family, rule in RULES.items():
        sampled = [len(rule.indices(frames, fps)) for frames, fps, _, _ in videos]
        tokens = [
            rule.tokens(number, height, width)
            for number, (_, _, height, width) in zip(sampled, videos, strict=True)
        ]
        facts.append(histogram(f"{family} frames", sampled)[0])
        facts.append(histogram(f"{family} visual tokens", tokens)[0])
    return facts


def causes(found: Survey) -> list[dict[str, Any]]:
    """Why videos cannot be read, the most frequent cause first, with an example."""
    return causes_of(found.bad.values())


def causes_of(videos: Iterable[Bad]) -> list[dict[str, Any]]:
    """The same of ``videos`` that cannot be read."""
    grouped: dict[tuple[str, str], dict[str, Any]] = {}
    for bad in videos:
        key = bad.status, cause(bad.error, bad.path)
        one = grouped.setdefault(
            key, {"status": bad.status, "videos": 0, "path": bad.path, "error": bad.error}
        )
        one["videos"] += 1
    return sorted(grouped.values(), key=lambda one: (-one["videos"], one["path"]))


def cause_words(one: dict[str, Any]) -> str:
    """Such a cause in a line."""
    words = f"{one_line(one['path'])} · {one['status']}: {one_line(one['error'])}"
    more = one["videos"] - 1
    return f"{words} (and {more:,} more)" if more else words


def _frame_sizes(sizes: Counter[tuple[int, int]]) -> Fact:
    """The most common sizes, and all of them by area."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    words = _common("", Counter({f"{wide} x {tall}": n for (wide, tall), n in sizes.items()})).words
    return Fact("frame size", words, [list(size) for size in ordered])


def _common(label: str, counts: Counter[str]) -> Fact:
    ordered = dict(counts.most_common())
    words = [f"{value} ({number:,})" for value, number in ordered.items()]
    more = " …" if len(words) > _LISTED else ""
    return Fact(label, ", ".join(words[:_LISTED]) + more, ordered)


def _bars(label: str, counts: dict[str, int]) -> Section:
    """A line for each of the most common."""
    ordered = Counter(counts).most_common(_LISTED)
    most = max((number for _, number in ordered), default=0)
    lines = tuple(Fact(name, f"{bar(number, most)} {number:,}") for name, number in ordered)
    return Section(label, lines, only_shown=True)
