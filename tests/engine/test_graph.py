"""The compiled engine computes what transformers on PyTorch computes: token ids and logits.

Over shapes of models, towers and prompts that the older goldens leave out, and in slots that are
refilled while others are in the middle of a caption.
"""

import json
from functools import cache

import pytest

from tests.engine.ids import GOLDENS, printed_by
from tests.goldens.engine_cases import CASES, FAMILIES, MANY, NEW_TOKENS

CAPTIONS = json.loads((GOLDENS / "engine.json").read_text())
# A share of the largest logit of a position. The goldens' own rounding is a tenth of it.
CLOSE = 1e-4
LEAD = 1e-3

Row = dict[str, object]
# Every sixth checkpoint, and the one in eight slots; the others take minutes more.
COMMON = {
    family: {
        case.name
        for number, case in enumerate(cases)
        if number % 6 == 0 or case is MANY[family] or case.ngram is not None
    }
    for family, cases in CASES.items()
}
NAMES = {
    family: [(case.name, number) for case in cases for number in range(len(case.asked))]
    for family, cases in CASES.items()
}
PROMPTS = [
    pytest.param(
        family,
        index,
        id=f"{family}, {name}, {number}",
        marks=() if name in COMMON[family] else pytest.mark.slow,
    )
    for family, names in NAMES.items()
    for index, (name, number) in enumerate(names)
]
TOGETHER = [
    pytest.param(family, index, id=f"{family}, {number}")
    for family, names in NAMES.items()
    for index, (name, number) in enumerate(names)
    if name == MANY[family].name
]
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


@cache
def captioned(family: str, *, common: bool) -> dict[str, list[Row]]:
    """What the engine makes of the cases of a family, by their names."""
    names = [case.name for case in CASES[family] if (case.name in COMMON[family]) == common]
    captions: dict[str, list[Row]] = printed_by("graph_ids.py", family, *names)
    return captions


@pytest.fixture
def row(family, index) -> Row:
    """What the engine makes of a prompt; the common ones in one program, the rest in another."""
    name, number = NAMES[family][index]
    return captioned(family, common=name in COMMON[family])[name][number]


def answer(golden: dict[str, object]) -> dict[str, object]:
    logprob = golden["logprob"]
    return {
        "ids": golden["ids"],
        "finish_reason": golden["finish"],
        "logprob": logprob and pytest.approx(logprob, rel=CLOSE, abs=CLOSE),
    }


@pytest.mark.parametrize(("family", "index"), PROMPTS)
def test_captions_equal_pytorch(family, index, row):
    golden = CAPTIONS[family][index]
    assert row["prompt_tokens"] == golden["prompt_tokens"]
    assert row["alone"] == answer(golden)


@pytest.mark.parametrize(("family", "index"), PROMPTS)
def test_logits_are_those_of_pytorch(family, index, row):
    for ours, theirs in zip(row["logits"], CAPTIONS[family][index]["logits"], strict=True):
        expected = [*theirs["values"], theirs["largest"], theirs["mean"]]
        within = pytest.approx(expected, rel=0, abs=CLOSE * theirs["largest"])
        assert [*ours["values"], ours["largest"], ours["mean"]] == within


@pytest.mark.parametrize(("family", "index"), TOGETHER)
def test_eight_slots_caption_as_one_does(family, index, row):
    assert row["together"] == answer(CAPTIONS[family][index])


@pytest.mark.slow
def test_mindnlp_penalises_as_pytorch_does_in_padded_rows_too():
    found = printed_by("penalised_ids.py")
    goldens = {golden["case"]: answer(golden) for golden in CAPTIONS["qwen2vl"]}
    assert len(found) >= 4
    assert found == {name: goldens[name] for name in found}


@EVERY_FAMILY
def test_the_goldens_are_those_of_the_cases(family):
    assert [golden["case"] for golden in CAPTIONS[family]] == [name for name, _ in NAMES[family]]


@EVERY_FAMILY
def test_the_goldens_differ_and_end_in_both_ways(family):
    captions = [tuple(golden["ids"]) for golden in CAPTIONS[family]]
    assert len(set(captions)) == len(captions)
    assert {golden["finish"] for golden in CAPTIONS[family]} == {"stop", "length"}


@EVERY_FAMILY
def test_rounding_cannot_change_a_token_of_the_goldens(family):
    assert all(golden["lead"] > LEAD for golden in CAPTIONS[family])


@EVERY_FAMILY
def test_the_goldens_keep_the_logits_that_decide(family):
    for case in CASES[family]:
        for golden in (golden for golden in CAPTIONS[family] if golden["case"] == case.name):
            best = [position["ids"][0] for position in golden["logits"]]
            assert len(golden["ids"]) <= NEW_TOKENS
            assert case.penalised or best[: len(golden["ids"])] == golden["ids"]
