"""The README has every command, option, status, flag and exit code, and no option that is gone."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from vidcap_cli import errors
from vidcap_cli.cli import app
from vidcap_cli.families import FAMILIES
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.options import PROMPTS
from vidcap_cli.statuses import Flag, Status

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP = get_command(app)
SPELLINGS = {
    command: {
        spelling
        for parameter in found.params
        for spelling in parameter.opts
        if spelling.startswith("--")
    }
    for command, found in GROUP.commands.items()
}


def table(heading: str) -> dict[str, str]:
    """The rows of the table whose head begins with ``heading``: first cell, and the others."""
    lines = README[README.index(f"| {heading}") :].split("\n\n")[0].splitlines()[2:]
    cells = [line.strip("| ").split(" | ", 1) for line in lines]
    return {row[0]: row[-1] for row in cells}


@pytest.mark.parametrize("command", SPELLINGS)
def test_every_command_is_shown_at_work(command):
    assert re.search(rf"^vidcap {command} ", README, re.MULTILINE)


@pytest.mark.parametrize("command", SPELLINGS)
def test_every_option_is_told(command):
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", README))
    assert SPELLINGS[command] - {"--help"} <= told


def test_no_option_is_told_that_is_none():
    usage = README[README.index("## What you can do") : README.index("## How captions are made")]
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", usage))
    known = {spelling for found in SPELLINGS.values() for spelling in found}
    known |= {opt for parameter in GROUP.params for opt in parameter.opts} | {"--help"}
    assert told <= known


def test_the_default_model_of_a_family_is_told():
    for family in FAMILIES.values():
        assert str(family.defaults["model"]) in README


def test_bundled_questions_are_told_word_for_word():
    assert table("`--prompt` | asks") == {f"`{name}`": text for name, text in PROMPTS.items()}


def test_every_status_has_its_row():
    told = re.findall(r"`(\w+)`", " ".join(table("status")))
    assert sorted(told) == sorted(Status)


def test_every_column_has_its_row():
    told = re.findall(r"`(\w+)`", " ".join(table("column")))
    assert sorted(told) == sorted(CaptionColumns(everything=True).names)


def test_every_flag_is_explained():
    paragraph = README[README.index("Flags of a caption:") :].split("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", paragraph)) == sorted(Flag)


def test_every_flag_of_inspect_has_its_row():
    assert table("flag").keys() == {f"`{fault}`" for fault in Fault}


def test_the_labelled_captions_are_counted():
    lines = (ROOT / "tests/data/captions/labelled.txt").read_text(encoding="utf-8").split("\n")
    captions = [line for line in lines if line and not line.startswith(("# ", "= "))]
    assert f"on {len(captions)} captions" in README


def test_every_exit_code_has_its_row():
    codes = (
        errors.OK,
        errors.FAILED,
        errors.USAGE,
        errors.INCOMPLETE,
        errors.INTERRUPTED,
    )
    assert table("exit code").keys() == set(map(str, codes))
