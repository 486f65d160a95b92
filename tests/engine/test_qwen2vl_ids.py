"""Both engines caption Qwen2-VL as transformers on PyTorch does, token for token."""

import json

import pytest

from tests.engine.ids import ENGINES, GOLDENS, printed_by, until_end

CAPTIONS = json.loads((GOLDENS / "qwen2vl.json").read_text())["captions"]
EOS = (256, 258)


@pytest.fixture(scope="module", params=ENGINES)
def captioned(request) -> list[dict[str, object]]:
    return printed_by("qwen2vl_ids.py", request.param)


@pytest.mark.parametrize("case", range(len(CAPTIONS)), ids=lambda case: f"seed{case + 1}")
def test_captions_equal_transformers_on_pytorch(case, captioned):
    videos = CAPTIONS[case]["videos"]
    expected = [until_end(video["ids"], EOS) for video in videos]
    rows = captioned[case]
    assert rows["prompt_tokens"] == [video["prompt_tokens"] for video in videos]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


def test_the_goldens_tell_checkpoints_and_videos_apart():
    captions = [video["ids"] for case in CAPTIONS for video in case["videos"]]
    assert len({tuple(ids) for ids in captions}) == len(captions)
    assert any(until_end(ids, EOS)[1] == "stop" for ids in captions)
