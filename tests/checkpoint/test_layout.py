"""What ``check_model`` says of weights is what the engine needs: every one, in its shape."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny, tiny_llava
from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.lora import canonical
from vidcap_cli.checkpoint.weights import Tensor
from vidcap_cli.errors import ModelError
from vidcap_cli.inspect import inspect

QWEN = tiny.TinyQwen2VL(seed=1)
LLAVA = tiny_llava.TinyLlava(seed=1)
PLLAVA = tiny_llava.TinyPllava(seed=1)
SPECS = {
    "qwen2vl tied": QWEN,
    "qwen2vl": replace(QWEN, tied=False),
    "qwen2vl new keys": replace(QWEN, tied=False, keys="new"),
    "llava": LLAVA,
    "llava new keys": replace(LLAVA, keys="new"),
    "pllava": PLLAVA,
    "pllava new keys": replace(PLLAVA, keys="new"),
    "pllava LoRA": replace(PLLAVA, lora="plain"),
    "pllava LoRA default": replace(PLLAVA, lora="default", rank=4, alpha=16),
}
ODD = np.zeros((3, 5), np.float32)


def write(folder: Path, spec) -> tuple[Path, dict[str, np.ndarray], str]:
    """A sound checkpoint, its weights and its family."""
    if isinstance(spec, tiny.TinyQwen2VL):
        return tiny.write_qwen2vl(folder, spec), tiny.qwen2vl_weights(spec), "qwen2vl"
    folder = tiny_llava.write_llava(folder, spec)
    return folder, tiny_llava.llava_weights(spec), spec.family


def change(folder: Path, **keys: object) -> None:
    file = folder / "config.json"
    tiny.write_json(file, json.loads(file.read_text()) | keys)


def refused(folder: Path, family: str) -> str:
    """What a run and ``inspect`` say, in one sentence and the remedy."""
    with pytest.raises(ModelError) as error:
        check_model(folder, family)
    assert str(error.value) in [problem.text for problem in inspect(folder).problems]
    assert str(folder) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shards", [1, 3])
def test_a_sound_folder_passes_and_no_weight_is_read(tmp_path, name, shards, monkeypatch):
    folder, weights, family = write(tmp_path, replace(SPECS[name], shards=shards))
    monkeypatch.setattr(Tensor, "read", lambda _: pytest.fail("a weight was read"))
    check_model(folder, family)
    assert inspect(folder).ok
    plain = {canonical(key) for key in weights if ".lora_" not in key}
    assert Layout.read(folder, family).sources.keys() == plain


@pytest.mark.parametrize("name", SPECS)
def test_every_weight_is_asked_for(tmp_path, name):
    folder, weights, family = write(tmp_path, SPECS[name])
    kinds = {re.sub(r"\d+", "*", key): key for key in weights}
    for key in kinds.values():
        tiny.write_weights(folder, {k: w for k, w in weights.items() if k != key}, "F32", 1)
        with pytest.raises(ModelError, match="missing"):
            Layout.read(folder, family)
        tiny.write_weights(folder, weights | {key: ODD}, "F32", 1)
        with pytest.raises(ModelError, match=r"\(3, 5\)"):
            Layout.read(folder, family)
    tiny.write_weights(folder, weights, "F32", 1)
    Layout.read(folder, family)


@pytest.mark.parametrize("name", SPECS)
def test_what_does_not_fit_is_named_before_a_run(tmp_path, name):
    folder, weights, family = write(tmp_path, SPECS[name])
    lost, odd = (
        key
        for key in weights
        if key.endswith(("layers.1.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight"))
    )
    weights |= {odd: ODD, "a.new.weight": ODD}
    del weights[lost]
    tiny.write_weights(folder, weights, "F32", 1)
    said = refused(folder, family)
    assert f"{canonical(lost)}: missing" in said
    assert f"{canonical(odd)}: (3, 5) instead of " in said
    assert "a.new.weight: not part of the model" in said
    assert said.endswith("Download both again, from one place.")


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_than_the_weights_have(tmp_path, layers):
    folder, _, family = write(tmp_path, QWEN)
    change(folder, num_hidden_layers=layers)
    fault = {1: r"layers\.1\.\S+: not part of the model", 3: r"layers\.2\.\S+: missing"}[layers]
    assert re.search(fault, refused(folder, family))


def test_weights_that_are_no_floats_are_refused(tmp_path):
    folder, weights, family = write(tmp_path, QWEN)
    file = folder / "model.safetensors"
    # As many bytes, another type.
    content = file.read_bytes()
    key = f'"{next(k for k in weights if k.endswith("norm.weight"))}": {{"dtype": "F32"'.encode()
    assert key in content
    file.write_bytes(content.replace(key, key.replace(b"F32", b"I32")))
    assert "norm.weight: I32, not floats" in refused(folder, family)


@pytest.mark.parametrize("ranks", [{"r": 3}, {"rank_pattern": {"q_proj": 2}}, {"lora_alpha": "x"}])
def test_lora_that_is_not_as_its_settings_say(tmp_path, ranks):
    folder, _, family = write(tmp_path, SPECS["pllava LoRA"])
    tiny.write_json(folder / "adapter_config.json", ranks)
    assert next(iter(ranks)) in refused(folder, family)


@pytest.mark.parametrize("name", ["qwen2vl tied", "llava", "pllava", "pllava LoRA"])
@pytest.mark.parametrize("by_itself", [True, False])
def test_tied_embeddings_need_no_head(tmp_path, name, by_itself):
    """Said by the language model's settings, as transformers 4 asks, or around it, as 5 does."""
    folder, weights, family = write(tmp_path, SPECS[name])
    head = next((key for key in weights if key.endswith("lm_head.weight")), "lm_head.weight")
    embedding = next(key for key in weights if key.endswith("embed_tokens.weight"))
    text = json.loads((folder / "config.json").read_text()).get("text_config", {})
    if by_itself and text:
        change(folder, text_config=text | {"tie_word_embeddings": True})
    else:
        change(folder, tie_word_embeddings=True)
    weights.pop(head, None)
    for more in ({}, {head: weights[embedding]}):
        tiny.write_weights(folder, weights | more, "F32", 1)
        check_model(folder, family)
        layout = Layout.read(folder, family)
        assert layout.text.tied
        assert "lm_head.weight" not in layout.sources
    tiny.write_weights(folder, weights | {head: weights[embedding] + 1}, "F32", 1)
    if by_itself or not text:
        # transformers 4 passes over such a head, 5 uses it.
        assert "tie_word_embeddings" in refused(folder, family)
    else:
        assert not Layout.read(folder, family).text.tied


def test_a_head_is_asked_for_where_it_is_not_tied(tmp_path):
    folder, weights, family = write(tmp_path, LLAVA)
    del weights["language_model.lm_head.weight"]
    tiny.write_weights(folder, weights, "F32", 1)
    assert "lm_head.weight: missing" in refused(folder, family)
