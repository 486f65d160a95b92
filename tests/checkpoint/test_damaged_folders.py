"""Any json file of a checkpoint, damaged in any way, ends in a sentence or does no harm."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import tiny, tiny_llava
from vidcap_cli.checkpoint.files import fingerprint, stored_type
from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.generation import sampling_keys
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import VidcapError
from vidcap_cli.inspect import inspect
from vidcap_cli.processors import load_captioner

SPECS = {
    "qwen2vl": tiny.TinyQwen2VL(seed=1, shards=2),
    "qwen2.5vl": tiny.TinyQwen25VL(seed=1, shards=2),
    "llava": tiny_llava.TinyLlava(seed=1, shards=2),
    "pllava": tiny_llava.TinyPllava(seed=1, shards=2, lora="default", alpha=16),
    # The same family with the other tokenizer.
    "pllava yi": tiny_llava.TinyPllava(seed=1, tokenizer="yi"),
}
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 3, 10**6, 10**30, -1.5, 0.0, 1e-300, 1e308, float("nan"),
    float("inf"), "text", "", "7", "\ud800", "a b", "$A", "<0x0A>", [], [None], [[]], ["a", 1],
    [-1], [1.5, 2, 3], [0, 0, 0], {}, {"a": []}, {"type": "BPE"}, {"content": None}, "9" * 99,
]  # fmt: skip
MUTATIONS = 120


def write(folder: Path, family: str) -> CaptionConfig:
    """A folder with every json file that the family may have."""
    spec = SPECS[family]
    if isinstance(spec, tiny.TinyQwen2VL):
        tiny.write_qwen2vl(folder, spec)
        bounds = {"min_pixels": 3136, "max_pixels": 12544, "image_mean": [0.5, 0.5, 0.5]}
        tiny.write_json(folder / "preprocessor_config.json", bounds)
        config = CaptionConfig("qwen2vl", str(folder))
    else:
        tiny_llava.write_llava(folder, spec)
        config = CaptionConfig(spec.family, str(folder), num_frames=spec.num_frames)
        more = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
        file = folder / "preprocessor_config.json"
        settings = json.loads(file.read_text()) | more | {"rescale_factor": 1 / 255}
        tiny.write_json(file, settings)
        tiny.write_json(folder / "processor_config.json", {"image_processor": settings})
        if spec.lora:
            adapter = {"r": spec.rank, "lora_alpha": 16, "use_rslora": False, "rank_pattern": {}}
            tiny.write_json(folder / "adapter_config.json", adapter)
    # In the fewest folders, but read where they are.
    names = {"added_tokens.json": {"<new>": 300}, "special_tokens_map.json": {"eos_token": "</s>"}}
    for name, content in names.items():
        if not (folder / name).exists():
            tiny.write_json(folder / name, content)
    return config


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values in ``content``; of long lists and objects to a few."""
    if isinstance(content, dict):
        inside = list(content.items())[-40:]
    elif isinstance(content, list):
        inside = list(enumerate(content))[:3]
    else:
        return [path]
    below = [way for key, value in inside for way in places(value, (*path, key))]
    return below + ([path] if path else [])


def mutate(text: str, rng: random.Random) -> str:
    """One value another, gone, under another name or there twice; sometimes the text itself."""
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice(["", "}", '"', "\x00", "[" * 5000]) + text[at + 1 :]
    content = json.loads(text)
    ways = places(content)
    *way, last = rng.choice(ways)
    place = content
    for key in way:
        place = place[key]
    kind = rng.choice(["other", "other", "other", "gone", "renamed", "twice"])
    if kind == "gone" or (kind in ("renamed", "twice") and isinstance(place, list)):
        del place[last]
    elif kind == "renamed":
        place[str(rng.choice(ODD))] = place.pop(last)
    elif kind == "twice":
        place["TWICE"] = rng.choice(ODD)
        return json.dumps(content).replace('"TWICE"', json.dumps(last))
    else:
        place[last] = rng.choice(ODD)
    return json.dumps(content)


def use(config: CaptionConfig) -> None:
    """What a run does with a folder, up to the weights, and what a row of it needs."""
    folder = Path(config.model)
    check_model(folder, config.family)
    sampling_keys(folder), stored_type(folder), fingerprint(folder)
    captioner = load_captioner(config)
    frames = np.zeros((captioner.rule.indices(8, 4.0).size, 30, 40, 3), np.uint8)
    prepared = captioner.rule.prepare(frames, len(frames))
    captioner.rule.tokens(len(frames), 30, 40)
    prompt, size = captioner.prompt(prepared), captioner.size(prepared)
    assert len(prompt.ids) == size.tokens
    assert np.isfinite(next(iter(prompt.vision.values()))).all()
    captioner.text(prompt.ids[:40].tolist())


@pytest.mark.parametrize("family", SPECS)
def test_damage_to_any_json_file_ends_in_a_sentence_or_passes(tmp_path, family):
    config = write(tmp_path, family)
    use(config)
    rng, seen = random.Random(family), 0
    files = sorted(tmp_path.glob("*.json"))
    for number in range(MUTATIONS):
        file = files[number % len(files)]
        before = file.read_text()
        file.write_text(mutate(before, rng))
        said = ""
        try:
            use(config)
        except VidcapError as error:
            said, seen = str(error), seen + 1
        except BaseException as error:  # a panic of the Rust library is no Exception
            raise AssertionError(f"{file.name}: {file.read_text()[:3000]}") from error
        assert "\n" not in said, f"{file.name}: {file.read_text()[:3000]}"
        if number % 10 == 0:
            inspect(tmp_path)
        file.write_text(before)
    assert seen > MUTATIONS // 10


@pytest.mark.parametrize(
    ("family", "key", "value", "well"),
    [
        ("llava", "vision_feature_layer", None, True),
        ("llava", "vision_config.num_hidden_layers", None, False),
        ("qwen2vl", "num_key_value_heads", float("inf"), False),
        ("qwen2vl", "num_attention_heads", 0, False),
        ("pllava", "text_config", "text", False),
    ],
)
def test_values_that_ended_in_a_traceback(tmp_path, family, key, value, well):
    config = write(tmp_path, family)
    content = json.loads((tmp_path / "config.json").read_text())
    *way, last = key.split(".")
    place = content
    for step in way:
        place = place[step]
    place[last] = value
    tiny.write_json(tmp_path / "config.json", content)
    assert inspect(tmp_path).ok is well
    if well:
        use(config)
    else:
        with pytest.raises(VidcapError):
            use(config)
