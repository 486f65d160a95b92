"""Off a terminal: plain lines, not too many."""

import io
import re
from itertools import count as counter

from tests.view.reports import Clock, done
from vidcap_cli.rundir.events import Began, Notice, Rows, State
from vidcap_cli.statuses import Status
from vidcap_cli.view.follower import LISTED_PER_STATUS
from vidcap_cli.view.live import make_view
from vidcap_cli.view.plain import PlainView


def test_plain_view():
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, title="vidcap qwen2vl", total=100, finished=40, now=clock) as view:
        view.event(0, State("captioning", time=0.0))
        view.event(0, Began([0], time=0.0))
        for row in counter():
            clock.now += 1.0
            view.event(0, done(row, time=clock.now))
            view.tick()
            if row == 29:
                break
        view.event(0, done(50, status="missing_file", time=clock.now))
        view.event(2, Notice("the disk is nearly full"))
        view.notice("rank 1 was killed by SIGKILL; restarting")
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[0] == "vidcap qwen2vl: 100 videos, 40 of them captioned before"
    assert [line[:9] for line in lines[1:4]] == ["[0:00:10]", "[0:00:20]", "[0:00:30]"]
    assert "60 of 100 captioned, 40 of them before" in lines[2]
    assert re.search(r"3,60\d videos/h · 40 s left · 1 rank captioning", lines[2])
    assert lines[4] == "failed: 50.mp4 · missing_file: moov atom not found"
    assert lines[5:7] == [
        "note: rank 2: the disk is nearly full",
        "note: rank 1 was killed by SIGKILL; restarting",
    ]
    assert "70 of 100 captioned, 40 of them before · 1 failed" in lines[7]


def test_rows_that_are_told_together_are_counted_and_the_verbose_view_says_so():
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, title="t", total=9, verbose=True, now=clock) as view:
        view.event(0, State("captioning", time=0.0))
        view.event(0, Rows([0, 1, 2], [(0, Status.OK, 0.5), (1, Status.OOM, 0.7)], 7, time=1.0))
        view.event(0, done(2, time=2.0))
    lines = stream.getvalue().splitlines()
    assert lines[1] == "note: 2 rows more, which came faster than rows are shown"
    assert lines[2].startswith("done: 2.mp4")
    assert "2 of 9 captioned · 1 failed" in lines[3]


def test_a_launch_without_a_caption_says_no_new_one_where_there_are_some():
    stream = io.StringIO()
    for finished in (0, 2):
        view = PlainView(stream, title="t", total=5, finished=finished, now=Clock())
        view._progress()
    first, second = (line.partition(" ")[2] for line in stream.getvalue().splitlines())
    assert first == "0 of 5 captioned · no caption yet"
    assert second == "2 of 5 captioned, 2 of them before · no new caption yet"


def test_plain_view_is_quiet_while_nothing_changes():
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, title="t", total=5, now=clock) as view:
        view.event(0, State("loading model"))
        for _ in range(180):
            clock.now += 1.0
            view.tick()
    # The title, a line when there is something to say, one a minute, and the last.
    assert len(stream.getvalue().splitlines()) <= 6


def test_the_last_line_is_not_said_twice():
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, title="t", total=1, now=clock) as view:
        view.event(0, done(0, time=1.0))
        clock.now += 10
        view.tick()
        clock.now += 2
    assert len(stream.getvalue().splitlines()) == 2


def test_lines_on_a_dumb_terminal_are_folded_between_words(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    with PlainView(stream, title="t", total=1) as view:
        view.notice("more words than there is room for on a line of sixty columns of it")
    assert "a line of sixty\n  columns of it\n" in stream.getvalue()


def test_floods_of_failures_are_counted():
    stream = io.StringIO()
    with PlainView(stream, title="t", total=1000) as view:
        for row in range(500):
            view.event(0, done(row, status="missing_file"))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("failed:") for line in lines) == LISTED_PER_STATUS
    assert "more rows end with missing_file" in stream.getvalue()
    assert "500 failed" in lines[-1]


def test_off_a_terminal_lines_are_plain_and_stdout_stays_clean(capsys):
    with make_view(title="vidcap", total=1) as view:
        view.event(0, done(0))
    out, err = capsys.readouterr()
    assert out == ""
    assert isinstance(view, PlainView)
    assert "1 of 1 captioned" in err
