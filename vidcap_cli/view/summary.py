"""What is said when all is over: the final words, and the captions of a demo.

The captions go to stdout, which carries data, and all else to stderr.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidcap_cli.statuses import Status
from vidcap_cli.view.follower import reason
from vidcap_cli.view.tally import Failure
from vidcap_cli.view.words import duration, figure, one_line, printable

LISTED = 8  # failures


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``rows`` planned, ``ok`` with a caption, how many ``failed``, by status.

    ``left_alone`` rows failed in an earlier command and were not tried again.

    The ``failures`` are those to show, all or the first of them. This command ``captioned`` so many
    rows in ``seconds``; ``next_command`` is what the user may want to run now, with a word why.
    """

    rows: int
    ok: int
    failed: Mapping[Status, int] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    captioned: int = 0
    seconds: float = 0.0
    output: str | None = None
    next_command: str | None = None
    left_alone: int = 0


def summary(outcome: Outcome, console: Console | None = None) -> None:
    """Print the final words to stderr."""
    console = console or Console(stderr=True, highlight=False)
    failed = sum(outcome.failed.values())
    missing = outcome.rows - outcome.ok - failed - outcome.left_alone
    whole = outcome.ok == outcome.rows
    head = Text("✓ " if whole else "! ", style="green" if whole else "yellow")
    head.append(f"{outcome.ok:,} of {outcome.rows:,} videos have a caption", style="bold")
    if outcome.captioned and outcome.seconds > 0:
        speed = figure(outcome.captioned / outcome.seconds * 3600)
        head.append(f" · {duration(outcome.seconds)} · {speed} videos/h", style="dim")
    console.print(head)
    for status, rows in Counter(outcome.failed).most_common():
        console.print(Text.assemble((f"  {rows:,} ", "red"), printable(status)))
    for failure in outcome.failures[:LISTED]:
        words = f"    {failure.path} · {reason(failure.status, failure.error)}"
        console.print(Text(printable(words)), soft_wrap=True)
    if failed > LISTED:
        console.print(f"    and {failed - LISTED:,} more")
    if outcome.left_alone:
        console.print(f"  {outcome.left_alone:,} failed before and were left alone")
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
