"""Decoder processes: they read frames ahead of the model, and any of them may be lost.

Promises. Every submitted row comes back from ``DecodePool.next`` exactly once: with its clip, or
with a status and one sentence. A file that hangs its decoder beyond the timeout (counted from
when a decoder takes the row up, or has its file, not from ``submit``) or crashes it costs that row
and that process; a new process takes its place and no other row notices. A file that needs more
memory than a decoder may take costs that row. No decoder outlives the pool, nor the process that
owns it, however that ends. Decoders ignore Ctrl-C, and under memory pressure the kernel kills them
before it kills the rank; those killed while they start are started again, ever more slowly.

How. Each decoder is an interpreter of its own (the rank has MindSpore's threads, so no fork) with
a private socket, and one thread of the rank serves them all. Nothing is shared between decoders:
in a pool with shared pipes, such as pebble's, killing a worker that is sending stops the others
(measured). Frames arrive in anonymous memory (memfd), passed as a file descriptor and mapped:
205 MB take 0.15 s, and no time of the rank's interpreter, against 0.6 s when pickled.

Does not: bound how many rows wait or how many clips lie finished; the caller looks at ``pending``.
Linux only.
"""

import contextlib
import mmap
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import numpy as np

from vidcap_cli.errors import RunError
from vidcap_cli.host_memory import local_ranks, total
from vidcap_cli.spans import Span
from vidcap_cli.statuses import Status
from vidcap_cli.video import Clip, Rule, read_frames
from vidcap_cli.video.decoder import DOWNLOADED, DOWNLOADING, MESSAGE_BYTES, PROGRAM, Read

_LONGEST_PATH = 1 << 16  # bytes; the kernel's own limit is 4096
_STARTS = 3  # decoders in a row that leave by themselves before they are ready: no chance
# Seconds before a decoder that was killed while starting is followed by another.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_DOWNLOAD_SECONDS = 300.0  # after which a download that does not get on is given up, at least
_EXIT_SECONDS = 5.0  # for a process whose socket is closed to be gone, too
# What all decoders of a machine may take of its memory, and what each may in any case: HEVC at
# 3840x2160 in 10 bits was measured to take 0.6 GB.
_SHARE = 0.5
_LEAST_SHARE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Decoded:
    """A row that is finished with: ``clip``, or ``error`` when ``status`` is not ok.

    ``seconds`` is the time its decoder spent on it.
    """

    row_id: int
    path: str
    clip: Clip | None
    status: Status
    error: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class _Row:
    row_id: int
    path: str
    span: Span | None

    def failed(self, status: Status, error: str, seconds: float) -> Decoded:
        return Decoded(self.row_id, self.path, None, status, error, seconds)


def memory_share(decoders: int) -> int:
    """Bytes that one of this rank's ``decoders`` may take unless the user says otherwise."""
    return max(int(total() * _SHARE / (local_ranks() * decoders)), _LEAST_SHARE)


class DecodePool:
    """``workers`` processes that run ``read(path, rule)`` on submitted rows, first come first.

    For a row that is a range of its video it is ``read(path, rule, span)``.
    ``timeout`` is seconds a row. ``memory`` is bytes that a process may take, None for its share
    of the machine. ``rule`` and ``read`` must be picklable and importable.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        workers: int,
        timeout: float,
        memory: int | None = None,
        read: Read = read_frames,
    ) -> None:
        self._memory = memory or memory_share(workers)
        self._task = pickle.dumps((rule, read))
        self._workers = workers
        self._timeout = timeout
        self._pending = 0
        self._waiting: deque[_Row] = deque()
        self._finished: SimpleQueue[Decoded | BaseException] = SimpleQueue()
        self._closed = threading.Event()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        # From here on only the thread's:
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._decoders: list[_Decoder] = []
        self._dying: list[_Decoder] = []
        self._failed_starts = 0
        self._killed_starts = 0
        self._next_start = 0.0
        self._thread = threading.Thread(target=self._supervise, name="decoders", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """Rows submitted that ``next`` has not returned yet."""
        return self._pending

    @property
    def working(self) -> bool:
        """Whether a decoder is at a row now."""
        return any(decoder.began for decoder in list(self._decoders))

    def submit(self, row_id: int, path: str, span: Span | None = None) -> None:
        """Queue a row, which is a video or a range of one."""
        if self._closed.is_set():
            raise ValueError("the pool is closed")
        self._pending += 1
        row = _Row(row_id, path, span)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            self._finished.put(
                row.failed(Status.MISSING_FILE, "no file has a name as long as this", 0)
            )
            return
        self._waiting.append(row)
        # Where all are at rows, what comes next is looked for when one of them is done.
        if any(decoder.idle for decoder in list(self._decoders)):
            self._wake()

    def next(self, timeout: float | None = None) -> Decoded | None:
        """A finished row, in order of completion; None after ``timeout`` seconds without one, and
        at once when nothing is pending. Raises RunError when no decoder can be started.
        """
        if not self._pending:
            return None
        try:
            finished = self._finished.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(finished, BaseException):
            self._finished.put(finished)  # for the next call, too
            raise finished
        self._pending -= 1
        return finished

    def close(self) -> None:
        """Kill the decoders; rows that are still pending are dropped."""
        if not self._closed.is_set():
            self._closed.set()
            self._wake()
            self._thread.join()
            self._bell.close()
            self._ring.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            self._ring.send(b"!")

    def _supervise(self) -> None:
        try:
            while not self._closed.is_set():
                self._start_missing()
                self._hand_out()
                self._collect()
        except BaseException as error:  # noqa: BLE001 - raised by next(), in the caller's thread
            self._finished.put(error)
        finally:
            for decoder in self._decoders:
                decoder.kill()
            for decoder in self._decoders + self._dying:
                decoder.reap(timeout=0.5)
            self._selector.close()

    def _start_missing(self) -> None:
        if self._failed_starts >= _STARTS:
            raise RunError("The decoder processes do not start; the log of this rank says why.")
        while len(self._decoders) < self._workers and time.monotonic() >= self._next_start:
            try:
                decoder = _Decoder(self._task, self._memory)
            except OSError:  # no memory or process number left for it: as if it were killed
                traceback.print_exc()  # into the rank's log
                self._slow_down()
            else:
                self._selector.register(decoder.socket, selectors.EVENT_READ)
                self._decoders.append(decoder)

    def _slow_down(self) -> None:
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._killed_starts, 30), _LONGEST_PAUSE)
        self._killed_starts += 1
        self._next_start = time.monotonic() + pause

    def _hand_out(self) -> None:
        for decoder in self._decoders:
            if decoder.idle and self._waiting:
                row = self._waiting.popleft()
                if not decoder.take(row):
                    self._waiting.appendleft(row)

    def _collect(self) -> None:
        """Wait for decoders, submitted rows or the next timeout, and take what is there."""
        deadlines = [d.deadline(self._timeout) for d in self._decoders if d.row]
        if len(self._decoders) < self._workers:
            deadlines.append(self._next_start)
        pause = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        ready = {key.fileobj for key, _ in self._selector.select(pause)}
        if self._bell in ready:
            self._bell.recv(4096)
        for decoder in list(self._decoders):
            finished = None
            if decoder.socket in ready:
                finished = decoder.receive()
            elif decoder.row and time.monotonic() > decoder.deadline(self._timeout):
                finished = decoder.time_out(self._timeout)
            if finished:
                self._finished.put(finished)
            if decoder.ended:
                self._bury(decoder)
        self._dying = [decoder for decoder in self._dying if not decoder.reap(timeout=0)]

    def _bury(self, decoder: "_Decoder") -> None:
        if decoder.row:  # it never saw the row: another decoder will
            self._waiting.appendleft(decoder.row)
        self._selector.unregister(decoder.socket)
        self._decoders.remove(decoder)
        self._dying.append(decoder)
        if decoder.was_ready:
            self._failed_starts = self._killed_starts = 0
        elif decoder.was_killed():
            self._slow_down()
        else:
            self._failed_starts += 1


class _Decoder:
    """The rank's end of one decoder process."""

    def __init__(self, task: bytes, memory: int) -> None:
        self.row: _Row | None = None
        self.started = 0.0  # when the row was handed over, or its file was there
        self.downloads = False
        self.was_ready = False
        self.ended = False
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as undo, _shared_byte() as (mark, self._mark):
            undo.callback(self.socket.close)
            words = (str(number) for number in (theirs.fileno(), mark, os.getpid(), memory))
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words],
                pass_fds=[theirs.fileno(), mark],
                stdin=subprocess.DEVNULL,
                stdout=2,  # a library that prints must not write into the rank's output
                env={
                    **os.environ,
                    # An empty entry would be the working directory, where the user's files lie.
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "PYTHONSAFEPATH": "1",
                    "PYTHONUTF8": "1",  # a path is the same bytes on both sides
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MKL_NUM_THREADS": "1",
                },
                process_group=0,  # out of reach of Ctrl-C, also before it can ignore it
            )
            undo.pop_all()
        with contextlib.suppress(BrokenPipeError):  # its end is noticed when its socket is read
            self.socket.send(task)

    @property
    def began(self) -> bool:
        """Whether the process has taken up its row. It marks that in memory, which stays when it
        dies and wakes nobody.
        """
        return self.row is not None and self._mark[0] == 1

    @property
    def seconds(self) -> float:
        """Seconds since the row was handed over, or its file was downloaded."""
        return time.monotonic() - self.started

    def deadline(self, timeout: float) -> float:
        """When to give the row up; a download must only get on."""
        return self.started + (max(timeout, _DOWNLOAD_SECONDS) if self.downloads else timeout)

    @property
    def idle(self) -> bool:
        return self.was_ready and not self.ended and self.row is None

    def take(self, row: _Row) -> bool:
        """Start on a row; False when the process has died since it was last heard of."""
        self._mark[0] = 0
        try:
            self.socket.send(pickle.dumps((row.path, row.span)))
        except (BrokenPipeError, ConnectionResetError):
            return False
        self.row, self.started, self.downloads = row, time.monotonic(), False
        return True

    def receive(self) -> Decoded | None:
        """What came: that the process is ready or how a download is (None), a result, or its end.

        A process that ends before it has its row leaves the row in place: it cannot be at fault.
        """
        try:
            message, files, _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, 1)
        except ConnectionResetError:
            message, files = b"", []
        row = self.row
        if not message:
            self.ended = True
            if row is None or not self.began:
                return None
            self.row = None
            return row.failed(Status.DECODE_ERROR, self._obituary(), self.seconds)
        if row is None or message in (DOWNLOADED, DOWNLOADING):
            self.was_ready = True
            self.started, self.downloads = time.monotonic(), message == DOWNLOADING
            return None
        self.row = None
        status, error, clip, shape = pickle.loads(message)  # noqa: S301 - from our own process
        if clip is not None:
            pixels = np.frombuffer(mmap.mmap(files[0], 0), np.uint8)
            os.close(files[0])  # the mapping holds on to the memory by itself
            clip = replace(clip, frames=pixels.reshape(shape))
        return Decoded(row.row_id, row.path, clip, status, error, self.seconds)

    def time_out(self, timeout: float) -> Decoded:
        """Give up on the row and the process."""
        assert self.row is not None
        if self.downloads:
            message = f"its download has not got on for {_DOWNLOAD_SECONDS:g} seconds"
            status = Status.DOWNLOAD_ERROR
        else:
            message = f"decoding took longer than {timeout:g} seconds and was stopped"
            status = Status.DECODE_TIMEOUT
        row, self.row = self.row, None
        self.kill()
        return row.failed(status, message, self.seconds)

    def was_killed(self) -> bool:
        """Whether a process that has ended was ended from outside, not by an error of its own."""
        try:
            return self._process.wait(_EXIT_SECONDS) < 0
        except subprocess.TimeoutExpired:  # the kernel has it
            return True

    def kill(self) -> None:
        self._process.kill()
        self.ended = True

    def reap(self, timeout: float) -> bool:
        """Whether the process is gone. One that is stuck in the kernel (a dead network disk) goes
        when the kernel lets it.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self.socket.close()
        return True

    def _obituary(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return (
                "the decoder process was killed (SIGKILL), perhaps for lack of memory: "
                "a smaller --decode-memory makes it fail in time"
            )
        if code < 0:
            return f"the decoder process crashed on it ({_signal_name(-code)})"
        return f"the decoder process left with exit code {code}"


@contextlib.contextmanager
def _shared_byte() -> Iterator[tuple[int, mmap.mmap]]:
    """The descriptor of a byte of memory, for a process that is started meanwhile, and the byte."""
    file = os.memfd_create("mark")
    try:
        os.ftruncate(file, 1)
        yield file, mmap.mmap(file, 1)
    finally:
        os.close(file)


def _signal_name(number: int) -> str:
    known = {known.value: known.name for known in signal.Signals}
    return known.get(number, f"signal {number}")
