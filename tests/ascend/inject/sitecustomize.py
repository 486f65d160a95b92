"""Fills the device's memory before a rank's model does something; see ``fill``.

Python imports this at its start where the folder is on PYTHONPATH.
"""

import os
import sys

WANTED = os.environ.get("VIDCAP_FILL")


def patch(phase: str, marks: str, times: int) -> None:
    """Have the first ``times`` calls of ``Decoder``'s ``phase`` find no memory, in all processes.

    ``marks`` is a folder that counts them.
    """
    from vidcap_cli import engine

    load = engine.load_engine

    def load_engine(config, say=lambda _: None, group=None) -> object:
        loaded = load(config, say, group)
        decoder = loaded._decoder
        call = getattr(decoder, phase)

        def short_of_memory(*arguments) -> object:
            done = len(os.listdir(marks))
            if done >= times:
                return call(*arguments)
            open(os.path.join(marks, str(done)), "x").close()
            hog = fill()
            try:
                result = call(*arguments)
                synchronize()  # what was only queued fails here
                return result
            finally:
                hog.clear()

        setattr(decoder, phase, short_of_memory)
        return loaded

    engine.load_engine = load_engine


def fill() -> list[object]:
    """Tensors that take all of the device's memory that is left, to a kilobyte.

    Again until nothing more is got: an allocation that fails makes MindSpore give some back.
    """
    hog: list[object] = []
    while more := some_tensors():
        hog += more
    return hog


def some_tensors() -> list[object]:
    """Tensors as large as can be had, then smaller ones."""
    import mindspore as ms
    from mindspore import mint

    got: list[object] = []
    size = 1 << 30
    while size >= 1 << 10:
        try:
            tensor = mint.empty((size,), dtype=ms.uint8)
            synchronize()
        except RuntimeError:
            size //= 2
        else:
            got.append(tensor)
    return got


def synchronize() -> None:
    """Wait for what is queued."""
    import mindspore as ms

    ms.runtime.synchronize()


if WANTED and "vidcap_cli.rank.worker" in sys.orig_argv:
    phase, marks, times = WANTED.rsplit(",", 2)
    patch(phase, marks, int(times))
