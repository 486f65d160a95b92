"""Ranges of videos as tables write them, and the names of rows that have one."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcap_cli.spans import Span, SpanError, named, parted, seconds, span, spans


@pytest.mark.parametrize(
    ("cell", "time"),
    [
        ("12.5", 12.5), ("0", 0.0), (" 7 ", 7.0), (3, 3.0), (2.25, 2.25), ("00:00:01.500", 1.5),
        ("1:02:03", 3723.0), ("2:03", 123.0), ("75:00", 4500.0), ("100:00:00.25", 360000.25),
        (".5", 0.5),
        (dt.timedelta(minutes=1), 60.0), (0.1 + 0.2, 0.3), ("", None), (None, None),
        (float("nan"), None),
    ],
)  # fmt: skip
def test_times(cell, time):
    assert seconds(cell) == time


@pytest.mark.parametrize(
    "cell",
    ["soon", "-1", -1, "1:2:3:4", "1e3", float("inf"), True, "2024-01-01", [1], b"1", "٣"],
)
def test_what_is_no_time(cell):
    with pytest.raises(SpanError, match="no time"):
        seconds(cell)


def test_a_range_is_between_two_cells():
    assert span("1", "00:00:02.5") == Span(1.0, 2.5)
    assert span(None, 4) == Span(0.0, 4.0)
    assert span(3, "") == Span(3.0, None)
    assert span("", None) is None
    assert span(0.0, None) is None
    for pair in [(2, 1), (1, 1), (0, 0)]:
        with pytest.raises(SpanError, match="ends before it begins"):
            span(*pair)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        # As Open-Sora's scene detection and Panda-70M write them.
        ("[('00:00:00.000', '00:00:04.004'), ('00:00:04.004', '00:00:09')]",
         [Span(0, 4.004), Span(4.004, 9)]),
        ("[['0:00:12.600', '0:00:18.640']]", [Span(12.6, 18.64)]),
        ([["00:00:01", "00:00:02"], [3, 4.5]], [Span(1, 2), Span(3, 4.5)]),
        ("00:00:01.000 - 00:00:02.000", [Span(1, 2)]),
        ("('00:00:01', '00:00:02')", [Span(1, 2)]),
        ((1, 2), [Span(1, 2)]),
        ("[]", [None]), ([], [None]), ("", [None]), (None, [None]),
    ],
)  # fmt: skip
def test_lists_of_ranges(cell, found):
    assert spans(cell) == found


@pytest.mark.parametrize(
    "cell",
    ["2024-05-01", "1714521600", 17, "[('a', 'b')]", "[1, 2, 3]", "[(1, 2, 3)]", "__import__('os')",
     "[(2, 1)]", "[" * 3000, "[(1", {"a": 1}, dt.datetime(2024, 5, 1)],  # noqa: DTZ001
)  # fmt: skip
def test_what_is_no_list_of_ranges(cell):
    with pytest.raises(SpanError):
        spans(cell)


def test_a_range_has_one_name_however_it_is_written():
    for start, end in [(1.5, 4), ("1.50", "4.000"), ("00:00:01.500", "0:04"), (1.4999999999, 4.0)]:
        assert named("a b.mp4", span(start, end)) == "a b.mp4#t=1.5,4"
    assert named("x.mp4", span(0, 1e-6)) == "x.mp4#t=0,0.000001"
    assert named("x.mp4", span(5, None)) == "x.mp4#t=5"
    assert named("x.mp4", None) == "x.mp4"


@given(
    st.text(min_size=1),
    st.floats(0, 1e6, allow_nan=False),
    st.none() | st.floats(1e-6, 1e6, allow_nan=False),
)
def test_names_are_read_again(path, start, length):
    wanted = span(start, None if length is None else start + length + 1e-6)
    if wanted:
        assert parted(named(path, wanted)) == (path, wanted)


@pytest.mark.parametrize(
    "name", ["x.mp4", "#t=1,2", "x#t=", "x#t=a", "x#t=1,", "x#t=-1", "x#t=1,2.mp4"]
)
def test_names_without_a_range(name):
    assert parted(name) == (name, None)
