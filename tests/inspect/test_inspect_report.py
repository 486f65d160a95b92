"""A report reads well on a terminal, in a pipe and as JSON, and says the same in each."""

import io
import json
import re
import sys

import pytest

from vidcap_cli.errors import UsageError
from vidcap_cli.inspect import inspect, render
from vidcap_cli.inspect.report import Fact, Problem, Report, Section

REPORT = Report(
    "model",
    "models/a folder",
    "cannot be used as it is",
    (
        Section("weights", (Fact("parameters", "1.08 million", 1_080_000), Fact("dtype", "F16"))),
        Section("files", (Fact("config.json", "missing", False),)),
    ),
    (
        Problem("config.json is missing", "hf download " + "x" * 100),
        Problem("an odd\x1b[2J name", serious=False),
    ),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_pipe(capsys):
    render(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "models/a folder"
    assert "  parameters   1.08 million" in lines
    assert "✗ config.json is missing" in lines
    assert "  → hf download " + "x" * 100 in lines
    assert lines[-1] == "✗ cannot be used as it is"
    assert not any("\x1b" in line for line in lines)


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    render(REPORT)
    assert "\x1b[36m" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert re.search(r"parameters +1\.08 million", text)
    assert "hf download " + "x" * 100 in text  # a command is not broken into lines


def test_as_json(capsys):
    render(REPORT, as_json=True)
    data = json.loads(capsys.readouterr().out)
    assert data["kind"] == "model"
    assert data["ok"] is False
    assert data["facts"]["weights"] == {"parameters": 1_080_000, "dtype": "F16"}
    assert data["facts"]["files"] == {"config.json": False}
    assert data["problems"][0]["serious"] is True


def test_only_serious_problems_count():
    assert not REPORT.ok
    assert Report("run", "t", "fine", (), (Problem("a row failed", serious=False),)).ok


def test_unknown_targets(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        inspect(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"neither a run directory .* nor a model .* nor .*videos"):
        inspect(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="neither a table"):
        inspect(tmp_path / "notes.txt")


def test_what_is_for_people_alone_and_what_for_programs(capsys):
    sections = (
        Section("facts", (Fact("given", "", None), Fact("list", "", [1]), Fact("text", "words"))),
        Section("picture", (Fact("0 to 5", "███ 3"),), only_shown=True),
        Section("data", (Fact("more", "", {"a": 1}),)),
    )
    report = Report("run", "r", "well", sections)
    assert report.as_dict()["facts"] == {
        "facts": {"given": None, "list": [1], "text": "words"}, "data": {"more": {"a": 1}},
    }  # fmt: skip
    render(report)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["r", "", "facts", "  text    words", "", "picture", "  0 to 5  ███ 3", "",
                     "✓ well"]  # fmt: skip
