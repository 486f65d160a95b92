"""Which run a command works in: continued, refused, started over. No ranks are launched here."""

import fcntl
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from vidcap_cli.atomic import committing
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, RunError, TableError, UsageError
from vidcap_cli.launch import leader as run_module
from vidcap_cli.launch.leader import Job, leading
from vidcap_cli.rundir.ownership import read_mark
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir

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


def finished_run(job: Job, *, failed: int = 0) -> RunDir:
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1, 2)
        return leader.settle(failed=failed)


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
    monkeypatch.setattr(run_module, "discard", lambda _run: pytest.fail("not reached"))
    if renames == 2:

        def interrupted(_run: RunDir) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(run_module, "discard", interrupted)


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


def test_files_that_a_user_keeps_in_a_run_directory_outlive_it(job):
    finished_run(job)
    (job.run_dir / "notes.txt").write_text("the good ones: 1, 7")
    with leading(replace(job, fresh=True)) as leader:
        caption_rows(leader.run, 0, 1, 2)
        leader.settle(failed=0)
    kept = {name: data for name, data in listing(Path(f"{job.run_dir}.old")).items() if data}
    assert kept.pop("notes.txt") == b"the good ones: 1, 7"
    assert set(kept) == {"vidcap-run.json"}


def test_a_run_of_a_version_without_marks_is_continued(job):
    finished_run(job, failed=1)
    RunDir(job.run_dir).mark.unlink()
    with leading(job) as leader:
        assert leader.finished_before == 3


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


def test_what_commits_cut_off_left_is_removed_and_what_is_written_now_stays(job):
    finished_run(job, failed=1)
    run = RunDir(job.run_dir)
    for folder in (run.path, run.parts, run.attempt(1).path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".plan.json.{'0' * 32}.tmp").write_text("half")
    (run.path / ".mine.tmp").write_text("not ours")
    with committing(run.path / "other") as living, leading(job):
        assert living.exists()
        left = {path.name for path in run.path.rglob(".*") if path != living}
    assert left == {".mine.tmp"}


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


def test_a_file_system_without_locks(job, monkeypatch):
    finished_run(job, failed=1)

    def unsupported(_file: object, _how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(UsageError, match=r"lock: cannot be locked.*--run-dir"), leading(job):
        pytest.fail("it began")


def test_a_run_directory_that_vanishes_ends_in_a_sentence_and_is_not_made_again(job):
    with pytest.raises(RunError, match=r"out\.vidcap.*repeat the command"), leading(job) as leader:
        shutil.rmtree(job.run_dir)
        leader.work(Notices())
    assert siblings(job) == {job.meta}


def test_a_disk_that_fills_up_at_the_end_loses_nothing(job):
    full = pytest.raises(RunError, match=r"finished\.json: File too large.*is kept")
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
