"""The cases of ``rundir.places``: what a command does with the run that it finds.

No caption is lost without ``--fresh``, and no table that was written becomes smaller.
"""

import csv
import io
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.scene import FINISHED, OUTPUT, RUN, Scene, make_scene
from tests.helpers.commands import committed, events, rows_of, vidcap
from tests.launch.runs import CONFIG, caption_rows
from vidcap_cli.errors import RunChangedError
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import leading
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.ledger import done_mask
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import read_plan
from vidcap_cli.rundir.selection import Selection
from vidcap_cli.rundir.todo import Todo, write_todo

TABLES = {
    "same": "path\na.mp4\nb.mp4\nc.mp4\n",
    "added": "path\nnew.mp4\na.mp4\nb.mp4\nc.mp4\n",
    "removed": "path\nc.mp4\na.mp4\n",
}
OTHER = replace(CONFIG, fps=1.0)


def left_by(job: Job, state: str) -> None:
    """A run that has finished, with or without a failure, or was cut off after two rows."""
    with leading(job) as leader:
        caption_rows(leader.run, 0, 1)
        if state != "cut off":
            failed = state == "failed"
            caption_rows(leader.run, 2, attempt=2, status="empty" if failed else "ok")
            leader.settle(failed=failed)


def captioned(run: RunDir) -> int:
    return int(done_mask(run, read_plan(run)).ok.sum())


STATES = {"finished": 3, "failed": 2, "cut off": 2}
LIMITS = [None, 1, 3, 9]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("extend", [False, True])
def test_the_same_again(job, state, limit, extend):
    """Goes on where rows are left, and does nothing where none is."""
    left_by(job, state)
    with leading(replace(job, selection=Selection(limit), extend=extend)) as leader:
        assert (leader.run.path, leader.finished_before) == (
            job.run_dir,
            1 if state == "cut off" and limit == 1 else STATES[state],
        )
        assert leader.rows == (1 if state == "cut off" and limit == 1 else 3)
        assert leader.is_done == (state == "finished")
        assert captioned(leader.run) == STATES[state]
        if leader.is_done:  # and leaves everything as it is
            assert leader.run.finished.exists()
    assert not RunDir(job.run_dir).next.path.exists()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("change", ["added", "removed"])
def test_another_table(job, state, limit, change):
    """Is refused; ``--extend`` keeps what is still there, beyond the limit as well."""
    left_by(job, state)
    job.meta.write_text(TABLES[change])
    asked = replace(job, selection=Selection(limit))
    words = r"was made with something else:.*--extend keeps.*with -o to keep both.*--fresh"
    with pytest.raises(RunChangedError, match=f"(?s){words}"), leading(asked):
        pytest.fail("it began")
    assert captioned(RunDir(job.run_dir)) == STATES[state]
    kept = {"added": STATES[state], "removed": 2 if state == "finished" else 1}[change]
    with leading(replace(asked, extend=True)) as leader:
        assert captioned(leader.run) == kept
        if state != "cut off":
            assert leader.finished_before == kept
        leader.settle(failed=0)
    assert captioned(RunDir(job.run_dir)) == kept


def test_another_table_that_writes_paths_otherwise(job):
    """Captions go letter by letter, those that are left by the file, and to no other one."""
    folder = job.meta.parent
    (folder / "sub").mkdir()
    left_by(job, "finished")
    rows = ("./c.mp4", f"{folder}/a.mp4", "a.mp4", "sub/b.mp4", "sub/../b.mp4")
    job.meta.write_text("\n".join(["path", *rows, ""]))
    with leading(replace(job, extend=True)) as leader:
        done = done_mask(leader.run, leader.plan).ok
        assert done.tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("restart_failed", [True, False])
@pytest.mark.parametrize("change", ["added", "removed"])
def test_what_an_extension_keeps_is_not_done_again(job, state, restart_failed, change):
    """By this command and the next ones; rows that failed are left alone by those that say so."""
    left_by(job, state)
    job.meta.write_text(TABLES[change])
    asked = replace(job, extend=True, restart_failed=restart_failed)
    failed = int(state == "failed")
    kept = {"added": STATES[state], "removed": 2 if state == "finished" else 1}[change]
    rows = {"added": 4, "removed": 2}[change]
    for again in (asked, asked, replace(asked, extend=False)):
        with leading(again) as leader:
            assert leader.finished_before == kept
            assert leader.left_alone == (0 if restart_failed else failed)
            todo = leader.run.attempt(leader.first)
            write_todo(leader.run, leader.plan, todo, skip=leader._skip)
            left = Todo(todo.todo)
            assert len(left) == rows - kept - leader.left_alone
            assert not leader.is_done or not len(left)
            if again.extend:
                leader.settle(failed=0)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("extend", [False, True])
@pytest.mark.parametrize("table", TABLES)
def test_other_options(job, state, limit, extend, table):
    left_by(job, state)
    job.meta.write_text(TABLES[table])
    asked = replace(job, selection=Selection(limit), extend=extend, config=OTHER)
    with pytest.raises(RunChangedError, match=r"(?s)--fps: 4.*-> 1.*with -o"), leading(asked):
        pytest.fail("it began")
    assert captioned(RunDir(job.run_dir)) == STATES[state]
    assert RunDir(job.run_dir).finished.exists() == (state != "cut off")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("config", [CONFIG, OTHER])
@pytest.mark.parametrize("table", TABLES)
def test_starting_over(job, state, config, table):
    """Takes a new directory, and the place of the old one in the end alone."""
    left_by(job, state)
    job.meta.write_text(TABLES[table])
    fresh = replace(job, fresh=True, config=config, selection=Selection(1))
    with leading(fresh) as leader:
        assert (leader.run.path, leader.finished_before) == (RunDir(job.run_dir).next.path, 0)
        assert captioned(RunDir(job.run_dir)) == STATES[state]


@pytest.mark.parametrize("words", [{}, {"extend": True}])
def test_a_start_over_that_was_cut_off_beside_a_finished_run(job, words):
    """Does not keep from its captions; --fresh goes on with it."""
    left_by(job, "finished")
    with leading(replace(job, fresh=True)) as leader:
        caption_rows(leader.run, 1)
    with leading(replace(job, **words)) as leader:
        assert leader.finished_before == 3
    with leading(replace(job, fresh=True)) as leader:
        assert leader.finished_before == (1 if not words else 3)


def test_an_extension_takes_no_captions_of_other_options(job):
    left_by(job, "finished")
    with leading(replace(job, fresh=True, config=OTHER)) as leader:
        caption_rows(leader.run, 1)
    job.meta.write_text(TABLES["added"])
    with leading(replace(job, extend=True, config=OTHER)) as leader:
        assert leader.finished_before == 1


def test_a_table_with_other_columns_is_written_anew(job):
    """Also one that is asked for again as it was at first: the last one counts."""
    left_by(job, "finished")
    for options in ({"all_columns": True}, {}):
        asked = replace(job, table_options=options)
        for done in (False, True):
            with leading(asked) as leader:
                assert (leader.run.path, leader.is_done) == (job.run_dir, done)
                leader.settle(failed=0)


def test_a_damaged_part_is_not_taken_for_finished(job):
    left_by(job, "finished")
    part = RunDir(job.run_dir).part_files()[0]
    part.write_bytes(part.read_bytes()[:-9])
    with leading(job) as leader:
        assert (leader.is_done, leader.finished_before) == (False, 1)


def test_a_finished_shard_stays_finished(job):
    shard = replace(job, selection=Selection(None, 0, 2))
    with leading(shard) as leader:
        caption_rows(leader.run, 0, 2)
        leader.settle(failed=0)
    for selection, done in ((Selection(None, 0, 2), True), (Selection(1, 0, 2), True)):
        with leading(replace(job, selection=selection)) as leader:
            assert (leader.is_done, leader.rows) == (done, 2)


def write_paths(work: Path, rows: list[int]) -> None:
    paths = "".join(f"videos/{row:04d}.mp4\n" for row in rows)
    (work / "meta.csv").write_text(f"path\n{paths}", encoding="utf-8")


def rows_of_expected(scene: Scene) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(scene.expected.decode(), newline="")))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("smaller"), seed=67, rows=10)


def test_the_table_stays_whole(scene, tmp_path):
    """Commands that a user may type after a finished run, one after the other."""
    work = scene.copy(tmp_path / "run")
    code, _, err = scene.command(work).finish()
    assert code in FINISHED, err
    whole = (work / OUTPUT).read_bytes()
    assert len(rows_of(work / OUTPUT)) == scene.rows
    code, _, err = scene.command(work, "--limit", "2").finish()
    assert code in FINISHED, err
    assert "--limit 2: the table has 10 rows already, which stay" in err
    code, out, err = scene.command(work, "--limit", "2", "--dry-run", "--json").finish()
    assert (code, json.loads(out)["facts"]["run"]["rows"]) == (0, 10)
    assert "--limit 2: the table has 10 rows already, which stay" in err
    assert (work / OUTPUT).read_bytes() == whole
    good = sorted(row for row, status in committed(work / RUN) if status == "ok")
    write_paths(work, good)
    code, _, err = scene.command(work, "--extend", "--limit", "1").finish()
    assert code == 0, err
    rows, began = (work / OUTPUT).read_bytes(), len(events(work / RUN))
    assert len(rows_of(work / OUTPUT)) == len(good)
    kept = (["--restart-failed", "none"], ["--restart-changed"], ["--bs", "2"], ["--decoders", "1"])
    for words in ([], ["--limit", "1"], ["--extend"], ["--worker-num", "2"], *kept):
        code, out, err = scene.command(work, *words).finish()
        assert (code, out) == (0, "")
        assert f"finished: all {len(good)} rows have a caption in " in err
        assert "--fresh starts over" in err
        assert ((work / OUTPUT).read_bytes(), len(events(work / RUN))) == (rows, began)
    assert scene.command(work, "--quiet").finish() == (0, "", "")
    (work / OUTPUT).unlink()
    code, _, err = scene.command(work, "--limit", "1").finish()
    assert (code, (work / OUTPUT).read_bytes()) == (0, rows), err
    assert len(events(work / RUN)) == began


def test_rows_beyond_a_limit_are_told_and_a_shard_names_its_run(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    for limit in (2, 4):
        code, _, err = scene.command(work, "--limit", str(limit)).finish()
        assert code in FINISHED, err
        assert len(rows_of(work / OUTPUT)) == limit
        told = f"{10 - limit} rows of the table come after --limit {limit}"
        assert f"{told}; without it the run goes on" in err
        code, _, err = scene.command(work, "--limit", str(limit), "--dry-run").finish()
        assert (code, told in err) == (0, True)
    code, out, err = scene.command(work, "--shard", "1/3", "--json").finish()
    assert code in FINISHED, err
    assert json.loads(out)["output"] is None
    assert err.startswith("vidcap qwen2vl meta.csv → meta_caption_qwen2vl.1-of-3.vidcap: 3 videos")
    assert "rows of the table come after" not in err
    code, _, err = scene.command(work, "--shard", "1/3", "--limit", "3").finish()
    assert code in FINISHED, err
    assert "--limit 3: the shard goes to the end of the table already, which stays" in err
    shard = work / "meta_caption_qwen2vl.1-of-3.vidcap"
    code, out, _ = vidcap("inspect", shard, "--json", cwd=work)
    found = json.loads(out)["facts"]["rows"]
    assert (code, found["asked_for"], found["left"]) == (0, 3, 0)
    found = json.loads((shard / "summary.json").read_text())
    assert (found["rows"], found["left"], sum(found["statuses"].values())) == (3, 0, 3)


def test_a_start_over_that_was_stopped_is_told(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    bad = {int(row["id"]) for row in rows_of_expected(scene) if row["caption_status"] != "ok"}
    write_paths(work, [row for row in range(scene.rows) if row not in bad])
    code, _, err = scene.command(work).finish()
    assert code == 0, err
    coming = RunDir(work / f"{RUN}.next")
    command = scene.command(work, "--fresh")
    command.wait_until(lambda: committed(coming.path))
    command.process.send_signal(signal.SIGINT)
    assert command.finish()[0] == 130
    code, _, err = scene.command(work).finish()
    assert code == 0
    assert f"{coming.path} was cut off, and --fresh goes on with it" in err


@pytest.mark.parametrize("extend", [False, True])
def test_a_video_that_is_newer_than_its_caption(job, extend):
    """Is told, also when an extension has kept the caption, and captioned again when asked."""
    left_by(job, "finished")
    later = time.time_ns() + 10**9
    (job.meta.parent / "b.mp4").touch()
    (job.meta.parent / "c.mp4").touch()
    os.utime(job.meta.parent / "b.mp4", ns=(later, later))
    os.utime(job.meta.parent / "c.mp4", ns=(0, 0))
    if extend:
        time.sleep(0.01)
        job.meta.write_text("path\nb.mp4\na.mp4\nc.mp4\n")
        with leading(replace(job, extend=True)) as leader:
            leader.settle(failed=0)
    row = 0 if extend else 1
    with leading(job) as leader:
        assert (leader.changed.nonzero()[0].tolist(), leader.is_done) == ([row], True)
        assert leader.finished_before == 3
    again = replace(job, restart_changed=True)
    with leading(again) as leader:
        assert (leader.finished_before, leader.is_done) == (2, False)
        assert leader._left() == 1
        result = [Result(row, "b.mp4", "ok", text="new words")]
        part = leader.run.part(leader.first, 0, 0, "parquet")
        write_part(part, result)
        os.utime(part, ns=(later + 1, later + 1))
        assert leader._left() == 0
        leader.settle(failed=0)
    with leading(again) as leader:
        assert (leader.finished_before, leader.is_done) == (3, True)
    merge([job.run_dir], job.meta.parent / "out.csv")
    assert rows_of(job.meta.parent / "out.csv")[row]["text"] == "new words"


def test_a_caption_outlives_a_failure_of_its_newer_video(job):
    left_by(job, "finished")
    later = time.time_ns() + 10**9
    (job.meta.parent / "b.mp4").touch()
    os.utime(job.meta.parent / "b.mp4", ns=(later, later))
    with leading(replace(job, restart_changed=True)) as leader:
        caption_rows(leader.run, 1, attempt=leader.first, status="decode_error")
        assert leader._left() == 0
        assert leader.captioned() == 3
