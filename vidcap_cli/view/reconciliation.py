"""What ``vidcap merge`` prints: the account of every row, or the same as JSON."""

import json
import sys

from rich.console import Console
from rich.text import Text

from vidcap_cli.merge.account import Example, Reconciliation, Tally
from vidcap_cli.view.words import printable


def show_merge(account: Reconciliation, *, as_json: bool) -> None:
    """Print the reconciliation: JSON to stdout, words to stderr."""
    if as_json:
        sys.stdout.write(json.dumps(account.as_dict(), ensure_ascii=False, indent=1) + "\n")
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    mark, style = ("✓", "green") if account.complete else ("!", "yellow")
    console.print(
        Text(f"{mark} ", style) + Text(f"{account.ok:,} of {account.rows:,} rows have a caption")
    )
    lines = {
        **{f"failed: {status}": tally for status, tally in account.failed.items()},
        "missing": account.missing,
        "with several results": account.duplicates,
        "with conflicting captions": account.conflicts,
        "results that fit no planned row": account.unmatched,
        "results whose row_id and path disagree": account.mismatched,
    }
    for name, tally in lines.items():
        if tally.count:
            console.print(Text(f"  {tally.count:,} {name}") + _examples(tally))
    for note in account.notes:
        console.print(Text(f"  note: {printable(note)}"))
    console.print(Text(printable(f"  → {account.out}"), "bold"))
    if account.missing_file:
        console.print(Text(printable(f"  still to do: {account.missing_file}"), "bold"))


def _examples(tally: Tally) -> Text:
    shown = "; ".join(_one(example) for example in tally.examples)
    more = " …" if tally.count > len(tally.examples) else ""
    return Text(f"  {shown}{more}", "dim")


def _one(example: Example) -> str:
    row = "" if example.row is None else f"row {example.row} "
    detail = f" ({example.detail})" if example.detail else ""
    return printable(f"{row}{example.path or ''}{detail}")
