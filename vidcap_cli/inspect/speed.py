"""Speed over time: how many captions an hour a launch made in each stretch of it."""

from collections.abc import Sequence

import numpy as np

from vidcap_cli.inspect.histogram import bar
from vidcap_cli.inspect.report import Fact, Section
from vidcap_cli.view.words import clock, figure

_STRETCHES = 10  # at most
_LEAST_CAPTIONS = 10
_LEAST_SECONDS = 60.0
_LENGTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


def speed(launch: int, times: Sequence[float], first: float, last: float) -> list[Section]:
    """The speed from ``first`` to ``last`` (seconds since the epoch), with captions at ``times``.

    None for a launch that has made next to nothing.
    """
    if len(times) < _LEAST_CAPTIONS or last - first < _LEAST_SECONDS:
        return []
    edges, per_hour = stretches(times, first, last)
    most = max(per_hour)
    lines = [
        Fact(f"from {clock(start)}", f"{bar(round(speed), round(most))} {figure(speed)}".strip())
        for start, speed in zip(edges, per_hour, strict=False)
    ]
    return [Section(f"captions an hour, launch {launch}", tuple(lines), only_shown=True)]


def stretches(times: Sequence[float], first: float, last: float) -> tuple[list[float], list[float]]:
    """Bounds in seconds since ``first``, and the captions an hour between each two of them."""
    seconds = max(last - first, 1e-3)
    whole_days = 86400.0 * np.ceil(seconds / 86400 / _STRETCHES)
    length = next((n for n in _LENGTHS if n * _STRETCHES >= seconds), whole_days)
    edges = [*np.arange(0.0, seconds, length).tolist(), seconds]
    if len(edges) > 2 and edges[-1] - edges[-2] < length / 4:
        del edges[-2]  # too short a rest to have a speed
    since = np.clip(np.asarray(times) - first, 0, seconds)
    counts = np.histogram(since, edges)[0].tolist()
    lengths = np.diff(edges).tolist()
    return edges, [3600 * n / taken for n, taken in zip(counts, lengths, strict=True)]
