"""What is said of a command line that cannot be understood: what is meant by it, where that shows.

typer finds what is wrong; here its words get what was typed, and the nearest thing that there is.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from vidcap_cli.families import RECOMMENDED
from vidcap_cli.view.words import nearest

_EXTRA = re.compile(r"Got unexpected extra argument.*?\s\((.*)\)$")
# What options are called elsewhere: in transformers, vLLM, training scripts, torchrun. Of several
# the first one that the command has is meant.
_ELSEWHERE = {
    "--batch-size": ("--bs",),
    "--per-device-batch-size": ("--bs",),
    "--max-num-seqs": ("--bs",),
    "--num-frames": ("--fps",),
    "--nframes": ("--num-frames", "--fps"),
    "--max-frames": ("--num-frames", "--fps"),
    "--frames": ("--num-frames", "--fps"),
    "--fps": ("--num-frames",),
    "--frame-rate": ("--fps", "--num-frames"),
    "--max-tokens": ("--max-new-tokens",),
    "--max-length": ("--max-new-tokens",),
    "--model-path": ("--model",),
    "--model-name": ("--model",),
    "--model-name-or-path": ("--model",),
    "--ckpt-path": ("--model",),
    "--checkpoint": ("--model",),
    "--query": ("--question",),
    "--instruction": ("--question",),
    "--output-path": ("--output",),
    "--output-file": ("--output",),
    "--out": ("--output",),
    "--save-path": ("--output",),
    "--num-workers": ("--worker-num",),
    "--nproc-per-node": ("--local-worker-num",),
    "--world-size": ("--worker-num",),
    "--tensor-parallel-size": ("--tensor-parallel",),
    "--tp": ("--tensor-parallel",),
    "--device": ("--device-target",),
    "--overwrite": ("--fresh", "--overwrite-column"),
    "--max-samples": ("--limit",),
    "--num-samples": ("--limit",),
    "--metadata": ("--meta",),
}
_OF_MSRUN = {
    "--bind-core", "--cluster-time-out", "--rank-table-file", "--sim-level", "--sim-rank-id",
    "--tail-worker-log", "--worker-log-name",
}  # fmt: skip
_NUMBERS = {"int_parsing": "no whole number", "float_parsing": "no number"}


def reword(error: Any) -> None:
    """Say in ``error``, which typer is about to show, what was typed and what may be meant."""
    if hasattr(error, "possibilities"):  # there is no such option
        error.message = f"{error.message}.{_option_meant(error)}"
        error.possibilities = None
    elif error.message.endswith(" requires an argument."):
        error.message = _without_value(error)
    elif extra := _EXTRA.match(error.message):
        error.message = f"{extra[1]} is more than is asked for.{_instead(extra[1], sys.argv[1:])}"
    elif fault := next(iter(getattr(error.__cause__, "errors", list)()), None):
        error.message = _wrong_value(fault)


def unknown_command(name: str, commands: Sequence[str]) -> str:
    """What to say of a word where a command should be."""
    said = f"There is no command {name!r}."
    if near := _meant(name, commands):
        return said + near
    if found := _with_spaces(sys.argv[1:]) or (name if Path(name).exists() else ""):
        from vidcap_cli.inspect.command import caption_step  # noqa: PLC0415 - for this error only

        command = caption_step(Path(found)).command
        rest = sys.argv[1 + len(found.split()) :]
        if any(re.match(r"--model(=|$)", word) for word in rest):
            command = shlex.join(["vidcap", RECOMMENDED.command, found, *rest])
        return f"{said} To caption it: {command}"
    return f"{said} The commands are {', '.join(commands)}; vidcap --help says what they do."


def misplaced_option(name: str, commands: Iterable[Any]) -> str | None:
    """What to say of an option before the command; None where no command has it."""
    name = "--" + name.removeprefix("--").replace("_", "-")
    if any(name in option.opts for command in commands for option in command.params):
        return f"{name} belongs after the command: vidcap {RECOMMENDED.command} ... {name}"
    return None


def _option_meant(error: Any) -> str:
    """What is said of an option that the command has not."""
    if files := [word for word in sys.argv[1:] if word.startswith("-") and Path(word).exists()]:
        return f" If the file is meant: {shlex.quote(f'./{files[0]}')}"
    name = "--" + error.option_name.lstrip("-").lower().replace("_", "-")
    if name in _OF_MSRUN:
        return " It is msrun's, which vidcap starts by itself; leave it out."
    command = getattr(error.ctx, "command", None)
    there = {flag for option in getattr(command, "params", ()) for flag in option.opts}
    if known := [flag for flag in _ELSEWHERE.get(name, ()) if flag in there]:
        return f" Did you mean {known[0]}?"
    return _meant(error.option_name, error.possibilities or ())


def _without_value(error: Any) -> str:
    """What is said of an option at the end of the line, where its value should follow."""
    for option in error.ctx.command.params if error.ctx else ():
        if error.option_name in (*option.opts, *option.secondary_opts):
            choices = ", ".join(map(str, option.type_descriptor.choices or ()))
            wanted = f"one of {choices}" if choices else option.metavar or "a value"
            return f"{error.option_name} needs a value: {wanted}."
    return str(error.message)


def _meant(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f" Did you mean {near}?" if near else ""


def _instead(extra: str, typed: Sequence[str]) -> str:
    """What to do about words that are too many."""
    words = [word for word in typed if word in extra]
    if flag := _flag_before(extra, typed):
        keep = "" if extra.lower() in _YES else f" and {flag}"
        return f" {flag} takes no value: leave out {extra}{keep}."
    files = [Path(word) for word in words if " ".join(words) == extra]
    if taken := _taken_for_text(typed):
        return f" {taken[0]} has taken {taken[1]} for its text: give it one, or leave it out."
    if text := _text_with_spaces(typed):
        return f" Put quotes around a text with spaces: {text[0]} {shlex.quote(text[1])}"
    if files and files[0].is_dir() and not _with_spaces(typed):
        return " Name one folder at a time, or a table that lists the videos."
    if files and all(file.exists() for file in files) and not _with_spaces(typed):
        folder = str(files[0].parent)
        return f" Name the folder of the videos, {shlex.quote(folder)}, or a table that lists them."
    return _quotes(typed)


_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _flag_before(extra: str, typed: Sequence[str]) -> str | None:
    """The option that was given ``extra``, yes or no, where it takes none."""
    if extra.lower() not in (*_YES, *_NO) or extra not in typed:
        return None
    before = typed[typed.index(extra) - 1]
    return before if before.startswith("--") else None


# Options whose value is a text that people write.
_TEXTS = ("--question", "--system-prompt", "--prefix", "--suffix")


def _taken_for_text(typed: Sequence[str]) -> tuple[str, str] | None:
    """An option with a text, and the option that stands where its text should be."""
    for word, following in pairwise(typed):
        if word.replace("_", "-") in _TEXTS and re.fullmatch(r"-[a-z]|--[a-z][\w-]+", following):
            return word, following
    return None


def _text_with_spaces(typed: Sequence[str]) -> tuple[str, str] | None:
    """An option with a text of which several words follow it, and these; files are none of them."""
    for place, word in enumerate(typed):
        if word.replace("_", "-") not in _TEXTS:
            continue
        rest = typed[place + 1 :]
        until = next((i for i, one in enumerate(rest) if one.startswith("-")), len(rest))
        words = rest[:until]
        while len(words) > 1 and Path(words[-1]).exists():
            words = words[:-1]
        if len(words) > 1:
            return word, " ".join(words)
    return None


def _quotes(typed: Sequence[str]) -> str:
    found = _with_spaces(typed)
    return f" Put quotes around a name with spaces: {shlex.quote(found)}" if found else ""


def _with_spaces(typed: Sequence[str]) -> str:
    """What several words are together, where that is the name of something that exists."""
    for first in range(len(typed)):
        for last in range(len(typed), first + 1, -1):
            joined = " ".join(typed[first:last])
            if Path(joined).exists():
                return joined
    return ""


def _wrong_value(fault: dict[str, Any]) -> str:
    """What pydantic finds wrong with a value."""
    value, bounds = fault.get("input"), fault.get("ctx") or {}
    if fault["type"] in _NUMBERS:
        return f"{value!r} is {_NUMBERS[fault['type']]}."
    for bound, word in (("ge", "less"), ("le", "more")):
        if bound in bounds:
            return f"{value} is {word} than {bounds[bound]}."
    told = str(fault["msg"]).removeprefix("Value error, ")
    near = _meant(str(value), re.findall(r"'([^']+)'", told.partition(" is not one of ")[2]))
    return (told if repr(value) in told else f"{value!r}: {told}") + near
