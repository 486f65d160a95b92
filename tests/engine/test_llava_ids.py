"""Both engines caption LLaVA and PLLaVA as their parts on PyTorch do, token for token.

And they are sensitive: each mistake that a port could make changes what they write.
"""

import json

import pytest

from tests.engine.ids import ENGINES, GOLDENS, printed_by, until_end

CAPTIONS = {
    "llava": json.loads((GOLDENS / "llava.json").read_text()),
    "pllava": json.loads((GOLDENS / "pllava.json").read_text())["captions"],
}
CASES = [
    pytest.param(family, index, id=f"{family}-seed{golden['seed']}")
    for family, goldens in CAPTIONS.items()
    for index, golden in enumerate(goldens)
]
MISTAKES = {
    "llava": ["reversed frames", "BGR for RGB", "feature layer -1"],
    "pllava": [
        "reversed frames",
        "BGR for RGB",
        "feature layer -1",
        "LoRA dropped",
        "LoRA doubled",
        "max pooling",
        "axes swapped",
    ],
}


@pytest.fixture(scope="module", params=ENGINES)
def captioned(request) -> dict[str, dict[str, object]]:
    return {family: printed_by("llava_ids.py", request.param, family) for family in CAPTIONS}


@pytest.mark.parametrize(("family", "case"), CASES)
def test_captions_equal_pytorch(family, case, captioned):
    golden, rows = CAPTIONS[family][case], captioned[family]["captions"][case]
    expected = [until_end(video["ids"], (golden["eos"],)) for video in golden["videos"]]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


@pytest.mark.parametrize(
    ("family", "mistake"), [(family, name) for family, names in MISTAKES.items() for name in names]
)
def test_a_mistake_changes_the_captions(family, mistake, captioned):
    right, wrong = (captioned[family]["mistakes"][name] for name in ("none", mistake))
    assert all(ours != theirs for ours, theirs in zip(right, wrong, strict=True))


def test_the_mistakes_in_pooling_change_pooling_alone(captioned):
    mistakes = captioned["pllava"]["mistakes"]
    assert mistakes["no other"] == mistakes["none"]


@pytest.mark.parametrize("family", CAPTIONS)
def test_the_goldens_tell_checkpoints_and_videos_apart(family):
    captions = [tuple(video["ids"]) for golden in CAPTIONS[family] for video in golden["videos"]]
    assert len(set(captions)) == len(captions)
