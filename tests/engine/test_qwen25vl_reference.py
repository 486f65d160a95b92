"""mindnlp captions Qwen2.5-VL as transformers on PyTorch does, with time as it was published."""

import json

import pytest

from tests.engine.ids import GOLDENS, printed_by

CAPTIONS = json.loads((GOLDENS / "engine.json").read_text())["qwen2.5vl"]
# Windows at the edges, and moments that lie less than a position apart.
CASES = ("windows at two edges", "16 pairs, odd moments")


@pytest.mark.parametrize("case", CASES)
def test_the_reference_engine_writes_the_tokens_of_pytorch(case):
    golden = next(it for it in CAPTIONS if it["case"] == case)
    row = printed_by("reference_ids.py", *CASES)[case]
    assert (row["ids"], row["finish_reason"]) == (golden["ids"], golden["finish"])
