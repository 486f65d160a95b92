"""Runs as commands leave them, written by hand; and what lies on the disk then."""

from pathlib import Path

from vidcap_cli.config import CaptionConfig
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import leading
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir

CONFIG = CaptionConfig("qwen2vl", "/models/some")


def caption_rows(run: RunDir, *rows: int, attempt: int = 1, status: str = "ok") -> None:
    text = "words" if status == "ok" else None
    results = [Result(row, f"{'abc'[row]}.mp4", status, text=text) for row in rows]
    write_part(run.part(attempt, 0, 0, "parquet"), results)


class Notices:
    """A view that only remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)

    def event(self, rank: int | None, event: object) -> None:
        """Of no interest here."""


def finished_run(job: Job, *, failed: int = 0) -> RunDir:
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1, 2)
        return leader.settle(failed=failed)


def siblings(job: Job) -> set[Path]:
    return set(job.meta.parent.iterdir())


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def users_folder(folder: Path) -> dict[str, bytes | None]:
    (folder / "parts").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    (folder / "plan.json").write_text('{"project": "a plan of my own"}')
    (folder / "rows.parquet").write_bytes(b"rows of my own")
    (folder / "parts" / "engine.step").write_bytes(b"a drawing")
    return listing(folder)
