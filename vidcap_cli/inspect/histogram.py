"""Small histograms: how many values lie where, a line each."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vidcap_cli.inspect.report import Fact, Section

_BINS = 8  # about
_BAR = 24  # characters
_STEPS = (1, 2, 5, 10)


def histogram(label: str, values: npt.ArrayLike, unit: str = "") -> tuple[Fact, Section]:
    """Smallest, middle and largest of some values, and a line for each range of them."""
    found = np.asarray(values, np.float64)
    low, middle, high = np.percentile(found, [0, 50, 100]).tolist()
    least = 1.0 if (found == np.round(found)).all() else 1e-6  # width of a range
    edges = _edges(low, float(np.percentile(found, 99)), least)
    counts = np.histogram(found, [*edges[:-1], np.inf])[0].tolist()
    labels = [_range(a, b, whole=least == 1) for a, b in pairwise(edges)]
    if high >= edges[-1]:
        labels[-1] = f"{_plain(edges[-2])} or more"
    lines = [
        Fact(label, f"{bar(number, max(counts))} {number:,}".strip())
        for label, number in zip(labels, counts, strict=True)
    ]
    unit = f" {unit}" if unit else ""
    words = f"{_plain(low)} to {_plain(high)}{unit}, median {_plain(middle)}"
    value = {"min": low, "median": middle, "max": high, "edges": edges, "counts": counts}
    if low == high:
        words, lines = f"{_plain(low)}{unit}", []
    title = f"{label} ({unit.strip()})" if unit else label
    return Fact(label, words, value), Section(title, tuple(lines), only_shown=True)


def _range(first: float, end: float, *, whole: bool) -> str:
    """The values from ``first`` on, below ``end``."""
    if not whole:
        return f"{_plain(first)} to {_plain(end)}"
    return " to ".join(dict.fromkeys(map(_plain, (first, end - 1))))


def bar(number: int, most: int, width: int = _BAR) -> str:
    """A bar in proportion; what is there is never nothing."""
    eighths = max(1, round(8 * width * number / most)) if number else 0
    full, rest = divmod(eighths, 8)
    return "█" * full + " ▏▎▍▌▋▊▉"[rest].strip()


def _edges(low: float, high: float, least: float) -> list[float]:
    """Round bounds of about ``_BINS`` ranges of one width."""
    rough = max((high - low) / _BINS, least)
    scale = 10 ** np.floor(np.log10(rough))
    width = float(next(step for step in _STEPS if step * scale >= rough * 0.999) * scale)
    first = np.floor(low / width)
    last = max(first + 1, np.floor(high / width) + 1)
    return [round(float(n * width), 6) for n in np.arange(first, last + 1)]


def _plain(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")
