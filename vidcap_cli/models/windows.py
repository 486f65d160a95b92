"""The windows of Qwen2.5-VL's tower: which patches attend to each other, and their order.

Source: transformers 4.57 ``modeling_qwen2_5_vl.py``, ``get_window_index``. Attention does not
depend on the order of windows, so those of one size come together here.
"""

import numpy as np
from numpy.typing import NDArray


def window_order(
    height: int, width: int, merge: int, side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of a frame of ``height`` x ``width`` patches: its tokens window by window, and the windows.

    A token is ``merge`` x ``merge`` patches, a window ``side`` x ``side`` tokens, fewer at the
    right and lower edge. The order is ``[tokens]``, the windows ``[kinds, 2]``: how many there
    are of how many patches, the larger ones first.
    """
    rows, columns = height // merge, width // merge
    row, column = np.indices((rows, columns)).reshape(2, -1) // side
    window = row * columns + column
    sizes = np.bincount(window)
    order = np.lexsort((window, -sizes[window]))
    lengths, counts = np.unique(sizes[sizes > 0], return_counts=True)
    windows = np.stack([counts, lengths * merge**2], 1)[::-1]
    return order, windows
