"""The bundled nano checkpoints know their world, and notice when something is wrong with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = {
    "qwen2vl": (
        "bgr",
        "reversed",
        "half_fps",
        "double_fps",
        "unnormalised",
        "flat_positions",
        "mixed_up_slots",
    ),
    "qwen25vl": (
        "bgr",
        "reversed",
        "unnormalised",
        "flat_positions",
        "clock_off",
        "windows_off",
        "mixed_up_slots",
    ),
    "llava": ("bgr", "unnormalised", "mixed_up_slots"),
    "pllava": ("bgr", "reversed", "unnormalised", "mixed_up_slots", "lora_dropped", "lora_doubled"),
}

OWN_GRAPHS = {"half_fps", "double_fps", "lora_doubled"}  # compiled for them alone: two minutes


def exact(family: str, count: int, *variants: str) -> dict[str, float]:
    program = Path(__file__).parent / "caption_clips.py"
    command = [sys.executable, program, family, str(count), *variants]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    return {family: exact(family, 16, *exacts(family), *faults(family)) for family in BROKEN}


def exacts(family: str) -> list[str]:
    """What is measured by default and should be right."""
    return ["detail", "bfloat16"] if family == "llava" else ["detail"]


def faults(family: str) -> list[str]:
    """What is measured by default and should be wrong."""
    return [name for name in BROKEN[family] if name not in OWN_GRAPHS]


@pytest.mark.parametrize(
    ("family", "variant"), [(family, name) for family in BROKEN for name in exacts(family)]
)
def test_sentences_are_exact(measured, family, variant):
    # One of 16 may be wrong; five hundred clips below reach 0.95.
    assert measured[family][variant] >= 0.9


@pytest.mark.parametrize(
    ("family", "variant"), [(family, name) for family in BROKEN for name in faults(family)]
)
def test_a_fault_shows(measured, family, variant):
    assert measured[family][variant] < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2vl", "qwen25vl", "pllava"])
def test_sentences_are_exact_in_other_numbers(family):
    shares = exact(family, 16, "float32", "bfloat16")
    assert min(shares.values()) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("family", BROKEN)
def test_a_hundred_clips_show_every_fault(family):
    shares = exact(family, 100, "detail", *BROKEN[family])
    assert shares.pop("detail") >= 0.95
    assert max(shares.values()) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("family", BROKEN)
def test_five_hundred_clips(family):
    shares = exact(family, 500, "detail", "brief", "alone", "by_eights", "bfloat16")
    assert shares.pop("differing") == 0
    assert min(shares.values()) >= 0.95
