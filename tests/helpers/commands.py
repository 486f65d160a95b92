"""Running the real command in tests, and looking at what it leaves behind."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import psutil
from numpy.random import default_rng

from tests.nano import world
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import part_files

MARK = "VIDCAP_TEST_MARK"


class Command:
    """A started ``vidcap``; every process that descends from it carries the same mark."""

    def __init__(
        self,
        arguments: list[str],
        cwd: Path,
        environment: dict[str, str] | None = None,
        *,
        before: Sequence[str] = (),
    ) -> None:
        self.mark = uuid4().hex
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "vidcap_cli", *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {}), MARK: self.mark},
        )

    def finish(self, timeout: float = 300) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def processes(self) -> list[psutil.Process]:
        """Live processes of this command, the command itself among them."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def wait_until(self, condition: Callable[[], object], timeout: float = 120) -> object:
        """Poll until ``condition()`` is true; fails when the command ends before."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)
        return value

    def assert_gone(self, within: float = 10) -> None:
        """No process of this command is left after ``within`` seconds."""
        deadline = time.monotonic() + within
        while left := self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.1)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE
            return not zombie and process.environ().get(MARK) == self.mark
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def vidcap(*arguments: object, cwd: Path, timeout: float = 300) -> tuple[int, str, str]:
    """Run ``vidcap`` to its end: exit code, stdout, stderr."""
    return Command(list(map(str, arguments)), cwd).finish(timeout)


def write_nano_table(folder: Path, count: int, seed: int, clips: int | None = None) -> Path:
    """A table of ``count`` rows with awkward extra columns and fresh nano clips, one a row or
    ``clips`` in turn.
    """
    clips = count if clips is None else clips
    folder.mkdir(parents=True, exist_ok=True)
    rng = default_rng(seed)
    for clip in range(clips):
        world.write(world.sample(rng), folder / f"{clip:03d}.mp4")
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "path", "note"])
        for index in range(count):
            path = f"{index % clips:03d}.mp4"
            table.writerow([f"{index:04d}", path, f'ünï "q", {index}\nline'])
    return folder / "meta.csv"


def rows_of(table: Path) -> list[dict[str, str]]:
    """A CSV file as dictionaries."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def committed(run: Path) -> list[tuple[int, str]]:
    """(row id, status) of every committed result."""
    tables = [read_part(part, ["row_id", "status"]) for part in part_files(run / "parts")]
    return [(row["row_id"], row["status"]) for table in tables for row in table.to_pylist()]


def events(run: Path) -> list[dict[str, object]]:
    """All whole event lines of all attempts, each with its rank and attempt."""
    found = []
    for file in sorted(run.glob("attempts/*/events-*.jsonl")):
        rank, attempt = int(file.stem.split("-")[1]), int(file.parent.name)
        for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
            found.append({**json.loads(line), "rank": rank, "attempt": attempt})
    return found
