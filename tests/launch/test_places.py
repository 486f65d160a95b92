"""Which directory a command works in, and how a fresh run takes the place of the old one."""

import fcntl
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.launch.runs import (
    CONFIG,
    caption_rows,
    finished_run,
    listing,
    siblings,
    users_folder,
)
from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.launch import leader as run_module
from vidcap_cli.launch.leader import leading
from vidcap_cli.rundir import places as places_module
from vidcap_cli.rundir.ownership import read_mark
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.selection import Selection


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


def test_a_start_over_that_was_cut_off_goes_on(job):
    """By the same command; with other options it is another one."""
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    fresh = replace(job, fresh=True)
    for before in range(2):
        with leading(fresh) as leader:
            assert leader.finished_before == before
            caption_rows(leader.run, before, attempt=before + 1)
    with leading(replace(fresh, config=replace(CONFIG, fps=1.0))) as leader:
        assert leader.finished_before == 0


@pytest.mark.parametrize(("failed", "before"), [(0, 3), (1, 2)])
def test_a_finished_run_does_not_start_over(job, failed, before):
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1)
        caption_rows(leader.run, 2, attempt=2, status="empty" if failed else "ok")
        leader.settle(failed=failed)
    with leading(job) as leader:
        assert leader.run.path == job.run_dir
        assert leader.finished_before == before
        assert leader.is_done == (not failed)


def test_a_limit_is_raised_within_the_same_run(job):
    with leading(replace(job, selection=Selection(limit=1))) as leader:
        assert leader.rows == 1
        caption_rows(leader.run, 0)
        leader.settle(failed=0)
    with leading(replace(job, selection=Selection(limit=2))) as leader:
        assert (leader.run.path, leader.finished_before, leader.rows) == (job.run_dir, 1, 2)


@pytest.mark.parametrize("after", ["the first rename", "the second rename"])
def test_a_replacement_cut_off_half_way_is_completed(job, monkeypatch, after):
    finished_run(job)
    with leading(replace(job, fresh=True)) as leader:
        caption_rows(leader.run, 0, 1, 2)
        replacing = read_mark(leader.run)
        cut_off_after(1 if after == "the first rename" else 2, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            leader.settle(failed=1)
    monkeypatch.undo()
    assert Path(f"{job.run_dir}.old").is_dir()
    with leading(job) as leader:
        assert leader.run.path == job.run_dir
        assert read_mark(leader.run) == replacing
        assert leader.finished_before == 3
    assert siblings(job) == {job.meta, job.run_dir}


def cut_off_after(renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is interrupted after so many renames of directories."""
    done = []
    rename = Path.rename

    def counted(path: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", counted)
    monkeypatch.setattr(places_module, "discard", lambda _run: pytest.fail("not reached"))
    if renames == 2:

        def interrupted(_run: RunDir) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(places_module, "discard", interrupted)


@pytest.mark.parametrize("end", [".next", ".old"])
@pytest.mark.parametrize("kind", ["folder", "run", "file", "link"])
def test_what_lies_beside_the_run_directory_is_never_touched(job, tmp_path, end, kind):
    finished_run(job)
    beside = Path(f"{job.run_dir}{end}")
    if kind == "folder":
        users_folder(beside)
    elif kind == "run":  # a copy that the user has put there, with another run's captions
        finished_run(replace(job, run_dir=beside))
    elif kind == "file":
        beside.write_text("mine")
    else:
        users_folder(tmp_path / "elsewhere")
        beside.symlink_to(tmp_path / "elsewhere")
    before = listing(tmp_path)
    with (
        pytest.raises(UsageError, match=rf"{end}.*left as it is"),
        leading(replace(job, fresh=True)),
    ):
        pytest.fail("it was taken for vidcap's own")
    assert listing(tmp_path) == before


def test_files_that_a_user_keeps_in_a_run_directory_outlive_it(job):
    finished_run(job)
    (job.run_dir / "notes.txt").write_text("the good ones: 1, 7")
    with leading(replace(job, fresh=True)) as leader:
        caption_rows(leader.run, 0, 1, 2)
        leader.settle(failed=0)
    kept = {name: data for name, data in listing(Path(f"{job.run_dir}.old")).items() if data}
    assert kept.pop("notes.txt") == b"the good ones: 1, 7"
    assert set(kept) == {"vidcap-run.json"}


def test_a_run_directory_behind_a_link(job, tmp_path):
    (tmp_path / "disk").mkdir()
    job.run_dir.symlink_to(tmp_path / "disk")
    finished_run(job)
    finished_run(replace(job, fresh=True))
    assert RunDir(tmp_path / "disk").finished.is_file()
    assert job.run_dir.is_symlink()
    assert siblings(job) == {job.meta, job.run_dir, tmp_path / "disk"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"{}", b'{"planned": "x"}', b"[" * 9999])
def test_a_damaged_note_of_the_end_makes_the_run_unfinished(job, content):
    run = finished_run(job)
    run.finished.write_bytes(content)
    with leading(job) as leader:
        assert leader.run.path == job.run_dir
        assert leader.finished_before == 3


def test_a_replacement_that_goes_on_is_left_to_its_process(job, monkeypatch):
    finished_run(job)
    with leading(replace(job, fresh=True)) as leader:
        for asked in (job, replace(job, fresh=True)):
            with pytest.raises(RunError, match="another vidcap is working on"):
                leading(asked).__enter__()
        caption_rows(leader.run, 0, 1, 2)
        cut_off_after(1, monkeypatch)  # between the two renames, and still alive
        with pytest.raises(KeyboardInterrupt):
            leader.settle(failed=0)
        monkeypatch.undo()
        before = siblings(job)
        with pytest.raises(RunError, match="another vidcap is working on"):
            leading(job).__enter__()
        assert siblings(job) == before


def test_a_run_that_is_being_replaced_is_not_continued(job, monkeypatch):
    """Not while the new one is planned either, of which nothing can be told but by the lock."""
    with leading(job) as leader:
        caption_rows(leader.run, 0)
    make_plan = run_module.make_plan

    def planned_meanwhile(*asked: object) -> object:
        with pytest.raises(RunError, match="another vidcap is working on"), leading(job):
            pytest.fail("both went on")
        return make_plan(*asked)

    monkeypatch.setattr(run_module, "make_plan", planned_meanwhile)
    with leading(replace(job, fresh=True)) as leader:
        caption_rows(leader.run, 0, 1, 2)
        assert len(RunDir(job.run_dir).part_files()) == 1
        settled = leader.settle(failed=0)
    assert len(settled.part_files()) == 1
    assert siblings(job) == {job.meta, job.run_dir}


def test_a_lock_on_a_folder_that_was_replaced_meanwhile_leads_nothing(job, monkeypatch):
    run = finished_run(job, failed=1)
    flock = fcntl.flock

    def late(file: object, how: int) -> None:
        if Path(getattr(file, "name", "")) == run.lock and run.path.exists():
            run.path.rename(job.meta.parent / "elsewhere")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RunError, match="has just replaced"), leading(job):
        pytest.fail("it led a folder that is no longer there")
