"""Ranks that cannot be started: what may pass is tried again, what does not is told."""

import errno
import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.runs import Notices
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.launch import msrun as launch
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import leading
from vidcap_cli.launch.msrun import Cluster, LaunchFailedError
from vidcap_cli.options import LaunchOptions
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.records import read_exits


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    monkeypatch.setattr(launch, "adopt_orphans", lambda: None)  # this process has other children
    config = CaptionConfig("qwen2vl", "/models/some")
    return Job(
        tmp_path / "meta.csv", tmp_path / "run", config, Cluster(launch=LaunchOptions(retries=1))
    )


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


def test_msrun_and_ranks_import_nothing_of_the_users_and_read_paths_as_bytes(tmp_path, monkeypatch):
    """Whatever the working directory, PYTHONPATH and the locale are."""
    (tmp_path / "random.py").write_text("raise SystemExit('imported a file of the user')\n")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}/none")
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    folder = RunDir(tmp_path / "run").attempt(1)
    folder.path.mkdir(parents=True)
    program = "import random, sys; print(random.__file__, sys.getfilesystemencoding(), sys.prefix)"
    done = subprocess.run(
        ["python", "-c", program],
        cwd=tmp_path,
        env=launch._environment(folder, Cluster()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{random.__file__} utf-8 {sys.prefix}\n", "")


def test_ranks_have_large_pages(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    folder = RunDir(tmp_path / "run").attempt(1)
    folder.path.mkdir(parents=True)
    assert launch._environment(folder, Cluster())["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_msrun_is_mindspores_own_without_the_rest_of_it():
    program = """
import sys
from vidcap_cli.launch import bare_msrun
msrun = bare_msrun.load()
sys.argv = ["msrun", "--worker_num=3", "--join=False", "python", "-c", "--worker_num=9"]
print(msrun.__file__, vars(msrun.get_args())["worker_num"], msrun.get_args().task_script_args)
print(sorted(name for name in sys.modules if name.startswith("mindspore.c")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    own, rest = done.stdout.splitlines()
    folder = importlib.util.find_spec("mindspore").submodule_search_locations[0]
    assert own == f"{folder}/parallel/cluster/run.py 3 ['-c', '--worker_num=9']"
    assert rest == "['mindspore.communication', 'mindspore.context']"  # names alone


def test_an_msrun_that_needs_more_of_mindspore_has_it_all(tmp_path):
    cluster = tmp_path / "mindspore" / "parallel" / "cluster"
    cluster.mkdir(parents=True)
    (tmp_path / "mindspore" / "__init__.py").write_text("whole = True\n")
    (tmp_path / "mindspore" / "utils.py").write_text("import mindspore\nhelper = mindspore.whole\n")
    (cluster / "run.py").write_text(
        "import sys\nfrom mindspore.utils import helper\nprint(helper, sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "vidcap_cli.launch.bare_msrun", "--worker_num=2", "a b"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True ['--worker_num=2', 'a b']\n", "")
