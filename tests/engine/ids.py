"""Runs the programs beside this file, which caption tiny checkpoints with one engine each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
# test_graph.py and test_model.py cover the compiled engine with more shapes and every layout.
ENGINES = ("mindnlp", pytest.param("graph", marks=pytest.mark.slow))


def printed_by(program: str, *arguments: str) -> Any:
    """The JSON that a program prints last."""
    command = [sys.executable, HERE / program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def until_end(ids: list[int], eos: tuple[int, ...]) -> tuple[list[int], str]:
    """Golden ids as an engine gives them: without the end token, and why they end."""
    end = next((index for index, token in enumerate(ids) if token in eos), None)
    return (ids, "length") if end is None else (ids[:end], "stop")
