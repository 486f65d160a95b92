"""On a terminal: the region fits, holds the facts and obeys nobody but its own code."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from tests.view import make_live_view_svg
from tests.view.reports import CAPTION, done, folded, shown
from vidcap_cli.rundir.events import Began, Started, State
from vidcap_cli.view.live import LiveView, draw


def test_live_region_holds_the_facts():
    state = folded(
        (0, Started(1, "host", time=0.0)),
        (0, State("captioning", time=0.0)),
        (0, Began([0], time=0.0)),
        *[(0, done(row, time=10.0 * (row + 1))) for row in range(20)],
        (1, State("loading model", time=0.0)),
        (1, done(30, status="decode_error", tokens=0, busy=0, wait=0, time=200.0)),
        total=2000,
        finished=812,
    )
    text = shown(state)
    assert "832 of 2,000 captioned, 812 of them before · 1 failed" in text
    assert re.search(r"36\d videos/h · up to 3 h 1\d min left", text)
    assert "0:01:15 so far" in text
    assert re.search(r"0 +captioning +20 +100 +17% +A red circle", text)
    assert re.search(r"1 +loading model +0 +1\b", text)


@pytest.mark.parametrize("ranks", [0, 1, 8, 64])
@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (140, 50), (60, 10), (30, 8)])
def test_live_region_fits_the_terminal(ranks, width, height):
    events = [(n, State(("captioning", "waiting for frames")[n % 2])) for n in range(ranks)]
    events += [(n, done(n)) for n in range(ranks)]
    lines = shown(folded(*events, total=100), width=width, height=height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_last_line_has_room_for_what_a_terminal_adds_at_ctrl_c(width):
    events = [(rank, done(rank, text=CAPTION * 3)) for rank in range(3)]
    lines = shown(folded(*events), width=width).splitlines()
    assert len(lines[-1].rstrip()) <= width - len("^C")


def test_many_ranks_are_folded_by_what_they_do():
    events = [(n, State("captioning" if n else "loading model")) for n in range(64)]
    events += [(n, done(n)) for n in range(1, 64)]
    text = shown(folded(*events, total=100))
    assert re.search(r"1-63 +captioning +63 +315", text)
    assert re.search(r"0 +loading model", text)


def test_a_single_failure_shows_in_the_bar():
    state = folded((0, done(0, status="oom")), total=100_000)
    assert "╍" in shown(state)


def test_what_a_file_name_says_is_not_obeyed_by_the_terminal():
    stream = io.StringIO()
    with LiveView(Console(file=stream, width=80), title="t", total=1) as view:
        view.event(0, done(0, text="[red]not markup[/]\x1b[2J\nnext"))
        view.notice("rank 1: \x1b]0;title\x07")
    assert "\x1b" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert "[red]not markup" in shown(view.state, width=120)


def test_live_view_scrolls_problems_above_and_leaves_the_last_state():
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True, _environ={})
    with LiveView(console, title="vidcap", total=2) as view:
        view.event(0, done(0))
        view.event(0, done(1, status="decode_error"))
        view.notice("rank 1 was killed by SIGKILL; restarting")
        view.tick()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "1.mp4 · decode_error: moov atom not found" in text
    assert "rank 1 was killed by SIGKILL; restarting" in text
    assert text.rindex("1 of 2 captioned · 1 failed") > text.rindex("SIGKILL")
    assert "so far" not in text[text.rindex("1 of 2 captioned · 1 failed") :]
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_problems_are_folded_between_words_and_paths_stay_whole():
    stream = io.StringIO()
    console = Console(file=stream, width=60, force_terminal=True, _environ={"NO_COLOR": "1"})
    with LiveView(console, title="vidcap", total=2) as view:
        view.notice("a note that has more words than there is room for on a line of sixty columns")
        view.notice("/a/path/that/is/longer/than/the/line/of/the/terminal/on/which/it/is.mp4 is")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert (
        "! a note that has more words than there is room for on a\n  line of sixty columns" in text
    )
    assert "/a/path/that/is/longer/than/the/line/of/the/terminal/on/which/it/is.mp4\n  is" in text


def test_no_color():
    environment = {"NO_COLOR": "1", "TERM": "xterm-256color"}
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, _environ=environment)
    state = folded((0, done(0)), (0, done(1, status="oom")), total=3)
    console.print(draw(state, title="t", now=1.0, elapsed=1.0, width=80, height=24))
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", stream.getvalue()) for code in
             found.split(";")}  # fmt: skip
    assert codes <= {"0", "1", "2"}  # reset, bold, dim


def test_the_picture_in_the_readme_is_current(tmp_path: Path):
    make_live_view_svg.main(tmp_path / "live-view.svg")
    fresh = (tmp_path / "live-view.svg").read_text(encoding="utf-8")
    assert fresh == make_live_view_svg.PICTURE.read_text(encoding="utf-8"), (
        "run python tests/view/make_live_view_svg.py"
    )
