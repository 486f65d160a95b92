"""The lock of a run, also where the file system has none that all nodes know of."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from vidcap_cli.errors import RunError
from vidcap_cli.rundir import lock as lock_module
from vidcap_cli.rundir import lock_file as lock_file_module
from vidcap_cli.rundir.lock import is_led, leadership
from vidcap_cli.rundir.lock_file import LockFile
from vidcap_cli.rundir.paths import RunDir


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture(params=["no locks", "local locks"])
def without_locks(request, monkeypatch):
    """A file system whose locks other nodes do not see, in one way or another."""
    if request.param == "local locks":
        monkeypatch.setattr(lock_module, "_mount_options", lambda _: {"rw", "localflock"})
        return

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock_file_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock_file_module, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(lock_file_module, "_LOOK_SECONDS", 0.05)


def test_with_locks_there_is_no_other_file(run):
    with leadership(run):
        assert is_led(run)
        assert not run.held.exists()
    assert not is_led(run)


def test_one_leads_and_others_see_it(run, without_locks, quick):
    assert not is_led(run)
    with leadership(run):
        assert is_led(run)
        with pytest.raises(RunError, match=r"leads this run|is working on"), leadership(run):
            pytest.fail("two lead")
        assert run.held.exists()
    assert not is_led(run)
    assert not run.held.exists()


def test_a_dead_process_of_this_host_is_followed_at_once(run, without_locks):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run.held.write_text(f"{socket.gethostname()} {gone.pid} name 3")
    assert not is_led(run)
    began = time.monotonic()
    with leadership(run):
        assert is_led(run)
    assert time.monotonic() - began < 30


def test_one_of_another_host_is_followed_when_it_stays_silent(run, without_locks, quick, capfd):
    run.held.write_text("elsewhere 77 name 3")
    assert is_led(run)
    with leadership(run):
        assert "elsewhere" not in run.held.read_text()
    assert "is of process 77 on elsewhere; looking for 1 s" in capfd.readouterr().err


def test_one_that_finds_its_lock_taken_away_is_stopped(run, quick, monkeypatch):
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(lock_file_module.os, "kill", lambda *words: sent.append(words))
    with LockFile(run.held):
        run.held.write_text("elsewhere 78 other 0")
        deadline = time.monotonic() + 20
        while not sent:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert run.held.read_text() == "elsewhere 78 other 0"


def test_a_lock_that_was_made_anew_meanwhile_is_not_taken_away(run):
    run.held.write_text("elsewhere 78 other 1")
    LockFile(run.held)._take_away("elsewhere 78 other 0")
    assert run.held.read_text() == "elsewhere 78 other 1"


def test_options_are_those_of_the_innermost_mount(tmp_path):
    assert "rw" in lock_module._mount_options(tmp_path)
    assert lock_module._mount_options(tmp_path) != lock_module._mount_options(
        lock_module.Path("/proc/self")
    )
