"""``--reader decord``: the frames that the original captioning scripts read, right or wrong.

decord counts the frames, gives the rate, and is asked for the chosen ones, as those scripts did.
On files with intra refresh, several video streams, open groups of pictures, a wrong key-frame
table or damage it gives other frames than asked for, without a word: that is why it is not the
default. Nothing falls back on the other reader in silence.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.statuses import Status
from vidcap_cli.video.clip import VideoError
from vidcap_cli.video.container import open_video

NOT_INSTALLED = "decord is not installed: pip install decord2, or leave --reader out"
NO_SPANS = "decord reads no ranges of videos; leave --reader out"


def open_decord(path: str | Path) -> tuple[Any, int, float]:
    """A file as decord opens it, its number of frames, and the frames a second it states."""
    with open_video(path):
        pass  # decord would follow playlists and draw text
    try:
        import decord  # noqa: PLC0415 - loads FFmpeg, and need not be there
    except ImportError as error:
        raise VideoError(Status.DECODE_ERROR, NOT_INSTALLED) from error
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(os.fspath(Path(path).absolute()), num_threads=1)
        total, fps = len(reader), float(reader.get_avg_fps())
    except (decord.DECORDError, RuntimeError, ValueError) as error:
        raise _refused("cannot open it") from error
    if not total or not 0 < fps < float("inf"):
        raise _refused("finds no frames in it")
    return reader, total, fps


def decord_frames(reader: Any, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Frames by their numbers, RGB ``[H, W, 3]``."""
    import decord  # noqa: PLC0415 - as above

    for number in numbers.tolist():
        try:
            # Narrow frames fail as a ValueError: "ndarray ... The size must exactly match".
            yield reader.get_batch([number]).asnumpy()[0]
        except (decord.DECORDError, RuntimeError, ValueError) as error:
            raise _refused(f"cannot give its frame {number + 1}") from error


def _refused(what: str) -> VideoError:
    return VideoError(Status.DECODE_ERROR, f"decord {what}: run again without --reader decord")
