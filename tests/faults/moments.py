"""How far a run is, who takes part in it and what it has done, by its files and processes alone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.commands import Command
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import part_files

from .scene import OUTPUT, RUN

MOMENTS = ("planning", "starting", "loading", "captioning", "merging", "settling")


@dataclass(frozen=True, slots=True)
class Committed:
    """A result on the disk: ``time`` is when its part file got its name."""

    row: int
    status: str
    text: str | None
    time: float


@dataclass(frozen=True, slots=True)
class Begun:
    """A row that a model was given at ``time``, in a launch that was planned at ``planned``."""

    row: int
    time: float
    planned: float


def run_folder(work: Path) -> Path:
    """The run directory that is being worked in."""
    coming = work / f"{RUN}.next"
    return coming if coming.exists() else work / RUN


def moment(work: Path, since: float) -> str:
    """What the command that began at ``since`` (seconds since the epoch) is doing now."""
    run = run_folder(work)
    try:
        attempts = sorted((run / "attempts").iterdir(), key=lambda path: int(path.name))
    except (FileNotFoundError, ValueError):
        attempts = []
    attempts = [path for path in attempts if _younger(path / "attempt.json", since)]
    if not attempts:
        return "planning"
    kinds = [event["kind"] for event in events_of(attempts[-1])]
    if "started" not in kinds:
        return "starting"
    if "began" not in kinds:
        return "loading"
    if (run / "finished.json").exists():
        return "settling"
    if _younger(work / OUTPUT, since) or list(work.glob(f".{OUTPUT}*")):
        return "merging"
    return "captioning"


def _younger(path: Path, since: float) -> bool:
    try:
        return path.stat().st_ctime >= since
    except OSError:
        return False


def events_of(attempt: Path) -> Iterator[dict]:
    """The whole event lines of one launch, rank by rank."""
    for file in sorted(attempt.glob("events-*.jsonl")):
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            yield json.loads(line)


def committed(run: Path) -> list[Committed]:
    """Every committed result."""
    found = []
    for part in part_files(run / "parts"):
        when = part.stat().st_ctime
        for row in read_part(part, ["row_id", "status", "text"]).to_pylist():
            found.append(Committed(row["row_id"], row["status"], row["text"], when))
    return found


def begun(work: Path) -> list[Begun]:
    """Every row that was given to a model: as ranks report it, and as the fake itself noted."""
    found = []
    planned = {}
    for attempt in sorted((run_folder(work) / "attempts").glob("[0-9]*")):
        if not (attempt / "attempt.json").exists():
            continue
        planned[int(attempt.name)] = when = (attempt / "attempt.json").stat().st_ctime
        for event in events_of(attempt):
            if event["kind"] == "began":
                found += [Begun(row, event["time"], when) for row in event["rows"]]
    for file in (work.parent / "records").glob("calls-*"):
        for line in file.read_text(encoding="ascii").splitlines():
            note = json.loads(line)
            found.append(Begun(note["row"], note["time"], planned[note["attempt"]]))
    return found


def role_of(process: psutil.Process) -> str | None:
    """The part that a process plays in a run."""
    try:
        words = process.cmdline()
        if "mindspore.parallel.cluster.run" in words:
            return "msrun"
        if "vidcap_cli.rank.worker" in words:
            scheduler = process.environ().get("MS_ROLE") == "MS_SCHED"
            return "scheduler" if scheduler else "rank"
    except psutil.Error:
        return None
    if any("video.decoder" in word for word in words):
        return "decoder"
    return "parent" if "vidcap_cli" in words else None


def players(command: Command, role: str) -> list[psutil.Process]:
    """The live processes of a command in that role; in the role node are all."""
    try:
        parent = psutil.Process(command.process.pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [process for process in family if role in ("node", role_of(process))]
