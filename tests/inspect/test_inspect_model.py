"""A checkpoint folder: counted by hand, and broken in the ways that downloads break."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny import (
    TinyQwen2VL,
    qwen2vl_weights,
    write_json,
    write_qwen2vl,
    write_safetensors,
)
from vidcap_cli.checkpoint.weights import read_header
from vidcap_cli.errors import ModelError, UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect.model import model_report


def facts(report, section):
    return report.as_dict()["facts"][section]


def problems(report):
    return " | ".join(problem.text for problem in report.problems)


def test_header_of_a_file_made_by_hand(tmp_path: Path):
    weights = {"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float32)}
    write_safetensors(tmp_path / "x.safetensors", weights, "BF16")
    found = read_header(tmp_path / "x.safetensors")
    assert {name: (tensor.number, tensor.shape) for name, tensor in found.items()} == {
        "a": ("BF16", (3, 5)),
        "b": ("BF16", (7,)),
    }


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_whole_checkpoint(tmp_path: Path, dtype: str):
    spec = TinyQwen2VL(seed=1, dtype=dtype, shards=3)
    report = inspect(write_qwen2vl(tmp_path / "model", spec))
    arrays = qwen2vl_weights(spec)
    total = sum(array.size for array in arrays.values())
    vision = sum(array.size for name, array in arrays.items() if name.startswith("visual."))
    width = 4 if dtype == "F32" else 2
    assert report.ok, report.problems
    assert report.verdict.startswith("can be used by vidcap qwen2vl, as --model ")
    weights = facts(report, "weights")
    assert weights["parameters"] == total
    assert weights["of_them_vision"] == vision
    assert weights["tensors"] == len(arrays)
    assert weights["stored_as"] == {dtype: total}
    assert weights["on_the_disk"] == total * width
    assert weights["memory_in_float32"] == total * 4
    assert weights["memory_in_16_bits"] == total * 2
    # Two layers, keys and values, two heads of 48 / 6 numbers.
    assert weights["cache_of_1,000_tokens"] == {"numbers_per_token": 2 * 2 * 2 * 8}
    model = facts(report, "model")
    assert (model["type"], model["layers"], model["hidden_size"]) == ("qwen2_vl", 2, 48)
    assert (model["heads"], model["kv_heads"], model["vocabulary"]) == (6, 2, 264)
    assert model["vision_tower"] == {"layers": 2, "width": 32}
    assert len(model["end_tokens"]) == 2
    assert facts(report, "files")["safetensors"]["files"] == 3


def test_newer_key_names_count_as_vision_too(tmp_path: Path):
    hub = inspect(write_qwen2vl(tmp_path / "hub", TinyQwen2VL(seed=1)))
    new = inspect(write_qwen2vl(tmp_path / "new", TinyQwen2VL(seed=1, keys="new")))
    assert facts(hub, "weights")["of_them_vision"] == facts(new, "weights")["of_them_vision"] > 0


def test_a_missing_shard(tmp_path: Path):
    folder = write_qwen2vl(tmp_path, TinyQwen2VL(seed=1, shards=3))
    (folder / "model-00002-of-00003.safetensors").unlink()
    report = inspect(folder)
    assert not report.ok
    assert "the shard model-00002-of-00003.safetensors is missing" in problems(report)
    assert report.verdict == "cannot be used as it is"


def test_a_download_that_was_cut_short(tmp_path: Path):
    folder = write_qwen2vl(tmp_path, TinyQwen2VL(seed=1))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    report = inspect(folder)
    assert not report.ok
    assert "download it again" in problems(report)


def test_shards_of_two_downloads(tmp_path: Path):
    folder = write_qwen2vl(tmp_path, TinyQwen2VL(seed=1, shards=2))
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    report = inspect(folder)
    assert not report.ok
    assert "lacks 1 tensor that the index names, such as model.extra.weight" in problems(report)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 64, (5).to_bytes(8, "little") + b"{]{]{", b"\x02" + bytes(7) + b"[]"]
)
def test_files_that_are_not_safetensors(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="safetensors"):
        read_header(tmp_path / "model.safetensors")


def test_what_a_caption_command_would_refuse(tmp_path: Path):
    folder = write_qwen2vl(tmp_path, TinyQwen2VL(seed=1))
    (folder / "tokenizer.json").unlink()
    report = inspect(folder)
    assert not report.ok
    assert "tokenizer.json" in problems(report)


def test_another_kind_of_model(tmp_path: Path):
    write_json(tmp_path / "config.json", {"model_type": "bert", "num_hidden_layers": 12})
    report = inspect(tmp_path)
    assert not report.ok
    assert "type bert" in problems(report)


def test_an_unmerged_lora_is_seen(tmp_path: Path):
    write_json(tmp_path / "config.json", {"model_type": "pllava"})
    names = ["q_proj.base_layer.weight", "q_proj.lora_A.weight", "q_proj.lora_B.weight"]
    write_safetensors(
        tmp_path / "model.safetensors", {n: np.zeros((2, 2), np.float32) for n in names}, "F16"
    )
    assert facts(inspect(tmp_path), "weights")["unmerged_LoRA"] == 2


def test_the_bundled_model_is_a_target():
    report = inspect(Path("nano"))
    assert report.ok
    assert report.verdict == "can be used by vidcap qwen2vl, as --model nano"


def test_a_model_without_weights_is_told_by_its_settings(tmp_path):
    whole = write_qwen2vl(tmp_path / "whole", TinyQwen2VL(seed=1))
    few = tmp_path / "few"
    shutil.copytree(whole, few, ignore=shutil.ignore_patterns("*.safetensors"))
    report = model_report(few, "some/name")
    assert report.ok
    assert report.verdict.endswith("--model some/name")
    assert [problem.text for problem in report.problems] == [
        "the weights are not here yet; what is told is by config.json"
    ]
    assert facts(report, "tensor_parallel") == facts(inspect(whole), "tensor_parallel")
    assert not inspect(few).ok  # a folder that is named as one has to be whole


def test_a_misspelled_file_is_no_name_on_the_hub():
    with pytest.raises(UsageError, match="there is no such file"):
        inspect(Path("clips/film.mp4"))
