"""A rank: claims rows, reads their frames ahead, captions them, commits the results.

Started by msrun as ``python -m vidcap_cli.rank.worker RUN_DIR ATTEMPT``. It reports through its
events file alone, leaves on SIGTERM after the step at hand, and dies with the process that
launched it. ``intake`` brings the rows, ``recorder`` takes what became of them; the loop between
the two, and what a row for which there is no memory gets, is here. A rank whose memory ran out in
a way that its process does not survive replaces itself by a fresh one, which finds by the files of
the run what is left of its rows.
"""

import math
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.engine import Answer, Engine, Request, SpentError, import_engine, load_engine
from vidcap_cli.engine.group import Group, follow, join, leader_of
from vidcap_cli.errors import OutOfMemoryError, RevokedError, VidcapError
from vidcap_cli.imports import leave_out_pandas
from vidcap_cli.processes import die_with, leave_now, start_anew
from vidcap_cli.processors import Captioner, Prompt, load_captioner
from vidcap_cli.rank.intake import Claims, Intake
from vidcap_cli.rank.recorder import ALIVE_SECONDS, Recorder
from vidcap_cli.rank.row import Row
from vidcap_cli.rank.said import Said
from vidcap_cli.remote.cache import Anywhere, Cache
from vidcap_cli.rundir.events import Alive, Ended, EventWriter, Started, State
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.records import Attempt, RankError, ShortRows, group_size
from vidcap_cli.statuses import Doing, Status
from vidcap_cli.video import read_frames
from vidcap_cli.video.pool import DecodePool

if TYPE_CHECKING:  # it imports MindSpore
    from vidcap_cli.engine.loading import Loaded


class Stop:
    """Whether this rank is to leave; SIGTERM asks for it."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether it was asked for."""
        return self.asked

    def on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self.asked = True


class Rank:
    """The loop: rows from the intake into the model, and what became of them to the recorder.

    Each row is asked all ``questions``, and is done when all are answered. ``shrink``: a clip that
    there is no memory for is made smaller. ``retry``: a caption that repeats itself is decoded once
    more. ``in_model`` has the rows that the model is at, by number.
    """

    def __init__(
        self,
        captioner: Captioner,
        engine: Engine,
        intake: Intake,
        recorder: Recorder,
        *,
        shrink: bool,
        stop: Callable[[], bool],
        questions: Sequence[str] = ("",),
        retry: bool = False,
        in_model: dict[int, Row] | None = None,
    ) -> None:
        self._captioner = captioner
        self._engine = engine
        self._intake = intake
        self._recorder = recorder
        self._shrink = shrink
        self._questions, self._retry = questions, retry
        self._videos = count()  # numbers of those that several questions are about
        self._stop = stop
        self._in_model = {} if in_model is None else in_model
        self._waiting: deque[Request] = deque()  # of rows in the model, what is asked next

    def work(self) -> ShortRows | None:
        """Caption rows until none is left to claim or the rank is to stop.

        When memory ran out in a way that only a fresh process gets over: how that one is to try
        the rows again.
        """
        try:
            for answer in self._engine.answers(self._feed, self._asked_to_stop):
                self._take(answer)
        except SpentError as spent:
            return self._ran_out(spent)
        return None

    def _asked_to_stop(self) -> bool:
        """What an engine asks before every step, at which the rank shows that it gets on."""
        self._recorder.alive()
        return self._stop()

    def _feed(self, *, wait: bool) -> Request | None:
        """The next row that has its frames; None when none is left, or ready, or is to be done."""
        while not self._stop():
            if self._waiting:
                return self._waiting.popleft()
            row = self._intake.next(self._in_model.values(), wait=wait)
            if row is None:
                return None
            if row.clip is None:
                self._recorder.failed(row, row.status, row.error or "")
            elif request := self._request(row):
                return request
        return None

    def _request(self, row: Row) -> Request | None:
        """What the model is to be given for a row with a clip; None when it has failed instead."""
        assert row.clip
        whole, seconds = row.clip.frames, row.clip.seconds
        try:
            frames = self._fitting(row, whole)
            prompts = None if frames is None else self._prompts(row, frames, seconds)
        except Exception as error:  # noqa: BLE001 - it becomes the status of the row
            traceback.print_exc()  # into the rank's log
            self._recorder.failed(row, Status.MODEL_ERROR, f"{type(error).__name__}: {error}")
            return None
        if frames is None or prompts is None:
            self._out_of_memory(row, "the video needs more than there is")
            return None
        if frames is not whole:
            row.shrink(frames)
        row.prompts, row.infer_s = prompts, 0.0
        row.said.clear()
        self._in_model[row.row_id] = row
        self._recorder.began(row)
        first, *more = (Request(row.row_id, it, question=n) for n, it in enumerate(prompts))
        self._waiting.extendleft(reversed(more))
        return first

    def _prompts(self, row: Row, frames: NDArray[np.uint8], seconds: float) -> list[Prompt]:
        """One for each question, all about the same frames of a video that lasts ``seconds``."""
        first, (_, *more) = self._captioner.prompt(frames, seconds), self._questions
        if row.question is not None:
            return [self._captioner.asked(first, row.question)]
        if not more:
            return [first]
        prompts = (first, *(self._captioner.asked(first, question) for question in more))
        video = next(self._videos)
        return [replace(prompt, video=video) for prompt in prompts]

    def _fitting(self, row: Row, frames: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """``frames``, made smaller until there is memory for them; None when that never is.

        And once more then, if memory ran out with what seemed to fit.
        """
        found: NDArray[np.uint8] | None = frames
        while found is not None and not self._fits(row, found):
            found = self._captioner.smaller(found) if self._shrink else None
        return self._captioner.smaller(found) if row.smaller and found is not None else found

    def _fits(self, row: Row, frames: NDArray[np.uint8]) -> bool:
        size = self._captioner.size(frames)
        own = len((row.question or "").encode())  # as many tokens at most
        return self._engine.fits(replace(size, tokens=size.tokens + own))

    def _take(self, answer: Answer) -> None:
        """Note an answer, and finish its row if that is the last one; an answer that repeats itself
        is asked for once more.
        """
        self._recorder.busy_s += answer.seconds
        row, question = self._in_model[answer.row_id], answer.question
        row.infer_s += answer.seconds
        said = self._said(answer)
        if first := row.first.pop(question, None):
            said = first.retried(said)
        elif isinstance(said, Said) and said.is_repetitive and self._retry:
            row.first[question] = said
            self._waiting.append(Request(row.row_id, row.prompts[question], True, question))
            return
        row.said[question] = said
        if len(row.said) == len(row.prompts):
            self._finish(self._in_model.pop(row.row_id))

    def _said(self, answer: Answer) -> Said | Exception:
        """What an answer says, or why there is none."""
        if answer.generated:
            return Said.of(self._captioner.text(answer.generated.ids), answer.generated)
        assert answer.error
        traceback.print_exception(answer.error)  # into the rank's log
        return answer.error

    def _finish(self, row: Row) -> None:
        """Record a row that has all answers, or have it tried once more with a smaller clip."""
        errors = [said for said in row.said.values() if isinstance(said, Exception)]
        short = next((error for error in errors if isinstance(error, OutOfMemoryError)), None)
        if not errors:
            self._recorder.captioned(row)
        elif not short:
            error = errors[0]
            self._recorder.failed(row, Status.MODEL_ERROR, f"{type(error).__name__}: {error}")
        elif self._shrink and not row.smaller:
            row.smaller = True
            if request := self._request(row):
                self._waiting.appendleft(request)
        else:
            self._out_of_memory(row, str(short))

    def _ran_out(self, spent: SpentError) -> ShortRows:
        """How the rows that were run when memory ran out are tried again, if they are.

        Alone at first, in the fresh process, whose memory is in one piece; one that was alone
        smaller; one that was smaller has failed.
        """
        traceback.print_exception(spent)  # into the rank's log
        rows = [self._in_model[row_id] for row_id in dict.fromkeys(spent.rows)]
        if not all(row.alone for row in rows):
            return ShortRows(alone=frozenset(row.row_id for row in rows))
        smaller = frozenset(row.row_id for row in rows if self._shrink and not row.smaller)
        for row in rows:
            if row.row_id not in smaller:
                self._out_of_memory(row, str(spent))
        return ShortRows(smaller=smaller)

    def _out_of_memory(self, row: Row, error: str) -> None:
        """End a row for want of memory."""
        self._recorder.failed(row, _status_without_memory(self._shrink), f"out of memory: {error}")


def _status_without_memory(shrink: bool) -> Status:  # noqa: FBT001
    """The original wrote an empty caption then."""
    return Status.OOM if shrink else Status.EMPTY


def work(
    run: RunDir, folder: AttemptDir, number: int, *, lease: Path, events: EventWriter, stop: Stop
) -> bool:
    """Do the work of rank ``number`` in one launch; whether a fresh process is to go on with it.

    With ``--tensor-parallel`` others have shares of the model, and do what this rank does.
    """
    attempt = Attempt.read(folder)
    config = attempt.config
    size = config.tensor_parallel
    recorder = Recorder(run, folder, number, lease=lease, config=config, events=events)
    recorder.doing(Doing.LOADING)
    captioner = load_captioner(config)
    with (
        recorder,
        DecodePool(
            captioner.rule,
            workers=config.decoders,
            timeout=config.decode_timeout,
            memory=config.decode_memory,
            read=Anywhere(
                partial(read_frames, reader=config.reader),
                Cache.of(run.settled.path, config.cache_size),
            ),
        ) as pool,
    ):
        claims = Claims(run, folder, attempt, number)
        intake = Intake(
            claims.rows(),
            pool,
            ahead=config.slots + config.decoders,
            bases=attempt.bases,
            recorder=recorder,
            stop=stop,
        )
        intake.read_ahead()  # frames are read while the weights load
        shrink, retry = config.on_oom == "shrink", config.retry_repetitive
        in_model: dict[int, Row] = {}
        lost = partial(_lose, recorder, in_model, _status_without_memory(shrink))
        group = Group(number, size, lost) if size > 1 else None
        engine = load_engine(config, recorder.doing, group)
        rank = Rank(
            captioner, engine, intake, recorder, shrink=shrink, stop=stop,
            questions=[*config.questions.values()], retry=retry, in_model=in_model,
        )  # fmt: skip
        short = rank.work()
    again = short is not None and claims.left and not stop()
    if group:
        group.end("anew" if again else "leave")
    if short and again:
        short.add(folder, number)
        recorder.starting_anew()
        return True
    recorder.ended(Doing.STOPPED if stop() else Doing.FINISHED)
    return False


def _lose(
    recorder: Recorder, in_model: Mapping[int, Row], without_memory: Status, why: str
) -> NoReturn:
    """Leave a group that cannot go on, perhaps from a sum that never comes.

    Its rows are tried again, each alone. One that was alone when one rank had no memory for it gets
    the status for that.
    """
    from vidcap_cli.models.device import as_out_of_memory  # noqa: PLC0415 - imports MindSpore

    print(why, file=sys.stderr, flush=True)  # noqa: T201 - into the rank's log
    with suppress(Exception):  # what is not committed is done again
        if short := as_out_of_memory(RuntimeError(why)):
            for row in [*in_model.values()]:
                if row.alone:
                    recorder.failed(row, without_memory, f"out of memory: {short}")
        recorder.commit()
    os._exit(1)


def assist(folder: AttemptDir, number: int, events: EventWriter) -> bool:
    """Do what the rank that leads this one's group does; whether to start anew."""
    config = Attempt.read(folder).config
    events.write(State(Doing.LOADING))
    told = -math.inf

    def alive() -> None:
        nonlocal told
        if time.monotonic() - told > ALIVE_SECONDS:
            told = time.monotonic()
            events.write(Alive())

    def load(share: Share) -> "Loaded":
        from vidcap_cli.engine import loading  # noqa: PLC0415 - imports MindSpore

        return loading.load(config, share, join)

    how = follow(number, config.tensor_parallel, load, alive)
    if how == "leave":
        events.write(Ended(Doing.FINISHED))
    return how == "anew"


def main(arguments: list[str]) -> int:
    """Run one rank; 0 when it left in good order, 1 when an exception ended it.

    A rank whose memory ran out begins once more, in a fresh process that takes this one's place.
    """
    environment = dict(os.environ)  # before MindSpore adds to it
    run = RunDir(Path(arguments[0]))
    folder = run.attempt(int(arguments[1]))
    number = int(os.environ["RANK_ID"])
    lease = folder.lease(number, os.environ["VIDCAP_LEASE"])
    with EventWriter(folder.events(number)) as events:
        size = group_size(folder)
        leader = leader_of(number, size)
        follows = None if leader == number else leader
        events.write(Started(os.getpid(), socket.gethostname(), follows))
        try:
            stop = Stop()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # A rank that follows leaves when its leader does.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if follows is not None else stop.on_signal)
            engine = Attempt.read(folder).config.engine
            if engine == "graph":  # the reference's packages may use it
                leave_out_pandas()
            import_engine(engine)  # while msrun leaves
            die_with(int(os.environ["VIDCAP_PARENT"]))
            if follows is None:
                again = work(run, folder, number, lease=lease, events=events, stop=stop)
            else:
                again = assist(folder, number, events)
        except RevokedError as error:
            print(error, file=sys.stderr)  # noqa: T201 - into the rank's log
            events.write(Ended(Doing.STOPPED))
            return 0
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
    if again:
        start_anew(environment)
    return 0


if __name__ == "__main__":
    # At once: MindSpore would look for the scheduler of a group for five seconds, and a thread of
    # pyarrow's that outlives the interpreter may abort the process.
    leave_now(main(sys.argv[1:]))
