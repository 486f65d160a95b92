"""A folder with the settings that transformers 5 saves computes what transformers 5 computes."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny, tiny_llava

ms = pytest.importorskip("mindspore")

from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import as_transformers_4
from vidcap_cli.config import CaptionConfig
from vidcap_cli.models.device import select_device
from vidcap_cli.models.model import load_model

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "transformers5.json").read_text())
SPECS = {
    "qwen2vl": tiny.TinyQwen2VL(seed=1101, tied=False),
    "tied": tiny.TinyQwen2VL(seed=1105, hidden=64, heads=8, kv_heads=2, mrope=(1, 1, 2)),
    "llava": tiny_llava.TinyLlava(seed=2001),
}


@pytest.mark.parametrize("name", SPECS)
def test_ids_and_logits_are_those_of_transformers_5(tmp_path, name):
    spec, golden = SPECS[name], GOLDENS[name]
    family = "llava" if name == "llava" else "qwen2vl"
    write = tiny_llava.write_llava if family == "llava" else tiny.write_qwen2vl
    write(tmp_path, spec)
    tiny.write_json(tmp_path / "config.json", golden["config"])
    tiny.write_json(tmp_path / "generation_config.json", golden["generation"])
    check_model(tmp_path, family)
    select_device("CPU", compiled=True)
    config, layout = CaptionConfig(family, str(tmp_path)), Layout.read(tmp_path, family)
    decoder = load_model(config, layout, ms.float32).decoder
    prompt = np.array(golden["prompt"])
    where = np.arange(len(prompt))
    positions = where if family == "llava" else np.tile(where, (3, 1))
    prefilled = decoder.prefill(decoder.embed(prompt), where, positions)
    decoder.insert(0, prefilled, len(golden["ids"]))
    next_token, ids = prefilled.next_token, []
    for largest in golden["largest"]:
        logits = next_token.logits.asnumpy()[0]
        np.testing.assert_allclose(np.sort(logits)[:-3:-1], largest, rtol=1e-4)
        ids.append(int(logits.argmax()))
        next_token = decoder.step(np.array(ids[-1:]))
    assert ids == golden["ids"]


def test_settings_are_translated_for_transformers_4():
    text = as_transformers_4(GOLDENS["llava"]["config"])["text_config"]
    assert text["rope_theta"] == 500000.0
    assert "rope_parameters" not in text
    text = as_transformers_4(GOLDENS["tied"]["config"])["text_config"]
    assert text["rope_scaling"] == {"type": "mrope", "mrope_section": [1, 1, 2]}
