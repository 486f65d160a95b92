"""A report: facts in sections, what is wrong and how to mend it; for people or as JSON.

A report is plain data. ``render`` is the one place that lays it out: on stdout, because what was
asked for is data, in colour on a terminal only.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from vidcap_cli.view.steps import Step, step_lines
from vidcap_cli.view.terminal import console
from vidcap_cli.view.words import printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Fact:
    """``label``: what; ``words``: for people; ``value``: for JSON, the words when it is None.

    ``figures`` stand before the words, each in a column of the section, to be compared. Without
    words it is for JSON alone: a value, or null.
    """

    label: str
    words: str
    value: Any = None
    figures: tuple[str, ...] = ()


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
    or run; ``verdict`` one sentence, which may be ``doubtful``: good, but not wholly. ``steps`` are
    what the user may do next.
    """

    kind: str
    title: str
    verdict: str
    sections: tuple[Section, ...]
    problems: tuple[Problem, ...] = ()
    steps: tuple[Step, ...] = ()
    doubtful: bool = False

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
            "next": [{"purpose": step.purpose, "command": step.command} for step in self.steps],
        }


def render(report: Report, *, as_json: bool = False) -> None:
    """Write the report to stdout."""
    if as_json:
        sys.stdout.write(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n")
    elif sys.stdout.isatty():
        draw(report, console(stderr=False))
    else:
        for line in _lines(report, None):
            sys.stdout.write(line.text + "\n")


def draw(report: Report, console: "Console") -> None:
    """Draw the report on a terminal."""
    from rich.text import Text  # noqa: PLC0415 - only for a terminal

    for line in _lines(report, console.width):
        text = Text(line.text)
        for style, start, end in line.styles:
            text.stylize(style, start, end)
        # Folded already; a terminal breaks what is longer, and a copy of it is whole.
        console.print(text, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line, perhaps folded into several, and how it is drawn from one character to another."""

    text: str
    styles: tuple[tuple[str, int, int], ...] = ()


def _lines(report: Report, width: int | None) -> Iterator[_Line]:
    yield _styled(report.title, "bold", width)
    labels = _label_width(report)
    for section in report.shown:
        yield _Line("")
        yield _styled(section.title, "cyan", width)
        yield from _fact_lines(section.facts, labels, width)
    yield _Line("")
    for problem in report.problems:
        yield _marked(_mark(problem), problem.text, "red" if problem.serious else "yellow", width)
        if problem.remedy:
            whole = _COMMAND.search(problem.remedy)
            yield _Line(wrapped(printable(f"  → {problem.remedy}"), None if whole else width, 4))
    mark = "✗" if not report.ok else "!" if report.doubtful else "✓"
    yield _marked(
        mark, report.verdict, {"✗": "red", "!": "yellow"}.get(mark, "green"), width, "bold"
    )
    for purpose, command in step_lines(report.steps, width):
        yield _Line(purpose, (("dim", 0, len(purpose)),))
        yield _Line(command)


# A remedy that is to be copied, or ends with what is.
_COMMAND = re.compile(r"(^|: )(docker|hf|npu-smi|pip|source|unset|uv|vidcap) ")


def _fact_lines(facts: Sequence[Fact], labels: int, width: int | None) -> Iterator[_Line]:
    """Facts of a section, one below the other; the words of each hang beside its label."""
    most = max(len(fact.figures) for fact in facts)
    sizes = [
        max(len(fact.figures[place]) for fact in facts if place < len(fact.figures))
        for place in range(most)
    ]
    hanging = labels + 4 + sum(size + 2 for size in sizes)
    for fact in facts:
        cells = zip_longest(fact.figures, sizes, fillvalue="")
        figures = "".join(f"{figure:>{size}}  " for figure, size in cells)
        label = printable(fact.label)
        line = f"  {label:<{labels}}  {figures}{printable(fact.words)}"
        yield _Line(wrapped(line, width, hanging), (("dim", 2, 2 + len(label)),))


def _styled(text: str, style: str, width: int | None) -> _Line:
    found = wrapped(printable(text), width)
    return _Line(found, ((style, 0, len(found)),))


def _marked(mark: str, text: str, style: str, width: int | None, of_text: str = "") -> _Line:
    found = wrapped(f"{mark} {printable(text)}", width, 2)
    return _Line(found, ((style, 0, 1), *([(of_text, 2, len(found))] if of_text else [])))


def _label_width(report: Report) -> int:
    labels = [len(fact.label) for section in report.shown for fact in section.facts]
    return min(32, max(labels, default=0))


def _mark(problem: Problem) -> str:
    return "✗" if problem.serious else "!"


def _key(label: str) -> str:
    return label.replace(" ", "_")
