"""Both engines caption LLaVA and PLLaVA as their parts on PyTorch do, token for token.

And they are sensitive: each mistake that a port could make changes what they write.
"""

import json

import pytest

from tests.engine.ids import ENGINES, GOLDENS, is_common, printed_by, until_end, usual

CAPTIONS = {
    "llava": json.loads((GOLDENS / "llava.json").read_text()),
    "pllava": json.loads((GOLDENS / "pllava.json").read_text())["captions"],
}
CASES = [
    pytest.param(family, index, id=f"{family}-seed{golden['seed']}", marks=usual(index))
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("family", "case"), CASES)
def test_captions_equal_pytorch(engine, family, case):
    goldens = CAPTIONS[family]
    alike = [number for number in range(len(goldens)) if is_common(number) == is_common(case)]
    seeds = [str(goldens[number]["seed"]) for number in alike]
    rows = printed_by("llava_ids.py", engine, family, *seeds)[alike.index(case)]
    golden = goldens[case]
    expected = [until_end(video["ids"], (golden["eos"],)) for video in golden["videos"]]
    for way in ("alone", "together"):
        assert [(row["ids"], row["finish_reason"]) for row in rows[way]] == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("family", "mistake"), [(family, name) for family, names in MISTAKES.items() for name in names]
)
def test_a_mistake_changes_the_captions(engine, family, mistake):
    captions = printed_by("llava_ids.py", engine, family, "mistakes")
    right, wrong = captions["none"], captions[mistake]
    assert all(ours != theirs for ours, theirs in zip(right, wrong, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mistakes_in_pooling_change_pooling_alone(engine):
    mistakes = printed_by("llava_ids.py", engine, "pllava", "mistakes")
    assert mistakes["no other"] == mistakes["none"]


@pytest.mark.parametrize("family", CAPTIONS)
def test_the_goldens_tell_checkpoints_and_videos_apart(family):
    captions = [tuple(video["ids"]) for golden in CAPTIONS[family] for video in golden["videos"]]
    assert len(set(captions)) == len(captions)
