"""The bundled nano Qwen2-VL knows its world, and notices when something is wrong with its input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = (
    "bgr", "reversed", "half_fps", "double_fps", "unnormalised", "flat_positions",
    "mixed_up_slots",
)  # fmt: skip


def exact(count: int, *variants: str) -> dict[str, float]:
    program = Path(__file__).parent / "caption_clips.py"
    command = [sys.executable, program, str(count), *variants]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    return exact(24, "detail", *BROKEN)


def test_sentences_are_exact(measured):
    assert measured["detail"] >= 0.95


@pytest.mark.parametrize("variant", BROKEN)
def test_a_fault_in_the_input_shows(measured, variant):
    assert measured[variant] < 0.75


@pytest.mark.slow
def test_a_hundred_clips_show_every_fault():
    shares = exact(100, "detail", *BROKEN)
    assert shares.pop("detail") >= 0.95
    assert max(shares.values()) < 0.75


@pytest.mark.slow
def test_five_measured_clips():
    shares = exact(500, "detail", "brief", "alone")
    assert min(shares.values()) >= 0.95
    assert shares["alone"] == pytest.approx(shares["detail"], abs=0.002)
