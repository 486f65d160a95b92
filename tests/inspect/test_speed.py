"""Speed over time: stretches cover the launch, and no caption is lost."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcap_cli.inspect.speed import speed, stretches


@given(st.floats(0.01, 3e6), st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_every_caption_is_in_a_stretch(seconds, places):
    first = 1e9
    times = [first + place * seconds for place in places]
    edges, per_hour = stretches(times, first, first + seconds)
    assert edges[0] == 0
    assert edges == sorted(edges)
    assert edges[-1] == pytest.approx(seconds, abs=1e-3)
    assert len(per_hour) == len(edges) - 1 <= 10
    hours = [(stop - start) / 3600 for start, stop in pairwise(edges)]
    made = sum(speed * hour for speed, hour in zip(per_hour, hours, strict=True))
    assert made == pytest.approx(len(times), rel=1e-3)


def test_a_change_of_speed_shows():
    times = [*range(0, 300, 10), *range(300, 600, 2)]
    edges, per_hour = stretches(times, 0.0, 600.0)
    assert edges == [float(minute * 60) for minute in range(11)]
    assert per_hour[0] == 360
    assert per_hour[-1] == 1800
    (section,) = speed(3, times, 0.0, 600.0)
    assert section.title == "captions an hour, launch 3"
    assert section.facts[-1].label == "from 0:09:00"
    assert len(section.facts[-1].words) > len(section.facts[0].words)


def test_a_launch_of_few_captions_has_no_picture():
    assert speed(1, [1.0, 2.0], 0.0, 3.0) == []


def test_a_launch_of_seconds_is_not_drawn():
    assert speed(1, [float(second) for second in range(20)], 0.0, 20.0) == []
