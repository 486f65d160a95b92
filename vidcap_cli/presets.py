"""Options that need not be typed: from ``vidcap.toml``, ``pyproject.toml`` and the environment.

They become words of the command line, before those that were typed, so that whatever is wrong
with one is said as it is for a word. A file belongs to the working directory, as do the relative
paths in it: ``vidcap.toml``, the one that VIDCAP_CONFIG names, or the table ``[tool.vidcap]`` of
``pyproject.toml``. A key is an option's name; one in a table ``[qwen2vl]`` is for that command
alone. ``VIDCAP_FPS=2`` is ``--fps 2``, and beats a file as a typed word beats both.

Neither MindSpore, pandas nor pyarrow is imported here.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vidcap_cli.config import options_of
from vidcap_cli.declaring import Declared, declared, spelled
from vidcap_cli.errors import UsageError
from vidcap_cli.families import FAMILIES, RECOMMENDED
from vidcap_cli.options import (
    InspectOptions,
    LaunchOptions,
    MergeOptions,
    RunOptions,
    TableOptions,
)
from vidcap_cli.view.words import nearest

CONFIG = "VIDCAP_CONFIG"
_VARIABLE = "VIDCAP_"
# Variables of vidcap's own that are no options.
_OTHERS = {CONFIG, "VIDCAP_CACHE", "VIDCAP_NODE_SECONDS", "VIDCAP_LEAVE_SECONDS"}
_ALIKE = 0.65  # of two names, from 0 to 1
_FILE, _PROJECT = "vidcap.toml", "pyproject.toml"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}
# Two ways to say one thing: who types one wants none of the other.
_SAME = {"question": "prompt", "prompt": "question"}


@dataclass(frozen=True, slots=True)
class Presets:
    """The ``words`` to put before those that were typed, and those of each source."""

    words: list[str] = field(default_factory=list)
    sources: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Where which options are from; empty where there are none."""
        import shlex  # noqa: PLC0415 - not for TAB and --help

        return "; ".join(f"{source}: {shlex.join(words)}" for source, words in self.sources.items())


def presets(typed: Sequence[str]) -> Presets:
    """What files and the environment add to the words ``typed`` after ``vidcap``.

    Raises UsageError for a file that cannot be read, or an option in it that there is not, and for
    a variable that is nearly one.
    """
    command = typed[0] if typed else ""
    options = _options().get(command)
    if options is None:
        return Presets()
    found: dict[str, tuple[str, Any]] = {}
    source, values = _of_files(command)
    found |= {name: (source, value) for name, value in values.items() if name in options}
    _check_variables(os.environ)
    for name, option in options.items():
        variable = f"{_VARIABLE}{_name(option).upper()}"
        if variable in os.environ:
            found[name] = (variable, _of_text(variable, os.environ[variable], option))
    for name in _typed(typed[1:], options.values()):
        found.pop(name, None)
        found.pop(_SAME.get(name, name), None)
    sources: dict[str, list[str]] = {}
    for name, (source, value) in found.items():
        words = _words(options[name], value)
        if words:
            sources.setdefault(source, []).extend(words)
    return Presets([word for words in sources.values() for word in words], sources)


@cache
def _options() -> Mapping[str, Mapping[str, Declared]]:
    """The options of each command by the names of their flags, ``max_new_tokens``."""
    table = declared(TableOptions)
    common = [*table.values(), *declared(RunOptions).values(), *declared(LaunchOptions).values()]
    found = {
        name: {_name(option): option for option in (*options_of(family).values(), *common)}
        for name, family in FAMILIES.items()
    }
    merged = {_name(option): option for name, option in table.items() if name != "output"}
    return {**found, "merge": merged}


def _name(option: Declared) -> str:
    return option.flags[0].removeprefix("--").replace("-", "_")


def _of_files(command: str) -> tuple[str, dict[str, Any]]:
    """The file that there is, and what it says for ``command``, by the names of flags."""
    named = os.environ.get(CONFIG)
    path = Path(named) if named else Path(_FILE)
    if not named and not path.is_file():
        path = Path(_PROJECT)
        if not path.is_file():
            return "", {}
    content = _read(path)
    if path.name == _PROJECT:
        content = content.get("tool", {}).get("vidcap", {})
    return str(path), _chosen(path, content, command)


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - most folders have no such file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path.name == _PROJECT:  # somebody else's to read
            return {}
        raise UsageError(f"{path}: is not TOML ({error}); mend it, or remove it.") from error


def _chosen(path: Path, content: Mapping[str, Any], command: str) -> dict[str, Any]:
    """What is said for all commands that have the option, and for ``command`` alone."""
    commands = _options()
    everywhere = {name for options in commands.values() for name in options}
    common, own = {}, {}
    for key, value in content.items():
        if key in commands and isinstance(value, dict):
            checked = {_checked(path, name, commands[key], key): it for name, it in value.items()}
            if key == command:
                own = checked
        elif isinstance(value, dict) and key.replace("-", "_") not in everywhere:
            near = nearest(key, list(commands))
            hint = f"; did you mean [{near}]?" if near else "."
            raise UsageError(
                f"{path}: [{key}] is not read; tables are for {', '.join(commands)}{hint}"
            )
        else:
            common[_checked(path, key, everywhere)] = value
    return common | own


def _checked(path: Path, key: str, known: Iterable[str], command: str | None = None) -> str:
    """The name of an option that is called ``key``, among those ``known`` of all commands or of
    the ``command`` whose table it is in.
    """
    name = key.replace("-", "_")
    names = sorted(known)
    if name in names:
        return name
    where = f"{path}: [{command}]" if command else str(path)
    typed = (*declared(MergeOptions).values(), *declared(InspectOptions).values())
    if command in (None, "merge") and name in map(_name, typed):
        raise UsageError(f"{where}: {key} is no option for a file; give it with the command.")
    near = nearest(name, names)
    listed = f"vidcap {command or RECOMMENDED.command} --help lists them all."
    hint = f"did you mean {near}?" if near else listed
    raise UsageError(f"{where}: there is no option {key}; {hint}")


def _check_variables(names: Iterable[str]) -> None:
    """Raise UsageError for a variable that is nearly an option's: a typo would go unnoticed.

    Others are left alone; a machine may have them for other reasons.
    """
    known = {name.upper() for options in _options().values() for name in options}
    for variable in sorted(names):
        name = variable.removeprefix(_VARIABLE)
        if name == variable or name in known or variable in _OTHERS:
            continue
        if near := nearest(name, known, _ALIKE):
            raise UsageError(
                f"{variable}: there is no option {name.lower()}; did you mean {_VARIABLE}{near}?"
            )


def _of_text(variable: str, text: str, option: Declared) -> Any:
    """The value of an environment variable: of a flag whether it is set."""
    if not _is_flag(option):
        return text
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise UsageError(f"{variable}={text}: write 1 or 0.")


def _is_flag(option: Declared) -> bool:
    return option.type is bool and option.option.given is None


def _words(option: Declared, value: Any) -> list[str]:
    """The words that give ``value``; of a list each of its values."""
    if value is False and _is_flag(option):
        return []
    each = value if isinstance(value, list) else [value]
    return [word for one in each for word in spelled({_name(option): one})]


def _typed(words: Sequence[str], options: Iterable[Declared]) -> set[str]:
    """The names of the options that are among the words of the user."""
    flags = {flag: _name(option) for option in options for flag in option.flags}
    found = set()
    for word in words:
        if word == "--":
            break
        long = word.partition("=")[0].replace("_", "-")
        name = flags.get(long if word.startswith("--") else word[:2])
        if name:
            found.add(name)
    return found
