"""What the command says and answers when it is used wrongly, and that its help is complete.

Every error is one through the real command: a sentence on stderr, nothing on stdout, the code of
``errors``. Captioning itself is tested elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from vidcap_cli import __version__
from vidcap_cli.cli import app

GROUP = get_command(app)
COMMANDS = sorted(GROUP.commands)
CAPTION = [name for name in COMMANDS if name in {"llava", "pllava", "qwen2vl"}]


def vidcap(*arguments: str, cwd: Path, **more: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, the latter as one line without the frames of a panel."""
    done = subprocess.run(
        [sys.executable, "-m", "vidcap_cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, " ".join(done.stderr.replace("│", " ").split())


def refusal(*arguments: str, cwd: Path, code: int) -> str:
    """The sentence with which the command ends, its code and an empty stdout checked."""
    found, out, err = vidcap(*arguments, cwd=cwd)
    assert "Traceback" not in err, err
    assert (found, out) == (code, ""), err
    return err


@pytest.fixture
def table(tmp_path) -> Path:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n", encoding="utf-8")
    return tmp_path / "meta.csv"


def test_nothing_to_caption(tmp_path):
    err = refusal("qwen2vl", cwd=tmp_path, code=2)
    assert "name the table, video or folder" in err
    assert "--demo" in err


def test_missing_table_is_named_with_the_remedy(tmp_path):
    err = refusal("qwen2vl", "nowhere.csv", "--model", "nano", cwd=tmp_path, code=2)
    assert str(tmp_path / "nowhere.csv") in err
    assert "no such file" in err
    assert "check the spelling" in err


def test_missing_model_folder(table):
    err = refusal("qwen2vl", "meta.csv", "--model", "models/none", cwd=table.parent, code=2)
    assert str(table.parent / "models" / "none") in err
    assert "name another model" in err
    assert "nano" in err


def test_default_model_folder_is_the_original_one(table):
    err = refusal("qwen2vl", "meta.csv", cwd=table.parent, code=2)
    assert str(table.parent / "pretrained_models" / "Qwen2-VL-7B-Instruct") in err


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("llava", "use `vidcap llava`"),
        ("pllava", "use `vidcap pllava`"),
        ("bert", "cannot caption with it"),
    ],
)
def test_model_of_another_family(table, kind, advice):
    folder = table.parent / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    err = refusal("qwen2vl", "meta.csv", "--model", "model", cwd=table.parent, code=2)
    assert str(folder) in err
    assert f"type {kind}" in err
    assert advice in err


def test_folder_that_is_no_checkpoint(table):
    err = refusal("qwen2vl", "meta.csv", "--model", ".", cwd=table.parent, code=2)
    assert "config.json" in err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--fps", "0"),
        ("--fps", "fast"),
        ("--resize", "stretch"),
        ("--format", "xlsx"),
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "many"),
        ("--limit", "0"),
        ("--bs", "-1"),
        ("--master-port", "80"),
        ("--device-target", "GPU"),
        ("--dtype", "int8"),
    ],
)
def test_wrong_value_names_the_option(table, option, value):
    err = refusal("qwen2vl", "meta.csv", option, value, cwd=table.parent, code=2)
    assert f"'{option}'" in err
    assert "vidcap qwen2vl -h" in err.replace("python -m vidcap_cli", "vidcap")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("qwen2vl x --frobnicat", "No such option: --frobnicat."),
        ("qwen2vl x --modle nano", "No such option: --modle. Did you mean --model?"),
        ("qwen2vl x --batch_size 4", "No such option: --batch-size. Did you mean --bs?"),
        ("qwen2vl x --num_frames 4", "No such option: --num-frames. Did you mean --fps?"),
        ("pllava x --fps 4", "No such option: --fps. Did you mean --num-frames?"),
        ("merge x --output_path y", "Did you mean --output?"),
        ("qwen2vl x --cluster_time_out=9", "It is msrun's, which vidcap starts by itself; leave"),
        ("qwen2vl x --join=maybe", "'--join': 'maybe': write True or False."),
        ("--versoin", "No such option: --versoin. Did you mean --version?"),
        ("--max_new_tokens 3 qwen2vl x", "--max-new-tokens belongs after the command: vidcap"),
        ("qwenvl x", "There is no command 'qwenvl'. Did you mean qwen2vl?"),
        ("help", "There is no command 'help'. The commands are llava, pllava, qwen2vl, merge"),
        (
            "my clips",
            "There is no command 'my'. To caption it: vidcap qwen2vl 'my clips' --model Qwen/",
        ),
        ("meta.csv", "To caption it: vidcap qwen2vl meta.csv --model Qwen/"),
        (
            "my clips --model nano --fps 2",
            "To caption it: vidcap qwen2vl 'my clips' --model nano --fps 2",
        ),
        ("--show-completion zsh", "--show-completion takes no value: it is for the shell"),
        ("qwen2vl x --sidecar", "--sidecar needs a value: one of txt, json, both."),
        ("inspect x --html", "inspect [OPTIONS] [TARGET]"),
        ("merge x -o", "-o needs a value: FILE."),
        ("qwen2vl model/1.mp4 model/2.mp4", "Name the folder of the videos, model, or a table"),
        (
            "qwen2vl meta.csv --question What do you see --model nano",
            "Put quotes around a text with spaces: --question 'What do you see'",
        ),
        (
            "qwen2vl --question What do you see meta.csv",
            "with spaces: --question 'What do you see'",
        ),
        ("qwen2vl x --prefix a b", "with spaces: --prefix 'a b'"),
        ("qwen2vl meta.cvs", "there is no such file or folder; did you mean "),
        ("qwen2vl mdel/1.mp4", "/model/1.mp4?"),
        ("inspect meta.cvs", "meta.cvs: there is no such file or folder; did you mean meta.csv?"),
        ("merge meta.cvs -o x.csv", "did you mean meta.csv?"),
        ("qwen2vl model/a.jpg", "is a picture, and vidcap captions videos"),
        ("qwen2vl model/a.txt", "before them: (echo path; cat model/a.txt) > model/a.csv"),
        ("qwen2vl meta.csv --demo", "--demo captions the bundled clips; leave it out, or meta.csv"),
        ("qwen2vl my clips --model nano", "Put quotes around a name with spaces: 'my clips'"),
        ("inspect my clips", "Put quotes around a name with spaces: 'my clips'"),
        ("qwen2vl a b", "b is more than is asked for."),
        ("qwen2vl half.vidcap model", "Name one folder at a time, or a table that lists"),
        ("inspect half.csv", "did you mean half.vidcap?"),
        ("qwen2vl a --prefix -o x.csv", "--prefix has taken -o for its text: give it one, or"),
        ("llava a --fresh True", "asked for. --fresh takes no value: leave out True."),
        ("llava a --overwrite_column no", "takes no value: leave out no and --overwrite_column."),
        ("qwen2vl x --fps abc", "'--fps': 'abc' is no number."),
        ("qwen2vl x --bs 1.5", "'--bs': '1.5' is no whole number."),
        ("qwen2vl x --bs 0", "'--bs': 0 is less than 1."),
        ("qwen2vl x --master-port 70000", "70000 is more than 65535."),
        ("qwen2vl x --dtype flaot32", "Did you mean float32?"),
        ("qwen2vl x --memory-limit 12Q", "'12Q': write a number and a unit"),
        ("qwen2vl meta.csv --model nanoo", "nanoo. Did you mean nano?"),
        ("qwen2vl meta.csv --model modle", "model? Give --model the folder"),
    ],
)
def test_what_may_be_meant_is_said(table, typed, said):
    (table.parent / "my clips").mkdir()
    (table.parent / "model").mkdir()
    (table.parent / "half.vidcap").mkdir()
    (table.parent / "hall.csv").touch()
    for name in ("1.mp4", "2.mp4", "a.jpg", "a.txt"):
        (table.parent / "model" / name).touch()
    assert said in refusal(*typed.split(), cwd=table.parent, code=2)


def test_files_that_a_shell_listed_are_their_folder(tmp_path):
    for name in ("a.mp4", "für später.mp4"):
        (tmp_path / name).touch()
    err = refusal("qwen2vl", "a.mp4", "für später.mp4", "--model", "nano", cwd=tmp_path, code=2)
    assert "für später.mp4 is more than is asked for. Name the folder of the videos, ., or" in err


def test_merge_needs_inputs_and_an_output(tmp_path):
    assert "RUN" in refusal("merge", "-o", "out.csv", cwd=tmp_path, code=2)
    assert "--output" in refusal("merge", "some", cwd=tmp_path, code=2)
    assert "nowhere" in refusal("merge", "nowhere", "-o", "out.csv", cwd=tmp_path, code=2)
    assert not (tmp_path / "out.csv").exists()


def test_every_option_may_be_written_with_underscores(table):
    """Each option of each command is understood so: a wrong value is a fault of the value."""
    for name in COMMANDS:
        for option in options(name):
            for spelling in filter(lambda opt: opt.startswith("--"), option.opts):
                written = spelling[:2] + spelling[2:].replace("-", "_")
                context = GROUP.commands[name].make_context(
                    name,
                    [written] if option.is_flag else [written, sample(option)],
                    resilient_parsing=True,
                    parent=GROUP.make_context("vidcap", [name], resilient_parsing=True),
                )
                source = context.get_parameter_source(option.name)
                assert source is not None
                assert source.name == "COMMANDLINE", written


def test_underscores_end_to_end(table):
    (table.parent / "meta_caption_qwen2vl.csv").write_text("path,text\n", encoding="utf-8")
    code, out, err = vidcap(
        *("qwen2vl", "meta.csv", "--pretrained_model_name_or_path", "nano"),
        *("--max_new_tokens", "5", "--device_target", "CPU", "--skip_if_existing"),
        cwd=table.parent,
    )
    assert (code, out) == (0, "")
    assert "meta_caption_qwen2vl.csv exists" in err


def test_values_keep_their_underscores(table):
    err = refusal("qwen2vl", "meta.csv", "--model", "my_model", cwd=table.parent, code=2)
    assert "my_model" in err


def test_version(tmp_path):
    assert vidcap("--version", cwd=tmp_path) == (0, f"vidcap {__version__}\n", "")


def sample(option) -> str:
    """A value that ``option`` accepts."""
    kind = option.type_descriptor
    if kind.choices:
        return str(kind.choices[0])
    return "2048" if kind.annotation in {int, float} else "value"


def options(command: str) -> list:
    """The options of ``command``; arguments have no spelling of their own."""
    return [
        parameter
        for parameter in GROUP.commands[command].params
        if parameter.opts[0].startswith("-")
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_mentions_every_option_once(command, tmp_path):
    code, out, err = vidcap(command, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    panels = out[out.index("╭") :]
    words = panels.replace(",", " ").replace("│", " ").split()
    for option in options(command):
        for spelling in option.opts:
            if spelling.startswith("--"):
                assert words.count(spelling) == 1, spelling


@pytest.mark.parametrize("width", ["60", "80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_cuts_nothing(command, width, tmp_path):
    _, out, _ = vidcap(command, "--help", cwd=tmp_path, COLUMNS=width)
    assert "…" not in out
    if width != "60":  # names fold between their spellings alone
        words = out.replace(",", " ").replace("│", " ").split()
        assert {flag for option in options(command) for flag in option.opts} <= {*words}


@pytest.mark.parametrize("width", ["80", "85", "99", "100"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_letter_is_lost_at_the_edge_of_help(command, width, tmp_path):
    _, out, _ = vidcap(command, "--help", cwd=tmp_path, COLUMNS=width)
    _, whole, _ = vidcap(command, "--help", cwd=tmp_path, COLUMNS="300")
    lost = {*whole.replace("│", " ").split()} - {*out.replace("│", " ").split()}
    panels = [line for line in out.splitlines() if line.startswith(("│", "╭"))]
    assert {len(line) for line in panels} == {int(width)}
    # Words longer than the column are folded; borders of the whole help are longer.
    assert not [word for word in lost if len(word) < 30 and word[0] not in "╭╰"]


@pytest.mark.parametrize("command", COMMANDS)
def test_everything_has_help(command):
    assert GROUP.commands[command].help
    for parameter in GROUP.commands[command].params:
        assert parameter.help, parameter.name
        # rich takes for markup what stands in brackets, and shows nothing.
        assert "[" not in parameter.help, parameter.name


@pytest.mark.parametrize("command", CAPTION)
def test_defaults_that_are_settled_later_are_told(command, tmp_path):
    _, out, _ = vidcap(command, "--help", cwd=tmp_path)
    for option in options(command):
        told = option.is_flag or option.show_default
        assert told or option.name == "limit", option.name
    assert "{META}_caption_{command} beside META" in " ".join(out.replace("│", " ").split())


def test_help_of_the_program_names_its_commands(tmp_path):
    for flag in ("--help", "-h"):
        code, out, err = vidcap(flag, cwd=tmp_path)
        assert (code, err) == (0, "")
        for command in COMMANDS:
            assert f" {command} " in out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["qwen2vl", "--help"], ["--version"]])
def test_reader_that_leaves_early(arguments, unbuffered, tmp_path):
    """As under `head`: no complaint, whether the pipe breaks while writing or at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "vidcap_cli", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_closed_stdout(tmp_path):
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m vidcap_cli --version >&-'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
