"""What of a checkpoint does not fit stops with a list; layouts that do fit load the same model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.cases import noise
from tests.helpers import tiny, tiny_llava

ms = pytest.importorskip("mindspore")

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import generate_all
from vidcap_cli.engine.generate import GraphEngine
from vidcap_cli.errors import ModelError
from vidcap_cli.models.device import select_device
from vidcap_cli.models.model import load_model
from vidcap_cli.models.rope import mrope_positions
from vidcap_cli.processors import load_captioner

QWEN = tiny.TinyQwen2VL(seed=3)
LLAVA = tiny_llava.TinyLlava(seed=3)
# family -> a weight of its language model and one of its tower
NAMES = {
    "qwen2vl": ("model.layers.1.mlp.up_proj.weight", "visual.blocks.0.attn.qkv.bias"),
    "llava": (
        "language_model.model.layers.1.mlp.up_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.k_proj.bias",
    ),
}


def written(folder: Path, family: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A sound checkpoint and its weights."""
    if family == "qwen2vl":
        return tiny.write_qwen2vl(folder, QWEN), tiny.qwen2vl_weights(QWEN)
    return tiny_llava.write_llava(folder, LLAVA), tiny_llava.llava_weights(LLAVA)


def load(folder: Path, family: str):
    select_device("CPU", compiled=True)
    return load_model(CaptionConfig(family, str(folder)), Layout.read(folder, family), ms.float32)


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("which", [0, 1], ids=["language", "vision"])
@pytest.mark.parametrize("fault", ["missing", "renamed", "extra", "reshaped"])
def test_a_weight_that_does_not_fit_is_named(tmp_path, family, which, fault):
    folder, weights = written(tmp_path, family)
    name = NAMES[family][which]
    if fault in ("missing", "renamed"):
        weight = weights.pop(name)
    if fault == "renamed":
        weights[f"{name}s"] = weight
    if fault == "extra":
        weights[f"{name}s"] = weights[name]
    if fault == "reshaped":
        weights[name] = weights[name][:-1]
    tiny.write_weights(folder, weights, "F32", 1)
    with pytest.raises(ModelError) as error:
        load(folder, family)
    said = str(error.value)
    short = name.removeprefix("language_model.").removeprefix("model.")
    assert str(folder) in said
    if fault in ("missing", "renamed"):
        assert f"{short}: missing" in said
    if fault in ("extra", "renamed"):
        assert f"{short}s: not part of the model" in said
    if fault == "reshaped":
        assert f"{short}: {weights[name].shape} instead of " in said


def test_a_head_that_is_tied_may_be_stored_all_the_same(tmp_path):
    folder, weights = written(tmp_path, "qwen2vl")

    def logits() -> np.ndarray:
        decoder, ids = load(folder, "qwen2vl").decoder, np.arange(9)
        return decoder.prefill(
            decoder.embed(ids), ids, np.tile(ids, (3, 1))
        ).next_token.logits.asnumpy()

    before = logits()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    tiny.write_weights(folder, weights, "F32", 1)
    np.testing.assert_array_equal(logits(), before)


def test_llava_with_tied_embeddings_captions_as_with_the_head_stored(tmp_path):
    folder, weights = written(tmp_path, "llava")
    head, settings = "language_model.lm_head.weight", read_json(folder / "config.json")
    weights[head] = weights["language_model.model.embed_tokens.weight"]

    def ids(tied: bool) -> list[int]:
        settings["text_config"]["tie_word_embeddings"] = tied
        tiny.write_json(folder / "config.json", settings)
        kept = {name: it for name, it in weights.items() if name != head or not tied}
        tiny.write_weights(folder, kept, "F32", 1)
        check_model(folder, "llava")
        config = CaptionConfig("llava", str(folder), max_new_tokens=8)
        prompt = load_captioner(config).prompt(noise(1, 1, 56, 56))
        return generate_all(GraphEngine(config, lambda _: None), [prompt])[0].ids

    stored = ids(tied=False)
    assert len(set(stored)) > 1
    assert ids(tied=True) == stored


def test_a_token_beyond_the_embeddings_is_refused(tmp_path):
    folder, _ = written(tmp_path, "qwen2vl")
    model = load(folder, "qwen2vl")
    prompt = load_captioner(CaptionConfig("qwen2vl", str(folder))).prompt(noise(1, 2, 56, 56))
    assert model.prefill(prompt).length == len(prompt.ids)
    vocab = model.decoder.config.vocab
    prompt.ids[-1] = vocab
    with pytest.raises(ModelError, match=f"gives token {vocab}, but the model ends at {vocab - 1}"):
        model.prefill(prompt)


def test_lora_that_is_not_merged_is_refused_where_its_scale_is_unknown(tmp_path):
    folder, weights = written(tmp_path, "qwen2vl")
    weights["model.layers.0.self_attn.q_proj.lora_A.weight"] = np.zeros((2, 48), np.float32)
    tiny.write_weights(folder, weights, "F32", 1)
    with pytest.raises(ModelError, match="LoRA that is not merged"):
        load(folder, "qwen2vl")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt"])
def test_pickles_are_refused_with_what_to_do(tmp_path, name):
    folder, _ = written(tmp_path, "qwen2vl")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match=r"not loaded: .*safe_serialization=True"):
        check_model(folder, "qwen2vl")


@pytest.mark.parametrize("layout", ["shards", "new keys", "16 bits"])
def test_other_layouts_load_the_same_model(tmp_path, layout):
    change = {
        "shards": {"shards": 3},
        "new keys": {"keys": "new"},
        "16 bits": {"dtype": "BF16"},
    }[layout]
    # Weights that bfloat16 holds exactly.
    captions = []
    for number, spec in enumerate([QWEN, replace(QWEN, **change)]):
        folder = tiny.write_qwen2vl(tmp_path / str(number), spec)
        weights = {
            name: (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
            for name, weight in tiny.qwen2vl_weights(spec).items()
        }
        for file in folder.glob("model*.safetensors*"):
            file.unlink()
        tiny.write_weights(folder, weights, spec.dtype, spec.shards)
        config = CaptionConfig("qwen2vl", str(folder), max_new_tokens=8)
        prompt = load_captioner(config).prompt(noise(1, 4, 56, 84))
        captions.append(generate_all(GraphEngine(config, lambda _: None), [prompt])[0])
    assert captions[0] == captions[1]


def test_positions_of_a_video_between_texts():
    here = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0], np.bool_)
    positions = mrope_positions(here, np.array([2, 4, 4]), 2)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 5],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5],
    ]
