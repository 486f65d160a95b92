"""The recorder: what became of each row, into part files and events; what the rank does meanwhile.

A result is handed to the part writer before its event is written, and rows are reported as begun
before the model sees them: who reads the events knows which rows a rank died with.
"""

import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RevokedError, RunError
from vidcap_cli.rank.compaction import TOGETHER, compact
from vidcap_cli.rank.row import Row
from vidcap_cli.rank.said import Said, as_json
from vidcap_cli.rank.writer import PartWriter
from vidcap_cli.rundir.events import (
    Alive,
    Began,
    Committed,
    Done,
    Ended,
    Event,
    EventWriter,
    Notice,
    State,
)
from vidcap_cli.rundir.leases import is_revoked
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.statuses import Doing, Status

_LONGEST_ERROR = 500
# Characters of a caption that an event tells: what a line of the view shows. All is in the part.
_SHOWN = 120
# A rank that gets on says so at least this often, in seconds.
ALIVE_SECONDS = 30.0


class Recorder:
    """Records for rank ``number`` in the launch of ``folder``; leaving it commits the rest.

    Raises RevokedError, from there or from what records a row, when ``lease`` is gone.

    ``busy_s`` and ``wait_s`` are seconds that the rank has captioned and waited for frames.
    """

    def __init__(
        self,
        run: RunDir,
        folder: AttemptDir,
        number: int,
        *,
        lease: Path,
        config: CaptionConfig,
        events: EventWriter,
    ) -> None:
        self._run = run
        self._folder = folder
        self._lease = lease
        self._number = number
        self._config = config
        self._questions = config.questions
        self._events = events
        first = run.next_sequence(folder.number, number)
        self._writer = PartWriter(self._write, config.flush_seconds, self._committed, first=first)
        self._doing: Doing | None = None
        self._reported = time.monotonic()
        self.busy_s = 0.0
        self.wait_s = 0.0

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def doing(self, doing: Doing) -> None:
        """Report what the rank is doing, if that is new."""
        if doing != self._doing:
            self._doing = doing
            self._report(State(doing))

    def alive(self) -> None:
        """Report that the rank gets on, when it has long reported nothing."""
        if time.monotonic() - self._reported > ALIVE_SECONDS:
            self._report(Alive())

    def began(self, row: Row) -> None:
        """The model is about to be given a row."""
        self._report(Began([row.row_id]))

    def captioned(self, row: Row) -> None:
        """A row has all its answers; one that is empty is none."""
        said = [answer for _, answer in sorted(row.said.items()) if isinstance(answer, Said)]
        assert row.clip
        assert len(said) == len(row.prompts)
        first, new = said[0], said[0].generated
        frames, height, width, _ = row.clip.frames.shape
        silent = [name for name, it in zip(self._questions, said, strict=True) if not it.text]
        flags = dict.fromkeys((*row.clip.flags, *(flag for it in said for flag in it.flags)))
        result = self._result(
            row,
            Status.EMPTY if silent else Status.OK,
            text=None if silent else first.text,
            error=f"the model ended its answer{_to(silent)} before the first word"
            if silent
            else None,
            finish_reason=new.finish_reason,
            flags=",".join(flags) or None,
            prompt_tokens=len(row.prompts[0].ids),
            new_tokens=sum(len(answer.generated.ids) for answer in said),
            frames=frames,
            height=height,
            width=width,
            infer_s=row.infer_s,
            logprob=new.logprob,
        )
        begun = [_shortened(answer.text) for answer in said]
        if len(begun) > 1:
            begun = [f"{name}: {text}" for name, text in zip(self._questions, begun, strict=True)]
        self._finish(result, None if silent else " · ".join(begun))

    def failed(self, row: Row, status: Status, error: str) -> None:
        """A row gets no caption, or not all."""
        self._finish(self._result(row, status, error=error[:_LONGEST_ERROR]))

    def _result(self, row: Row, status: Status, **more: Any) -> Result:
        """What is known of a row however it ends, and ``more``."""
        named = bool(row.said) and "" not in self._questions
        return Result(
            row.row_id,
            row.path,
            status=status,
            decode_s=row.decode_s,
            attempts=row.attempts,
            rank=self._number,
            reader=row.clip.reader if row.clip else None,
            model=self._config.model,
            prompt=row.question or next(iter(self._questions.values())),
            answers=as_json(self._questions, row.said) if named else None,
            **more,
        )

    def commit(self) -> None:
        """Put what is finished on the disk, from whatever thread; nothing can be recorded then."""
        self._writer.__exit__(None, None, None)

    def starting_anew(self) -> None:
        """A fresh process goes on, because memory ran out in a way that this one does not
        survive.
        """
        self._report(Notice("ran out of memory and starts anew; what it has not finished goes on"))

    def ended(self, how: Doing) -> None:
        """The rank leaves, finished or stopped."""
        self._report(Ended(how))

    def _finish(self, result: Result, shown: str | None = None) -> None:
        self._writer.add(result)
        self._report(
            Done(
                result.row_id,
                result.path,
                result.status,
                shown,
                result.error,
                result.new_tokens or 0,
                self.busy_s,
                self.wait_s,
            )
        )

    def _write(self, sequence: int, results: list[Result]) -> None:
        form = self._config.part_format
        part = self._run.part(self._folder.number, self._number, sequence, form)
        try:
            write_part(part, results, by_way_of=self._lease)
        except FileNotFoundError as error:
            if not is_revoked(self._folder, self._lease):
                raise
            raise RevokedError(
                f"launch {self._folder.number} is over; what rank {self._number} had not committed "
                "is done by others"
            ) from error
        if sequence % TOGETHER == TOGETHER - 1:
            # What keeps parts from becoming one keeps nobody from writing more of them, or is told
            # by the next one.
            with suppress(OSError, RunError):
                compact(self._run, self._folder.number, self._number, self._lease)

    def _committed(self, rows: int) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._report(Committed(rows, peak))

    def _report(self, event: Event) -> None:
        self._reported = time.monotonic()
        self._events.write(event)


def _shortened(text: str) -> str:
    """The beginning of a caption."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1].rstrip()}…"


def _to(names: Sequence[str]) -> str:
    """To which questions; nothing where there is one without a name."""
    return f" to {', '.join(names)}" if any(names) else ""
