"""What is said when all is over: the final words, and the captions of a demo.

The captions go to stdout, which carries data, and all else to stderr.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidcap_cli.rundir.plan import FOLDER, TABLE, VIDEO
from vidcap_cli.statuses import PASSING, Status
from vidcap_cli.view.follower import reason
from vidcap_cli.view.steps import Step, step_lines
from vidcap_cli.view.tally import Failure
from vidcap_cli.view.terminal import console as console_on
from vidcap_cli.view.terminal import folding
from vidcap_cli.view.words import count, duration, figure, one_line, printable, wrapped

LISTED = 8  # failures
# How files that cannot be captioned are left out of what was captioned.
SHARD = "shard"
_DROPPED = {
    TABLE: ", or drop {it} from the table and add --extend",
    FOLDER: ", or take {it} out of the folder and add --extend",
    VIDEO: "",
    SHARD: "",  # without a row of the table later ones would be in other shards
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``rows`` planned, ``ok`` with a caption, how many ``failed``, by status.
    ``kind`` is what they are rows of, that of the plan or SHARD.

    ``left_alone`` rows failed in an earlier command and were not tried again; with ``tries_again``
    the same command would try what failed.

    The ``failures`` are those to show that were not shown before, all or the first of them. This
    command ``captioned`` so many rows in ``seconds``. So many captions are ``flagged``, with each
    of the ``flags``. ``bases`` are the folders that relative paths start from. ``steps`` are what
    the user may want to do now.
    """

    rows: int
    ok: int
    failed: Mapping[Status, int] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    captioned: int = 0
    seconds: float = 0.0
    kind: str = TABLE
    output: str | None = None
    steps: Sequence[Step] = ()
    left_alone: int = 0
    tries_again: bool = True
    flagged: int = 0
    flags: Mapping[str, int] = field(default_factory=dict)
    bases: Sequence[str] = ()


def summary(outcome: Outcome, console: Console | None = None) -> None:
    """Print the final words to stderr."""
    console = console or console_on()
    width = folding(console)
    console.print(_head(outcome, width), soft_wrap=True)
    for status, rows in Counter(outcome.failed).most_common():
        console.print(Text.assemble((f"  {rows:,} ", "red"), printable(status)), soft_wrap=True)
    for line in _details(outcome):
        indent = len(line) - len(line.lstrip())
        console.print(Text(wrapped(printable(line), width, indent + 2)), soft_wrap=True)
    if outcome.output:
        console.print(Text.assemble("  → ", (printable(outcome.output), "bold")), soft_wrap=True)
    for purpose, command in step_lines(outcome.steps, width):
        console.print(Text(purpose, "dim"), soft_wrap=True)
        console.print(Text(command), soft_wrap=True)


def _details(outcome: Outcome) -> Iterator[str]:
    """What is said of rows without a caption, and of flags."""
    failed = sum(outcome.failed.values())
    for failure in outcome.failures[:LISTED]:
        yield f"    {failure.path} · {reason(failure.status, failure.error)}"
    if outcome.failures and failed > LISTED:
        yield f"    and {failed - LISTED:,} more"
    if not outcome.ok and outcome.bases and Status.MISSING_FILE in outcome.failed:
        yield f"  relative paths start from {' or '.join(dict.fromkeys(outcome.bases))}"
    leave = "with --restart-failed none" if outcome.tries_again else ""
    if words := lasting_words(outcome.failed, outcome.kind, leave):
        yield f"  {words}"
    if outcome.left_alone:
        were = "was" if outcome.left_alone == 1 else "were"
        yield f"  {outcome.left_alone:,} failed before and {were} left alone"
    if missing := outcome.rows - outcome.ok - failed - outcome.left_alone:
        yield f"  {missing:,} not reached yet"
    if outcome.flagged:
        yield f"  {flag_words(outcome.flagged, outcome.flags)}"


def _head(outcome: Outcome, width: int | None) -> Text:
    whole = outcome.ok == outcome.rows
    verb = "has" if outcome.rows == 1 else "have"
    said = f"{outcome.ok:,} of {count(outcome.rows, 'video')} {verb} a caption"
    told = ""
    if outcome.captioned and outcome.seconds > 0:
        speed = figure(outcome.captioned / outcome.seconds * 3600)
        told = f" · {duration(outcome.seconds)}, {speed} videos/h from start to end"
    head = Text(wrapped(f"{'✓' if whole else '!'} {said}{told}", width, 2))
    head.stylize("green" if whole else "yellow", 0, 1)
    head.stylize("bold", 2, 2 + len(said))
    head.stylize("dim", 2 + len(said))
    return head


def lasting_words(
    failed: Mapping[Status, int] | Mapping[str, int], kind: str, leave: str = ""
) -> str:
    """What helps those of the ``failed`` rows, by status, that would fail again as they are.

    ``kind`` is that of ``Outcome``; ``leave`` says how they are left alone, of one row. Empty
    where another try may help all of them.
    """
    lasting = {status: rows for status, rows in failed.items() if status not in PASSING}
    rows, of_files = sum(lasting.values()), sum(lasting.values()) - lasting.get(Status.EMPTY, 0)
    if not rows:
        return ""
    which = "" if rows == sum(failed.values()) else f" {rows:,} of them"
    one = of_files == 1
    helps = []
    if of_files:
        mend = f"mend {'the file' if one else 'the files'}"
        helps.append(mend + _DROPPED[kind].format(it="it" if one else "them"))
    if of_files < rows:
        helps.append("ask another question" + (" where a caption is empty" if of_files else ""))
    if leave:
        helps.append(f"leave {'it' if rows == 1 else 'them'} {leave}")
    return f"another try alone does not help{which}: {', or '.join(helps)}"


def flag_words(flagged: int, flags: Mapping[str, int]) -> str:
    """How many captions have flags, and which."""
    if flagged == 1:
        return f"1 caption has a flag: {', '.join(flags)}"
    listed = ", ".join(f"{flag} {rows:,}" for flag, rows in Counter(flags).most_common())
    return f"{flagged:,} captions have flags: {listed}"


def captions_table(pairs: Iterable[tuple[str, str | None]], console: Console | None = None) -> None:
    """Write clips and captions to stdout: a table on a terminal, else ``clip<TAB>caption``."""
    console = console or console_on(stderr=False)
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
