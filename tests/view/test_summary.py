"""The last words of a command, and the captions of a demo."""

import io
import re
from collections import Counter

from rich.console import Console

from tests.view.reports import CAPTION
from vidcap_cli.view.summary import Outcome, captions_table, summary
from vidcap_cli.view.tally import Failure


def words(outcome, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    summary(outcome, console)
    return console.file.getvalue()


def test_summary_of_success():
    text = words(Outcome(rows=2000, ok=2000, captioned=1200, seconds=5400, output="out.csv"))
    assert "✓ 2,000 of 2,000 videos have a caption · 1 h 30 min · 800 videos/h" in text
    assert "→ out.csv" in text
    assert "next" not in text


def test_summary_of_failures_lists_a_few_and_says_what_to_run():
    failures = [Failure(n, f"{n}.mp4", "decode_error", "moov atom not found") for n in range(20)]
    failures.append(Failure(20, "gone.mp4", "missing_file", None))
    failed = Counter(failure.status for failure in failures)
    command = "vidcap qwen2vl meta.csv " + "--question why " * 12
    text = words(Outcome(30, 7, failed, failures, next_command=command))
    assert "! 7 of 30 videos have a caption" in text
    assert re.search(r"20 decode_error\n +1 missing_file", text)
    assert "0.mp4 · decode_error: moov atom not found" in text
    assert "and 13 more" in text
    assert "2 not reached yet" in text
    assert command in text  # on one line, to be copied


def test_captions_on_a_pipe_are_tab_separated(capsys):
    captions_table([("a.mp4", "A red\tcircle\nmoves."), ("b.mp4", None)])
    out, err = capsys.readouterr()
    assert out == "a.mp4\tA red circle moves.\nb.mp4\t\n"
    assert err == ""


def test_captions_on_a_terminal_are_a_table():
    console = Console(file=io.StringIO(), width=60, force_terminal=True, _environ={})
    captions_table([("a.mp4", CAPTION), ("b.mp4", None)], console)
    text = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    assert text.splitlines()[0].split() == ["clip", "caption"]
    assert re.search(r"a\.mp4 +A red circle", text)
    assert "no caption" in text
