"""Which run a command works in: continued, refused, started over. No ranks are launched here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vidcap_cli import run as run_module
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, RunError, TableError, UsageError
from vidcap_cli.parts import Result, write_part
from vidcap_cli.run import Job, leading
from vidcap_cli.rundir import RunDir

CONFIG = CaptionConfig("qwen2vl", "/models/some")


@pytest.fixture
def job(tmp_path) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    return Job(tmp_path / "meta.csv", tmp_path / "out.vidcap", CONFIG)


def caption_rows(run: RunDir, *rows: int, attempt: int = 1, status: str = "ok") -> None:
    text = "words" if status == "ok" else None
    results = [Result(row, f"{'abc'[row]}.mp4", status, text=text) for row in rows]
    write_part(run.part(attempt, 0, 0, "parquet"), results)


def test_an_unfinished_run_is_continued(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 2)
    with leading(job) as leader:
        assert leader.finished_before == 2
        assert leader.run.path == job.run_dir


class Notices:
    """A view that only remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.mark.parametrize("damage", ["flip", "foreign"])
def test_a_damaged_part_is_set_aside_and_its_rows_are_done_again(job, damage):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1)
        caption_rows(leader.run, 1, 2, attempt=2)
    part = leader.run.part(1, 0, 0, "parquet")
    if damage == "flip":
        data = bytearray(part.read_bytes())
        data[200] ^= 1
        part.write_bytes(data)
    else:  # as it comes to lie there when two run directories are mixed up
        part.unlink()
        write_part(part, [Result(0, "b.mp4", "ok", "words")])
    before = part.read_bytes()
    with leading(job) as leader:
        assert leader.finished_before == 2
        assert not part.exists()
        assert part.with_name(f"{part.name}.damaged").read_bytes() == before
        caption_rows(leader.run, 0, attempt=leader.first)
        leader.work(view := Notices())  # nothing is left: no rank is launched
    assert len(view.told) == 1
    assert f"{part}: this part " in view.told[0]
    assert "set aside as part-0001-0000-00000.parquet.damaged" in view.told[0]
    with leading(job) as leader:
        assert leader.finished_before == 3


def test_a_damaged_part_that_cannot_be_set_aside(job, monkeypatch):
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    part = leader.run.part(1, 0, 0, "parquet")
    part.write_bytes(b"")

    def fail(part: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_module, "set_aside", fail)
    words = rf"{part}: this part is damaged .*cannot be set aside \(Permission denied\): move it"
    with pytest.raises(RunError, match=words), leading(job):
        pass


def test_launches_are_numbered_beyond_the_parts(job):
    """A part is never replaced, also when the folder of launches was removed."""
    with leading(job) as leader:
        assert leader.first == 1
        caption_rows(leader.run, 0, attempt=7)
    with leading(job) as leader:
        assert leader.first == 8


def test_options_that_alter_captions_are_refused_with_the_difference(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    changed = replace(job, config=replace(CONFIG, fps=2.0, question="Who?", slots=8))
    with pytest.raises(RunChangedError) as caught, leading(changed):
        pass
    words = str(caught.value)
    assert "--fps: 4.0 -> 2.0" in words
    assert "--question: 'Describe the video in detail' -> 'Who?'" in words
    assert "slots" not in words
    assert "--fresh" in words


def test_another_table_is_refused(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    job.meta.write_text("path\na.mp4\nb.mp4\n")
    with pytest.raises(RunChangedError, match="3 -> 2 rows"), leading(job):
        pass


def test_starting_over_keeps_the_old_run_until_the_new_one_has_finished(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1)
    fresh = replace(job, fresh=True, config=replace(CONFIG, fps=1.0))
    with leading(fresh) as leader:
        assert leader.run.path != job.run_dir
        assert leader.finished_before == 0
        caption_rows(leader.run, 0)
    assert len(RunDir(job.run_dir).part_files()) == 1
    # Cut off here: without --fresh the new run is continued, and at its end replaces the old.
    with leading(replace(fresh, fresh=False)) as leader:
        assert leader.finished_before == 1
        caption_rows(leader.run, 1, 2, attempt=2)
        settled = leader.settle(failed=0)
    assert settled.path == job.run_dir
    assert json.loads(settled.plan.read_text())["options"]["fps"] == 1.0
    assert [path.name for path in job.run_dir.parent.iterdir() if "vidcap" in path.name] == [
        "out.vidcap"
    ]


def test_starting_over_twice_forgets_the_first_try(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    fresh = replace(job, fresh=True)
    for _ in range(2):
        with leading(fresh) as leader:
            assert leader.finished_before == 0
            caption_rows(leader.run, 1)


@pytest.mark.parametrize(("failed", "before"), [(0, 0), (1, 2)])
def test_a_finished_run_starts_over_unless_rows_failed(job, failed, before):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1)
        caption_rows(leader.run, 2, attempt=2, status="empty" if failed else "ok")
        leader.settle(failed=failed)
    with leading(job) as leader:
        assert leader.finished_before == before


def test_a_limit_is_raised_within_the_same_run(job):
    with leading(replace(job, limit=1)) as leader:
        assert leader.rows == 1
        caption_rows(leader.run, 0)
        leader.settle(failed=0)
    with leading(replace(job, limit=2)) as leader:
        assert (leader.run.path, leader.finished_before, leader.rows) == (job.run_dir, 1, 2)


def test_a_rename_cut_off_half_way_is_completed(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1, 2)
        leader.settle(failed=1)
    job.run_dir.rename(f"{job.run_dir}.next")
    with leading(job) as leader:
        assert leader.run.path == job.run_dir
        assert leader.finished_before == 3


def test_two_commands_cannot_lead_the_same_run(job):
    with (
        leading(job),
        pytest.raises(RunError, match="another vidcap is working on"),
        leading(job),
    ):
        pass


def test_a_table_that_cannot_be_planned_leaves_nothing_behind(job):
    job.meta.write_text("video\na.mp4\n")
    with pytest.raises(TableError, match="path"), leading(job):
        pass
    assert not job.run_dir.exists()


def test_a_file_in_place_of_the_run_directory_is_refused(job):
    job.run_dir.write_text("mine")
    with pytest.raises(UsageError, match="is a file"), leading(job):
        pass
    assert job.run_dir.read_text() == "mine"
