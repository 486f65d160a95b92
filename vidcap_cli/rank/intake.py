"""Intake: claims rows, has their frames read ahead, and says which the model may have next.

Rows come in the order in which their frames are there. One that is to be alone, because it may
have killed a rank, waits until the model is empty, and the others wait for it. Nothing here knows
the model; rows that have no frames come out like the others, with their status.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Protocol

import pyarrow as pa

from vidcap_cli.addresses import locate
from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.rank.recorder import Recorder
from vidcap_cli.rank.row import Row
from vidcap_cli.rundir.claims import any_unclaimed, claim_chunks, own_chunks
from vidcap_cli.rundir.parts import read_part
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.records import (
    DEATHS_TO_GIVE_UP,
    Attempt,
    ShortRows,
    deaths_of,
    left_out,
    read_exits,
)
from vidcap_cli.rundir.todo import Todo
from vidcap_cli.spans import Span
from vidcap_cli.statuses import Doing, Status
from vidcap_cli.video.pool import Decoded

# How long to wait for frames before looking whether the rank should stop, in seconds.
_PATIENCE = 0.2


class Decoders(Protocol):
    """What reads frames: a ``video.pool.DecodePool``."""

    @property
    def pending(self) -> int:
        """Rows submitted and not returned."""

    @property
    def working(self) -> bool:
        """Whether a decoder is at a row now."""

    def submit(self, row_id: int, path: str, span: Span | None = None) -> None:
        """Queue a row."""

    def next(self, timeout: float | None = None) -> Decoded | None:
        """A row that is finished with; None after ``timeout`` seconds without one."""


class Claims:
    """The rows of ``attempt`` that are rank ``number``'s to do.

    A rank may have begun in an earlier process: its claims say what it has taken, its parts what
    of it is done. Nothing else is known of that process but the rows that memory ran out with.
    """

    def __init__(self, run: RunDir, folder: AttemptDir, attempt: Attempt, number: int) -> None:
        self._run, self._folder, self._attempt, self._number = run, folder, attempt, number

    def rows(self) -> Iterator[Row]:
        """First the rows of the chunks that are claimed, then chunk after chunk is claimed.

        Raises RunError when the list of rows is damaged or gone.
        """
        folder, number = self._folder, self._number
        chunks = claim_chunks(folder, self._attempt.chunks, number, self._attempt.ranks)
        return self._rows_of(chain(self._claimed(), chunks))

    @property
    def left(self) -> bool:
        """Whether there are rows that are claimed and not done, or that nobody has claimed."""
        claimed = self._rows_of(self._claimed())
        return next(claimed, None) is not None or any_unclaimed(self._folder, self._attempt.chunks)

    def _rows_of(self, chunks: Iterable[int]) -> Iterator[Row]:
        """The rows of ``chunks`` that have no result."""
        size, rows = self._attempt.chunk, self._attempt.rows
        short = ShortRows.read(self._folder, self._number)
        deaths = self._deaths()
        alone = short.alone | short.smaller | deaths.keys()
        done = self._done()
        try:
            todo = Todo(self._folder.todo)
            for chunk in chunks:
                stop = min((chunk + 1) * size, rows)
                for row, path, attempts, question in todo.rows(chunk * size, stop):
                    if row in done:
                        continue
                    taken = Row(row, path, attempts + 1, row in alone, row in short.smaller)
                    taken.question = question
                    if deaths[row] >= DEATHS_TO_GIVE_UP:
                        taken.status, taken.error = Status.CRASHED, left_out(deaths[row])
                    yield taken
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(
                f"{self._folder.todo}: damaged, gone or not to be claimed from ({error}); repeat "
                "the command, which writes a new one"
            ) from error

    def _deaths(self) -> Counter[int]:
        """At how many deaths a row was in the model: once in earlier launches, and those of this
        rank in this one.
        """
        own = (end for end in read_exits(self._folder) if end.rank == self._number)
        return Counter(self._attempt.alone) + deaths_of(own)

    def _claimed(self) -> Iterator[int]:
        yield from own_chunks(self._folder, self._number)

    def _done(self) -> set[int]:
        """The rows that have a result of this rank in this launch."""
        done: set[int] = set()
        for part in self._run.parts_of(self._folder.number, self._number):
            with suppress(DamagedPartError):  # the leading process sets it aside
                done.update(read_part(part, ["row_id"])["row_id"].to_pylist())
        return done


class Intake:
    """Hands out ``rows`` when ``decoders`` have read them; at most ``ahead`` are with them.

    ``bases`` are the folders that relative paths of videos resolve against. Once ``stop()`` is
    true no row is claimed any more, and none comes out.
    """

    def __init__(
        self,
        rows: Iterator[Row],
        decoders: Decoders,
        *,
        ahead: int,
        bases: Sequence[str],
        recorder: Recorder,
        stop: Callable[[], bool],
    ) -> None:
        self._rows = rows
        self._decoders = decoders
        self._ahead = ahead
        self._bases = bases
        self._recorder = recorder
        self._stop = stop
        self._decoding: dict[int, Row] = {}
        # Rows to be alone that have their frames, and rows that need none: they have failed.
        self._held: deque[Row] = deque()
        self._failed: deque[Row] = deque()

    def read_ahead(self) -> None:
        """Claim rows and hand them to the decoders, as many as may be there."""
        while self._decoders.pending < self._ahead and not self._stop():
            row = next(self._rows, None)
            if row is None:
                return
            if row.status != Status.OK:
                self._failed.append(row)
                continue
            self._decoding[row.row_id] = row
            file, span = locate(row.path, self._bases)
            self._decoders.submit(row.row_id, file, span)

    def next(self, in_model: Collection[Row], *, wait: bool) -> Row | None:
        """The next row that may join those ``in_model``, or that has no frames to join them with.

        None when none is left, or may now, or is to be done any more; without ``wait`` also when
        none has been read yet.
        """
        if self._held or any(row.alone for row in in_model):
            return None if in_model else self._held.popleft()
        row = self._ready(wait=wait)
        if row and row.clip and row.alone and in_model:
            self._held.append(row)
            return None
        return row

    def _ready(self, *, wait: bool) -> Row | None:
        """The next row that the decoders are done with."""
        while not self._stop():
            self.read_ahead()
            if self._failed:
                return self._failed.popleft()
            if not self._decoders.pending:
                return None
            began = time.monotonic()
            decoded = self._decoders.next(timeout=_PATIENCE if wait else 0)
            if wait:
                self._recorder.wait_s += time.monotonic() - began
            if decoded:
                return self._read(decoded)
            if not wait:
                return None
            if self._decoders.working:  # when none is, there is no telling whether one will be
                self._recorder.alive()
            self._recorder.doing(Doing.WAITING)
        return None

    def _read(self, decoded: Decoded) -> Row:
        row = self._decoding.pop(decoded.row_id)
        row.clip, row.decode_s = decoded.clip, decoded.seconds
        row.status, row.error = decoded.status, decoded.error
        return row
