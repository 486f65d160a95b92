"""A folder that cannot be captioned with is refused in the same words by all that look at it.

By the start of a run, by ``--dry-run`` and by ``inspect``; nothing is left behind.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny, tiny_llava
from vidcap_cli.caption import caption
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.inspect import inspect
from vidcap_cli.options import RunOptions
from vidcap_cli.request import Request

QWEN, LLAVA = tiny.TinyQwen2VL(seed=1), tiny_llava.TinyLlava(seed=1)
PLLAVA = tiny_llava.TinyPllava(seed=1, lora="plain")
Damage = Callable[[Path], None]


def settings(file: str, **keys: object) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        for key, value in keys.items():
            place, (*way, last) = content, key.split("__")
            for step in way:
                place = place[step]
            place[last] = value
        tiny.write_json(folder / file, content)

    return damage


def weights(spec, change: Callable[[dict[str, np.ndarray]], None], dtype: str = "F32") -> Damage:
    def damage(folder: Path) -> None:
        make = tiny.qwen2vl_weights if spec is QWEN else tiny_llava.llava_weights
        changed = make(spec)
        change(changed)
        tiny.write_weights(folder, changed, dtype, 1)

    return damage


def header(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return damage


def adapter_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    settings("adapter_config.json", base_model_name_or_path="some/base")(folder)


def adapter_beside(folder: Path) -> None:
    pair = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": np.zeros((2, 2))}
    tiny.write_safetensors(folder / "adapter_model.safetensors", pair, "F32")
    settings("adapter_config.json", base_model_name_or_path="some/base")(folder)


NORM, QKV = "model.norm.weight", "visual.blocks.0.attn.qkv.weight"
UP = "language_model.model.layers.0.mlp.up_proj.weight"
LORA = "language_model.base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
BAD = {
    "quantised": (
        QWEN, settings("config.json", quantization_config={"quant_method": "awq"}), "quantised"),
    "quantised weights": (
        QWEN, weights(QWEN, lambda w: w.update({f"{NORM}.absmax": w[NORM]})), "quantised"),
    "adapter alone": (QWEN, adapter_alone, "some/base"),
    "adapter beside its model": (LLAVA, adapter_beside, "adapter"),
    "rope": (QWEN, settings("config.json", rope_scaling__type="yarn"), "yarn"),
    "rope of transformers 5": (
        LLAVA, settings("config.json", text_config__rope_parameters={"rope_type": "llama3"}),
        "llama3"),
    "missing in Qwen2-VL": (QWEN, weights(QWEN, lambda w: w.pop(QKV)), "qkv.weight: missing"),
    "missing in LLaVA": (LLAVA, weights(LLAVA, lambda w: w.pop(UP)), "up_proj.weight: missing"),
    "half of LoRA": (PLLAVA, weights(PLLAVA, lambda w: w.pop(LORA)), "lora_B: missing"),
    "shape in Qwen2-VL": (
        QWEN, weights(QWEN, lambda w: w.update({NORM: w[NORM][:-1]})), r"\(47,\) instead of"),
    "shape in LLaVA": (
        LLAVA, weights(LLAVA, lambda w: w.update({UP: w[UP].T})), r"\(48, 80\) instead of"),
    "shape of LoRA": (
        PLLAVA, weights(PLLAVA, lambda w: w.update({LORA: w[LORA].T})), r"lora_B \(8, 48\)"),
    "LoRA where none is known": (
        LLAVA, weights(LLAVA, lambda w: w.update({"a.lora_A.weight": w[UP]})), "not merged"),
    "left over": (QWEN, weights(QWEN, lambda w: w.update(new=w[NORM])), "new: not part"),
    "header that is none": (QWEN, header(lambda b: b"\xff" * 8 + b[8:]), "not a safetensors"),
    "offsets": (
        QWEN, header(lambda b: b.replace(b'"data_offsets": [0,', b'"data_offsets": [4,')),
        "not a safetensors"),
    "cut short": (LLAVA, header(lambda b: b[:-9]), "not a safetensors"),
    "bytes left over": (PLLAVA, header(lambda b: b + b"\0"), "not a safetensors"),
    "another search": (LLAVA, settings("generation_config.json", num_beams=4), "num_beams"),
    "video token": (QWEN, settings("config.json", video_token_id=7), "video_token_id 7"),
    "frames": (LLAVA, settings("preprocessor_config.json", crop_size=60), "60x60"),
    "bounds": (QWEN, settings("preprocessor_config.json", min_pixels="x"), "min_pixels"),
    "patches": (QWEN, settings("config.json", vision_config__patch_size=16), "patch_size"),
    "tower": (QWEN, settings("config.json", vision_config__hidden_size=64), "hidden_size 64"),
    "pooling": (PLLAVA, settings("config.json", pooling_method="max"), "pools by 'max'"),
    "layers": (LLAVA, settings("config.json", text_config__num_hidden_layers=10**6), "num_hidden"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_what_a_run_refuses_is_refused_beforehand(tmp_path, fault):
    spec, damage, words = BAD[fault]
    family = "qwen2vl" if spec is QWEN else spec.family
    folder, table = tmp_path / "model", tmp_path / "meta.csv"
    write = tiny.write_qwen2vl if spec is QWEN else tiny_llava.write_llava
    write(folder, spec)
    if fault == "bounds":
        (folder / "video_preprocessor_config.json").unlink()
    damage(folder)
    table.write_text("path\na.mp4\n")
    before = set(tmp_path.iterdir())
    run = Request(table, CaptionConfig(family, str(folder)))
    said = set()
    for request in (run, replace(run, run=RunOptions(dry_run=True))):
        with pytest.raises(ModelError, match=words) as error:
            caption(request)
        said.add(str(error.value))
    report = inspect(folder)
    assert not report.ok
    assert len(said) == 1
    assert said <= {problem.text for problem in report.problems}
    assert re.fullmatch(r"[^\n]+", *said)
    assert set(tmp_path.iterdir()) == before
