"""Readers for decoder processes that fail on cue: the path says how."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidcap_cli.video import Clip, Rule, VideoError


def read(path: str, rule: Rule) -> Clip:
    kind, _, rest = path.partition(":")
    if kind in _KINDS:
        _KINDS[kind](rest)
    if kind == "large":
        return clip(np.full((240, 392, 728, 3), 7, np.uint8))
    return clip(np.full((2, 4, 6, 3), len(path), np.uint8))


def _bug(rest: str) -> None:
    raise KeyError(rest)


def _memory(rest: str) -> None:
    np.ones(int(rest), np.uint8)


def _loaded(rest: str) -> None:
    raise VideoError("decode_error", " ".join({*rest.split()} & {*sys.modules}))


def _started(rest: str) -> None:
    raise VideoError("decode_error", f"{random.__file__} {sys.getfilesystemencoding()}")


_KINDS = {
    "hang": lambda _: time.sleep(1000),
    "slow": lambda rest: time.sleep(float(rest)),
    "abort": lambda _: os.abort(),
    "signal": lambda rest: os.kill(os.getpid(), int(rest)),
    "exit": lambda rest: os._exit(int(rest)),
    "print": lambda _: print("a library talks"),
    "bug": _bug,
    "loaded": _loaded,
    "started": _started,
    "memory": _memory,
}


def clip(frames: np.ndarray) -> Clip:
    count = len(frames)
    return Clip(frames, np.arange(count), "none", count, 1.0, *frames.shape[1:3], ())


def cannot_start() -> None:
    raise SystemExit


class Unloadable:
    """Pickles well, and ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return cannot_start, ()


def killed_at_first(counter: str, kills: int) -> Callable[[str, Rule], Clip]:
    with open(counter, "a+b", buffering=0) as file:
        file.write(b"x")
        if file.tell() <= kills:
            os.kill(os.getpid(), signal.SIGKILL)
    return read


@dataclass
class KilledWhileStarting:
    """Ends the first ``kills`` processes that unpickle it, as the kernel does; then a reader."""

    counter: str
    kills: int

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return killed_at_first, (self.counter, self.kills)


def ignores_interrupt(path: str, rule: Rule) -> Clip:
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGINT)
    return clip(np.zeros((1, 2, 2, 3), np.uint8))
