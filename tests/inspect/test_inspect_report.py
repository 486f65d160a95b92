"""A report reads well on a terminal, in a pipe and as JSON, and says the same in each."""

import io
import json
import re
import sys

import pytest

from vidcap_cli.errors import UsageError
from vidcap_cli.inspect import inspect, render
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.view.steps import Step

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


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_are_folded_between_words_and_commands_stay_whole(width, monkeypatch, capsys):
    many = "words that go on and on until there is no room for them on a line " * 2
    path = "/a/path/" + "x" * 60 + ".mp4"
    flags = (Fact("cut", many, figures=("1,204", "33.3 %")), Fact("loop", many, figures=("7", "")))
    step = Step.of("to look at them", "inspect", path, "--html", "gallery.html")
    report = Report(
        "captions", path, many, (Section("flags", flags), Section("row", (Fact("row 1", path),))),
        (Problem(many, many), Problem("odd", "pip install " + many)), (step,), doubtful=True,
    )  # fmt: skip
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    render(report)
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    whole = [f"    {step.command}", f"  → pip install {many}", path]
    assert all(line in lines for line in whole[:2])
    folded = [line for line in lines if line not in whole and path not in line]
    assert max(map(len, folded)) <= width
    # Words hang beside their label and figures, so that columns stay columns.
    first = next(place for place, line in enumerate(lines) if line.startswith("  cut"))
    column = lines[first].index("words")
    assert lines[first].startswith("  cut    1,204  33.3 %  words")
    if width < 200:
        assert lines[first + 1].strip()
        assert lines[first + 1][:column].isspace()
    monkeypatch.undo()
    render(report)
    unfolded = " ".join(capsys.readouterr().out.split())
    assert unfolded == " ".join(" ".join(lines).split())


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
    (tmp_path / "g.html").touch()
    with pytest.raises(UsageError, match=r"g\.html: is a page; open it in a browser"):
        inspect(tmp_path / "g.html")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"is no table\. One path a line"):
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
