"""What every process of a command may import and how it reads paths; Ctrl-C at any moment."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from numpy.random import default_rng

from tests.faults.scene import Scene, write_noise
from tests.helpers.commands import Command, rows_of, vidcap, write_nano_table
from vidcap_cli import processes
from vidcap_cli.errors import RunError
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.view.words import lines, one_line

# A locale that cannot encode names outside ASCII, and Python told to believe it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_what_a_terminal_would_obey_is_replaced():
    assert "\x1b" not in lines("a\x1b]0;x\x07\nb")
    assert lines("a\nb") == "a\nb"
    assert "\u202e" not in one_line("x\u202egnp.exe")


def test_an_error_that_names_a_column_is_escaped(tmp_path):
    (tmp_path / "e.csv").write_bytes(b"\x1b[31mcol\x1b]0;owned\x07,b\nx,y\n")
    code, out, err = vidcap("qwen2vl", "e.csv", "--model", "nano", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "col" in err
    assert "\x1b" not in err
    assert "\x07" not in err


def test_names_in_the_working_directory_are_not_imported_and_a_long_one_costs_a_row(tmp_path):
    meta = write_nano_table(tmp_path, 2, seed=5)
    (tmp_path / "001.mp4").rename(tmp_path / "视频.mp4")
    meta.write_text(meta.read_text("utf-8").replace("001.mp4", "视频.mp4"), "utf-8")
    with meta.open("a", encoding="utf-8") as table:
        table.write(f"9,{'n' * 300}.mp4,long\n")
    for name in ("random", "queue", "av", "numpy", "json", "psutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported a file of the user')\n")
    script = Path(sys.executable).with_name("vidcap")  # as users start it
    done = subprocess.run(
        [script, "qwen2vl", "meta.csv", "--model", "nano"],
        cwd=tmp_path,
        env={**os.environ, **ASCII, "PYTHONPATH": f"{os.pathsep}{tmp_path / 'none'}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    rows = rows_of(tmp_path / "meta_caption_qwen2vl.csv")
    assert [row["caption_status"] for row in rows[:2]] == ["ok", "ok"]
    assert rows[2]["caption_status"] in ("missing_file", "decode_error")
    assert rows[2]["caption_error"]


def test_a_locale_without_utf8_reads_the_same_paths(tmp_path):
    (tmp_path / "é.csv").write_text("path\nü.mp4\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "vidcap_cli", "inspect", "é.csv"],
        cwd=tmp_path,
        env={**os.environ, **ASCII},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert "é.csv" in done.stdout.decode()
    assert "ü.mp4" in done.stdout.decode()


def test_ctrl_c_at_any_moment_of_the_start_is_quiet(tmp_path):
    (tmp_path / "meta.csv").write_text("path\na.mp4\n", encoding="utf-8")
    program = (
        "import sys; sys.argv = ['vidcap', 'inspect', 'meta.csv']\n"
        "import vidcap_cli.__main__ as command\n"
        "print('ours', flush=True)\n"  # before, it is the interpreter's own start
        "command.main()\n"
    )
    for step in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"ours\n"
        time.sleep(step * 0.06)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err.decode()
        assert b"KeyboardInterrupt" not in err, err.decode()
        assert process.returncode in (130, 1), err.decode()  # 1: it was faster, no video is there


INTERRUPTED = """
import os, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(name, *_):
        if name == module:
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Finder)
sys.modules.pop(module, None)
from vidcap_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["vidcap_cli.errors", "vidcap_cli.cli", "pyarrow.lib"])
def test_ctrl_c_within_an_import_is_quiet(tmp_path, module):
    (tmp_path / "meta.csv").write_text("path\na.mp4\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, "inspect", "meta.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr in ("", "vidcap: interrupted\n")


def test_ctrl_c_that_c_code_prints_and_replaces_is_quiet():
    """As numpy's ``import_array`` does with what stops the import of its core."""
    program = (
        "import os, signal, sys\n"
        "from vidcap_cli import __main__ as command, inspect\n"
        "def look(*_):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.excepthook(*sys.exc_info())\n"
        "    raise ImportError('numpy._core.multiarray failed to import')\n"
        "inspect.inspect = look\n"
        "sys.argv = ['vidcap', 'inspect']\n"
        "command.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"vidcap: interrupted\n")


STARTER = """
import os, subprocess, sys, time
os.environ["VIDCAP_PARENT"] = str(os.getpid())
subprocess.Popen([sys.executable, "-m", "vidcap_cli.processes", "sleeper", "--an=option"])
time.sleep(600)
"""
SLEEPER = """
import os, pathlib, sys, time
pathlib.Path("said").write_text(f"{os.getpid()} {sys.argv[1:]}")
time.sleep(600)
"""


def test_a_module_dies_with_the_process_that_started_it(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    starter = subprocess.Popen([sys.executable, "-c", STARTER], cwd=tmp_path, env=environment)
    said = tmp_path / "said"
    while not said.exists() or not said.read_text():
        assert starter.poll() is None
        time.sleep(0.05)
    pid, words = said.read_text().split(" ", 1)
    assert words == "['--an=option']"
    sleeper = psutil.Process(int(pid))
    starter.kill()
    starter.wait()
    assert psutil.wait_procs([sleeper], timeout=30)[1] == []


ANEW = """
import os, socket, sys
from vidcap_cli.processes import start_anew
print(os.getpid(), sys.argv[1:], len(os.listdir("/proc/self/fd")), os.environ.get("ADDED"))
if "ADDED" in os.environ:
    raise SystemExit
before = dict(os.environ, ADDED="once")
os.environ["ADDED"] = "by a library"
os.set_inheritable(socket.socket().detach(), True)  # as a driver may keep files open
start_anew(before)
"""


def test_a_process_starts_anew_with_its_words_and_without_its_files(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ANEW)
    words = [sys.executable, str(program), "--an=option", ""]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path.cwd())
    first, second = done.stdout.splitlines()
    assert second == first.replace("None", "once")


def test_an_interrupted_command_ends_before_libraries_can_abort_it():
    program = (
        "import atexit, os, signal\n"
        "from vidcap_cli import __main__ as command, cli\n"
        "atexit.register(os.abort)\n"
        "cli.app = lambda args: os.kill(os.getpid(), signal.SIGINT)\n"
        "command.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"vidcap: interrupted\n")


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("raise SystemExit(3)", 3, b""),
        ("raise SystemExit", 0, b""),
        ("raise command.VidcapError('no such thing')", 1, b"vidcap: no such thing\n"),
        ("raise ZeroDivisionError", 1, b"ZeroDivisionError\n"),
    ],
)
def test_a_command_tidies_up_and_ends_before_libraries_can_abort_it(ends, code, said):
    program = (
        "import atexit, os\n"
        "from vidcap_cli import __main__ as command, cli\n"
        "atexit.register(os.abort)\n"  # last of all
        "def app(args):\n"
        "    print('all done', end=' ')\n"
        "    atexit.register(print, 'tidied up')\n"
        f"    {ends}\n"
        "cli.app = app\n"
        "command.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, b"all done tidied up\n")
    assert done.stderr.endswith(said)


def test_python_m_does_not_import_from_the_working_directory(tmp_path):
    for name in ("signal", "typer", "shlex"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported a file of the user')\n")
    code, out, err = vidcap("--version", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("vidcap ")


def test_what_the_system_refuses_is_a_sentence(tmp_path):
    name = "x" * 300
    code, out, err = vidcap("inspect", name, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"vidcap: {name}: File name too long. ")


def test_a_place_whose_name_is_not_utf8_is_refused_by_name(tmp_path):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (place / "meta.csv").write_text("path\na.mp4\n", encoding="utf-8")
    code, out, err = vidcap("qwen2vl", "meta.csv", "--model", "nano", cwd=place)
    assert (code, out) == (1, "")
    assert "not UTF-8; rename it" in err
    assert "Traceback" not in err


def test_a_video_whose_name_is_not_utf8_costs_its_row_alone(tmp_path):
    clips = tmp_path / "scene" / "clips"
    clips.mkdir(parents=True)
    for name in ("0.mp4", "1.mp4"):
        write_noise(clips / name, default_rng(6))
    try:
        os.rename(clips / "1.mp4", os.fsencode(clips) + b"/\xff.mp4")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    scene = Scene(tmp_path / "scene", seed=31, rows=2)
    work = scene.copy(tmp_path / "run")
    words = ["qwen2vl", "clips", "--model", "nano"]
    code, _, err = Command(words, work, scene.environment(work)).finish()
    assert code == 3, err
    assert r"\xff.mp4" in err
    good, lost = rows_of(work / "clips_caption_qwen2vl.csv")
    assert (good["caption_status"], Path(good["path"]).name) == ("ok", "0.mp4")
    assert (lost["caption_status"], Path(lost["path"]).name) == ("missing_file", r"\xff.mp4")
    assert "not UTF-8" in lost["caption_error"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"config": 3}', b"\xff\xfe", b"[" * 99999])
def test_a_damaged_description_of_a_launch_is_told(tmp_path, data):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    folder.config.write_bytes(data)
    with pytest.raises(RunError, match=r"attempt\.json: damaged or gone .* repeat the command"):
        Attempt.read(folder)


def test_whether_somebody_listens_on_a_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert not processes.is_listened_on(port)
        listener.listen()
        assert processes.is_listened_on(port)
        with socket.create_connection(("127.0.0.1", port)) as connected:
            assert not processes.is_listened_on(connected.getsockname()[1])
    assert not processes.is_listened_on(port)
