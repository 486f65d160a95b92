"""Ranks that do not answer: the fake model in the real loop, and real signals."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.helpers.commands import Command, committed, events

from .scene import FINISHED, RUN, Scene, _draw_table


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    _draw_table(tmp_path / "scene", 16, seed=31)
    return Scene(tmp_path / "scene", seed=31, rows=16, slowness=1.0)


def stop_a_rank(command: Command, run: Path) -> None:
    """Stop rank 1 with SIGSTOP while rows are in its model."""

    def stopped() -> bool:
        started = [e for e in events(run) if (e["kind"], e["rank"]) == ("started", 1)]
        if not started or not in_model(run):
            return False
        pid = int(str(started[0]["pid"]))
        os.kill(pid, signal.SIGSTOP)
        if not in_model(run):  # they were done meanwhile
            os.kill(pid, signal.SIGCONT)
        return bool(in_model(run))

    command.wait_until(stopped)


def in_model(run: Path) -> set[int]:
    """The rows that rank 1 has in its model, by what it reports in the first launch."""
    mine = [e for e in events(run) if (e["attempt"], e["rank"]) == (1, 1)]
    began = {row for e in mine if e["kind"] == "began" for row in e["rows"]}
    return began - {e["row"] for e in mine if e["kind"] == "done"}


def test_one_interrupt_ends_a_run_whose_rank_is_stopped(scene, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDCAP_LEAVE_SECONDS", "3")
    work = scene.copy(tmp_path / "run")
    command = scene.command(work, workers=2)
    stop_a_rank(command, work / RUN)
    before = committed(work / RUN)
    command.process.send_signal(signal.SIGINT)
    code, _, err = command.finish(120)
    assert code == 130, err
    assert "killing the ranks that have not left in time" in err
    command.assert_gone()
    assert set(before) <= set(committed(work / RUN))


def test_a_rank_that_reports_nothing_is_killed_as_dead(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    command = scene.command(work, "--stall-timeout", "20", workers=2)
    stop_a_rank(command, work / RUN)
    code, _, err = command.finish(240)
    assert code in FINISHED, err
    assert "rank 1 has reported nothing for 20 s and is killed (--stall-timeout)" in err
    assert "rank 1 was killed by SIGKILL" in err
    command.assert_gone()
    end = json.loads((work / RUN / "attempts/0001/exit-0001.json").read_bytes())
    assert end["code"] == -signal.SIGKILL
    # The rows it had are charged with a death, as those of a rank that crashes are.
    assert end["rows"] == sorted(in_model(work / RUN))
    assert end["rows"]
    assert sorted({row for row, _ in committed(work / RUN)}) == list(range(16))
