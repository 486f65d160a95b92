"""Both engines caption Qwen2-VL as transformers on PyTorch does, token for token."""

import json

import pytest

from tests.engine.ids import ENGINES, GOLDENS, is_common, printed_by, until_end, usual
from tests.goldens.cases import QWEN2VL

CAPTIONS = json.loads((GOLDENS / "qwen2vl.json").read_text())["captions"]
EOS = (256, 258)
CASES = [
    pytest.param(number, id=f"seed{spec.seed}", marks=usual(number))
    for number, spec in enumerate(QWEN2VL)
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_captions_equal_transformers_on_pytorch(engine, case):
    alike = [number for number in range(len(QWEN2VL)) if is_common(number) == is_common(case)]
    seeds = [str(QWEN2VL[number].seed) for number in alike]
    rows = printed_by("qwen2vl_ids.py", engine, *seeds)[alike.index(case)]
    videos = CAPTIONS[case]["videos"]
    expected = [until_end(video["ids"], EOS) for video in videos]
    assert rows["prompt_tokens"] == [video["prompt_tokens"] for video in videos]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


@pytest.mark.slow
def test_engines_are_as_sure_as_each_other():
    seeds = [str(QWEN2VL[number].seed) for number in range(len(QWEN2VL)) if is_common(number)]
    graph = printed_by("qwen2vl_ids.py", "graph", *seeds)
    mindnlp = printed_by("qwen2vl_ids.py", "mindnlp", *seeds)
    for ours, theirs in zip(graph, mindnlp, strict=True):
        for one, other in zip(ours["alone"], theirs["together"], strict=True):
            assert one["logprob"] == pytest.approx(other["logprob"], rel=1e-4, abs=1e-4)


def test_the_goldens_tell_checkpoints_and_videos_apart():
    captions = [video["ids"] for case in CAPTIONS for video in case["videos"]]
    assert len({tuple(ids) for ids in captions}) == len(captions)
    assert any(until_end(ids, EOS)[1] == "stop" for ids in captions)
