"""A rank: claims rows, reads their frames ahead, captions them, commits the results.

Started by msrun as ``python -m vidcap_cli.rank.worker RUN_DIR ATTEMPT``. It reports through its
events file alone, leaves on SIGTERM after the step at hand, and dies with the process that
launched it.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from vidcap_cli.attempt import Attempt
from vidcap_cli.engine import Engine, Generated, OutOfMemoryError, load_engine
from vidcap_cli.errors import VidcapError
from vidcap_cli.events import Began, Committed, Done, Ended, Event, EventWriter, Started, State
from vidcap_cli.models import Captioner, load_captioner
from vidcap_cli.parts import OK, Result
from vidcap_cli.plan import Todo, resolve
from vidcap_cli.processes import die_with
from vidcap_cli.rank.claims import claim_chunks
from vidcap_cli.rank.decode import Decoded, DecodePool
from vidcap_cli.rank.writer import PartWriter
from vidcap_cli.rundir import AttemptDir, RunDir, atomic_write

# How long the loop waits for frames before it looks whether it should stop, in seconds.
_PATIENCE = 0.2
_LONGEST_ERROR = 500


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
        self._state = ""
        self._busy_s = 0.0
        self._wait_s = 0.0
        self.stopping = False

    def work(self) -> None:
        """Caption rows until none is left to claim or ``stopping`` is set."""
        config = self._config
        self._say("loading model")
        captioner = load_captioner(config)
        workers, timeout = config.decoders, config.decode_timeout
        with (
            PartWriter(self._part, config.flush_seconds, self._committed) as writer,
            DecodePool(captioner.rule, workers=workers, timeout=timeout) as pool,
        ):
            self._writer = writer
            self._pool = pool
            # Frames are read while the weights load.
            self._ahead = config.slots + config.decoders
            self._read_ahead()
            engine = load_engine(config)
            while clips := self._gather(engine.slots):
                self._caption(captioner, engine, clips)
        self._report(Ended("stopped" if self.stopping else "finished"))

    def _claimed_rows(self) -> Iterator[tuple[int, str, int]]:
        todo = Todo(self._folder.todo)
        size = self._attempt.chunk
        for chunk in claim_chunks(self._folder, self._attempt.chunks, self._number):
            yield from todo.rows(chunk * size, min((chunk + 1) * size, self._attempt.rows))

    def _read_ahead(self) -> None:
        while self._pool.pending < self._ahead and not self.stopping:
            row = next(self._rows, None)
            if row is None:
                return
            row_id, path, attempts = row
            self._taken[row_id] = (path, attempts + 1)
            self._pool.submit(row_id, str(resolve(path, self._attempt.bases)))

    def _gather(self, most: int) -> list[Decoded]:
        """Up to ``most`` clips to caption together; none when the rank is to leave."""
        clips: list[Decoded] = []
        while len(clips) < most and not self.stopping:
            self._read_ahead()
            if not self._pool.pending:
                return clips
            began = time.monotonic()
            decoded = self._pool.next(timeout=_PATIENCE)
            self._wait_s += time.monotonic() - began
            if decoded is None:
                self._say("waiting for frames")
            elif decoded.clip is None:
                self._fail(decoded, decoded.status, decoded.error or "")
            else:
                clips.append(decoded)
        return [] if self.stopping else clips

    def _caption(self, captioner: Captioner, engine: Engine, clips: list[Decoded]) -> None:
        """Caption clips together; when that fails, each alone, so that one cannot fail others."""
        self._say("captioning")
        self._report(Began([clip.row_id for clip in clips]))
        began = time.monotonic()
        try:
            prompts = [captioner.prompt(clip.clip.frames) for clip in clips if clip.clip]
            generated = engine.generate(prompts, lambda: self.stopping)
        except Exception as error:  # noqa: BLE001 - it becomes the status of the row
            if len(clips) > 1:
                for clip in clips:
                    if not self.stopping:
                        self._caption(captioner, engine, [clip])
                return
            status = "oom" if isinstance(error, OutOfMemoryError) else "model_error"
            traceback.print_exc()  # into the rank's log
            self._busy_s += time.monotonic() - began
            self._fail(clips[0], status, f"{type(error).__name__}: {error}")
            return
        seconds = time.monotonic() - began
        self._busy_s += seconds
        for clip, prompt, new in zip(clips, prompts, generated or [], strict=False):
            text = captioner.text(new.ids)
            self._finish(self._captioned(clip, text, new, len(prompt.ids), seconds / len(clips)))

    def _captioned(
        self, decoded: Decoded, text: str, new: Generated, prompt_tokens: int, seconds: float
    ) -> Result:
        path, attempts = self._taken[decoded.row_id]
        clip = decoded.clip
        assert clip is not None
        frames, height, width, _ = clip.frames.shape
        return Result(
            decoded.row_id,
            path,
            status=OK if text else "empty",
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
            infer_s=seconds,
            attempts=attempts,
            rank=self._number,
            reader=clip.reader,
            model=self._config.model,
            prompt=self._config.question,
        )

    def _fail(self, decoded: Decoded, status: str, error: str) -> None:
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

    def _say(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._report(State(state))

    def _report(self, event: Event) -> None:
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
            record = {
                "time": time.time(),
                "rank": number,
                "message": str(error),
                "type": type(error).__name__,
                "expected": isinstance(error, VidcapError),
                "traceback": traceback.format_exc(),
            }
            atomic_write(folder.error(number), json.dumps(record).encode())
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
