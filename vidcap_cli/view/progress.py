"""What the user sees of a run: while it goes on, when it is over, and the captions of a demo.

On a terminal a live region at the bottom (a bar, one line a rank) with problems scrolling above
it; elsewhere a plain line now and then and one a problem, without control characters. All of it
goes to stderr, except the captions of ``captions_table``: stdout carries data. Nothing here
reads files or decides anything; the numbers come from ``tally``.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vidcap_cli.rundir.events import Done, Event, Notice
from vidcap_cli.statuses import Doing, Status
from vidcap_cli.view.tally import Failure, RankState, RunState, fold
from vidcap_cli.view.words import clock, count, duration, figure, one_line, printable, ranges

REDRAW_S = 0.2
PLAIN_S = 10.0
PLAIN_UNCHANGED_S = 60.0
LISTED_PER_STATUS = 50  # failed rows of one status shown as they happen; the rest are counted
LISTED_IN_SUMMARY = 8
WHO_WIDTH = 9  # longest list of ranks that is spelled out on a line
CAPTION_WIDTH = 16  # columns below which the last caption is left out


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


def make_view(*, title: str, total: int, finished: int = 0) -> View:
    """The view that suits stderr: ``total`` planned rows, ``finished`` of them captioned before."""
    console = Console(stderr=True, highlight=False)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveView(console, title=title, total=total, finished=finished)
    return PlainView(sys.stderr, title=title, total=total, finished=finished)


class _Follower:
    """What both views share: the state, and which problems become lines."""

    def __init__(
        self, *, title: str, total: int, finished: int, now: Callable[[], float] = time.time
    ) -> None:
        self.state = RunState(total=total, finished=finished)
        self.title = title
        self._now = now
        self._began = now()
        self._listed: Counter[str] = Counter()

    def event(self, rank: int | None, event: Event) -> None:
        """Fold the event and show the problem it reports, if any."""
        self.state = fold(self.state, rank, event)
        if isinstance(event, Notice):
            who = "" if rank is None else f"rank {rank}: "
            self._say("!", f"{who}{event.text}")
        elif isinstance(event, Done) and event.status != Status.OK:
            self._failed(event)

    def notice(self, text: str) -> None:
        """Show ``text`` as a line of its own."""
        self.event(None, Notice(text, time=self._now()))

    def _failed(self, event: Done) -> None:
        self._listed[event.status] += 1
        if self._listed[event.status] <= LISTED_PER_STATUS:
            self._say("✗", f"{event.path} · {_reason(event.status, event.error)}")
        elif self._listed[event.status] == LISTED_PER_STATUS + 1:
            self._say("!", f"more rows end with {event.status}; they are counted, not listed here")

    def _say(self, mark: str, text: str) -> None:
        raise NotImplementedError


class LiveView(_Follower):
    """Draws on a terminal."""

    def __init__(
        self,
        console: Console,
        *,
        title: str,
        total: int,
        finished: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(title=title, total=total, finished=finished, now=now)
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
        self._draw()
        self._live.stop()

    def tick(self) -> None:
        """Redraw, at most five times a second."""
        if time.monotonic() - self._drawn >= REDRAW_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        now = self._now()
        picture = draw(
            self.state,
            title=self.title,
            now=now,
            elapsed=now - self._began,
            width=self._console.width,
            height=self._console.height,
        )
        self._live.update(picture, refresh=True)

    def _say(self, mark: str, text: str) -> None:
        style = "red" if mark == "✗" else "yellow"
        self._console.print(Text.assemble((f"{mark} ", style), one_line(text)))


class PlainView(_Follower):
    """Writes lines: for logs, pipes and terminals without cursor control."""

    def __init__(
        self,
        stream: TextIO,
        *,
        title: str,
        total: int,
        finished: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(title=title, total=total, finished=finished, now=now)
        self._stream = stream
        self._written = self._began
        self._last = ""

    def __enter__(self) -> Self:
        earlier = f", {self.state.finished:,} of them from before" if self.state.finished else ""
        self._write(f"{self.title}: {count(self.state.total, 'video')}{earlier}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress()

    def tick(self) -> None:
        """Write the progress when a line is due: rarely while nothing changes."""
        quiet = self._now() - self._written
        changed = _counts(self.state) != self._last
        if quiet >= (PLAIN_S if changed else PLAIN_UNCHANGED_S):
            self._progress()

    def _progress(self) -> None:
        now = self._now()
        self._written = now
        self._last = _counts(self.state)
        words = [self._last, *_pace(self.state, now), *_ranks_in_words(self.state)]
        self._write(f"[{clock(now - self._began)}] " + " · ".join(words))

    def _say(self, mark: str, text: str) -> None:
        self._write(f"{'failed' if mark == '✗' else 'note'}: {one_line(text)}")

    def _write(self, line: str) -> None:
        self._stream.write(printable(line) + "\n")
        self._stream.flush()


def draw(
    state: RunState, *, title: str, now: float, elapsed: float, width: int, height: int
) -> RenderableType:
    """The live region at ``now``: at most ``height`` - 1 lines of ``width`` columns."""
    head = Text(one_line(title), style="bold", no_wrap=True, overflow="ellipsis")
    facts = Text(no_wrap=True, overflow="ellipsis")
    facts.append(_counts(state))
    if state.failed:
        start = facts.plain.index(f"{state.failed:,} failed")
        facts.stylize("red", start, start + len(f"{state.failed:,} failed"))
    rest = " · ".join([*_pace(state, now), f"{clock(elapsed)} so far"])
    pace = Text(rest, style="dim", no_wrap=True, overflow="ellipsis")
    lines: list[RenderableType] = [head, _bar(state, width), facts, pace]
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
        ("━" * earlier, "cyan"),
        ("━" * (until_failed - earlier), "green"),
        ("╍" * (end - until_failed), "red"),
        ("─" * (room - end), "bright_black"),
    )


def _counts(state: RunState) -> str:
    ready = state.finished + state.ok
    words = [f"{ready:,} of {state.total:,} captioned"]
    if state.failed:
        words.append(f"{state.failed:,} failed")
    if state.finished:
        words.append(f"{state.finished:,} from before")
    return " · ".join(words)


def _pace(state: RunState, now: float) -> list[str]:
    """Videos an hour and the time left, as far as they are known."""
    per_hour, left = state.videos_per_hour(now), state.seconds_left(now)
    if per_hour is None:
        return [] if state.remaining == 0 else ["no video finished yet"]
    words = [f"{figure(per_hour)} videos/h"]
    if state.remaining and left is not None:
        words.append(f"{duration(left)} left")
    return words


def _ranks_in_words(state: RunState) -> list[str]:
    """How many ranks do what, their joint speed and the share of time they wait."""
    doing = Counter(rank.state for rank in state.ranks.values())
    words = [f"{count} {one_line(what)}" for what, count in sorted(doing.items())]
    total = _joined(list(state.ranks.values()))
    if total.tokens is not None:
        words.append(f"{figure(total.tokens)} tokens/s")
    if total.waiting is not None:
        words.append(f"waiting for frames {total.waiting:.0%}")
    return words


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


def _joined(ranks: Sequence[RankState], who: str = "") -> _Line:
    """Several ranks as one: rows and speeds add, the shares of waiting are weighed by time."""
    speeds = [speed for rank in ranks if (speed := rank.tokens_per_second) is not None]
    waited = sum(rank.wait_s for rank in ranks)
    spent = waited + sum(rank.busy_s for rank in ranks)
    latest = max(ranks, key=lambda rank: rank.caption_time, default=RankState())
    return _Line(
        who=who,
        state=latest.state,
        alive=latest.alive,
        ok=sum(rank.ok for rank in ranks),
        failed=sum(rank.failed for rank in ranks),
        tokens=sum(speeds) if speeds else None,
        waiting=waited / spent if spent > 0 else None,
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
    left = width - sum(size + 2 for size in sizes)
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``rows`` planned, ``ok`` with a caption, the ``failures``.

    ``captioned`` rows were worked on by this command in ``seconds``; ``next_command`` is what the
    user may want to run now, with a word why.
    """

    rows: int
    ok: int
    failures: Sequence[Failure] = ()
    captioned: int = 0
    seconds: float = 0.0
    output: str | None = None
    next_command: str | None = None


def summary(outcome: Outcome, console: Console | None = None) -> None:
    """Print the final words to stderr."""
    console = console or Console(stderr=True, highlight=False)
    missing = outcome.rows - outcome.ok - len(outcome.failures)
    whole = not missing and not outcome.failures
    head = Text("✓ " if whole else "! ", style="green" if whole else "yellow")
    head.append(f"{outcome.ok:,} of {outcome.rows:,} videos have a caption", style="bold")
    if outcome.captioned and outcome.seconds > 0:
        speed = figure(outcome.captioned / outcome.seconds * 3600)
        head.append(f" · {duration(outcome.seconds)} · {speed} videos/h", style="dim")
    console.print(head)
    by_status = Counter(failure.status for failure in outcome.failures)
    for status, rows in by_status.most_common():
        console.print(Text.assemble((f"  {rows:,} ", "red"), printable(status)))
    for failure in outcome.failures[:LISTED_IN_SUMMARY]:
        words = f"    {failure.path} · {_reason(failure.status, failure.error)}"
        console.print(Text(printable(words)), soft_wrap=True)
    if len(outcome.failures) > LISTED_IN_SUMMARY:
        console.print(f"    and {len(outcome.failures) - LISTED_IN_SUMMARY:,} more")
    if missing:
        console.print(f"  {missing:,} not reached yet")
    if outcome.output:
        console.print(Text.assemble("  → ", (printable(outcome.output), "bold")), soft_wrap=True)
    if outcome.next_command:
        last = Text.assemble(("  next: ", "dim"), printable(outcome.next_command))
        console.print(last, soft_wrap=True)


def captions_table(pairs: Iterable[tuple[str, str | None]], console: Console | None = None) -> None:
    """Write clips and captions to stdout: a table on a terminal, else ``clip<TAB>caption``."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        for clip, caption in pairs:
            console.file.write(f"{one_line(clip)}\t{one_line(caption or '')}\n")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("clip", style="cyan", no_wrap=True)
    table.add_column("caption")
    for clip, caption in pairs:
        words = Text("no caption", "red") if caption is None else Text(one_line(caption))
        table.add_row(Text(one_line(clip)), words)
    console.print(table)


def _reason(status: str, error: str | None) -> str:
    return f"{status}: {error}" if error else status
