"""A decoder process: reads the videos that its pool names, one after the other, and sends clips.

It is killed by whoever is in need: by its pool for time, by the kernel for memory, or by its own
limit on that; what this costs is told in ``pool``. Its socket carries a path (and a range) one way,
the result the other, with frames apart in anonymous memory (memfd). That it has a row it marks in
a byte of memory that it shares with the pool.
"""

import contextlib
import faulthandler
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from vidcap_cli.processes import die_with
from vidcap_cli.statuses import Status
from vidcap_cli.video import Clip, VideoError
from vidcap_cli.view.words import size

# Of a path and a rule, then of a range where one is wanted.
Read = Callable[..., Clip]

PROGRAM = "from vidcap_cli.video.decoder import serve; serve()"
MESSAGE_BYTES = 1 << 17  # more than any message: a path, or what surrounds a clip's frames
DOWNLOADED = b"downloaded"
DOWNLOADING = b"downloading"
_TELL_SECONDS = 1.0  # between two words that a download gets on
_LONGEST_ERROR = 1000  # characters


class _Pool:
    """The other end of this process's socket, if it is a decoder process."""

    ours: socket.socket | None = None
    told = 0.0


def downloading() -> None:
    """Tell the pool that a row gets on while its file is brought here."""
    if time.monotonic() > _Pool.told + _TELL_SECONDS:
        _tell(DOWNLOADING)


def downloaded() -> None:
    """Tell the pool that the file of a row is here: from now on it is the video that takes time."""
    _tell(DOWNLOADED)
    _Pool.told = 0.0


def _tell(word: bytes) -> None:
    if _Pool.ours:
        _Pool.ours.send(word)
        _Pool.told = time.monotonic()


def serve() -> None:
    """Run a decoder process.

    ``argv`` holds its socket, the memory of its mark, the pid it must not outlive and the bytes it
    may take.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel goes by the thread that started us: the pool's own, which lives as long as it.
    die_with(int(sys.argv[3]))
    # Where /proc is read-only the kernel chooses its victims by size alone.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    faulthandler.enable()
    memory = int(sys.argv[4])
    # What is private to the process and writable; not the code of libraries, nor finished clips.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    mark = mmap.mmap(int(sys.argv[2]), 1)
    os.close(int(sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as ours:
        rule, read = pickle.loads(ours.recv(MESSAGE_BYTES))  # noqa: S301 - from our own process
        _Pool.ours = ours
        ours.send(b"ready")
        while message := ours.recv(MESSAGE_BYTES):
            mark[0] = 1
            path, span = pickle.loads(message)  # noqa: S301 - as above
            _answer(ours, *_run(partial(read, path, rule, *([span] if span else []))))


def _run(read: Callable[[], Clip]) -> tuple[Status, str | None, Clip | None]:
    """Status, error and clip of one video."""
    try:
        return Status.OK, None, read()
    except VideoError as error:
        return error.status, error.message[:_LONGEST_ERROR], None
    except MemoryError:
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        words = f"its frames need more memory than a decoder may take ({size(limit)})"
        return Status.DECODE_ERROR, f"{words}: give more with --decode-memory", None
    except Exception as error:  # noqa: BLE001 - a bug costs one row; the log has its traceback
        traceback.print_exc()
        return Status.DECODE_ERROR, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR], None


def _answer(ours: socket.socket, status: Status, error: str | None, clip: Clip | None) -> None:
    if clip is None:
        ours.send(pickle.dumps((status, error, None, None)))
        return
    frames = np.ascontiguousarray(clip.frames)
    bare = replace(clip, frames=frames[:0])
    memory = os.memfd_create("clip")
    try:
        left = frames.data.cast("B")
        while left:
            left = left[os.write(memory, left) :]
        socket.send_fds(ours, [pickle.dumps((status, error, bare, frames.shape))], [memory])
    finally:
        os.close(memory)
