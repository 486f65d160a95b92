"""A scene: a table of small videos, how it is captioned, and the result when nothing disturbs.

With the fake model the captions are a function of row and pixels (``inject/fake.py``). A file that
is missing, one that is no video and rows at which the model fails are among the rows, so failures
must come out the same, too.
"""

import csv
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import av
import numpy as np

from tests.helpers.commands import Command, write_nano_table

INJECT = Path(__file__).parent / "inject"
FAKE, NANO = "fake", "nano"
OUTPUT = "meta_caption_qwen2vl.csv"
RUN = "meta_caption_qwen2vl.vidcap"
FINISHED = (0, 3)
PATIENCE = 900.0  # seconds; many launches on a busy machine


@dataclass(frozen=True, slots=True)
class Death:
    """A process in ``role`` sends itself ``signal`` before its ``count``-th file operation."""

    id: int
    role: str
    count: int
    signal: int
    node: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """The table and videos in ``folder``, not to be written into; ``seed`` made them.

    ``slowness`` is the mean of the seconds that the fake model takes for a row, ``real_msrun`` the
    share of its runs that msrun launches; with nano it launches all. The fake model runs out of
    memory for good with a row in ``short``, so many times. ``lockless``: the file system has no
    locks.
    """

    folder: Path
    seed: int
    rows: int
    model: str = FAKE
    slowness: float = 0.08
    real_msrun: float = 0.25
    expected: bytes = b""
    operations: dict[str, int] = field(default_factory=dict)
    short: dict[int, int] = field(default_factory=dict)
    lockless: bool = False

    def copy(self, place: Path) -> Path:
        """A folder of its own for one run: the table, and links to the videos."""
        place.mkdir(parents=True)
        (place / "temporary").mkdir()
        (place / "records").mkdir()
        work = place / "work"
        work.mkdir()
        for source in self.folder.iterdir():
            if source.name == "meta.csv":
                shutil.copy(source, work)
            else:
                (work / source.name).symlink_to(source.absolute())
        return work

    def environment(
        self, work: Path, *, standin: bool = True, deaths: Sequence[Death] = (), node: int = 0
    ) -> dict[str, str]:
        """What ``inject/`` is to do in the processes of a command in ``work``."""
        wanted = {
            "root": str(work),
            "records": str(work.parent / "records"),
            "fake": self.model == FAKE,
            "standin": standin and self.model == FAKE,
            "seed": self.seed,
            "slowness": self.slowness,
            "short": self.short,
            "lockless": self.lockless,
            "at": [asdict(death) for death in deaths if death.node == node],
        }
        return {
            **os.environ,
            "VIDCAP_FAULTS": json.dumps(wanted),
            "PYTHONPATH": os.pathsep.join([str(INJECT), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(work.parent / "temporary"),
        }

    def words(self, *more: str, workers: int = 1) -> list[str]:
        """The options of the command, ``more`` among them."""
        options = ["qwen2vl", "meta.csv", "--model", "nano", "--bs", "2", "--flush-seconds", "0.1"]
        return [*options, "--worker-num", str(workers), *more]

    def command(
        self,
        work: Path,
        *more: str,
        workers: int = 1,
        standin: bool = True,
        deaths: Sequence[Death] = (),
        node: int = 0,
        before: Sequence[str] = (),
    ) -> Command:
        """Start captioning in ``work``, a copy of this scene; ``before``: by way of these words."""
        environment = self.environment(work, standin=standin, deaths=deaths, node=node)
        return Command(self.words(*more, workers=workers), work, environment, before=before)


def make_scene(place: Path, seed: int, rows: int, model: str = FAKE) -> Scene:
    """Draw the videos and their table, and caption them undisturbed."""
    folder = place / "scene"
    if model == NANO:
        write_nano_table(folder, rows, seed)
    else:
        _draw_table(folder, rows, seed)
    scene = Scene(folder, seed, rows, model)
    work = scene.copy(place / "undisturbed")
    command = scene.command(work, workers=2)
    code, _, err = command.finish(PATIENCE)
    if code not in FINISHED:
        raise AssertionError(f"the undisturbed run failed ({code}): {err}")
    counts: dict[str, int] = {}
    for file in (work.parent / "records").glob("count-*"):
        name = file.name.split("-")[1]
        counts[name] = max(counts.get(name, 0), int(file.read_text(encoding="ascii")))
    return Scene(
        folder, seed, rows, model, expected=(work / OUTPUT).read_bytes(), operations=counts
    )


def _draw_table(folder: Path, rows: int, seed: int) -> None:
    videos = folder / "videos"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    chance = random.Random(seed)
    bad = set(chance.sample(range(rows), 2))
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "path", "note"])
        for row in range(rows):
            table.writerow([f"{row:04d}", f"videos/{row:04d}.mp4", f'ünï "q", {row}\nline'])
            if row in bad:
                if row == min(bad):
                    (videos / f"{row:04d}.mp4").write_bytes(b"no video")
                continue
            write_noise(videos / f"{row:04d}.mp4", rng)


def write_noise(path: Path, rng: np.random.Generator, frames: int = 6) -> None:
    """A small H.264 file of random blocks, no two alike."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "threads": "1"}
        for _ in range(frames):
            blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks, format="rgb24")))
        container.mux(stream.encode(None))
