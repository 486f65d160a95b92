"""The last words of a command, and the captions of a demo."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.view.reports import CAPTION
from vidcap_cli.view.steps import Step
from vidcap_cli.view.summary import Outcome, captions_table, lasting_words, summary
from vidcap_cli.view.tally import Failure


def words(outcome, width=None):
    """What is said in a pipe, or on a terminal of this ``width``."""
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        force_terminal=width is not None,
        _environ={"NO_COLOR": "1"},
    )
    summary(outcome, console)
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())


FAILURES = [
    Failure(n, f"a folder/{n}.mp4", "decode_error", "an MP4 file that was cut short")
    for n in range(20)
]
STEP = Step.of("to look at the captions and their flags", "inspect", "an output " + "x" * 90)
OUTCOME = Outcome(
    30,
    6,
    {"decode_error": 20, "oom": 2},
    FAILURES,
    captioned=6,
    seconds=5400,
    output="out.csv",
    steps=[STEP],
    flagged=3,
    flags={"cut": 3, "repetitive": 1},
)


def test_summary_of_success():
    text = words(Outcome(rows=2000, ok=2000, captioned=1200, seconds=5400, output="out.csv"))
    assert text == (
        "✓ 2,000 of 2,000 videos have a caption · 1 h 30 min, 800 videos/h from start to end\n"
        "  → out.csv\n"
    )
    assert words(Outcome(1, 0, {"empty": 1})).startswith("! 0 of 1 video has a caption\n")


def test_summary_of_failures_lists_a_few_and_says_what_to_run():
    text = words(OUTCOME)
    assert text.startswith("! 6 of 30 videos have a caption · ")
    assert "\n  20 decode_error\n  2 oom\n" in text
    assert "    a folder/0.mp4 · decode_error: an MP4 file that was cut short\n" in text
    assert "and 14 more" in text
    assert (
        "  another try alone does not help 20 of them: mend the files, or drop them from the table "
        "and add --extend, or leave them with --restart-failed none\n" in text
    )
    assert "2 not reached yet" in text
    assert "  3 captions have flags: cut 3, repetitive 1\n" in text
    assert text.endswith(f"next, to look at the captions and their flags:\n    {STEP.command}\n")
    assert "--restart-failed" not in words(replace(OUTCOME, tries_again=False))
    assert "another try" not in words(Outcome(2, 1, {"oom": 1}))


def test_where_no_file_was_found_it_is_said_where_paths_start_from():
    told = "  relative paths start from /data or /work\n"
    none = Outcome(2, 0, {"missing_file": 2}, bases=("/data", "/work", "/data"))
    assert told in words(none)
    assert told not in words(replace(none, ok=1, failed={"missing_file": 1}))
    assert told not in words(replace(none, failed={"decode_error": 2}))


def test_what_helps_is_said_of_what_failed_and_where_it_lies():
    start = "another try alone does not help: "
    table, folder, video = "table", "folder", "video"
    assert lasting_words({"decode_error": 1}, table) == (
        f"{start}mend the file, or drop it from the table and add --extend"
    )
    assert lasting_words({"decode_error": 2}, folder, "so") == (
        f"{start}mend the files, or take them out of the folder and add --extend, or leave them so"
    )
    assert lasting_words({"missing_file": 1}, video) == f"{start}mend the file"
    assert lasting_words({"empty": 3}, folder) == f"{start}ask another question"
    assert lasting_words({"empty": 1, "decode_error": 1, "oom": 1}, video, "so") == (
        "another try alone does not help 2 of them: mend the file, or ask another question where "
        "a caption is empty, or leave them so"
    )
    assert lasting_words({"oom": 1, "crashed": 2}, table) == ""


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_are_folded_between_words_and_the_command_is_not(width):
    lines = words(OUTCOME, width).splitlines()
    assert f"    {STEP.command}" in lines
    assert max(len(line) for line in lines if STEP.command not in line) <= width
    unfolded = " ".join(" ".join(lines).split())
    assert unfolded == " ".join(words(OUTCOME).split())


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
