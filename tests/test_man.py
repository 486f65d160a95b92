"""The manual page, made from the commands and the README's table of exit codes.

``python tests/test_man.py --write`` makes ``vidcap_cli/vidcap.1`` anew; the wheel puts it where
``man`` looks.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from typer.main import get_command

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.test_readme import table
from vidcap_cli.cli import app
from vidcap_cli.families import FAMILIES

PAGE = Path(__file__).parents[1] / "vidcap_cli" / "vidcap.1"
GROUP = get_command(app)
MORE = """.SH FILES
Options that are always the same stand in
.I vidcap.toml
in the working directory or the one that VIDCAP_CONFIG names, and in the environment: VIDCAP_FPS=2
is \\-\\-fps 2. A typed option beats a variable, and that a file. An argument may be spelled with
underscores: \\-\\-max_new_tokens.
.PP
A run keeps its results in a directory beside its output, NAME.vidcap; the same command continues
it.
.SH EXAMPLES
.TP
.B vidcap qwen2vl \\-\\-demo
caption eight bundled clips with a bundled toy checkpoint
.TP
.B vidcap qwen2vl meta.csv \\-\\-fps 2 \\-\\-bs 8
caption the videos of a table; the captions are in meta_caption_qwen2vl.csv
.TP
.B vidcap inspect meta_caption_qwen2vl.csv \\-\\-html gallery.html
look at them
.TP
.B vidcap merge run1.vidcap run2.vidcap \\-o all.csv
join runs
"""


def roff(text: str) -> str:
    """``text`` as it is meant, whatever it begins with."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return re.sub(r"^(?=[.'])", r"\\&", " ".join(text.split()))


def page() -> str:
    """The page."""
    lines = [
        '.TH VIDCAP 1 "" vidcap "User Commands"',
        ".SH NAME",
        r"vidcap \- caption the videos of a table on MindSpore",
        ".SH SYNOPSIS",
    ]
    for name, command in GROUP.commands.items():
        arguments = " ".join(p.metavar for p in command.params if not _is_option(p))
        lines += [f".B vidcap {name}", f"[options] {roff(arguments)}", ".br"]
    lines += [".SH DESCRIPTION", roff(GROUP.help)]
    for name, command in GROUP.commands.items():
        lines += [".TP", f".B {name}", roff(command.help)]
        arguments = [p for p in command.params if not _is_option(p)]
        lines += [f".br\n{roff(f'{p.metavar}: {p.help}')}" for p in arguments]
    lines += [f".SH OPTIONS OF {', '.join(FAMILIES)}", *_options(list(FAMILIES))]
    for name in (name for name in GROUP.commands if name not in FAMILIES):
        lines += [f".SH OPTIONS OF {name}", *_options([name])]
    lines.append(".SH EXIT STATUS")
    for code, means in table("exit code").items():
        lines += [".TP", f".B {code}", roff(means)]
    return "\n".join(lines) + f"\n{MORE}"


def _options(commands: list[str]) -> Iterator[str]:
    """The options of commands, by the panels of their help; what not all of them have is noted."""
    having: dict[str, dict[str, Any]] = {}
    for command in commands:
        for option in filter(_is_option, GROUP.commands[command].params):
            having.setdefault(option.opts[0], {})[command] = option
    panels = {getattr(next(iter(o.values())), "rich_help_panel", None) for o in having.values()}
    for panel in sorted(panels, key=lambda name: name or ""):
        if panel:
            yield f".SS {roff(panel)}"
        for found in having.values():
            option = next(iter(found.values()))
            if option.rich_help_panel == panel:
                yield from _option(option, found, commands)


def _option(option: Any, found: dict[str, Any], commands: list[str]) -> Iterator[str]:
    value = "" if option.is_flag else f" {_value(option)}"
    yield ".TP"
    yield ".B " + roff(", ".join(option.opts) + value)
    told = {command: _default(one) for command, one in found.items()}
    words = option.help or ""
    if len(set(told.values())) == 1:
        words += f" Default: {told.popitem()[1]}." if all(told.values()) else ""
    else:
        words += " Default: " + "; ".join(f"{name}: {it}" for name, it in told.items()) + "."
    yield roff(words)
    if len(found) < len(commands):
        yield f"({', '.join(found)} only)"


def _is_option(parameter: Any) -> bool:
    return bool(parameter.opts[0].startswith("-"))


def _value(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return option.metavar or {int: "N", float: "N"}.get(kind, kind.__name__.upper())


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    known = option.default is not None and not option.is_flag and option.show_default
    if not known:
        return ""
    several = isinstance(option.default, list | tuple)
    return ", ".join(map(str, option.default)) if several else str(option.default)


def test_the_committed_page_is_what_the_program_says():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_option_has_its_place():
    text = page().replace("\\-", "-")
    for command in GROUP.commands.values():
        for option in filter(_is_option, command.params):
            assert re.search(rf"^\.B .*{re.escape(option.opts[0])}\b", text, re.MULTILINE)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_page_is_shown_without_complaint():
    command = ["groff", "-man", "-ww", "-Tutf8", "-K", "utf8", "-P", "-c", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "--max-new-tokens" in re.sub(".\x08", "", done.stdout)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_man.py --write")
    PAGE.write_text(page(), encoding="utf-8")
