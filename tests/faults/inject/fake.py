"""A model that says which row it was given and which pixels: in the real loop, without MindSpore.

The caption is a function of the row and of every pixel of its frames, so a row or frame that was
swapped shows in the text. Each row takes its own seeded time, so captions end out of order. Every
call of the engine is noted in ``calls-PID`` among the records, apart from what the rank reports.
"""

import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from vidcap_cli import engine, processors
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Answer, Feed, Generated, Request, SpentError
from vidcap_cli.errors import OutOfMemoryError
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.statuses import Doing


class FirstMiddleLast:
    """Three frames at their own size."""

    def indices(self, total: int, fps: float) -> np.ndarray:
        return np.array([0, total // 2, total - 1])

    def prepare(self, frames: np.ndarray, clip_frames: int) -> np.ndarray:
        return frames

    def tokens(self, frames: int, height: int, width: int) -> int:
        return frames


class FakeCaptioner:
    """Prompts that hold checksums of the frames."""

    rule = FirstMiddleLast()

    def prompt(self, frames: np.ndarray, seconds: float | None = None) -> Prompt:
        return Prompt(np.array([zlib.crc32(frame.tobytes()) for frame in frames]), {})

    def size(self, frames: np.ndarray) -> Size:
        return Size(len(frames), len(frames), len(frames))

    def smaller(self, frames: np.ndarray) -> None:
        return None

    def text(self, ids: list[int]) -> str:
        return f"row {ids[0]} shows " + " ".join(f"{number:08x}" for number in ids[1:])


class FakeEngine:
    """Answers in an order and after times that only seed and row decide."""

    def __init__(self, config: CaptionConfig, wanted: dict) -> None:
        self.slots = config.slots
        self._seed = wanted["seed"]
        self._slowness = wanted["slowness"]
        self._short = {int(row): times for row, times in wanted["short"].items()}
        path = os.path.join(wanted["records"], f"calls-{os.getpid()}")
        self._path = path
        self._calls = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def fits(self, size: Size) -> bool:
        return True

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        running: list[Request] = []
        while not stop():
            while len(running) < self.slots and (request := feed(wait=self._waits(running))):
                self._note(request.row_id)
                running.append(request)
            if not running:
                break
            if self._is_short(running):
                rows = [request.row_id for request in running]
                raise SpentError(OutOfMemoryError("no memory is left"), rows)
            row = min(request.row_id for request in running)
            chance = random.Random(f"{self._seed} {row}")
            seconds = self._slowness * chance.expovariate(1)
            time.sleep(seconds)
            request = running.pop(chance.randrange(len(running)))
            yield self._answer(request, seconds)

    def _answer(self, request: Request, seconds: float) -> Answer:
        if request.row_id % 17 == 16:
            return Answer(request.row_id, None, ValueError("this row always fails"), seconds)
        ids = [request.row_id, *request.prompt.ids.tolist()]
        return Answer(request.row_id, Generated(ids, "stop"), None, seconds)

    def _waits(self, running: list[Request]) -> bool:
        """A row that memory runs out with does so with another, where one may be beside it."""
        return not running or self._is_short(running)

    def _is_short(self, running: list[Request]) -> bool:
        rows = [request.row_id for request in running if request.row_id in self._short]
        return any(self._tries(row) <= self._short[row] for row in rows)

    def _tries(self, row: int) -> int:
        """How often a row was given to the model of this rank, its earlier processes counted in."""
        with open(self._path, encoding="ascii") as calls:
            return sum(json.loads(line)["row"] == row for line in calls)

    def _note(self, row: int) -> None:
        line = json.dumps({"row": row, "time": time.time(), "attempt": int(sys.argv[2])}) + "\n"
        os.write(self._calls, line.encode())


def install(wanted: dict) -> None:
    """Put the fake model where the rank looks for one."""

    def load_engine(
        config: CaptionConfig, say: Callable[[Doing], None] = print, group: None = None
    ) -> FakeEngine:
        assert group is None
        time.sleep(10 * wanted["slowness"] * random.Random(wanted["seed"]).random())
        say(Doing.CAPTIONING)
        return FakeEngine(config, wanted)

    def load_captioner(config: CaptionConfig) -> FakeCaptioner:
        return FakeCaptioner()

    engine.load_engine = load_engine
    processors.load_captioner = load_captioner
