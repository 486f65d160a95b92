"""Given events, these are the numbers: every row once, at the same cost."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.view.reports import CAPTION, done, folded
from vidcap_cli.rundir.events import (
    Began,
    Committed,
    Ended,
    Event,
    Notice,
    Relaunched,
    Started,
    State,
)
from vidcap_cli.view.tally import KEPT, Failure, Pace, RunState


def test_rows_tokens_and_waiting_of_a_rank():
    state = folded(
        (0, Started(1, "host")),
        (0, State("captioning")),
        (0, Began([0, 1], time=90.0)),
        (0, done(0, tokens=50, busy=10, wait=2)),
        (0, done(1, status="decode_error", tokens=0, busy=10, wait=30)),
        (1, done(2, tokens=30, busy=5, wait=0)),
        (0, Committed(2, memory=600)),
        (0, Committed(1, memory=500)),
        finished=4,
    )
    assert (state.ok, state.failed, state.remaining) == (2, 1, 3)
    rank = state.ranks[0]
    assert (rank.ok, rank.failed, rank.state) == (1, 1, "captioning")
    assert (rank.memory, state.ranks[1].memory) == (600, 0)
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


def test_what_died_with_its_rank_does_not_count():
    on_disk = np.zeros(5000, np.bool_)
    on_disk[[0, 2]] = True
    reports = [
        (0, Started(1, "host")),
        (0, done(0)),
        (0, done(1)),
        (1, done(2, status="decode_error")),
        (1, done(3, status="decode_error")),
        (1, done(4999)),
        (None, Relaunched(on_disk)),
    ]
    state = folded(*reports)
    assert (state.ok, state.failed, state.ranks[0].ok, state.ranks[1].ok) == (1, 1, 1, 0)
    assert [failure.row for failure in state.failures] == [2]
    state = folded(*reports, (0, done(1)), (0, done(0)), (0, done(3)))
    assert (state.ok, state.failed, state.ranks[0].ok) == (3, 1, 3)


def test_a_process_that_starts_anew_within_a_launch_goes_on_with_its_totals():
    state = folded(
        (0, Started(1, "host")),
        (0, done(0, tokens=50, busy=10, wait=1)),
        (0, Started(1, "host")),
        (0, done(1, tokens=50, busy=5, wait=2)),
        (0, Started(1, "host")),
        (0, done(2, tokens=50, busy=5, wait=2)),
    )
    rank = state.ranks[0]
    assert (rank.launches, rank.restarts) == (1, 2)
    assert (rank.new_tokens, rank.busy_s, rank.wait_s) == (150, 20, 5)
    state.take(0, Started(2, "host"))
    assert (rank.launches, rank.restarts, rank.new_tokens, rank.busy_s) == (2, 0, 0, 0)


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
    state = folded(
        (0, Began([0], time=100.0)),
        (0, done(0, time=110.0)),
        (1, Began([1], time=94.0)),
        (1, done(1, time=104.0)),
    )
    early, late = state.videos_per_hour(110.0), state.videos_per_hour(400.0)
    assert early is not None
    assert late is not None
    assert early == pytest.approx(360 + 3600 / 16, rel=0.02)
    assert late < early / 10


def test_what_is_no_captioning_does_not_slow_the_pace():
    """A new launch, loading, compiling: they say nothing of the captions to come."""
    first = [(0, Began([0], time=0.0)), (0, done(0, time=10.0)), (0, done(1, time=20.0))]
    restart = [(0, Started(2, "host", time=25.0)), (0, State("loading model", time=26.0))]
    compiled = [
        (0, Began([2], time=500.0)),
        (0, State("compiling", time=500.0)),
        (0, State("captioning", time=560.0)),
    ]
    state = folded(*first, *restart, *compiled, (0, done(2, time=570.0)))
    assert state.videos_per_hour(570.0) == pytest.approx(360, rel=0.02)


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_the_first_batch_and_graphs_are_no_pace(slots):
    """After a slow start, by a tenth of the rows, the time left is right, also in a new launch."""
    for_row, rows, tenth = 0.5, 200, 24  # in whole batches

    def launch(pid: int, begin: float, first: int, last: int) -> Iterator[tuple[int, Event]]:
        yield 0, Started(pid, "host", time=begin)
        yield 0, State("captioning", time=begin + 3)
        yield 0, State("compiling", time=begin + 3)
        for row in range(first, first + slots):  # which fills the slots, and one graph serves more
            yield 0, Began([row], time=begin + 3 + row - first)
        begin += 3 + 9 * slots
        yield 0, State("captioning", time=begin)
        begin += 5  # the first steps are slow
        for number in range(first, last):
            at = begin + for_row * slots * ((number - first) // slots + 1)
            yield 0, done(number, time=at)
            yield 0, Began([number + slots], time=at)

    def left(events, rows: int) -> tuple[float, float]:
        state = folded(*events, total=rows)
        now = events[-1][1].time
        return state.seconds_left(now), for_row * state.remaining

    told, took = left(list(launch(1, 100.0, 0, tenth)), rows)
    assert told == pytest.approx(took, rel=0.25)
    cut_off = list(launch(1, 100.0, 0, 4 * tenth))
    again = [*cut_off, *launch(2, 1000.0, 4 * tenth, 5 * tenth)]
    told, took = left(again, rows)
    assert told == pytest.approx(took, rel=0.25)


def test_rows_that_fail_are_no_pace():
    """Four missing files at once are not 200,000 videos an hour, nor is anything left then."""
    missing = [(0, done(row, status="missing_file", time=5.0 + row / 100)) for row in range(4)]
    state = folded((0, Started(1, "host", time=1.0)), *missing, total=14)
    assert state.videos_per_hour(6.0) is None
    assert state.seconds_left(6.0) is None
    for event in (Began([4], time=5.04), done(4, time=15.04), done(5, time=25.04)):
        state.take(0, event)
    assert state.videos_per_hour(25.04) == pytest.approx(360, rel=0.02)
    assert state.seconds_left(25.04) == pytest.approx(80, rel=0.02)


def test_a_row_tried_again_is_a_caption_once():
    """Failures that are tried again are not there as progress, and a caption is one."""
    events = [(0, Began([0], time=0.0)), (0, done(0, status="oom", time=10.0)),
              (0, done(0, time=20.0)), (0, done(0, time=30.0))]  # fmt: skip
    assert folded(*events).videos_per_hour(30.0) == pytest.approx(120, rel=0.05)


def test_ranks_that_have_ended_are_not_waited_for():
    events = [(rank, Began([rank], time=0.0)) for rank in range(2)]
    events += [(rank, done(rank, time=10.0)) for rank in range(2)]
    state = folded(*events, (1, Ended("finished", time=10.0)))
    assert state.videos_per_hour(10.0) == pytest.approx(360, rel=0.02)
    assert state.seconds_left(10.0) == pytest.approx(80, rel=0.02)
    state.take(0, Ended("finished", time=10.0))
    assert state.videos_per_hour(500.0) == pytest.approx(720, rel=0.02)


def test_pace_of_nothing():
    assert Pace().per_second(5.0) is None


def test_a_rank_that_follows_is_no_line_of_its_own_until_it_has_rows():
    """It shares a model with rank 0, which reports; in the next launch it has the whole of it."""
    state = folded(
        (0, Started(1, "host")), (1, Started(2, "host", follows=0)), (1, State("loading model"))
    )
    assert set(state.ranks) == {0}
    state.take(1, Started(3, "host"))
    assert set(state.ranks) == {0, 1}
