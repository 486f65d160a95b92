"""What the views of a run share: the state of it, what they are told, which problems are lines.

Nothing here draws, reads files or decides anything; the numbers come from ``tally``.
"""

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from vidcap_cli.rundir.events import Done, Event, Notice, Rows
from vidcap_cli.statuses import Status
from vidcap_cli.view.tally import RunState
from vidcap_cli.view.words import count, duration, figure

LISTED_PER_STATUS = 50  # failed rows of one status shown as they happen; the rest are counted


class View(Protocol):
    """Where a run reports to. A context manager: leaving it gives the terminal back.

    ``state`` is what has been reported so far.
    """

    state: RunState

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def event(self, rank: int | None, event: Event) -> None:
        """Take in what a rank (None: the leading process) reported."""

    def notice(self, text: str) -> None:
        """Show a line that the user should read once."""

    def tick(self) -> None:
        """Bring the display up to date when that is due; called several times a second."""


class Follower:
    """The state of a run, and which problems become lines, to be written by ``_say``.

    A ``verbose`` one shows captions as well.
    """

    def __init__(
        self,
        *,
        title: str,
        total: int,
        finished: int,
        began: float | None = None,
        verbose: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.state = RunState(total=total, finished=finished)
        self.title = title
        self._verbose = verbose
        self._now = now
        self._began = now() if began is None else began
        self._listed: Counter[str] = Counter()

    def event(self, rank: int | None, event: Event) -> None:
        """Count the event in and show the problem it reports, if any."""
        self.state.take(rank, event)
        if isinstance(event, Notice):
            who = "" if rank is None else f"rank {rank}: "
            self._say("!", f"{who}{event.text}")
        elif isinstance(event, Done) and event.status != Status.OK:
            self._failed(event)
        elif isinstance(event, Done) and self._verbose:
            self._say("✓", f"{event.path} · {event.text or ''}")
        elif isinstance(event, Rows) and event.ended and self._verbose:
            more = count(len(event.ended), "row")
            self._say("!", f"{more} more, which came faster than rows are shown")

    def notice(self, text: str) -> None:
        """Show ``text`` as a line of its own."""
        self.event(None, Notice(text, time=self._now()))

    def _failed(self, event: Done) -> None:
        self._listed[event.status] += 1
        if self._listed[event.status] <= LISTED_PER_STATUS:
            self._say("✗", f"{event.path} · {reason(event.status, event.error)}")
        elif self._listed[event.status] == LISTED_PER_STATUS + 1:
            self._say("!", f"more rows end with {event.status}; they are counted, not listed here")

    def _say(self, mark: str, text: str) -> None:
        raise NotImplementedError


class QuietView(Follower):
    """Follows a run and shows nothing of it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def tick(self) -> None:
        """There is nothing to draw."""

    def _say(self, mark: str, text: str) -> None:
        pass


def count_words(state: RunState) -> str:
    """How many videos have a caption, and how many got none."""
    ready = state.finished + state.ok
    before = f", {state.finished:,} of them before" if state.finished else ""
    words = [f"{ready:,} of {state.total:,} captioned{before}"]
    if state.failed:
        words.append(f"{state.failed:,} failed")
    return " · ".join(words)


def pace_words(state: RunState, now: float) -> list[str]:
    """Videos an hour and the time left, as far as they are known; nothing once no row is left."""
    if not state.remaining:
        return []
    per_hour, left = state.videos_per_hour(now), state.seconds_left(now)
    if per_hour is None:
        new = "new " if state.finished + state.ok else ""
        return [f"no {new}caption yet"]
    words = [f"{figure(per_hour)} videos/h"]
    if left is not None and round(left):
        words.append(f"{'up to ' if state.failed else ''}{duration(left)} left")
    return words


def reason(status: str, error: str | None) -> str:
    """Why a row has no caption."""
    return f"{status}: {error}" if error else status
