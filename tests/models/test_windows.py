"""Windows of frames: every token is in one, and those of one are neighbours."""

import numpy as np
import pytest

from vidcap_cli.models.windows import window_order


def reference(height: int, width: int, merge: int, side: int) -> list[list[int]]:
    """The windows as transformers 4.57 makes them: a frame filled up with -100, cut in squares."""
    rows, columns = height // merge, width // merge
    fill = (side - rows % side, side - columns % side)
    index = np.arange(rows * columns).reshape(rows, columns)
    filled = np.pad(index, ((0, fill[0]), (0, fill[1])), constant_values=-100)
    tall, wide = (length // side for length in filled.shape)
    squares = filled.reshape(tall, side, wide, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
    return [some.tolist() for square in squares if len(some := square[square != -100])]


@pytest.mark.parametrize("side", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("size", [(2, 2), (8, 8), (10, 6), (14, 26), (28, 52), (2, 40)])
def test_windows_are_those_of_the_reference(size, side):
    order, windows = window_order(*size, 2, side)
    lengths = np.repeat(windows[:, 1], windows[:, 0]) // 4
    found = np.split(order, np.cumsum(lengths)[:-1])
    expected = reference(*size, 2, side)
    assert sorted(some.tolist() for some in found) == sorted(expected)
    assert len(windows) <= 4
    assert (np.diff(windows[:, 1]) < 0).all()
