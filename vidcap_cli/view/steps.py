"""What the user may do next: a purpose in words, and under it the command, ready to be pasted."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vidcap_cli.view.words import printable, wrapped


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it is for: "to look at the captions"."""

    purpose: str
    command: str

    @classmethod
    def of(cls, purpose: str, *words: object) -> "Step":
        """The step whose command has these words."""
        return cls(purpose, shlex.join(["vidcap", *map(str, words)]))


def made_of(source: Path, name: str) -> str:
    """What to call a file that is made of ``source``, so that no other one's is in its place:
    ``meta_flagged.csv`` for ``meta.parquet`` and ``flagged.csv``.
    """
    return f"{source.stem}_{name}"


def again(failed: int, command: str) -> Step:
    """To try so many rows again."""
    rows = "failed row" if failed == 1 else f"{failed:,} failed rows"
    return Step(f"to try the {rows} again", command)


def step_lines(steps: Iterable[Step], width: int | None) -> Iterator[tuple[str, str]]:
    """Of each step its purpose and its command as lines; the latter is never folded."""
    for step in steps:
        purpose = wrapped(printable(f"  next, {step.purpose}:"), width, 2)
        yield purpose, printable(f"    {step.command}")
