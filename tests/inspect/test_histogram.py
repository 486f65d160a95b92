"""Small histograms: every value is in one range, and what is there shows."""

import numpy as np
import pytest

from vidcap_cli.inspect.histogram import bar, histogram


@pytest.mark.parametrize(
    "values",
    [[3], [1, 2], [0, 0, 0, 1], [0.001, 0.002, 0.0035], [10, 13, 12], list(range(1000)),
     [*[5] * 500, 1e9], [23.976, 25, 29.97, 30, 60]],
)  # fmt: skip
def test_every_value_is_counted(values):
    fact, lines = histogram("x", values, "s")
    found = fact.value
    assert sum(found["counts"]) == len(values)
    assert found["edges"] == sorted(set(found["edges"]))
    assert found["edges"][0] <= min(values) == found["min"]
    assert len(found["counts"]) == len(found["edges"]) - 1 <= 12
    assert len(lines.facts) == (len(found["counts"]) if min(values) < max(values) else 0)
    assert lines.only_shown


def test_ranges_are_round_and_whole_numbers_stay_whole():
    fact, lines = histogram("x", [10, 13, 12, 11])
    assert fact.value["edges"] == [10, 11, 12, 13]
    assert [line.label for line in lines.facts] == ["10", "11", "12 or more"]
    lines = histogram("x", np.arange(100))[1].facts
    assert [line.label for line in lines[:2]] == ["0 to 19", "20 to 39"]
    assert lines[0].words.endswith(" 20")


def test_what_is_far_away_is_in_the_last_range():
    lines = histogram("x", [*range(500), 10**6])[1].facts
    assert lines[-1].label == "400 or more"


def test_a_bar_in_proportion():
    assert bar(0, 5) == ""
    assert bar(5, 5, width=4) == "████"
    assert bar(1, 10_000, width=4) == "▏"
    assert bar(3, 4, width=2) == "█▌"
