"""TAB in real shells, what the program answers them, and what neither TAB nor --help may import.

``python tests/test_completion.py --write`` makes the scripts in ``completions/`` anew. Shells run
on a terminal of their own, with a ``vidcap`` that answers TAB as the real one does and otherwise
prints its arguments: what counts is what the command would have been given.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

from vidcap_cli.checkpoint.called import bundled

ROOT = Path(__file__).parents[1]
REAL = Path(sys.executable).with_name("vidcap")
# A blank first line would hide zsh's #compdef from compinit.
GENERATE = """
for shell in bash zsh fish powershell; do
  _VIDCAP_COMPLETE=source_$shell vidcap | grep . > completions/vidcap.${shell/powershell/ps1}
done
"""
SHIM = """#!/bin/sh
[ -n "$_VIDCAP_COMPLETE" ] && exec "{real}" "$@"
printf 'GIVEN'
for argument; do printf '<%s>' "$argument"; done
echo END
"""
# How each shell starts without the user's settings, and what it is told before the tests.
SHELLS = {
    "bash": ["--norc", "--noprofile"],
    "zsh": ["-f"],
    "fish": ["--no-config"],
}
TERMINAL = {"TERM": "xterm", "COLUMNS": "200", "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
ESCAPES = re.compile(r"\x1b(\[[0-9;?>]*[a-zA-Z]|\][^\x07]*\x07|[()].|[=>])|\x0f|\r")


def environment(**more: str) -> dict[str, str]:
    """The environment of a program that is to find the ``vidcap`` of this interpreter first."""
    path = f"{REAL.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **TERMINAL, "PATH": path, **more}


def generate(root: Path) -> None:
    """Write the scripts of all shells into ``root/completions``."""
    subprocess.run(["bash", "-c", f"set -e{GENERATE}"], cwd=root, env=environment(), check=True)


def test_committed_scripts_are_what_the_program_prints(tmp_path):
    (tmp_path / "completions").mkdir()
    generate(tmp_path)
    made = {file.name: file.read_bytes() for file in (tmp_path / "completions").iterdir()}
    committed = {file.name: file.read_bytes() for file in (ROOT / "completions").iterdir()}
    assert made == committed
    assert sorted(made) == ["vidcap.bash", "vidcap.fish", "vidcap.ps1", "vidcap.zsh"]


@dataclass
class Shell:
    """An interactive shell in a folder, with completion for ``vidcap`` loaded."""

    name: str
    child: pexpect.spawn

    def enter(self, line: str) -> list[str]:
        """The arguments ``vidcap`` gets when ``line``, TABs and all, is typed and entered."""
        self.child.send(f"{line}\r")
        self.child.expect(r"GIVEN(.*?)END")
        return re.findall(r"<(.*?)>", self.child.match[1])

    def listing(self, line: str, *expected: str) -> None:
        """Type ``line``, press TAB for the choices, and wait for all ``expected`` to be shown."""
        self.child.send(line)
        # bash lists at the second TAB, when the first has found no more to fill in.
        self.child.send("\t\t" if self.name == "bash" else "\t")
        shown = ""
        while not all(word in shown for word in expected):
            self.child.expect(r".+")
            # Colours come in the middle of a word, where what was typed ends.
            shown = ESCAPES.sub("", shown + self.child.after)
        self.child.send("\x03")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What there is to complete: tables, videos, runs and models, some with awkward names."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("table.csv", "list.tsv", "rows.parquet", "lines.jsonl", "film.mp4"):
        (folder / name).touch()
    (folder / "my own table.csv").touch()
    (folder / "it's $HOME.csv").touch()
    (folder / "videos").mkdir()
    (folder / "videos" / "deep.mp4").touch()
    (folder / "run.vidcap").mkdir()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "Qwen2-VL").mkdir()
    return folder


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, folder, tmp_path_factory) -> Iterator[Shell]:
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    home = tmp_path_factory.mktemp(name)
    (home / "vidcap").write_text(SHIM.format(real=REAL), encoding="utf-8")
    (home / "vidcap").chmod(0o755)
    path = f"{home}{os.pathsep}{os.environ['PATH']}"
    child = pexpect.spawn(
        name,
        SHELLS[name],
        cwd=str(folder),
        env=environment(PATH=path, HOME=str(home), XDG_CONFIG_HOME=str(home)),
        encoding="utf-8",
        dimensions=(50, 200),
        timeout=30,
    )
    if name == "zsh":
        child.send(f"autoload -Uz compinit && compinit -u -d {home}/dump\r")
    child.send(f"source '{ROOT / 'completions' / f'vidcap.{name}'}'\r")
    child.send("vidcap ready\r")
    child.expect("GIVEN<ready>END")
    yield Shell(name, child)
    child.close(force=True)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_the_first_tab_of_a_shell_of_zsh(folder, tmp_path):
    (tmp_path / "vidcap").write_text(SHIM.format(real=REAL), encoding="utf-8")
    (tmp_path / "vidcap").chmod(0o755)
    shutil.copy(ROOT / "completions" / "vidcap.zsh", tmp_path / "_vidcap")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = environment(PATH=path, HOME=str(tmp_path))
    child = pexpect.spawn("zsh", ["-f"], cwd=str(folder), env=env, encoding="utf-8", timeout=30)
    child.send(f"fpath=({tmp_path} $fpath); autoload -Uz compinit && compinit -u; vidcap ready\r")
    child.expect("GIVEN<ready>END")
    assert Shell("zsh", child).enter("vidcap q\tend") == ["qwen2vl", "end"]
    child.close(force=True)


def test_commands(shell):
    assert shell.enter("vidcap q\tend") == ["qwen2vl", "end"]
    shell.listing("vidcap ", "qwen2vl", "merge", "inspect")


def test_options(shell):
    assert shell.enter("vidcap qwen2vl --fp\t9") == ["qwen2vl", "--fps", "9"]
    assert shell.enter("vidcap merge --prefe\tend") == ["merge", "--prefer", "end"]
    assert shell.enter("vidcap inspect --js\tend") == ["inspect", "--json", "end"]
    shell.listing("vidcap qwen2vl --m", "--model", "--max-new-tokens", "--master-port")


def test_choices(shell):
    assert shell.enter("vidcap qwen2vl --resize a\tend")[1:] == ["--resize", "area", "end"]
    assert shell.enter("vidcap qwen2vl --format p\tend")[1:] == ["--format", "parquet", "end"]
    shell.listing("vidcap merge --prefer ", "newest", "oldest", "first", "longest")


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("tab", "table.csv"),
        ("lis", "list.tsv"),
        ("row", "rows.parquet"),
        ("lin", "lines.jsonl"),
        ("fil", "film.mp4"),
        ("my", "my own table.csv"),
        ("it", "it's $HOME.csv"),
        ("./tab", "./table.csv"),
    ],
)
def test_tables_and_videos(shell, typed, name):
    assert shell.enter(f"vidcap qwen2vl {typed}\tend") == ["qwen2vl", name, "end"]


def test_a_name_with_spaces_before_the_cursor(shell):
    assert shell.enter("vidcap qwen2vl my\t--resi\tend") == [
        *("qwen2vl", "my own table.csv", "--resize", "end"),
    ]


def test_folders_are_descended_into(shell):
    assert shell.enter("vidcap qwen2vl vid\tde\tend") == ["qwen2vl", "videos/deep.mp4", "end"]


def test_merge_takes_runs_and_files(shell):
    # zsh takes the slash back when the next word begins.
    given = shell.enter("vidcap merge run\t tab\t-o out.csv")
    assert given[1].rstrip("/") == "run.vidcap"
    assert given[2:] == ["table.csv", "-o", "out.csv"]
    assert shell.enter("vidcap merge run.vidcap -o tab\tend")[-2:] == ["table.csv", "end"]


def test_inspect_takes_anything(shell):
    assert shell.enter("vidcap inspect run\t")[1].rstrip("/") == "run.vidcap"
    assert shell.enter("vidcap inspect fil\tend") == ["inspect", "film.mp4", "end"]


def test_models_are_folders_and_nano(shell):
    assert shell.enter("vidcap qwen2vl --model n\tend")[1:] == ["--model", "nano", "end"]
    given = shell.enter("vidcap qwen2vl --model che\tQw\tend")
    assert given[1:] == ["--model", "checkpoints/Qwen2-VL/end"]
    shell.listing("vidcap qwen2vl --model ", "nano", "checkpoints/", "videos/")


def answer(shell: str, words: list[str], folder: Path) -> list[str]:
    """What the program answers when TAB is pressed at the end of the last of ``words``."""
    line = " ".join(["vidcap", *words])
    more = {
        "_VIDCAP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(["vidcap", *words]),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
    }
    # A narrow terminal, because what is folded there must not become an answer of its own.
    done = subprocess.run(
        [REAL],
        cwd=folder,
        env=environment(COLUMNS="40", **more),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_protocol_of_choices(folder):
    words = ["qwen2vl", "--resize", "a"]
    assert answer("bash", words, folder) == ["area"]
    assert answer("zsh", words, folder) == ["""_arguments '*: :(("area"))'"""]
    assert answer("fish", words, folder) == ["area"]
    assert answer("powershell", words, folder) == ["area::: "]


def test_protocol_of_options(folder):
    words = ["qwen2vl", "--fp"]
    assert answer("bash", words, folder) == ["--fps"]
    assert answer("zsh", words, folder) == [
        """_arguments '*: :(("--fps":"Frames per second of video."))'"""
    ]
    assert answer("fish", words, folder) == ["--fps\tFrames per second of video."]
    assert answer("powershell", words, folder) == ["--fps:::Frames per second of video."]


def test_protocol_of_all_options_is_one_line_each(folder):
    for command in ("qwen2vl", "merge", "inspect"):
        names = answer("bash", [command, "--"], folder)
        assert "--help" in names
        for shell_name, sign in (("fish", "\t"), ("powershell", ":::")):
            lines = answer(shell_name, [command, "--"], folder)
            assert [line.partition(sign)[0] for line in lines] == names


@pytest.mark.parametrize(
    "words",
    [
        ["qwen2vl", "tab"],
        ["qwen2vl", "--model", "che"],
        ["qwen2vl", "-o", ""],
        ["qwen2vl", "--run-dir", ""],
        ["merge", "run"],
        ["merge", "run.vidcap", "tab"],
        ["merge", "--missing", "t"],
        ["inspect", ""],
    ],
)
def test_protocol_of_paths_leaves_them_to_the_shell(folder, words):
    assert answer("bash", words, folder) == [""]
    assert answer("zsh", words, folder) == ["_files"]
    assert answer("fish", words, folder) == [""]


def test_protocol_of_models(folder):
    words = ["qwen2vl", "--model", ""]
    assert answer("bash", words, folder) == ["nano", "checkpoints/", "run.vidcap/", "videos/"]


BANNED = {"mindspore", "mindnlp", "torch", "transformers", "numpy", "pandas", "pyarrow"}


def imported(code: str, **more: str) -> set[str]:
    """The modules loaded once ``code`` has run in an interpreter of its own."""
    watch = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('LOADED', *sys.modules, file=sys.stderr))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch + code],
        env=environment(**more),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.partition("LOADED ")[2].split())


def run(*arguments: str) -> str:
    """Code that runs the command line."""
    return f"sys.argv = ['vidcap', *{arguments!r}]\nfrom vidcap_cli.__main__ import run\nrun()\n"


@pytest.mark.parametrize("words", [[], ["qwen2vl"], ["merge"], ["inspect"]])
def test_help_imports_nothing_heavy(words):
    loaded = imported(run(*words, "--help"))
    assert "vidcap_cli.cli" in loaded
    # pydantic is light beside these, but 60 ms of a start that takes 160.
    assert not loaded & (BANNED | {"pydantic"})


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish", "powershell"])
@pytest.mark.parametrize("words", [["q"], ["qwen2vl", "--fp"], ["merge", "--prefer", ""]])
def test_tab_imports_nothing_heavy(shell_name, words):
    loaded = imported(
        run(),
        _VIDCAP_COMPLETE=f"complete_{shell_name}",
        COMP_WORDS="\n".join(["vidcap", *words]),
        COMP_CWORD=str(len(words)),
        _TYPER_COMPLETE_ARGS=" ".join(["vidcap", *words]),
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert "vidcap_cli.cli" in loaded
    assert not loaded & BANNED


@pytest.mark.parametrize(
    "module",
    [
        "caption",
        "launch.leader",
        "launch.follower",
        "merge.merge",
        "inspect",
        "view.live",
        "view.summary",
    ],
)
def test_the_parent_never_imports_a_framework(module):
    loaded = imported(f"import vidcap_cli.{module}\n")
    assert not loaded & {"mindspore", "mindnlp", "torch", "transformers"}


def test_a_command_leaves_pandas_out_though_pyarrow_looks_for_it(tmp_path):
    """Half a second of every run; a table with a space around a path makes pyarrow look."""
    clip = next(bundled("clips").glob("*.mp4"))
    (tmp_path / "meta.csv").write_text(f"path\n a.mp4\n{clip}\n")
    loaded = imported(run("qwen2vl", str(tmp_path / "meta.csv"), "--model", "nano", "--dry-run"))
    assert "pyarrow.compute" in loaded
    assert "pandas" not in loaded


def test_a_rank_never_imports_the_command_line():
    loaded = imported("import vidcap_cli.rank.worker\n")
    assert not loaded & {"typer", "rich", "vidcap_cli.cli", "mindspore", "mindnlp", "torch"}


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_completion.py --write")
    generate(ROOT)
