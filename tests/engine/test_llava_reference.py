"""The reference engine captions LLaVA as transformers on PyTorch writes, token for token.

And it is sensitive: each mistake that a port could make changes what it writes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "llava.json").read_text())
MISTAKES = [
    "reversed frames",
    "BGR for RGB",
    "feature layer -1",
]


@pytest.fixture(scope="module")
def captioned() -> dict[str, object]:
    program = [sys.executable, Path(__file__).parent / "llava_ids.py", "llava"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def until_end(ids: list[int], eos: int) -> tuple[list[int], str]:
    return (ids[: ids.index(eos)], "stop") if eos in ids else (ids, "length")


@pytest.mark.parametrize(
    "case", range(len(GOLDENS)), ids=lambda case: f"seed{GOLDENS[case]['seed']}"
)
def test_captions_equal_pytorch(case, captioned):
    golden, rows = GOLDENS[case], captioned["captions"][case]
    expected = [until_end(video["ids"], golden["eos"]) for video in golden["videos"]]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_changes_the_captions(mistake, captioned):
    right, wrong = captioned["mistakes"]["none"], captioned["mistakes"][mistake]
    assert all(ours != theirs for ours, theirs in zip(right, wrong, strict=True))


def test_the_goldens_tell_checkpoints_and_videos_apart():
    captions = [tuple(video["ids"]) for golden in GOLDENS for video in golden["videos"]]
    assert len(set(captions)) == len(captions)
