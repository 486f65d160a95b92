"""A run replaces only tables that it wrote: captions that are nowhere else are never lost."""

import signal
from pathlib import Path

import pytest

from tests.faults.scene import FINISHED, OUTPUT, RUN, Scene, make_scene
from tests.helpers.commands import committed, rows_of, vidcap
from vidcap_cli.config import CaptionConfig
from vidcap_cli.finishing import refusal
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.scope import Scope

OLD = "id,path,note,text\n0000,videos/0000.mp4,,an old caption\n0001,videos/0001.mp4,,\n"
LEFT = "and is left as it is"
REFUSED = f"is there already, not as this run wrote it, {LEFT}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("replacing"), seed=71, rows=4)


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--limit", "2"], ["--extend"]])
def test_a_table_of_others_is_left_before_anything_is_done(scene, tmp_path, words):
    work = scene.copy(tmp_path / "run")
    (work / OUTPUT).write_text(OLD)
    code, out, err = scene.command(work, *words).finish()
    assert (code, out, (work / OUTPUT).read_text()) == (2, "", OLD)
    assert f"is there already, without a run directory, {LEFT}. To caption the rows" in err
    assert "with -o, or have it replaced with --fresh" in err
    assert f"vidcap merge {OUTPUT} --meta meta.csv -o meta_all.csv --missing meta_todo.csv" in err
    assert not RunDir(work / RUN).path.exists()


def test_fresh_replaces_it_and_a_shard_or_an_empty_file_are_no_matter(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    (work / OUTPUT).write_text(OLD)
    code, _, err = scene.command(work, "--shard", "0/2").finish()
    assert (code in FINISHED, (work / OUTPUT).read_text()) == (True, OLD), err
    code, _, err = scene.command(work, "--fresh").finish()
    assert code in FINISHED, err
    assert (work / OUTPUT).read_bytes() == scene.expected
    (work / "other.csv").touch()
    code, _, err = scene.command(work, "-o", "other.csv").finish()
    assert code in FINISHED, err


def again(scene: Scene, work: Path, *words: str) -> None:
    code, _, err = scene.command(work, *words).finish()
    assert code in FINISHED, err


def test_its_own_table_is_written_again_without_a_question(scene, tmp_path):
    """Also one that was written before a death, or by a version that did not note it."""
    work = scene.copy(tmp_path / "run")
    run = RunDir(work / RUN)
    for words in (["--limit", "2"], [], ["--all-columns"], ["--fresh"], []):
        again(scene, work, *words)
        assert rows_of(work / OUTPUT)
    run.finished.unlink()  # as after a death between the table and the note of it
    again(scene, work)
    text = run.scope.read_text()
    run.scope.write_text(text.replace('"written": [', '"unknown": ['))
    again(scene, work)
    assert Scope.read(run).written is not None
    (work / OUTPUT).rename(work / "elsewhere.csv")
    again(scene, work)
    with (work / "meta.csv").open("a") as meta:
        meta.write("0009,videos/0000.mp4,again\n")
    again(scene, work, "--extend")
    assert len(rows_of(work / OUTPUT)) == 5


def test_a_table_that_was_edited_since_stays(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    again(scene, work)
    edited = (work / OUTPUT).read_text() + "\n"
    (work / OUTPUT).write_text(edited)
    for words in ([], ["--all-columns"], ["--dry-run"]):
        code, _, err = scene.command(work, *words).finish()
        assert (code, (work / OUTPUT).read_text()) == (2, edited)
        assert REFUSED in err
    again(scene, work, "-o", "other.csv")


@pytest.mark.parametrize(("text", "whole"), [("a", True), (" ", False)])
def test_a_table_whose_run_is_gone_is_told_to_be_whole(tmp_path, text, whole):
    """Where it is not, the way to what it lacks is told."""
    meta, output = tmp_path / "meta.csv", tmp_path / OUTPUT
    meta.write_text("path\na.mp4\nb.mp4\na.mp4\n")
    output.write_text(f"path,text\nb.mp4,{text}\na.mp4,b\nc.mp4,\n")
    told = refusal(output, meta, CaptionConfig("qwen2vl", "nano"), "text", run=False)
    assert ("All 3 rows have a caption there: nothing is to do. Name another" in told) == whole
    assert ("vidcap merge" in told) == (not whole)
    meta.write_text("path,start,end\na.mp4,0,1\n")
    told = refusal(output, meta, CaptionConfig("qwen2vl", "nano"), "text", run=False)
    assert "vidcap merge" in told


def test_the_table_of_merged_shards_is_not_captioned_over(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    shards = []
    for shard in ("0/2", "1/2"):
        again(scene, work, "--shard", shard)
        shards.append(RUN.replace(".vidcap", f".{shard.replace('/', '-of-')}.vidcap"))
    for _ in range(2):
        code, _, err = vidcap("merge", *shards, "-o", OUTPUT, cwd=work)
        assert (code in FINISHED, "is kept as" in err) == (True, False), err
    merged = (work / OUTPUT).read_bytes()
    code, _, err = scene.command(work).finish()
    assert (code, (work / OUTPUT).read_bytes()) == (2, merged)
    assert f"is there already, without a run directory, {LEFT}" in err


def test_one_that_appears_while_videos_are_captioned(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    command = scene.command(work)
    command.wait_until(lambda: committed(work / RUN))
    (work / OUTPUT).write_text(OLD)
    command.process.send_signal(signal.SIGCONT)
    code, _, err = command.finish()
    assert (code, (work / OUTPUT).read_text()) == (1, OLD), err
    assert "Every caption is kept in" in err
    (work / OUTPUT).unlink()
    again(scene, work)
    assert (work / OUTPUT).read_bytes() == scene.expected
