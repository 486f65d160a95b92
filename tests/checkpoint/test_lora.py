"""Reading weights and merging LoRA: every key is used, or the list says which is not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny import write_weights
from tests.helpers.tiny_llava import TinyPllava, llava_weights, write_llava
from vidcap_cli.checkpoint.lora import Scaling, canonical, merged
from vidcap_cli.checkpoint.weights import Weights
from vidcap_cli.errors import ModelError

SPEC = TinyPllava(seed=5, lora="default")
LAYER = "language_model.base_model.model.model.layers.1.self_attn.q_proj"
MERGED = "model.language_model.layers.1.self_attn.q_proj"


def expected() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model, taken from the same checkpoint without LoRA."""
    plain = llava_weights(TinyPllava(seed=5))
    return {canonical(name): weight.shape for name, weight in plain.items()}


def stored(folder: Path, weights: dict[str, np.ndarray], dtype: str = "F32") -> Weights:
    write_weights(folder, weights, dtype, 1)
    return Weights(folder)


@pytest.mark.parametrize("lora", ["plain", "default"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_merge_is_that_of_peft(lora, shards, dtype, tmp_path):
    spec = TinyPllava(seed=5, lora=lora, shards=shards, dtype=dtype)
    folder = write_llava(tmp_path, spec)
    sources = merged(Weights(folder), expected(), Scaling(alpha=4.0))
    assert sources.keys() == expected().keys()
    adapter = ".default" if lora == "default" else ""
    weights = llava_weights(spec)
    names = ("base_layer", f"lora_B{adapter}", f"lora_A{adapter}")
    base, up, down = (weights[f"{LAYER}.{name}.weight"].astype(np.float64) for name in names)
    wanted = base + 4.0 / 8 * up @ down
    tolerance = {"F32": 1e-5, "F16": 2e-2, "BF16": 1e-1}[dtype]
    merged_weight = sources[f"{MERGED}.weight"].read()
    assert merged_weight.dtype == np.float32
    assert np.allclose(merged_weight, wanted, atol=tolerance)
    assert not np.allclose(merged_weight, base, atol=0.3)


def test_names_of_all_layouts_meet():
    names = {
        "language_model.base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight",
    }
    assert {canonical(name) for name in names} == {
        "model.language_model.layers.0.self_attn.q_proj.weight"
    }
    heads = ("language_model.base_model.model.lm_head.weight", "language_model.lm_head.weight")
    assert {canonical(name) for name in (*heads, "lm_head.weight")} == {"lm_head.weight"}


def without(name: str) -> dict[str, np.ndarray]:
    return {key: weight for key, weight in llava_weights(SPEC).items() if key != name}


def changed(name: str, weight: np.ndarray) -> dict[str, np.ndarray]:
    return {**llava_weights(SPEC), name: weight}


ONES = np.ones((3, 3), np.float32)
A, B = f"{LAYER}.lora_A.default.weight", f"{LAYER}.lora_B.default.weight"
DAMAGED = {
    "half a pair": (without(A), f"{MERGED}.lora_A: missing"),
    "no pair": (
        {k: w for k, w in llava_weights(SPEC).items() if k not in (A, B)},
        f"{MERGED}.lora_B: missing",
    ),
    "no base": (without(f"{LAYER}.base_layer.weight"), f"{MERGED}.weight: missing"),
    "shape of A": (changed(A, ONES), f"{MERGED}: lora_B (48, 8) @ lora_A (3, 3)"),
    "shape of base": (changed(f"{LAYER}.base_layer.weight", ONES), "(3, 3)"),
    "shape": (changed("multi_modal_projector.linear_1.bias", ONES), "instead of (48,)"),
    "missing": (without("multi_modal_projector.linear_1.bias"), "linear_1.bias: missing"),
    "left over": (changed("extra.weight", ONES), "extra.weight: not part of the model"),
    "other adapter": (changed(f"{LAYER}.lora_A.mine.weight", ONES), "lora_A.mine.weight: not part"),
    "twice": (changed(f"{LAYER}.weight", ONES), "there twice"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_does_not_fit_is_listed(damage, tmp_path):
    weights, sentence = DAMAGED[damage]
    with pytest.raises(ModelError, match=re.escape(sentence)):
        merged(stored(tmp_path, weights), expected(), Scaling())


def test_a_layer_that_lost_its_lora_and_its_wrapper_is_noticed(tmp_path):
    weights = llava_weights(SPEC)
    plain = weights.pop(f"{LAYER}.base_layer.weight")
    del weights[A], weights[B]
    with pytest.raises(ModelError, match=f"{re.escape(MERGED)}: has no LoRA, other layers do"):
        merged(stored(tmp_path, {**weights, f"{LAYER}.weight": plain}), expected(), Scaling())


def test_buffers_of_older_files_are_passed_over(tmp_path):
    weights = changed("vision_tower.vision_model.embeddings.position_ids", ONES)
    weights["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = ONES
    assert merged(stored(tmp_path, weights), expected(), Scaling()).keys() == expected().keys()


def test_where_alpha_and_rank_come_from(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert Scaling.read(tmp_path, None) == Scaling(4.0, None)
    (tmp_path / "config.json").write_text(json.dumps({"lora_r": 8, "lora_alpha": 32}))
    assert Scaling.read(tmp_path, None) == Scaling(32.0, 8)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "lora_alpha": 2}))
    assert Scaling.read(tmp_path, None) == Scaling(2.0, 16)
    assert Scaling.read(tmp_path, 0.0) == Scaling(0.0, 16)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"use_rslora": True}))
    with pytest.raises(ModelError, match="use_rslora"):
        Scaling.read(tmp_path, None)


def test_another_rank_than_the_config_says(tmp_path):
    with pytest.raises(ModelError, match="r=128"):
        merged(stored(tmp_path, llava_weights(SPEC)), expected(), Scaling(4.0, 128))


def test_a_file_cut_short_is_named(tmp_path):
    weights = stored(tmp_path, llava_weights(SPEC))
    last = list(weights)[-1]
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-8])
    with pytest.raises(ModelError, match="cut short"):
        weights[last].read()


def test_a_file_that_is_no_safetensors(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="not a safetensors file"):
        Weights(tmp_path)
