"""Options are declared once: what a declaration gives the command line, and words back from it."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from vidcap_cli import caption
from vidcap_cli.cli import app
from vidcap_cli.config import ALTERS_CAPTIONS, CaptionConfig, options_of
from vidcap_cli.declaring import declared, given, spelled
from vidcap_cli.families import FAMILIES
from vidcap_cli.options import PROMPTS, LaunchOptions, Prompt, RunOptions, TableOptions
from vidcap_cli.request import Request

# Another value than the default for every option that ranks are told.
OTHER = {
    "model": "/models/some",
    "path_column": "clip",
    "ranges": "from,to",
    "clip_length": 7.5,
    "stride": 2.5,
    "question": "What moves?",
    "question_column": "ask",
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 4,
    "retry_repetitive": True,
    "max_new_tokens": 7,
    "slots": 3,
    "num_frames": 9,
    "pooling_shape": "2-6-6",
    "fps": 1.5,
    "height": 56,
    "width": 84,
    "resize": "exact",
    "system_prompt": "Look.",
    "lora_alpha": 32.0,
    "reader": "decord",
    "decoders": 5,
    "decode_timeout": 9.5,
    "cache_size": 3_000_000_000,
    "decode_memory": 2_000_000_000,
    "flush_seconds": 3.0,
    "engine": "mindnlp",
    "dtype": "float16",
    "tensor_parallel": 4,
    "memory_limit": 12_000_000_000,
    "on_oom": "empty",
    "device_target": "CPU",
}


@pytest.fixture
def parsed(monkeypatch):
    """The request that a command line makes."""
    requests: list[Request] = []
    monkeypatch.setattr(caption, "caption", lambda request: requests.append(request) or 0)

    def run(*words: str) -> Request:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return requests.pop()

    return run


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_configuration_is_read_from_the_words_that_spell_it(parsed, family):
    options = options_of(family)
    assert OTHER.keys() == declared(CaptionConfig).keys()
    config = replace(
        parsed(family.command, "m.csv").config,
        **{name: value for name, value in OTHER.items() if name in options},
    )
    words = spelled(given(options.values(), asdict(config)))
    assert parsed(family.command, "m.csv", *words).config == config


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_defaults_need_no_words(parsed, family):
    request = parsed(family.command, "m.csv")
    assert given(options_of(family).values(), asdict(request.config)) == {}
    assert (request.table, request.run, request.launch) == (
        TableOptions(),
        RunOptions(),
        LaunchOptions(),
    )


def test_options_go_to_those_who_own_them(parsed):
    request = parsed(
        *("qwen2vl", "m.csv", "-o", "out.csv", "--format", "csv", "--all-columns"),
        *("--limit", "3", "--fresh", "--worker-num", "4", "--log-dir", "logs", "--retries", "0"),
    )
    assert request.table == TableOptions(Path("out.csv"), "csv", all_columns=True)
    assert request.run == RunOptions(limit=3, fresh=True)
    assert request.launch == LaunchOptions(worker_num=4, log_dir=Path("logs"), retries=0)
    assert request.config.part_format == "csv"


def test_a_line_of_msrun_is_understood_without_it(parsed):
    line = "qwen2vl --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log meta.csv"
    launch = parsed(*line.split()).launch
    assert launch == LaunchOptions(worker_num=8, local_worker_num=8, log_dir=Path("msrun_log"))
    assert parsed(*line.replace("True", "False").split()).launch.worker_num == 8


def test_words_of_flags_and_paths():
    asked = given(
        declared(TableOptions).values(),
        asdict(TableOptions(Path("/a b.csv"), "csv", overwrite_column=True)),
    )
    assert asked == {"output": "/a b.csv", "format": "csv", "overwrite_column": True}
    assert spelled(asked) == [
        *("--output", "/a b.csv", "--format", "csv", "--overwrite-column"),
    ]


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--memory-limit", "lots", "write a number and a unit, such as 12G or 800M."),
        ("--decode-memory", "lots", "write a number and a unit, such as 12G or 800M."),
        ("--decode-memory", "1M", "a decoder needs 256.0 MB or more."),
    ],
)
def test_sizes_that_are_none(option, value, remedy):
    done = CliRunner().invoke(app, ["qwen2vl", "m.csv", option, value], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"'{option}': '{value}': {remedy}" in " ".join(done.output.replace("│", " ").split())


def test_a_reader_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["llava", "m.csv", "--reader", "decord"])
    assert done.exit_code == 2
    assert "decord is not installed: pip install decord2." in done.output


def test_what_alters_captions():
    known = {field.name for field in fields(CaptionConfig)}
    assert set(ALTERS_CAPTIONS) <= known
    assert {"family", "model", "model_fingerprint", "fps", "reader", "dtype"} <= set(
        ALTERS_CAPTIONS
    )
    assert not {"slots", "engine", "decoders", "memory_limit"} & set(ALTERS_CAPTIONS)
    config = CaptionConfig("qwen2vl", "nano")
    assert config.called("family") == "the command"
    assert config.called("max_new_tokens") == "--max-new-tokens"
    assert config.called("num_frames") is None
    assert replace(config, family="llava").called("num_frames") == "--num-frames"


@pytest.mark.parametrize("name", get_args(Prompt))
def test_bundled_questions(parsed, name):
    assert list(get_args(Prompt)) == list(PROMPTS)
    request = parsed("pllava", "m.csv", "--prompt", name)
    assert request.config.question == PROMPTS[name]
    assert parsed("pllava", "m.csv").config.question == PROMPTS["detailed"]


def test_two_questions_are_refused():
    for question in ("Why?", PROMPTS["detailed"]):
        words = ["llava", "m.csv", "--prompt", "brief", "--question", question]
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert done.exit_code == 2
        assert "--prompt and --question say the same; leave one out." in done.output


def test_several_questions(parsed, tmp_path):
    (tmp_path / "brief.txt").write_text("In brief = what?\n")
    words = ["--question", "long=Say a=b, and why.", "--question", f"brief=@{tmp_path}/brief.txt"]
    config = parsed("qwen2vl", "m.csv", *words).config
    asked = {"long": "Say a=b, and why.", "brief": "In brief = what?"}
    assert config.question == config.questions == asked
    assert CaptionConfig.from_json(config.to_json()) == config
    again = spelled(given(options_of(FAMILIES["qwen2vl"]).values(), asdict(config)))
    assert parsed("qwen2vl", "m.csv", *again).config == config
    assert parsed("llava", "m.csv", "--question", "Is 1=1?").config.questions == {"": "Is 1=1?"}
    assert parsed("llava", "m.csv", "--question", "one=Who?").config.question == {"one": "Who?"}


@pytest.mark.parametrize(
    ("questions", "remedy"),
    [
        (["Who?", "b=What?"], "several questions need names: write NAME=TEXT, not 'Who?'."),
        (["a=Who?", "a=What?"], "two questions are called a; rename one."),
        (["a=@none.txt"], "none.txt cannot be read"),
        (["a= ", "b=Who?"], "write NAME=TEXT, not 'a= '."),
        ([" "], "it says nothing; write a question, or leave it out."),
    ],
)
def test_questions_that_are_none(questions, remedy):
    words = [word for question in questions for word in ("--question", question)]
    done = CliRunner().invoke(app, ["llava", "m.csv", *words], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert remedy in done.output


def test_a_question_in_a_file(parsed, tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("\ufeff\nWhat moves,\nand where?\n\n", encoding="utf-8")
    config = parsed("qwen2vl", "m.csv", "--question", f"@{file}").config
    assert config.question == "What moves,\nand where?"


@pytest.mark.parametrize(
    ("data", "remedy"),
    [(None, "cannot be read: No such file"), (b"\n ", "says nothing"), (b"\xff", "is not UTF-8")],
)
def test_files_without_a_question(tmp_path, monkeypatch, data, remedy):
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path("q.txt").write_bytes(data)
    words = ["qwen2vl", "m.csv", "--question", "@q.txt"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"q.txt {remedy}" in done.output
