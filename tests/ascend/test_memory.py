"""Memory that runs out on MindSpore's own Ascend backend costs a row at most, never a rank."""

import csv
from pathlib import Path

import pytest

pytest.importorskip("mindspore")

pytestmark = pytest.mark.slow
INJECT = Path(__file__).parent / "inject"


def short(marks: Path, phase: str, times: int) -> dict[str, str]:
    """The environment in which so many calls of ``phase`` find no memory."""
    marks.mkdir()
    return {"PYTHONPATH": str(INJECT), "VIDCAP_FILL": f"{phase},{marks},{times}"}


def caption(stand_in, folder: Path, *options: str, **environment: str):
    """LLaVA's demo; its exit code, what it printed, and its rows."""
    out = folder / "captions.csv"
    done = stand_in.vidcap(
        *("llava", "--demo", "--dtype", "float16", "-o", out, *options),
        megabytes=2048,
        **environment,
    )
    printed = done.stdout + done.stderr
    if not out.exists():
        return done.returncode, printed, []
    with out.open(encoding="utf-8", newline="") as file:
        return done.returncode, printed, list(csv.DictReader(file))


def right(row: dict[str, str]) -> bool:
    return row["text"] == row["detail_llava"]


@pytest.mark.parametrize("phase", ["prefill", "insert", "step"])
def test_memory_that_runs_out_once_costs_nothing(stand_in, tmp_path, phase):
    marks = tmp_path / "marks"
    short_of_it = short(marks, phase, 1)
    code, printed, rows = caption(stand_in, tmp_path, "--bs", "4", **short_of_it)
    assert len(list(marks.iterdir())) == 1
    assert code == 0, printed
    assert "ran out of memory and starts anew" in printed
    assert len(rows) == 8
    assert all(right(row) for row in rows)


@pytest.mark.parametrize("phase", ["prefill", "step"])
def test_a_row_that_memory_runs_out_with_again_and_again(stand_in, tmp_path, phase):
    # In the first process, then alone; LLaVA's single frame cannot be made smaller.
    marks = tmp_path / "marks"
    short_of_it = short(marks, phase, 2)
    code, printed, rows = caption(stand_in, tmp_path, "--bs", "1", **short_of_it)
    assert len(list(marks.iterdir())) == 2
    assert code == 3, printed
    assert " was killed by " not in printed
    assert [row["caption_status"] for row in rows].count("oom") == 1
    assert sum(right(row) for row in rows) == 7


def test_weights_that_cannot_fit_are_refused(stand_in, tmp_path):
    code, printed, rows = caption(stand_in, tmp_path, "--memory-limit", "1M")
    assert code == 1, printed
    assert "the weights take" in printed
    assert "--memory-limit 1.0 MB" in printed or "a larger --memory-limit" in printed
    assert rows == []
