"""Given events, these are the numbers and the words that the user sees."""

import io
import re
import tracemalloc
from collections import Counter
from itertools import count as counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.view import make_live_view_svg
from vidcap_cli.rundir.events import Began, Committed, Done, Ended, Event, Notice, Started, State
from vidcap_cli.view.follower import LISTED_PER_STATUS
from vidcap_cli.view.live import LiveView, draw, make_view
from vidcap_cli.view.plain import PlainView
from vidcap_cli.view.summary import Outcome, captions_table, summary
from vidcap_cli.view.tally import KEPT, Failure, Pace, RunState

CAPTION = "A red circle moves slowly from left to right across a black background."


def done(row, *, status="ok", tokens=50, busy=10.0, wait=2.0, time=100.0, text=CAPTION):
    error = None if status == "ok" else "moov atom not found"
    text = text if status == "ok" else None
    return Done(row, f"{row}.mp4", status, text, error, tokens, busy, wait, time=time)


def folded(*events: tuple[int | None, Event], total=10, finished=0):
    state = RunState(total=total, finished=finished)
    for rank, event in events:
        state.take(rank, event)
    return state


def shown(state, width=100, height=24):
    console = Console(file=io.StringIO(), width=width, height=height)
    options = {"title": "vidcap qwen2vl meta.csv", "now": 200.0, "elapsed": 75.0}
    console.print(draw(state, width=width, height=height, **options))
    return console.file.getvalue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# --- the fold


def test_rows_tokens_and_waiting_of_a_rank():
    state = folded(
        (0, Started(1, "host")),
        (0, State("captioning")),
        (0, Began([0, 1], time=90.0)),
        (0, done(0, tokens=50, busy=10, wait=2)),
        (0, done(1, status="decode_error", tokens=0, busy=10, wait=30)),
        (1, done(2, tokens=30, busy=5, wait=0)),
        (0, Committed(2)),
        finished=4,
    )
    assert (state.ok, state.failed, state.remaining) == (2, 1, 3)
    rank = state.ranks[0]
    assert (rank.ok, rank.failed, rank.state) == (1, 1, "captioning")
    assert rank.tokens_per_second == 5.0
    assert rank.wait_share == 0.75
    assert rank.caption == CAPTION
    assert state.failures == (Failure(1, "1.mp4", "decode_error", "moov atom not found", 0),)


def test_before_anything_is_done_there_are_no_rates():
    state = folded((0, Started(1, "host", time=1.0)), (0, Began([0], time=5.0)))
    assert state.ranks[0].tokens_per_second is None
    assert state.ranks[0].wait_share is None
    assert state.videos_per_hour(50.0) is None
    assert state.seconds_left(50.0) is None


def test_a_row_finished_again_in_a_new_launch_counts_once():
    state = folded(
        (0, Started(1, "host")),
        (0, done(0, busy=10)),
        (0, done(1, busy=20)),
        # Killed before row 1 was committed: another rank finishes it again.
        (0, Started(2, "host")),
        (1, Started(3, "host")),
        (1, done(1, tokens=40, busy=8)),
    )
    assert state.ok == 2
    assert state.ranks[0].ok + state.ranks[1].ok == 2
    assert state.ranks[0].launches == 2
    # The new process counts its seconds from nought.
    assert state.ranks[0].tokens_per_second is None
    assert state.ranks[1].tokens_per_second == 5.0


def test_a_failed_row_that_succeeds_later_is_no_failure():
    state = folded((0, done(3, status="oom")), (1, done(3)))
    assert (state.ok, state.failed, state.failures) == (1, 0, ())
    assert (state.ranks[0].failed, state.ranks[1].ok) == (0, 1)


def test_a_row_that_fails_twice_is_one_failure():
    state = folded((0, done(3, status="oom")), (1, done(3, status="decode_error")))
    assert state.failed == 1
    assert [failure.status for failure in state.failures] == ["decode_error"]
    assert (state.ranks[0].failed, state.ranks[1].failed) == (0, 1)


def test_a_crashed_row_is_reported_by_no_rank():
    state = folded((None, done(7, status="crashed")))
    assert (state.failed, dict(state.ranks)) == (1, {})


def test_ended_ranks_and_notices():
    state = folded((0, Ended("finished")), (1, Notice("low on memory")))
    assert (state.ranks[0].alive, state.ranks[0].state) == (False, "finished")
    assert list(state.notices) == ["low on memory"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.booleans()), max_size=60))
def test_whatever_is_reported_rows_add_up(reports):
    """Against the plain definition: a row is ok once it was ok, else failed as last reported."""
    truth = {}
    state = RunState(total=21)
    for rank, row, good in reports:
        state.take(rank, done(row, status="ok" if good else "oom"))
        truth[row] = good or truth.get(row, False)
    assert state.ok == sum(truth.values())
    assert state.failed == len(truth) - state.ok == len(state.failures)
    assert state.remaining == 21 - len(truth)
    assert sum(rank.ok for rank in state.ranks.values()) == state.ok
    assert sum(rank.failed for rank in state.ranks.values()) == state.failed


def taken_bytes(state: RunState, first: int, count: int) -> int:
    """The most memory that was taken at any time while ``count`` rows from ``first`` end."""
    tracemalloc.start()
    for row in range(first, first + count):
        state.take(row % 8, done(row, status=("ok", "oom")[row % 2], time=float(row)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_no_event_costs_more_for_the_rows_before_it():
    rows, window = 10_000_000, 3 * 4096
    state = RunState(total=rows)
    for rank in range(8):
        state.take(rank, Started(1, "host"))
    taken_bytes(state, 0, 4096)  # the failures to show are as many as are kept now
    early = taken_bytes(state, 4096, window)
    for row in range(0, rows, 4096):  # all over the run: every page is there now
        state.take(row % 8, done(row))
    late = taken_bytes(state, rows - window, window)
    # Four bytes a row for the pages, and what one event takes, wherever it stands.
    assert early < 4 * (window + 4096) + 20_000
    assert late < 20_000
    windows = {*range(4096 + window), *range(rows - window, rows)}
    assert (len(state.failures), state.failed) == (KEPT, len(windows) // 2)
    assert state.ok == len({*range(0, rows, 4096), *(row for row in windows if not row % 2)})


def test_failures_that_are_not_listed_are_counted_and_forgotten():
    state = RunState(total=10 * KEPT)
    for row in range(3 * KEPT):
        state.take(0, done(row, status=("oom", "crashed")[row % 2]))
    assert state.failures == tuple(
        Failure(row, f"{row}.mp4", ("oom", "crashed")[row % 2], "moov atom not found", 0)
        for row in range(KEPT)
    )
    for row in range(3 * KEPT):
        state.take(1, done(row))
    assert (state.ok, state.failed, state.failed_by) == (3 * KEPT, 0, {})
    assert (state.ranks[0].failed, state.ranks[1].ok) == (0, 3 * KEPT)


def test_pace_of_a_steady_run():
    events = [(0, Began([0], time=0.0))]
    events += [(0, done(row, time=10.0 * (row + 1))) for row in range(50)]
    state = folded(*events, total=150)
    assert state.videos_per_hour(500.0) == pytest.approx(360, rel=0.02)
    assert state.seconds_left(500.0) == pytest.approx(1000, rel=0.02)


def test_pace_follows_a_change():
    events = [(0, Began([0], time=0.0))]
    events += [(0, done(row, time=float(row + 1))) for row in range(1000)]
    events += [(0, done(1000 + row, time=1000 + 10.0 * (row + 1))) for row in range(360)]
    assert folded(*events).videos_per_hour(4600.0) == pytest.approx(360, rel=0.2)


def test_pace_falls_while_nothing_comes_and_survives_clocks_that_step_back():
    state = folded((0, Began([0], time=100.0)), (0, done(0, time=110.0)), (1, done(1, time=104.0)))
    early, late = state.videos_per_hour(110.0), state.videos_per_hour(400.0)
    assert early is not None
    assert late is not None
    assert early == pytest.approx(720, rel=0.02)
    assert late < early / 10


def test_loading_the_model_again_does_not_slow_the_pace():
    first = [(0, Began([0], time=0.0)), (0, done(0, time=10.0)), (0, done(1, time=20.0))]
    restart = [(0, Started(2, "host", time=25.0)), (0, Began([2], time=500.0))]
    state = folded(*first, *restart, (0, done(2, time=510.0)))
    assert state.videos_per_hour(510.0) == pytest.approx(360, rel=0.02)


def test_pace_of_nothing():
    assert Pace().per_second(5.0) is None


# --- the live region


def test_live_region_holds_the_facts():
    state = folded(
        (0, Started(1, "host", time=0.0)),
        (0, State("captioning")),
        (0, Began([0], time=0.0)),
        *[(0, done(row, time=10.0 * (row + 1))) for row in range(20)],
        (1, State("loading model")),
        (1, done(30, status="decode_error", tokens=0, busy=0, wait=0, time=200.0)),
        total=2000,
        finished=812,
    )
    text = shown(state)
    assert "832 of 2,000 captioned · 1 failed · 812 from before" in text
    assert re.search(r"3[78]\d videos/h · 3 h( \d min)? left", text)
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
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_no_color():
    environment = {"NO_COLOR": "1", "TERM": "xterm-256color"}
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, _environ=environment)
    state = folded((0, done(0)), (0, done(1, status="oom")), total=3)
    console.print(draw(state, title="t", now=1.0, elapsed=1.0, width=80, height=24))
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", stream.getvalue()) for code in
             found.split(";")}  # fmt: skip
    assert codes <= {"0", "1", "2"}  # reset, bold, dim


# --- plain lines


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
    assert lines[0] == "vidcap qwen2vl: 100 videos, 40 of them from before"
    assert [line[:9] for line in lines[1:4]] == ["[0:00:10]", "[0:00:20]", "[0:00:30]"]
    assert "60 of 100 captioned · 40 from before" in lines[2]
    assert re.search(r"3,60\d videos/h · 40 s left · 1 captioning", lines[2])
    assert lines[4] == "failed: 50.mp4 · missing_file: moov atom not found"
    assert lines[5:7] == [
        "note: rank 2: the disk is nearly full",
        "note: rank 1 was killed by SIGKILL; restarting",
    ]
    assert "70 of 100 captioned · 1 failed" in lines[7]


def test_plain_view_is_quiet_while_nothing_changes():
    clock, stream = Clock(), io.StringIO()
    with PlainView(stream, title="t", total=5, now=clock) as view:
        view.event(0, State("loading model"))
        for _ in range(180):
            clock.now += 1.0
            view.tick()
    # The title, a line when there is something to say, one a minute, and the last.
    assert len(stream.getvalue().splitlines()) <= 6


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


# --- the final words


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


def test_the_picture_in_the_readme_is_current(tmp_path: Path):
    make_live_view_svg.main(tmp_path / "live-view.svg")
    fresh = (tmp_path / "live-view.svg").read_text(encoding="utf-8")
    assert fresh == make_live_view_svg.PICTURE.read_text(encoding="utf-8"), (
        "run python tests/view/make_live_view_svg.py"
    )
