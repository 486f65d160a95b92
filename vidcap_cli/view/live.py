"""The view on a terminal: a bar and one line a rank, with problems scrolling above them.

It goes to stderr, for stdout carries data.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vidcap_cli.statuses import Doing
from vidcap_cli.view.follower import Follower, QuietView, View, count_words, pace_words
from vidcap_cli.view.plain import PlainView
from vidcap_cli.view.tally import RankState, RunState, joint_speed, joint_wait_share
from vidcap_cli.view.terminal import console as console_on
from vidcap_cli.view.terminal import folding
from vidcap_cli.view.words import clock, figure, one_line, printable, ranges, wrapped

REDRAW_S = 0.2
WHO_WIDTH = 9  # longest list of ranks that is spelled out on a line
CAPTION_WIDTH = 16  # columns below which the last caption is left out


def make_view(
    *,
    title: str,
    total: int,
    finished: int = 0,
    began: float | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> View:
    """The view that suits stderr: ``total`` planned rows, ``finished`` of them captioned before.

    ``began`` is when the work did, now unless it is told. A ``quiet`` one shows nothing, a
    ``verbose`` one every caption.
    """
    told: dict[str, Any] = {"title": title, "total": total, "finished": finished, "began": began}
    if quiet:
        return QuietView(**told)
    console = console_on()
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveView(console, **told, verbose=verbose)
    return PlainView(sys.stderr, **told, verbose=verbose)


class LiveView(Follower):
    """Draws on a terminal."""

    def __init__(
        self,
        console: Console,
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
        self._console = console
        # stdout is left alone: it carries data, and may be a pipe while stderr is a terminal.
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)
        self._drawn = -REDRAW_S

    def __enter__(self) -> Self:
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._draw(over=True)
        self._live.stop()

    def tick(self) -> None:
        """Redraw, at most five times a second."""
        if time.monotonic() - self._drawn >= REDRAW_S:
            self._draw()

    def _draw(self, *, over: bool = False) -> None:
        self._drawn = time.monotonic()
        now = self._now()
        picture = draw(
            self.state,
            title=self.title,
            now=now,
            elapsed=now - self._began,
            width=self._console.width,
            height=self._console.height,
            over=over,
        )
        self._live.update(picture, refresh=True)

    def _say(self, mark: str, text: str) -> None:
        style = {"✗": "red", "✓": "green"}.get(mark, "yellow")
        line = Text(wrapped(f"{mark} {one_line(text)}", folding(self._console), 2))
        line.stylize(style, 0, 1)
        self._console.print(line, soft_wrap=True)


def draw(
    state: RunState,
    *,
    title: str,
    now: float,
    elapsed: float,
    width: int,
    height: int,
    over: bool = False,
) -> RenderableType:
    """The live region at ``now``: at most ``height`` - 1 lines of ``width`` columns.

    One that stays when all is ``over`` has neither pace nor time: the last words tell them.
    """
    head = Text(one_line(title), style="bold", no_wrap=True, overflow="ellipsis")
    facts = Text(no_wrap=True, overflow="ellipsis")
    facts.append(count_words(state))
    if state.failed:
        start = facts.plain.index(f"{state.failed:,} failed")
        facts.stylize("red", start, start + len(f"{state.failed:,} failed"))
    rest = " · ".join([*pace_words(state, now), f"{clock(elapsed)} so far"])
    pace = Text(rest, style="dim", no_wrap=True, overflow="ellipsis")
    lines: list[RenderableType] = [head, _bar(state, width), facts, *([] if over else [pace])]
    if state.ranks:
        lines += [Text(""), _rank_table(state, width, height - len(lines) - 3)]
    return Group(*lines)


def _bar(state: RunState, width: int) -> Text:
    """Earlier rows, captions and failures in proportion; failures never round to nothing."""
    total = max(1, state.total)
    room = width
    earlier = room * state.finished // total
    until_failed = room * (state.finished + state.ok) // total
    end = room * (state.finished + state.ok + state.failed) // total
    if state.failed and end == until_failed:
        until_failed = max(earlier, end - 1)
        end = min(room, until_failed + 1)
    return Text.assemble(
        ("═" * earlier, "cyan"),
        ("━" * (until_failed - earlier), "green"),
        ("╍" * (end - until_failed), "red"),
        ("─" * (room - end), "bright_black"),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """What one line of the table says about one rank or several."""

    who: str
    state: Doing
    alive: bool
    ok: int
    failed: int
    tokens: float | None
    waiting: float | None
    caption: str


def _joined(ranks: Sequence[RankState], who: str) -> _Line:
    """Several ranks as one: rows and speeds add, the shares of waiting are weighed by time."""
    latest = max(ranks, key=lambda rank: rank.caption_time, default=RankState())
    return _Line(
        who=who,
        state=latest.state,
        alive=latest.alive,
        ok=sum(rank.ok for rank in ranks),
        failed=sum(rank.failed for rank in ranks),
        tokens=joint_speed(ranks),
        waiting=joint_wait_share(ranks),
        caption=latest.caption,
    )


def _lines(state: RunState, room: int) -> list[_Line]:
    """One line a rank if ``room`` lines are enough, else one for all ranks that do the same."""
    numbers = sorted(state.ranks)
    if len(numbers) <= room:
        return [_joined([state.ranks[number]], str(number)) for number in numbers]
    groups: dict[Doing, list[int]] = {}
    for number in numbers:
        groups.setdefault(state.ranks[number].state, []).append(number)
    lines = []
    for group in groups.values():
        spelled = ranges(group)
        who = spelled if len(spelled) <= WHO_WIDTH else f"{len(group)} ranks"
        lines.append(_joined([state.ranks[number] for number in group], who))
    return lines[: max(1, room)]


def _rank_table(state: RunState, width: int, room: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    lines = _lines(state, room)
    folded = len(lines) < len(state.ranks)
    who = max(4 + folded, *(len(line.who) for line in lines))
    doing = min(18, max(10, *(len(line.state) for line in lines)))
    sizes = (who, doing, 6, 6, 6, 7)
    left = width - sum(size + 2 for size in sizes) - len("^C")  # which a terminal adds to the end
    titles = ("ranks" if folded else "rank", "doing", "done", "failed", "tok/s", "waiting")
    for title, size in zip(titles, sizes, strict=True):
        side: JustifyMethod = "left" if title == "doing" else "right"
        table.add_column(title, width=size, justify=side, no_wrap=True, overflow="ellipsis")
    with_caption = left >= CAPTION_WIDTH
    if with_caption:
        table.add_column("last caption", width=left, no_wrap=True, overflow="ellipsis")
    for line in lines:
        cells = [
            Text(printable(line.who)),
            Text(one_line(line.state), style=_state_style(line)),
            Text(f"{line.ok:,}"),
            Text(f"{line.failed:,}" if line.failed else "", style="red"),
            Text("" if line.tokens is None else figure(line.tokens)),
            Text("" if line.waiting is None else f"{line.waiting:.0%}"),
        ]
        table.add_row(*cells, *([Text(one_line(line.caption), "dim")] if with_caption else []))
    return table


def _state_style(line: _Line) -> str:
    if line.state == Doing.CAPTIONING:
        return "green"
    if not line.alive:
        return "dim" if line.state in (Doing.FINISHED, Doing.STOPPED) else "red"
    return "yellow"
