"""A run is continued or refused, and never loses what is there. No ranks are launched here."""

import errno
import fcntl
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.launch.runs import (
    CONFIG,
    Notices,
    caption_rows,
    finished_run,
    listing,
    siblings,
    users_folder,
)
from vidcap_cli.atomic import committing
from vidcap_cli.errors import RunChangedError, RunError, TableError, UsageError
from vidcap_cli.launch import leader as run_module
from vidcap_cli.launch.leader import leading
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir


def test_an_unfinished_run_is_continued(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 2)
    with leading(job) as leader:
        assert leader.finished_before == 2
        assert leader.run.path == job.run_dir


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
    assert "--fps: 4 -> 2" in words
    assert "--question: 'Describe the video in detail' -> 'Who?'" in words
    assert "slots" not in words
    assert "--fresh" in words


def test_another_table_is_refused(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    job.meta.write_text("path\na.mp4\nb.mp4\n")
    with pytest.raises(RunChangedError, match="3 -> 2 rows"), leading(job):
        pass


@pytest.mark.parametrize("columns", ["path", "video"], ids=["good table", "bad table"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_of_the_user_is_never_touched(job, columns, fresh):
    before = users_folder(job.run_dir)
    job.meta.write_text(f"{columns}\na.mp4\n")
    refusal = pytest.raises(UsageError, match="is not a run directory that vidcap made")
    with refusal, leading(replace(job, fresh=fresh)):
        pytest.fail("it was taken for a run directory")
    assert listing(job.run_dir) == before


def test_the_working_directory_is_never_emptied(job, monkeypatch):
    monkeypatch.chdir(job.meta.parent)
    job.meta.write_text("video\na.mp4\n")
    with pytest.raises(UsageError, match=r"meta\.csv in it"), leading(replace(job, run_dir=Path())):
        pytest.fail("it was taken for a run directory")
    assert siblings(job) == {job.meta}


def test_an_empty_folder_becomes_the_run_directory(job):
    job.run_dir.mkdir()
    with leading(job) as leader:
        assert leader.run.path == job.run_dir


def test_an_empty_folder_of_the_user_outlives_a_table_that_cannot_be_planned(job):
    job.run_dir.mkdir()
    job.meta.write_text("video\na.mp4\n")
    with pytest.raises(TableError), leading(job):
        pytest.fail("it was planned")
    assert list(job.run_dir.iterdir()) == []


def test_a_run_of_a_version_without_marks_is_continued(job):
    finished_run(job, failed=1)
    RunDir(job.run_dir).mark.unlink()
    with leading(job) as leader:
        assert leader.finished_before == 3


def test_what_commits_cut_off_left_is_removed_and_what_is_written_now_stays(job):
    finished_run(job, failed=1)
    run = RunDir(job.run_dir)
    for folder in (run.path, run.parts, run.attempt(1).path, run.nodes_folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".plan.json.{'0' * 32}.tmp").write_text("half")
    (run.path / ".mine.tmp").write_text("not ours")
    with committing(run.path / "other") as living, leading(job):
        assert living.exists()
        left = {path.name for path in run.path.rglob(".*") if path != living}
    assert left == {".mine.tmp"}


def test_what_dead_ranks_left_does_not_outlive_the_run(job):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1, 2)
        half = leader.run.parts / f".part-0001-0001-00000.parquet.{'0' * 32}.tmp"
        half.write_text("half")
        leader.settle(failed=0)
    assert not half.exists()


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


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file can grow beyond ``most`` bytes: a full disk that any user can make."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("begun", [False, True])
def test_a_full_disk_is_told_before_anything_is_planned(job, begun):
    if begun:
        finished_run(job, failed=1)
    before = listing(job.meta.parent)
    refusal = pytest.raises(UsageError, match=r"out\.vidcap: nothing can be written there \(File")
    with refusal, small_disk(10_000), leading(job):
        pytest.fail("it began")
    assert listing(job.meta.parent) == before


def test_a_disk_that_is_full_before_all_rows_are_planned(job, monkeypatch):
    rows = "".join(f"{i:09}-{i * 7919 % 10007}.mp4\n" for i in range(100_000))
    job.meta.write_text(f"path\n{rows}")
    with (
        pytest.raises(RunError, match=r"rows\.parquet: File too large.*repeat the command"),
        small_disk(100_000),
        leading(job),
    ):
        pytest.fail("it was planned")
    assert siblings(job) == {job.meta}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc takes no files from anybody")
def test_a_run_directory_that_cannot_be_made(job):
    refusal = pytest.raises(UsageError, match="/proc/run: nothing can be written there")
    with refusal, leading(replace(job, run_dir=Path("/proc/run"))):
        pytest.fail("it began")


@pytest.mark.parametrize("fault", [errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks(job, monkeypatch, fault):
    """One that has none is made do without; where they fail there is no run."""
    finished_run(job, failed=1)

    def fail(_file: object, _how: int) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(fcntl, "flock", fail)
    if fault == errno.EIO:
        with pytest.raises(UsageError, match=r"lock: cannot be locked.*--run-dir"), leading(job):
            pytest.fail("it began")
        return
    with leading(job) as leader:
        assert leader.run.held.exists()
    assert not leader.run.held.exists()


def test_a_run_directory_that_vanishes_ends_in_a_sentence_and_is_not_made_again(job):
    with pytest.raises(RunError, match=r"out\.vidcap.*repeat the command"), leading(job) as leader:
        shutil.rmtree(job.run_dir)
        leader.work(Notices())
    assert siblings(job) == {job.meta}


def test_a_disk_that_fills_up_at_the_end_loses_nothing(job):
    full = pytest.raises(RunError, match=r"scope\.json: File too large.*is kept")
    with full, leading(job) as leader:
        caption_rows(leader.run, 0, 1, 2)
        with small_disk(10):
            leader.settle(failed=0)
    with leading(job) as leader:
        assert leader.finished_before == 3


def test_a_plan_that_is_lost_is_not_made_anew_over_captions(job):
    run = finished_run(job, failed=1)
    run.plan.unlink()
    with pytest.raises(RunError, match=r"plan\.json: is not there, but captions are.*--fresh"):
        leading(job).__enter__()
    assert run.part_files()
    with leading(replace(job, fresh=True)) as leader:
        assert leader.finished_before == 0
        assert run.part_files()
        caption_rows(leader.run, 0, 1, 2)
        leader.settle(failed=0)
    assert siblings(job) == {job.meta, job.run_dir}


@pytest.mark.parametrize("name", ["plan.json", "rows.parquet", "finished.json", "lock"])
def test_a_folder_in_place_of_a_file_of_the_run(job, name):
    run = finished_run(job, failed=1)
    (run.path / name).unlink()
    (run.path / name).mkdir()
    with pytest.raises((RunError, UsageError), match=name), leading(job):
        pytest.fail("it began")
    assert run.part_files()
