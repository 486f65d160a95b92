"""Runs the programs beside this file, which caption tiny checkpoints with one engine each."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
# test_graph.py and test_model.py cover the compiled engine with more shapes and every layout.
ENGINES = ("mindnlp", pytest.param("graph", marks=pytest.mark.slow))
STEP = 4  # every fourth checkpoint is captioned by default; the others take minutes more


def is_common(case: int) -> bool:
    """Whether the checkpoint of number ``case`` is captioned by default."""
    return case % STEP == 0


def usual(case: int) -> tuple[pytest.MarkDecorator, ...]:
    """The marks of a test of the checkpoint of number ``case``."""
    return () if is_common(case) else (pytest.mark.slow,)


@cache
def printed_by(program: str, *arguments: str) -> Any:
    """The JSON that a program prints last; it is run once."""
    command = [sys.executable, HERE / program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def until_end(ids: list[int], eos: tuple[int, ...]) -> tuple[list[int], str]:
    """Golden ids as an engine gives them: without the end token, and why they end."""
    end = next((index for index, token in enumerate(ids) if token in eos), None)
    return (ids, "length") if end is None else (ids[:end], "stop")
