"""What an option is: a field of a frozen dataclass, annotated with an ``Option``.

The command line is made from these fields (``vidcap_cli.cli``), and a dataclass goes on whole to
whoever uses it. Here are the words for that, and back from values to words.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

from vidcap_cli.view.words import setting


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Option:
    """What the command line says of a field.

    ``flags`` are its spellings, the name with hyphens unless given. ``low`` and ``high`` bound a
    number. ``usual`` is the default in words, where None stands for it. ``given`` is the type on
    the command line where it is not the field's; ``read`` then makes the value, ValueError is a
    wrong one, and ``preset`` is the default in that type. ``complete`` is what TAB offers.

    With ``alters`` captions depend on it: an unfinished run refuses another value. A ``last`` one
    stands at the end of its panel in the help.
    """

    help: str
    panel: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    usual: str | None = None
    given: Any = None
    read: Callable[[Any], Any] | None = None
    preset: Any = None
    complete: Callable[[str], list[str]] | None = None
    alters: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Declared:
    """A field that is an option: its name and type, and its default, MISSING for none."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """Its spellings on the command line; the first is the one it is called by."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)


@cache
def declared(group: type) -> Mapping[str, Declared]:
    """The options of a dataclass by the names of their fields."""
    found = {}
    for field in fields(group):
        kind, *notes = get_args(field.type) or (field.type,)
        option = next((note for note in notes if isinstance(note, Option)), None)
        if option:
            found[field.name] = Declared(field.name, kind, field.default, option)
    return found


def given(options: Iterable[Declared], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the ``values`` of ``options`` those that are not the default, by their flags' words."""
    found = {}
    for option in options:
        value = values.get(option.name, option.default)
        if value != option.default:
            name = option.flags[0].removeprefix("--").replace("-", "_")
            found[name] = str(value) if isinstance(value, Path) else value
    return found


def spelled(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these options."""
    words = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [word for key, one in value.items() for word in (flag, f"{key}={one}")]
        elif value is True:
            words.append(flag)
        else:
            words += [flag, setting(value)]
    return words
