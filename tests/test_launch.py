"""Ranks that cannot be started: what may pass is tried again, what does not is told."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from vidcap_cli import launch
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.launch import LaunchFailedError, read_exits
from vidcap_cli.run import Job, leading


class Notices:
    """A view that only remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    monkeypatch.setattr(launch, "adopt_orphans", lambda: None)  # this process has other children
    config = CaptionConfig("qwen2vl", "/models/some")
    return Job(tmp_path / "meta.csv", tmp_path / "run", config, retries=1)


@pytest.mark.parametrize("what", ["not there", "not executable"])
def test_an_interpreter_that_cannot_be_started_ends_the_run(job, tmp_path, monkeypatch, what):
    python = tmp_path / "python"
    if what == "not executable":
        python.write_bytes(b"")
    monkeypatch.setattr(launch.sys, "executable", str(python))
    words = rf"{python}: msrun cannot be started .*repeat the command"
    with pytest.raises(RunError, match=words) as caught, leading(job) as leader:
        leader.work(Notices())
    assert not isinstance(caught.value, LaunchFailedError)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_no_process_left_is_a_failed_launch(job, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with leading(job) as leader:
        with pytest.raises(RunError, match="2 launches in a row brought no caption"):
            leader.work(view := Notices())
        ends = [read_exits(folder) for folder in leader.run.attempts()]
    failed = [words for words in view.told if words.startswith("msrun cannot be started: ")]
    assert len(failed) == 2
    # No other node is to wait for the ranks of this one.
    assert [[end.code for end in launched] for launched in ends] == [[-signal.SIGKILL]] * 2
