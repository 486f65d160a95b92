"""A rank: claims rows, reads their frames ahead, captions them, commits the results.

Started by msrun as ``python -m vidcap_cli.rank.worker RUN_DIR ATTEMPT``. It reports through its
events file alone, leaves on SIGTERM after the step at hand, and dies with the process that
launched it.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vidcap_cli.engine import Answer, Engine, Request, load_engine
from vidcap_cli.errors import OutOfMemoryError, RunError, VidcapError
from vidcap_cli.launch.msrun import RankError
from vidcap_cli.processes import die_with
from vidcap_cli.processors import Captioner, load_captioner
from vidcap_cli.rank.writer import PartWriter
from vidcap_cli.rundir.attempt import Attempt
from vidcap_cli.rundir.claims import claim_chunks
from vidcap_cli.rundir.events import (
    Alive,
    Began,
    Committed,
    Done,
    Ended,
    Event,
    EventWriter,
    Started,
    State,
)
from vidcap_cli.rundir.parts import Result
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.plan import Todo, resolve
from vidcap_cli.statuses import Doing, Flag, Status
from vidcap_cli.video import Clip, read_frames
from vidcap_cli.video.pool import Decoded, DecodePool

# How long the loop waits for frames before it looks whether it should stop, in seconds.
_PATIENCE = 0.2
_LONGEST_ERROR = 500
# A rank that gets on says so at least this often, in seconds.
_ALIVE_SECONDS = 30.0


class Rank:
    """The loop of one rank over one attempt."""

    def __init__(self, run: RunDir, folder: AttemptDir, number: int, events: EventWriter) -> None:
        self._run = run
        self._folder = folder
        self._number = number
        self._events = events
        self._attempt = Attempt.read(folder)
        self._config = self._attempt.config
        self._taken: dict[int, tuple[str, int]] = {}
        self._rows = self._claimed_rows()
        # Rows that the engine has, with the length of their prompts; rows it is given again.
        self._running: dict[int, tuple[Decoded, int]] = {}
        self._again: deque[Request] = deque()
        # Rows that are to be in the model alone; those of them whose frames are there.
        self._alone = frozenset(self._attempt.alone)
        self._held: deque[Decoded] = deque()
        self._retried: set[int] = set()
        self._state: Doing | None = None
        self._reported = time.monotonic()
        self._busy_s = 0.0
        self._wait_s = 0.0
        self.stopping = False

    def work(self) -> None:
        """Caption rows until none is left to claim or ``stopping`` is set."""
        config = self._config
        self._say(Doing.LOADING)
        captioner = load_captioner(config)
        read = partial(read_frames, reader=config.reader)
        with (
            PartWriter(self._part, config.flush_seconds, self._committed) as writer,
            DecodePool(
                captioner.rule,
                workers=config.decoders,
                timeout=config.decode_timeout,
                memory=config.decode_memory,
                read=read,
            ) as pool,
        ):
            self._writer = writer
            self._pool = pool
            self._model: tuple[Captioner, Engine]
            # Frames are read while the weights load.
            self._ahead = config.slots + config.decoders
            self._read_ahead()
            engine = load_engine(config, self._say)
            self._model = captioner, engine
            for answer in engine.answers(self._feed, self._asked_to_stop):
                self._take(answer)
        self._report(Ended(Doing.STOPPED if self.stopping else Doing.FINISHED))

    def _asked_to_stop(self) -> bool:
        """What an engine asks before every step, at which the rank shows that it gets on."""
        self._live()
        return self.stopping

    def _claimed_rows(self) -> Iterator[tuple[int, str, int]]:
        size = self._attempt.chunk
        try:
            todo = Todo(self._folder.todo)
            for chunk in claim_chunks(self._folder, self._attempt.chunks, self._number):
                yield from todo.rows(chunk * size, min((chunk + 1) * size, self._attempt.rows))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(
                f"{self._folder.todo}: damaged, gone or not to be claimed from ({error}); repeat "
                "the command, which writes a new one"
            ) from error

    def _read_ahead(self) -> None:
        while self._pool.pending < self._ahead and not self.stopping:
            row = next(self._rows, None)
            if row is None:
                return
            row_id, path, attempts = row
            self._taken[row_id] = (path, attempts + 1)
            self._pool.submit(row_id, str(resolve(path, self._attempt.bases)))

    def _feed(self, *, wait: bool) -> Request | None:
        """The next row that has its frames; None when none is left, or ready, or is to be done."""
        while not self.stopping:
            if self._again:
                return self._again.popleft()
            # A row that may have killed a rank waits for the others, and they for it.
            lone = bool(self._held) or not self._alone.isdisjoint(self._running)
            if lone and self._running:
                return None
            decoded = self._held.popleft() if lone else self._ready(wait=wait)
            if decoded is None:
                return None
            if decoded.clip is None:
                self._fail(decoded, decoded.status, decoded.error or "")
            elif decoded.row_id in self._alone and self._running:
                self._held.append(decoded)
            elif request := self._request(decoded, decoded.clip):
                return request
        return None

    def _ready(self, *, wait: bool) -> Decoded | None:
        """The next row that the decoders are done with; None as ``_feed``."""
        while not self.stopping:
            self._read_ahead()
            if not self._pool.pending:
                return None
            began = time.monotonic()
            decoded = self._pool.next(timeout=_PATIENCE if wait else 0)
            if wait:
                self._wait_s += time.monotonic() - began
            if decoded or not wait:
                return decoded
            if self._pool.working:  # when it is not, there is no telling whether it will be
                self._live()
            self._say(Doing.WAITING)
        return None

    def _request(self, decoded: Decoded, clip: Clip, *, less: bool = False) -> Request | None:
        """What the model is to be given for a clip, made smaller until there is memory for it.

        ``less``: made smaller in any case. None when the row has failed instead.
        """
        captioner, engine = self._model
        frames: NDArray[np.uint8] | None = clip.frames
        shrink = self._config.on_oom == "shrink"
        try:
            while frames is not None and (less or not engine.fits(captioner.size(frames))):
                frames = captioner.smaller(frames) if shrink else None
                less = False
            prompt = None if frames is None else captioner.prompt(frames)
        except Exception as error:  # noqa: BLE001 - it becomes the status of the row
            traceback.print_exc()  # into the rank's log
            self._fail(decoded, Status.MODEL_ERROR, f"{type(error).__name__}: {error}")
            return None
        if frames is None or prompt is None:
            self._out_of_memory(decoded, "the video needs more than there is")
            return None
        if frames is not clip.frames:
            flags = tuple(dict.fromkeys((*clip.flags, Flag.SHRUNK)))
            clip = replace(clip, frames=frames, flags=flags)
        self._running[decoded.row_id] = replace(decoded, clip=clip), len(prompt.ids)
        self._report(Began([decoded.row_id]))
        return Request(decoded.row_id, prompt)

    def _take(self, answer: Answer) -> None:
        """Finish the row of an answer, or have it tried once more with a smaller clip."""
        self._busy_s += answer.seconds
        decoded, prompt_tokens = self._running.pop(answer.row_id)
        if answer.generated:
            text = self._model[0].text(answer.generated.ids)
            self._finish(self._captioned(decoded, text, answer, prompt_tokens))
            return
        error = answer.error
        traceback.print_exception(error)  # into the rank's log
        if not isinstance(error, OutOfMemoryError):
            self._fail(decoded, Status.MODEL_ERROR, f"{type(error).__name__}: {error}")
        elif self._config.on_oom == "shrink" and decoded.row_id not in self._retried:
            self._retried.add(decoded.row_id)
            assert decoded.clip
            if request := self._request(decoded, decoded.clip, less=True):
                self._again.append(request)
        else:
            self._out_of_memory(decoded, str(error))

    def _out_of_memory(self, decoded: Decoded, error: str) -> None:
        """End a row for want of memory; the original wrote an empty caption then."""
        status = Status.OOM if self._config.on_oom == "shrink" else Status.EMPTY
        self._fail(decoded, status, f"out of memory: {error}")

    def _captioned(self, decoded: Decoded, text: str, answer: Answer, prompt_tokens: int) -> Result:
        path, attempts = self._taken[decoded.row_id]
        clip, new = decoded.clip, answer.generated
        assert clip is not None
        assert new is not None
        frames, height, width, _ = clip.frames.shape
        return Result(
            decoded.row_id,
            path,
            status=Status.OK if text else Status.EMPTY,
            text=text or None,
            error=None if text else "the model ended its answer before the first word",
            finish_reason=new.finish_reason,
            flags=",".join(clip.flags) or None,
            prompt_tokens=prompt_tokens,
            new_tokens=len(new.ids),
            frames=frames,
            height=height,
            width=width,
            decode_s=decoded.seconds,
            infer_s=answer.seconds,
            attempts=attempts,
            rank=self._number,
            reader=clip.reader,
            model=self._config.model,
            prompt=self._config.question,
        )

    def _fail(self, decoded: Decoded, status: Status, error: str) -> None:
        path, attempts = self._taken[decoded.row_id]
        self._finish(
            Result(
                decoded.row_id,
                path,
                status=status,
                error=error[:_LONGEST_ERROR],
                decode_s=decoded.seconds,
                attempts=attempts,
                rank=self._number,
                reader=decoded.clip.reader if decoded.clip else None,
                model=self._config.model,
                prompt=self._config.question,
            )
        )

    def _finish(self, result: Result) -> None:
        del self._taken[result.row_id]
        self._writer.add(result)
        self._report(
            Done(
                result.row_id,
                result.path,
                result.status,
                result.text,
                result.error,
                result.new_tokens or 0,
                self._busy_s,
                self._wait_s,
            )
        )

    def _part(self, sequence: int) -> Path:
        form = self._config.part_format
        return self._run.part(self._folder.number, self._number, sequence, form)

    def _committed(self, rows: int) -> None:
        self._report(Committed(rows))

    def _say(self, state: Doing) -> None:
        if state != self._state:
            self._state = state
            self._report(State(state))

    def _live(self) -> None:
        if time.monotonic() - self._reported > _ALIVE_SECONDS:
            self._report(Alive())

    def _report(self, event: Event) -> None:
        self._reported = time.monotonic()
        self._events.write(event)


def main(arguments: list[str]) -> int:
    """Run one rank; 0 when it left in good order, 1 when an exception ended it."""
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return 0  # msrun starts the script once more as scheduler, which nothing here needs
    run = RunDir(Path(arguments[0]))
    folder = run.attempt(int(arguments[1]))
    number = int(os.environ["RANK_ID"])
    with EventWriter(folder.events(number)) as events:
        events.write(Started(os.getpid(), socket.gethostname()))
        die_with(int(os.environ["VIDCAP_PARENT"]))
        try:
            rank = Rank(run, folder, number, events)

            def stop(_signal: int, _frame: FrameType | None) -> None:
                rank.stopping = True

            signal.signal(signal.SIGTERM, stop)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            rank.work()
        except Exception as error:  # noqa: BLE001 - shown by the launching process
            traceback.print_exc()
            record = RankError(
                rank=number,
                time=time.time(),
                message=str(error),
                type=type(error).__name__,
                expected=isinstance(error, VidcapError),
                traceback=traceback.format_exc(),
            )
            with suppress(OSError):  # a full disk, or no folder any more
                record.write(folder)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
