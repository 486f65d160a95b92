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
from vidcap_cli.engine import Answer, Feed, Generated, Request
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

    def prompt(self, frames: np.ndarray) -> Prompt:
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
        path = os.path.join(wanted["records"], f"calls-{os.getpid()}")
        self._calls = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def fits(self, size: Size) -> bool:
        return True

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        running: list[Request] = []
        while not stop():
            while len(running) < self.slots and (request := feed(wait=not running)):
                self._note(request.row_id)
                running.append(request)
            if not running:
                break
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

    def _note(self, row: int) -> None:
        line = json.dumps({"row": row, "time": time.time(), "attempt": int(sys.argv[2])}) + "\n"
        os.write(self._calls, line.encode())


def install(wanted: dict) -> None:
    """Put the fake model where the rank looks for one."""

    def load_engine(config: CaptionConfig, say: Callable[[Doing], None] = print) -> FakeEngine:
        time.sleep(10 * wanted["slowness"] * random.Random(wanted["seed"]).random())
        say(Doing.CAPTIONING)
        return FakeEngine(config, wanted)

    def load_captioner(config: CaptionConfig) -> FakeCaptioner:
        return FakeCaptioner()

    engine.load_engine = load_engine
    processors.load_captioner = load_captioner
