"""A table that has changed: captions of rows that it still has are kept, new rows are captioned."""

import csv
import json
import re
import signal
from pathlib import Path

import pytest

from tests.faults.scene import FINISHED, OUTPUT, RUN, Scene, make_scene
from tests.helpers.commands import Command, committed, events, rows_of
from vidcap_cli.inspect import inspect
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.paths import RunDir

ROWS = 12


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, seed=61, rows=ROWS)


def table(work: Path) -> list[list[str]]:
    with (work / "meta.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write(work: Path, rows: list[list[str]]) -> None:
    with (work / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def begun(run: Path) -> list[int]:
    """The rows that a model was given."""
    return sorted(row for event in events(run) if event["kind"] == "began" for row in event["rows"])


@pytest.mark.parametrize("interrupted", [False, True])
def test_captions_of_rows_that_are_still_there_are_kept(scene, tmp_path, interrupted):
    """Of a finished run and of one that was stopped; rows go, come and change places."""
    work = scene.copy(tmp_path / "run")
    header, *rows = table(work)
    path = header.index("path")
    write(work, [header, *rows[:8]])
    command = scene.command(work)
    if interrupted:
        command.wait_until(lambda: len(committed(work / RUN)) >= 3)
        command.process.send_signal(signal.SIGINT)
    command.finish()
    done = {rows[row][path] for row, status in committed(work / RUN) if status == "ok"}
    assert done
    now = [*rows[ROWS - 3 :], *reversed(rows[1:8]), rows[2]]
    write(work, [header, *now])
    if interrupted:
        code, _, err = scene.command(work).finish()
        assert code == 2
        assert f"vidcap: {work / RUN}: " in err
        assert "8 -> 11 rows" in err
        assert "--extend keeps the captions" in err
    lost = len(done - {row[path] for row in now})
    code, _, err = scene.command(work, "--extend").finish()
    assert code in FINISHED, err
    told = re.findall(
        r"(\d+) captions? (?:is|are) of (?:a row|rows) that the table has no more", err
    )
    assert told == ([str(lost)] if lost else [])
    assert [row["path"] for row in rows_of(work / OUTPUT)] == [row[path] for row in now]
    again = {now[row][path] for row in begun(work / RUN)}
    assert not again & done
    assert {row for row, _ in committed(work / RUN)} == set(range(len(now)))
    assert not list(work.glob("*.next*"))


def test_nothing_is_done_when_nothing_is_new(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    scene.command(work).finish()
    before, launches = (work / OUTPUT).read_bytes(), len(RunDir(work / RUN).attempts())
    failed = [row for row, status in committed(work / RUN) if status != "ok"]
    code, _, err = scene.command(work, "--extend").finish()
    assert code in FINISHED, err
    assert (work / OUTPUT).read_bytes() == before
    # Rows that failed are tried again, as by every command that continues.
    new = [e for e in events(work / RUN) if e["kind"] == "began" and e["attempt"] > launches]
    assert {row for event in new for row in event["rows"]} <= set(failed)


def test_a_table_that_changes_while_it_is_extended(scene, tmp_path):
    """What an extension that was stopped has captioned is kept by the next one."""
    work = scene.copy(tmp_path / "run")
    header, *rows = table(work)
    path = header.index("path")
    write(work, [header, *rows[:4]])
    scene.command(work).finish()
    write(work, [header, *rows[:10]])
    command = scene.command(work, "--extend")
    coming = work / f"{RUN}.next"
    command.wait_until(lambda: len({row for row, _ in committed(coming)}) >= 6)
    command.process.send_signal(signal.SIGINT)
    command.finish()
    done = {rows[row][path] for row, status in committed(coming) if status == "ok"}
    assert len(done) > 3
    report = inspect(work / RUN)
    assert [problem.text.split(" was cut off: ") for problem in report.problems] == [
        [f"{coming}, which is to replace this run,", f"{len(done)} of its 10 rows are captioned"]
    ]
    assert report.steps[0].purpose == "to go on with it"
    assert f"{work}/meta.csv" in report.steps[0].command
    account = merge([work / RUN], tmp_path / "so far.csv", meta=work / "meta.csv")
    assert f"{work / RUN}.next, begun to replace it, is left out" in account.notes[-1]
    both = merge([work / RUN, coming], tmp_path / "so far.csv", meta=work / "meta.csv")
    assert (both.ok, [note for note in both.notes if "left out" in note]) == (len(done), [])
    code, out, err = scene.command(work, "--extend", "--dry-run", "--json").finish()
    assert code == 0, err
    assert json.loads(out)["facts"]["run"]["to_caption"] == 10 - len(done)
    now = list(reversed(rows))
    write(work, [header, *now])
    code, _, err = scene.command(work, "--extend").finish()
    assert code in FINISHED, err
    assert not {now[row][path] for row in begun(work / RUN)} & done
    assert [row["path"] for row in rows_of(work / OUTPUT)] == [row[path] for row in now]


@pytest.mark.parametrize("shard", [(), ("--shard", "0/2")])
def test_rows_before_those_of_a_limit(scene, tmp_path, shard):
    """A dry run is about the rows that the run is about, before it and after it."""
    work = scene.copy(tmp_path / "run")
    header, *lines = table(work)
    write(work, [header, *lines[2:]])
    asked = (*shard, "--limit", "6")
    code, _, err = scene.command(work, *asked).finish()
    assert code in FINISHED, err
    write(work, [header, *lines])
    if shard:  # it has no table: captions beyond the limit stay in its run
        rows, kept = 3, ""
    else:
        rows = 2 + 1 + max(row for row, status in committed(work / RUN) if status == "ok")
        kept = f"--limit 6: captions of before are among the first {rows} rows, which the table"
    for extend in ("--extend",), ():
        code, out, err = scene.command(work, *asked, *extend, "--dry-run", "--json").finish()
        assert code == 0, err
        found = json.loads(out)["facts"]["run"]
        assert found["rows"] == rows
        told = err
        code, out, err = scene.command(work, *asked, *extend, "--json").finish()
        assert code in FINISHED, err
        assert json.loads(out)["rows"] == rows
        assert ("captions of before" in told) == (bool(kept) and bool(extend))
        if extend:
            assert kept in told
            assert kept in err
            assert found["to_caption"]


def test_another_option_is_refused(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    scene.command(work).finish()
    header, *rows = table(work)
    write(work, [header, *rows[:5]])
    code, _, err = scene.command(work, "--extend", "--question", "What else?").finish()
    assert code == 2
    assert "--question" in err
    code, _, err = scene.command(work, "--extend", "--fresh").finish()
    assert code == 2
    assert "--extend keeps captions and --fresh does not" in err


def test_clips_that_are_added_to_a_folder(tmp_path):
    scene = make_scene(tmp_path, seed=62, rows=8)
    work = scene.copy(tmp_path / "run")
    videos = work / "videos"
    names = sorted(path.name for path in videos.iterdir())
    clips = work / "clips"
    clips.mkdir()
    words = scene.words()
    words[1] = "clips"
    run, output = work / "clips_caption_qwen2vl.vidcap", work / "clips_caption_qwen2vl.csv"

    def caption(some: list[str], *more: str) -> None:
        for name in some:
            (clips / name).symlink_to((videos / name).resolve())
        code, _, err = Command([*words, *more], work, scene.environment(work)).finish()
        assert code in FINISHED, err

    caption(names[1::2])
    done = {row["path"] for row in rows_of(output) if row["caption_status"] == "ok"}
    caption(names[::2], "--extend")
    rows = rows_of(output)
    assert [Path(row["path"]).name for row in rows] == names
    assert not {rows[row]["path"] for row in begun(run)} & done
