"""The reference engine writes what transformers on PyTorch writes, token for token."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "qwen2vl.json").read_text())
EOS = (256, 258)
CASES = range(len(GOLDENS["captions"]))


@pytest.fixture(scope="module")
def captioned() -> list[dict[str, object]]:
    program = Path(__file__).parent / "reference_ids.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def until_end(ids: list[int]) -> tuple[list[int], str]:
    end = next((index for index, token in enumerate(ids) if token in EOS), None)
    return (ids, "length") if end is None else (ids[:end], "stop")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case + 1}")
def test_captions_equal_transformers_on_pytorch(case, captioned):
    videos = GOLDENS["captions"][case]["videos"]
    expected = [until_end(video["ids"]) for video in videos]
    rows = captioned[case]
    assert rows["prompt_tokens"] == [video["prompt_tokens"] for video in videos]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


def test_the_goldens_tell_checkpoints_and_videos_apart():
    captions = [video["ids"] for case in GOLDENS["captions"] for video in case["videos"]]
    assert len({tuple(ids) for ids in captions}) == len(captions)
    assert any(until_end(ids)[1] == "stop" for ids in captions)
