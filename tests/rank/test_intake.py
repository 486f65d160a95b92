"""Rows come out of the intake in the right order and company, and never after a stop."""

import pytest

from tests.rank.fakes import FakeDecoders, FakeEngine, Scene, rows
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rank.intake import Claims
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.rundir.todo import write_todo


@pytest.mark.parametrize("damage", ["gone", "empty", "half", "text"])
def test_a_damaged_todo_is_told(tmp_path, damage):
    (tmp_path / "meta.csv").write_text("path\n" + "a.mp4\n" * 100)
    run, config = RunDir(tmp_path / "run"), CaptionConfig("qwen2vl", "/models/some")
    plan = make_plan(tmp_path / "meta.csv", run, config)
    folder = run.attempt(1)
    folder.claims.mkdir(parents=True)
    write_todo(run, plan, folder)
    Attempt(config, rows=100, chunk=10, ranks=1, bases=plan.bases).write(folder)
    data = folder.todo.read_bytes()
    if damage == "gone":
        folder.todo.unlink()
    else:
        changed = {"empty": b"", "half": data[: len(data) // 2], "text": b"path\na.mp4\n" * 50}
        folder.todo.write_bytes(changed[damage])
    rows = Claims(run, folder, Attempt.read(folder), 0).rows()
    with pytest.raises(RunError, match=r"todo\.arrow: damaged, gone .* repeat the command"):
        next(rows)


def test_rows_are_claimed_once_with_what_the_launch_says_of_them(tmp_path):
    (tmp_path / "meta.csv").write_text("path\n" + "".join(f"{n}.mp4\n" for n in range(7)))
    run, config = RunDir(tmp_path / "run"), CaptionConfig("qwen2vl", "/models/some")
    plan = make_plan(tmp_path / "meta.csv", run, config)
    folder = run.attempt(1)
    folder.claims.mkdir(parents=True)
    write_todo(run, plan, folder)
    Attempt(config, rows=7, chunk=3, ranks=2, bases=plan.bases, alone=(4,)).write(folder)
    first, second = (Claims(run, folder, Attempt.read(folder), rank).rows() for rank in (0, 1))
    found = [next(first), next(second), *first, *second]
    assert sorted(row.row_id for row in found) == [*range(7)]
    assert {row.path for row in found} == {f"{n}.mp4" for n in range(7)}
    assert {row.attempts for row in found} == {1}
    assert [row.row_id for row in found if row.alone] == [4]


def intake_of(tmp_path, count, *, alone=(), ahead=4):
    scene = Scene(tmp_path, FakeEngine(), FakeDecoders({}), rows(count, alone=alone), ahead=ahead)
    return scene, scene.recorder()


def test_no_more_rows_are_read_ahead_than_asked_for(tmp_path):
    scene, recorder = intake_of(tmp_path, 9, ahead=3)
    with recorder as recorder:
        intake = scene.intake(recorder)
        intake.read_ahead()
        assert scene.decoders.submitted == [(n, f"/videos/{n}.mp4") for n in range(3)]
        assert intake.next([], wait=True).row_id == 0
        assert intake.next([], wait=True).row_id == 1
        assert len(scene.decoders.submitted) == 4


def test_who_does_not_wait_has_none_and_loses_none(tmp_path):
    scene, recorder = intake_of(tmp_path, 2)
    with recorder as recorder:
        intake = scene.intake(recorder)
        scene.decoders.ready = False
        assert intake.next([], wait=False) is None
        assert recorder.wait_s == 0
        scene.decoders.ready = True
        assert [intake.next([], wait=False).row_id for _ in range(2)] == [0, 1]
        assert intake.next([], wait=True) is None


def test_a_row_to_be_alone_waits_for_the_others_and_they_for_it(tmp_path):
    scene, recorder = intake_of(tmp_path, 3, alone=(1,))
    with recorder as recorder:
        intake = scene.intake(recorder)
        first = intake.next([], wait=True)
        assert intake.next([first], wait=False) is None  # row 1 is held
        assert intake.next([first], wait=False) is None
        lone = intake.next([], wait=True)
        assert (first.row_id, lone.row_id) == (0, 1)
        assert intake.next([lone], wait=False) is None
        assert intake.next([], wait=True).row_id == 2
