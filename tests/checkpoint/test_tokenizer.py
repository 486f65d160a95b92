"""Tokenizers that ship as tokenizer.model against LlamaTokenizerFast, through the goldens."""

import json
from pathlib import Path

import pytest

from tests.helpers.tiny_llava import write_spm_folder
from vidcap_cli.checkpoint.tokenizer import read_tokenizer
from vidcap_cli.errors import ModelError

TOKENS = json.loads((Path(__file__).parents[1] / "goldens" / "clip.json").read_text())["tokens"]


@pytest.mark.parametrize(
    "golden", TOKENS, ids=lambda golden: f"{golden['settings']}-{golden['text']!r}"
)
def test_ids_and_texts_equal_transformers(golden, tmp_path):
    tokenizer = read_tokenizer(write_spm_folder(tmp_path, golden["settings"]))
    ids = tokenizer.encode(golden["text"], add_special_tokens=True).ids
    assert ids == golden["ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == golden["decoded"]


def test_added_tokens_alone_are_enough(tmp_path):
    tokenizer = read_tokenizer(write_spm_folder(tmp_path, {"added_tokens_decoder": None}))
    assert tokenizer.token_to_id("<image>") == 291


@pytest.mark.parametrize("content", [b"", b"no model", bytes(range(256)) * 3])
def test_a_damaged_model_is_named(content, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.model is not a byte-pair"):
        read_tokenizer(tmp_path)
