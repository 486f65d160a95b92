"""What ``vidcap merge`` prints: the account of every row, or the same as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.text import Text

from vidcap_cli.merge.account import Example, Reconciliation, Tally
from vidcap_cli.options import Prefer
from vidcap_cli.view.steps import Step, step_lines
from vidcap_cli.view.summary import flag_words
from vidcap_cli.view.terminal import console as console_on
from vidcap_cli.view.terminal import folding
from vidcap_cli.view.words import count, printable, wrapped

_TAKEN: dict[Prefer, str] = {
    "newest": "the newest",
    "oldest": "the oldest",
    "first": "that of the first input",
    "longest": "the longest",
}


def show_merge(
    account: Reconciliation,
    steps: Sequence[Step] = (),
    *,
    prefer: Prefer = "newest",
    others: bool = False,
    as_json: bool,
) -> None:
    """Print the reconciliation, and what may be done next: JSON to stdout, words to stderr.

    ``others`` is whether the table has the captions that were not taken.
    """
    if as_json:
        told = {**account.as_dict(), "next": [asdict(step) for step in steps]}
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=1) + "\n")
        return
    console = console_on()
    width = folding(console)

    def say(words: str, style: str = "") -> None:
        console.print(Text(wrapped(printable(words), width, 4), style), soft_wrap=True)

    mark, style = ("✓", "green") if account.complete else ("!", "yellow")
    verb = "has" if account.rows == 1 else "have"
    console.print(
        Text(f"{mark} ", style) + f"{account.ok:,} of {count(account.rows, 'row')} {verb} a caption"
    )
    where = "the others are in caption_others" if others else "--all-columns adds the others"
    lines = {
        **{f"failed: {status}": tally for status, tally in account.failed.items()},
        "missing": account.missing,
        "with several results: one is taken, a caption before a failure": account.duplicates,
        f"with different captions: {_TAKEN[prefer]} is taken (--prefer), {where}": (
            account.conflicts
        ),
        _results(account.unmatched, "that fit no planned row", "that fits no planned row"): (
            account.unmatched
        ),
        _results(account.mismatched, "whose row_id and path disagree"): account.mismatched,
    }
    for name, tally in lines.items():
        if tally.count:
            say(f"  {tally.count:,} {name}")
            # Different captions are long, and are compared: each row has a line of its own.
            apart = tally is account.conflicts
            for shown in map(_one, tally.examples) if apart else filter(None, [_examples(tally)]):
                say(f"    {shown}", "dim")
    if account.flagged:
        say(f"  {flag_words(account.flagged, account.flags)}")
    for note in account.notes:
        say(f"  note: {note}")
    console.print(Text(printable(f"  → {account.out}"), "bold"), soft_wrap=True)
    if account.missing_table:
        todo = account.missing_table
        todo = f"nothing, and {todo} has no rows" if account.complete else todo
        console.print(Text(printable(f"  still to do: {todo}"), "bold"), soft_wrap=True)
    for purpose, command in step_lines(steps, width):
        console.print(Text(purpose, "dim"), soft_wrap=True)
        console.print(Text(command), soft_wrap=True)


def _results(tally: Tally, several: str, one: str | None = None) -> str:
    return f"result {one or several}" if tally.count == 1 else f"results {several}"


def _examples(tally: Tally) -> str:
    more = " …" if tally.count > len(tally.examples) else ""
    return "; ".join(_one(example) for example in tally.examples) + more


def _one(example: Example) -> str:
    row = "" if example.row is None else f"row {example.row} "
    detail = f" ({example.detail})" if example.detail else ""
    return f"{row}{example.path or ''}{detail}"
