"""The view off a terminal: plain lines on stderr, now and then one and one a problem.

There are no control characters in it: it is for logs, pipes and terminals without a cursor.
"""

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from vidcap_cli.view.follower import Follower, count_words, pace_words
from vidcap_cli.view.tally import RunState, joint_speed, joint_wait_share
from vidcap_cli.view.terminal import width_of
from vidcap_cli.view.words import clock, count, figure, one_line, printable, wrapped

PLAIN_S = 10.0
PLAIN_UNCHANGED_S = 60.0
_MARKS = {"✗": "failed", "!": "note", "✓": "done"}


class PlainView(Follower):
    """Writes lines: for logs, pipes and terminals without cursor control."""

    def __init__(
        self,
        stream: TextIO,
        *,
        title: str,
        total: int,
        finished: int = 0,
        began: float | None = None,
        verbose: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            title=title, total=total, finished=finished, began=began, verbose=verbose, now=now
        )
        self._stream = stream
        self._written = self._now()
        self._last = self._last_words = ""

    def __enter__(self) -> Self:
        before = self.state.finished
        earlier = f", {before:,} of them captioned before" if before else ""
        self._write(f"{self.title}: {count(self.state.total, 'video')}{earlier}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if " · ".join(self._words()) != self._last_words:
            self._progress(over=True)

    def tick(self) -> None:
        """Write the progress when a line is due: rarely while nothing changes."""
        quiet = self._now() - self._written
        changed = count_words(self.state) != self._last
        if quiet >= (PLAIN_S if changed else PLAIN_UNCHANGED_S):
            self._progress()

    def _progress(self, *, over: bool = False) -> None:
        """Write how far it is; when all is ``over`` the last words tell the pace."""
        now = self._now()
        self._written = now
        self._last, self._last_words = count_words(self.state), " · ".join(self._words())
        pace = [] if over else pace_words(self.state, now)
        words = [self._last, *pace, *_ranks_in_words(self.state)]
        self._write(f"[{clock(now - self._began)}] " + " · ".join(words))

    def _words(self) -> list[str]:
        """What a line says besides the time and the pace, which always change."""
        return [count_words(self.state), *_ranks_in_words(self.state)]

    def _say(self, mark: str, text: str) -> None:
        self._write(f"{_MARKS[mark]}: {one_line(text)}")

    def _write(self, line: str) -> None:
        self._stream.write(wrapped(printable(line), width_of(self._stream), 2) + "\n")
        self._stream.flush()


def _ranks_in_words(state: RunState) -> list[str]:
    """How many ranks do what, their joint speed and the share of time they wait."""
    doing = Counter(rank.state for rank in state.ranks.values())
    words = [f"{count(number, 'rank')} {one_line(what)}" for what, number in sorted(doing.items())]
    ranks = state.ranks.values()
    speed, waiting = joint_speed(ranks), joint_wait_share(ranks)
    if speed is not None:
        words.append(f"{figure(speed)} tokens/s")
    if waiting is not None:
        words.append(f"waiting for frames {waiting:.0%}")
    return words
