"""A report: facts in sections, what is wrong and how to mend it; for people or as JSON.

A report is plain data. ``render`` is the one place that lays it out: on stdout, because what was
asked for is data, in colour on a terminal only.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidcap_cli.view.words import printable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Fact:
    """``label``: what; ``words``: for people; ``value``: for JSON, the words when it is None.

    Without words it is for JSON alone: a value, or null.
    """

    label: str
    words: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Section:
    """Facts that belong together. ``only_shown``: to people; JSON has them in other facts."""

    title: str
    facts: tuple[Fact, ...]
    only_shown: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and what mends it. ``serious``: captioning is not possible like this."""

    text: str
    remedy: str | None = None
    serious: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What vidcap knows about a target. ``kind`` is machine, table, captions, folder, video, model
    or run; ``verdict`` one sentence.
    """

    kind: str
    title: str
    verdict: str
    sections: tuple[Section, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing serious is wrong."""
        return not any(problem.serious for problem in self.problems)

    @property
    def shown(self) -> list[Section]:
        """What people are shown: sections with facts that have words."""
        told = [
            Section(section.title, tuple(fact for fact in section.facts if fact.words))
            for section in self.sections
        ]
        return [section for section in told if section.facts]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data; labels become keys with underscores."""
        return {
            "kind": self.kind,
            "target": self.title,
            "ok": self.ok,
            "verdict": self.verdict,
            "facts": {
                _key(section.title): {
                    _key(fact.label): (fact.words or None) if fact.value is None else fact.value
                    for fact in section.facts
                }
                for section in self.sections
                if not section.only_shown
            },
            "problems": [
                {"text": problem.text, "remedy": problem.remedy, "serious": problem.serious}
                for problem in self.problems
            ],
        }


def render(report: Report, *, as_json: bool = False) -> None:
    """Write the report to stdout."""
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n")
    elif sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - only for a terminal

        draw(report, Console(highlight=False))
    else:
        for line in _lines(report):
            sys.stdout.write(printable(line) + "\n")


def _lines(report: Report) -> Iterator[str]:
    yield report.title
    width = _label_width(report)
    for section in report.shown:
        yield ""
        yield section.title
        yield from (f"  {fact.label:<{width}}  {fact.words}" for fact in section.facts)
    yield ""
    for problem in report.problems:
        yield f"{_mark(problem)} {problem.text}"
        if problem.remedy:
            yield f"  → {problem.remedy}"
    yield f"{'✓' if report.ok else '✗'} {report.verdict}"


def draw(report: Report, console: "Console") -> None:
    """Draw the report on a terminal."""
    from rich.padding import Padding  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console.print(Text(printable(report.title), "bold"))
    width = _label_width(report)
    for section in report.shown:
        console.print()
        console.print(Text(section.title, "cyan"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width, style="dim")
        grid.add_column(overflow="fold")
        for fact in section.facts:
            grid.add_row(Text(printable(fact.label)), Text(printable(fact.words)))
        console.print(Padding(grid, (0, 0, 0, 2)))
    console.print()
    for problem in report.problems:
        style = "red" if problem.serious else "yellow"
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(Text(_mark(problem), style), Text(printable(problem.text)))
        console.print(line)
        if problem.remedy:
            # Not wrapped: a command has to survive being copied.
            console.print(Text.assemble(("  → ", "dim"), printable(problem.remedy)), soft_wrap=True)
    mark, style = ("✓", "green") if report.ok else ("✗", "red")
    console.print(Text.assemble((f"{mark} ", style), (printable(report.verdict), "bold")))


def _label_width(report: Report) -> int:
    labels = [len(fact.label) for section in report.shown for fact in section.facts]
    return min(32, max(labels, default=0))


def _mark(problem: Problem) -> str:
    return "✗" if problem.serious else "!"


def _key(label: str) -> str:
    return label.replace(" ", "_")
