"""A folder with table, videos and run directory that is at another place goes on there."""

import signal
from pathlib import Path

from tests.faults.scene import FINISHED, OUTPUT, RUN, make_scene
from tests.helpers.commands import Command, committed, events, rows_of
from vidcap_cli.inspect.run import run_report
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.paths import RunDir


def begun(run: Path) -> set[int]:
    """The rows that a model was given."""
    return {row for event in events(run) if event["kind"] == "began" for row in event["rows"]}


def test_a_table_goes_on_where_it_is_now(tmp_path):
    scene = make_scene(tmp_path, seed=71, rows=12)
    work = scene.copy(tmp_path / "run")
    command = scene.command(work)
    command.wait_until(lambda: len(committed(work / RUN)) >= 3)
    command.process.send_signal(signal.SIGINT)
    command.finish()
    done = {row for row, status in committed(work / RUN) if status == "ok"}
    (tmp_path / "run").rename(tmp_path / "moved")
    before, work = work, tmp_path / "moved" / "work"
    # Before it goes on there, too, its table is found.
    assert merge([work / RUN], work / "so far.csv").notes == ()
    assert str(work / "meta.csv") in run_report(RunDir(work / RUN)).steps[0].command
    code, _, err = scene.command(work).finish()
    assert code in FINISHED, err
    assert f"{before}/meta.csv is {work}/meta.csv now" in " ".join(err.split())
    assert (work / OUTPUT).read_bytes() == scene.expected
    again = [e for e in events(work / RUN) if e["kind"] == "began" and e["attempt"] > 1]
    assert not {row for event in again for row in event["rows"]} & done


def test_a_folder_of_videos_keeps_its_captions(tmp_path):
    """Its rows are absolute paths, which lead to where it is now."""
    scene = make_scene(tmp_path, seed=72, rows=6)
    work = scene.copy(tmp_path / "run")
    words = scene.words()
    words[1] = "videos"
    code, _, err = Command(words, work, scene.environment(work)).finish()
    assert code in FINISHED, err
    name = "videos_caption_qwen2vl.csv"
    captions = [row["text"] for row in rows_of(work / name)]
    failed = {row for row, text in enumerate(captions) if not text}
    (tmp_path / "run").rename(tmp_path / "moved")
    work = tmp_path / "moved" / "work"
    run = work / "videos_caption_qwen2vl.vidcap"
    code, _, err = Command(words, work, scene.environment(work)).finish()
    assert code in FINISHED, err
    rows = rows_of(work / name)
    assert [row["text"] for row in rows] == captions
    assert all(row["path"].startswith(f"{work}/videos/") for row in rows)
    assert begun(run) <= failed
