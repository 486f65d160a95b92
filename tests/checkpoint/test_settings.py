"""What a checkpoint folder asks for and vidcap does not compute is refused by name and value."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.helpers import tiny, tiny_llava
from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.generation import sampling_keys
from vidcap_cli.checkpoint.settings import check_settings
from vidcap_cli.checkpoint.tokenizer import read_tokenizer
from vidcap_cli.checkpoint.weights import read_header
from vidcap_cli.errors import ModelError
from vidcap_cli.inspect import inspect

HUB_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "use_sliding_window": False,
    "sliding_window": 32768,
    "max_window_layers": 28,
    "vocab_size": 152064,
}


def folder_of(place: Path, family: str) -> Path:
    if family.startswith("qwen2"):
        kind = tiny.TinyQwen2VL if family == "qwen2vl" else tiny.TinyQwen25VL
        return tiny.write_qwen2vl(place, kind(seed=1))
    spec = tiny_llava.TinyPllava if family == "pllava" else tiny_llava.TinyLlava
    return tiny_llava.write_llava(place, spec(seed=1))


def change(file: Path, keys: str, value: object) -> None:
    content = json.loads(file.read_text())
    *path, last = keys.split(".")
    place = content
    for key in path:
        place = place.setdefault(key, {})
    place[last] = value
    tiny.write_json(file, content)


def refused(folder: Path, family: str) -> str:
    with pytest.raises(ModelError) as error:
        check_model(folder, "qwen2vl" if family == "qwen2.5vl" else family)
    assert any(str(error.value) in problem.text for problem in inspect(folder).problems)
    return str(error.value)


def test_the_hub_settings_of_qwen_pass(tmp_path):
    for family in ("qwen2vl", "qwen2.5vl"):
        folder = folder_of(tmp_path / family, family)
        check_settings(read_json(folder / "config.json") | HUB_7B)


@pytest.mark.parametrize("command", ["qwen2vl", "llava"])
def test_tarsier_is_not_taken_for_llava(tmp_path, command):
    folder = folder_of(tmp_path, "llava")
    change(folder / "config.json", "architectures", ["TarsierForConditionalGeneration"])
    assert "Tarsier2 take frames as pictures of their own" in refused(folder, command)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("qwen2vl", "use_sliding_window", True),
        ("qwen2vl", "layer_types", ["full_attention", "sliding_attention"]),
        ("qwen2vl", "rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("qwen2vl", "rope_scaling.mrope_section", [1, 1, 1]),
        ("qwen2vl", "hidden_act", "gelu"),
        ("qwen2vl", "head_dim", 16),
        ("qwen2vl", "vision_config.hidden_act", "silu"),
        ("qwen2vl", "num_hidden_layers", 10**6),
        ("qwen2vl", "vision_config.depth", 10**6),
        ("qwen2.5vl", "vision_config.hidden_act", "quick_gelu"),
        ("qwen2.5vl", "vision_config.window_size", 20),
        ("qwen2.5vl", "vision_config.fullatt_block_indexes", "7"),
        ("qwen2.5vl", "vision_config.fullatt_block_indexes", [1, -1]),
        ("qwen2.5vl", "vision_config.tokens_per_second", "two"),
        ("qwen2.5vl", "vision_config.out_hidden_size", 32),
        ("qwen2.5vl", "vision_config.num_heads", 3),
        ("qwen2.5vl", "vision_config.model_type", "qwen2_5_omni_vision_encoder"),
        ("qwen2.5vl", "vision_config.patch_size", 16),
        ("qwen2.5vl", "use_sliding_window", True),
        ("llava", "text_config.num_hidden_layers", 10**6),
        ("llava", "vision_config.num_hidden_layers", 10**6),
        ("llava", "text_config.layer_types", [None]),
        ("llava", "text_config.tie_word_embeddings", "no"),
        ("llava", "vision_config.patch_size", 57),
        ("llava", "vision_config.layer_norm_eps", float("nan")),
        ("llava", "vision_config.num_attention_heads", 5),
        ("llava", "text_config.num_attention_heads", 5),
        ("qwen2vl", "vision_config.mlp_ratio", -4),
        ("qwen2vl", "vision_config.temporal_patch_size", 1),
        ("qwen2vl", "vision_config.num_heads", 3),
        ("qwen2vl", "vision_config.hidden_size", 64),
        ("qwen2vl", "num_hidden_layers", "2"),
        ("qwen2vl", "hidden_size", -48),
        ("qwen2vl", "vocab_size", 10**9),
        ("qwen2vl", "rms_norm_eps", "small"),
        *(
            ("llava", "text_config.rope_scaling", {"rope_type": kind, "factor": 2.0})
            for kind in ("linear", "dynamic", "yarn", "llama3", "longrope")
        ),
        ("llava", "text_config.rope_parameters", {"rope_type": "llama3", "rope_theta": 5e5}),
        ("llava", "text_config.attention_bias", True),
        ("llava", "text_config.mlp_bias", True),
        ("llava", "text_config.final_logit_softcapping", 30.0),
        ("llava", "text_config.partial_rotary_factor", 0.5),
        ("llava", "text_config.residual_multiplier", 0.2),
        ("llava", "text_config.model_type", "mistral"),
        ("llava", "vision_config.model_type", "siglip_vision_model"),
        ("llava", "vision_config.hidden_act", "gelu"),
        ("llava", "projector_hidden_act", "relu"),
        ("llava", "vision_feature_layer", [-2, -5]),
        ("llava", "vision_feature_select_strategy", "cls"),
        ("pllava", "text_config.hidden_act", "relu"),
        ("pllava", "text_config", []),
    ],
)
def test_what_changes_the_mathematics_is_refused(tmp_path, family, key, value):
    folder = folder_of(tmp_path, family)
    change(folder / "config.json", key, value)
    assert key.rpartition(".")[2].removesuffix("_section") in refused(folder, family)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no_repeat_ngram_size", 2.5),
        ("no_repeat_ngram_size", -1),
        ("bad_words_ids", [[1]]),
        ("forced_eos_token_id", 2),
        ("suppress_tokens", [1]),
        ("begin_suppress_tokens", [1]),
        ("min_length", 5),
        ("min_new_tokens", 5),
        ("num_beams", 4),
        ("penalty_alpha", 0.6),
        ("sequence_bias", [[[1], 2.0]]),
        ("guidance_scale", 1.5),
        ("repetition_penalty", "much"),
        ("repetition_penalty", 0),
        ("eos_token_id", "end"),
    ],
)
def test_another_search_is_refused(tmp_path, key, value):
    folder = folder_of(tmp_path, "llava")
    change(folder / "generation_config.json", key, value)
    assert key in refused(folder, "llava")


def test_neutral_values_of_other_searches_pass(tmp_path):
    folder = folder_of(tmp_path, "llava")
    for key, value in {"num_beams": 1, "no_repeat_ngram_size": 0, "min_length": 0}.items():
        change(folder / "generation_config.json", key, value)
    check_model(folder, "llava")


def test_keys_of_sampling_are_named(tmp_path):
    folder = folder_of(tmp_path, "qwen2vl")
    assert sampling_keys(folder) == ("do_sample", "temperature", "top_p", "top_k")
    change(folder / "generation_config.json", "do_sample", False)
    assert sampling_keys(folder) == ()


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "bitsandbytes", "compressed-tensors"])
def test_quantised_folders_are_called_so(tmp_path, method):
    folder = folder_of(tmp_path, "qwen2vl")
    change(folder / "config.json", "quantization_config.quant_method", method)
    said = refused(folder, "qwen2vl")
    assert "quantised" in said
    assert method in said


@pytest.mark.parametrize("name", ["qweight", "scales", "weight_scale", "weight.absmax"])
def test_quantised_weights_are_called_so(tmp_path, name):
    folder = folder_of(tmp_path, "qwen2vl")
    weights = tiny.qwen2vl_weights(tiny.TinyQwen2VL(seed=1))
    weights[f"model.layers.0.mlp.up_proj.{name}"] = np.zeros(4, np.float32)
    tiny.write_weights(folder, weights, "F32", 1)
    assert "quantised" in refused(folder, "qwen2vl")


def test_an_adapter_alone_names_its_base_model(tmp_path):
    tiny.write_json(
        tmp_path / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct"}
    )
    with pytest.raises(ModelError, match="base model, Qwen/Qwen2-VL-7B-Instruct"):
        check_model(tmp_path, "qwen2vl")


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_too_many_added_tokens_are_refused(tmp_path, file):
    folder = folder_of(tmp_path, "llava")
    names = {400 + i: f"<t{i}>" for i in range(100_000)}
    if file == "added_tokens.json":
        tokens: dict[str, object] = {text: number for number, text in names.items()}
    elif file == "tokenizer_config.json":
        tokens = {
            "added_tokens_decoder": {str(number): {"content": names[number]} for number in names}
        }
    else:
        tokens = json.loads((folder / file).read_text())
        one = tokens["added_tokens"][0]
        tokens["added_tokens"] = [one | {"id": id_, "content": text} for id_, text in names.items()]
    tiny.write_json(folder / file, tokens)
    assert "more than 10,000 added tokens" in refused(folder, "llava")


def test_many_added_tokens_are_added_at_once(tmp_path, monkeypatch):
    """One by one 5,000 take a minute and a half: every call goes through all that are there."""
    folder = folder_of(tmp_path, "llava")
    tiny.write_json(folder / "added_tokens.json", {f"<t{i}>": 400 + i for i in range(9_000)})
    calls = []

    class Counted:
        """A tokenizer that notes how many tokens each call adds."""

        def __init__(self, file: str) -> None:
            self._real = Tokenizer.from_file(file)

        def add_special_tokens(self, tokens: list[AddedToken]) -> int:
            calls.append(len(tokens))
            return self._real.add_special_tokens(tokens)

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        from_file = classmethod(lambda cls, file: cls(file))

    monkeypatch.setattr("vidcap_cli.checkpoint.tokenizer.Tokenizer", Counted)
    assert read_tokenizer(folder).token_to_id("<t8999>") is not None
    assert calls == [9_000]


def test_an_index_cannot_name_files_elsewhere(tmp_path):
    folder = folder_of(tmp_path, "llava")
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    tiny.write_json(folder / "model.safetensors.index.json", index)
    assert "no safetensors file in its folder" in refused(folder, "llava")


@pytest.mark.parametrize(
    "entries",
    [
        {"a": [0, 8], "b": [4, 12]},
        {"a": [8, 0], "b": [8, 16]},
        {"a": [-8, 0], "b": [0, 8]},
        {"a": [0, 8], "b": [8, 20]},
        {"a": [0, 8], "b": [12, 20]},
        {"a": [0, 8]},
    ],
    ids=["overlap", "backwards", "negative", "shape", "hole", "left over"],
)
def test_offsets_that_do_not_fit_are_refused(tmp_path, entries):
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": span} for name, span in entries.items()
    }
    text = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(20))
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_header(file)


@pytest.mark.parametrize(
    "content", [b"[]", b"7", b"null", b"\xff\xfe", b"{", b'{"a":' * 100_000, b"9" * 5000]
)
def test_malformed_json_is_a_sentence(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json is not"):
        read_json(file)
