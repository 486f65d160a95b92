"""A run watched from its files while a command leads it."""

import fcntl
import threading
import time
from pathlib import Path

import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect import watch as module
from vidcap_cli.options import InspectOptions
from vidcap_cli.rundir.events import Began, Done, Ended, EventWriter, Started, State
from vidcap_cli.rundir.ownership import acquire
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.rundir.records import Attempt

CONFIG = CaptionConfig(family="llava", model="/models/llava")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Three rows, of which one was captioned before the launch that goes on."""
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n0.mp4\n1.mp4\n2.mp4\n")
    run = RunDir(tmp_path / "meta.vidcap")
    acquire(run)
    plan = make_plan(meta, run, CONFIG)
    run.parts.mkdir()
    write_part(run.part(1, 0, 0, "parquet"), [Result(0, "0.mp4", "ok", "A red circle.")])
    folder = run.attempt(2)
    folder.claims.mkdir(parents=True)
    Attempt(CONFIG, rows=2, chunk=1, ranks=1, bases=plan.bases, captioned=1).write(folder)
    return run


def lead(run: RunDir, begun: threading.Event) -> None:
    """What a command and its rank do, in short."""
    with run.lock.open("wb") as lock, EventWriter(run.attempt(2).events(0)) as events:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = time.time()
        events.write(Started(10, "host", time=now - 60))
        events.write(State("captioning", time=now - 30))
        events.write(Began([1], time=now - 30))
        begun.set()
        time.sleep(0.5)  # so that there is something to follow
        events.write(Done(1, "1.mp4", "ok", "A blue square.", None, 40, 8.0, 2.0, time=now))
        events.write(Done(2, "2.mp4", "oom", None, "too large", 0, 8.0, 2.0, time=now))
        events.write(Ended("finished", time=now))
        results = [Result(1, "1.mp4", "ok", "A blue square."), Result(2, "2.mp4", "oom")]
        write_part(run.part(2, 0, 0, "parquet"), results)
        run.attempt(2).over.touch()


def test_a_run_is_drawn_until_it_ends(run, monkeypatch, capsys):
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    begun = threading.Event()
    command = threading.Thread(target=lead, args=(run, begun))
    command.start()
    begun.wait()
    report = inspect(run.path, InspectOptions(watch=True))
    command.join()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "meta.vidcap · launch 2: 3 videos, 1 of them captioned before"
    assert "failed: 2.mp4 · oom: too large" in lines
    assert "2 of 3 captioned, 1 of them before · 1 failed · 1 rank finished" in lines[-1]
    found = {"asked_for": 3, "captioned": 2, "oom": 1, "left": 0}
    assert report.as_dict()["facts"]["rows"] == found


def test_a_run_that_nobody_leads_is_reported_at_once(run, capsys):
    assert inspect(run.path, InspectOptions(watch=True)).verdict == "not finished: 2 rows left"
    assert capsys.readouterr().err == ""


def test_only_runs_are_watched(tmp_path, clips):
    for target in (None, tmp_path, clips["h264"]):
        with pytest.raises(UsageError, match="--watch says nothing about"):
            inspect(target, InspectOptions(watch=True))
