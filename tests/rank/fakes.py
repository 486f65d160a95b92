"""What surrounds the rank's loop, so that its decisions show: no process, no model, no clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Answer, Feed, Generated, Request, SpentError
from vidcap_cli.errors import OutOfMemoryError
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.rank.intake import Intake
from vidcap_cli.rank.recorder import Recorder
from vidcap_cli.rank.row import Row
from vidcap_cli.rank.worker import Rank, Stop
from vidcap_cli.rundir.events import Event, EventReader, EventWriter
from vidcap_cli.rundir.leases import grant
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video import Clip, VideoError
from vidcap_cli.video.pool import Decoded


def clip(frames: int = 4, side: int = 8, flags: tuple[Flag, ...] = ()) -> Clip:
    """Frames of ``side`` x ``side`` pixels."""
    pixels = np.zeros((frames, side, side, 3), np.uint8)
    return Clip(pixels, np.arange(frames), "fake", frames, 4.0, side, side, flags)


class FakeDecoders:
    """Read what the test gives for a row: a clip, or an error. ``late`` rows come out last."""

    working = False

    def __init__(self, videos: dict[int, Clip | VideoError], late: tuple[int, ...] = ()) -> None:
        self._videos = videos
        self._late = late
        self._queue: list[tuple[int, str]] = []
        self.submitted: list[tuple[int, str]] = []
        self.ready = True

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, row_id: int, path: str, span=None) -> None:
        self._queue.append((row_id, path))
        self.submitted.append((row_id, path))

    def next(self, timeout: float | None = None) -> Decoded | None:
        if not self._queue or not self.ready:
            return None
        first = min(self._queue, key=lambda row: row[0] in self._late)
        self._queue.remove(first)
        found = self._videos.get(first[0], clip())
        if isinstance(found, VideoError):
            return Decoded(*first, None, found.status, found.message, 0.5)
        return Decoded(*first, found, Status.OK, None, 0.5)


class FakeCaptioner:
    """A prompt has a token for each frame; clips are halved in size, down to one pixel."""

    rule = None

    def prompt(self, frames: np.ndarray, seconds: float | None = None) -> Prompt:
        if frames.shape[1] == 3:
            raise ValueError("three pixels are no picture")
        return Prompt(np.arange(len(frames)), {})

    def asked(self, prompt: Prompt, question: str) -> Prompt:
        return Prompt(np.append(prompt.ids, len(question)), prompt.vision)

    def size(self, frames: np.ndarray) -> Size:
        return Size(len(frames), frames.shape[1], 1)

    def smaller(self, frames: np.ndarray) -> np.ndarray | None:
        return frames[:, ::2, ::2] if frames.shape[1] > 1 else None

    def text(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class FakeEngine:
    """Slots that are refilled, as the compiled engine's. Rows end in the order they came.

    ``room`` is the side of the largest picture that fits. A row in ``faults`` meets its errors one
    after the other before it has a caption; one in ``silent`` ends before the first word, one in
    ``long`` at the longest length; one in ``loops`` repeats itself so many times it is tried.
    Memory runs out, once and for all, with those of the rows in it that ``short`` returns.
    """

    def __init__(
        self,
        slots: int = 2,
        room: int = 100,
        faults: dict[int, list[Exception]] | None = None,
        silent: tuple[int, ...] = (),
        long: tuple[int, ...] = (),
        loops: dict[int, int] | None = None,
        after: Callable[[int], None] = lambda _: None,
        short: Callable[[list[int]], list[int]] = lambda _: [],
    ) -> None:
        self.slots = slots
        self._short = short
        self._room = room
        self._faults = faults or {}
        self._silent, self._long, self._loops = silent, long, loops or {}
        self._after = after
        self.together: list[set[int]] = []
        self.again: list[int] = []
        self.asked: list[Request] = []

    def fits(self, size: Size) -> bool:
        return size.patches <= self._room

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        running: list[Request] = []
        while not stop():
            while len(running) < self.slots and (request := feed(wait=not running)):
                running.append(request)
                self.together.append({each.row_id for each in running})
            if not running:
                return
            if short := self._short([each.row_id for each in running]):
                raise SpentError(OutOfMemoryError("no room"), short)
            request = running.pop(0)
            row = request.row_id
            self.asked.append(request)
            if request.again:
                self.again.append(row)
            yield replace(self._answer(row), question=request.question)
            self._after(row)

    def _answer(self, row: int) -> Answer:
        if self._faults.get(row):
            return Answer(row, None, self._faults[row].pop(0), 1.0)
        reason = "length" if row in self._long else "stop"
        if self._loops.get(row):
            self._loops[row] -= 1
            return Answer(row, Generated([row] * 9, reason, -0.1), None, 1.0)
        return Answer(row, Generated([] if row in self._silent else [row, 7], reason), None, 1.0)


class Scene:
    """A rank over rows that are claimed already; ``run()`` lets it work to its end."""

    def __init__(
        self,
        place: Path,
        engine: FakeEngine,
        decoders: FakeDecoders,
        rows: list[Row],
        *,
        on_oom: str = "shrink",
        ahead: int = 4,
        retry: bool = False,
        question: str | dict[str, str] = "Who?",
    ) -> None:
        self.run_dir = RunDir(place)
        self.folder = self.run_dir.attempt(1)
        self.folder.path.mkdir(parents=True)
        self.run_dir.parts.mkdir()
        self.lease = self.folder.lease(0, grant(self.folder, [0]) or "")
        self.config = CaptionConfig(
            "qwen2vl", "/models/some", on_oom=on_oom, flush_seconds=1000, question=question
        )
        self.engine, self.decoders, self.rows, self.ahead = engine, decoders, rows, ahead
        self.stop, self.retry = Stop(), retry

    def run(self) -> None:
        with self.recorder() as recorder:
            shrink = self.config.on_oom == "shrink"
            intake = self.intake(recorder)
            captioner = FakeCaptioner()
            Rank(
                captioner, self.engine, intake, recorder,
                shrink=shrink, stop=self.stop, retry=self.retry,
                questions=[*self.config.questions.values()],
            ).work()  # fmt: skip

    @contextmanager
    def recorder(self) -> Iterator[Recorder]:
        with (
            EventWriter(self.folder.events(0)) as events,
            Recorder(
                self.run_dir, self.folder, 0, lease=self.lease, config=self.config, events=events
            ) as recorder,
        ):
            yield recorder

    def intake(self, recorder: Recorder) -> Intake:
        return Intake(
            iter(self.rows),
            self.decoders,
            ahead=self.ahead,
            bases=("/videos",),
            recorder=recorder,
            stop=self.stop,
        )

    @property
    def events(self) -> list[Event]:
        return list(EventReader(self.folder.events(0)).read())

    @property
    def results(self) -> dict[int, dict]:
        found = [row for part in self.run_dir.part_files() for row in read_part(part).to_pylist()]
        assert len(found) == len({row["row_id"] for row in found})
        return {row["row_id"]: row for row in found}


def rows(count: int, alone: tuple[int, ...] = ()) -> list[Row]:
    """Rows as they are claimed."""
    return [Row(number, f"{number}.mp4", 1, alone=number in alone) for number in range(count)]
