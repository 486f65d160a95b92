"""How a model is shared: the true sizes of the largest, from headers of files without contents."""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import pytest

from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect import model as inspected
from vidcap_cli.inspect.sharing import sharing_facts

G = 10**9
Shapes = dict[str, tuple[int, ...]]
# config.json of Qwen/Qwen2-VL-72B-Instruct, what vidcap reads of it.
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "model_type": "qwen2_vl",
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 8192,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "vocab_size": 152064,
}


@pytest.fixture(scope="module")
def largest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL-72B in the hub's layout: 147 GB in shards that hold nothing but headers."""
    folder = tmp_path_factory.mktemp("qwen2vl-72b")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_headers(folder, {**tower(1280, 32, 8192), **language_model(CONFIG)}, shards=38)
    return folder


# What differs in the config.json of Qwen/Qwen2.5-VL-*-Instruct: language model, tower.
QWEN25VL = {
    "3B": ((2048, 11008, 36, 16, 2, 151936, True), 3420),
    "7B": ((3584, 18944, 28, 28, 4, 152064, False), 3420),
    "32B": ((5120, 27648, 64, 40, 8, 152064, False), 3456),
    "72B": ((8192, 29568, 80, 64, 8, 152064, False), 3456),
}
_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size", "tie_word_embeddings",
)  # fmt: skip


def write_qwen25vl(folder: Path, name: str) -> Path:
    """A Qwen2.5-VL of its true size in the hub's layout, in shards that hold headers alone."""
    text, inner = QWEN25VL[name]
    config = {
        **CONFIG,
        **dict(zip(_KEYS, text, strict=True)),
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vision_config": {
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": inner,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": text[0],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {**tower(1280, 32, text[0], inner), **language_model(config)}
    write_headers(folder, shapes, shards=5)
    return folder


def tower(width: int, blocks: int, text: int, swiglu: int = 0) -> Shapes:
    """The names in the hub's files, and the shapes of what they name; with ``swiglu`` inner numbers
    that of Qwen2.5-VL.
    """
    wide = 4 * width
    parts = ("weight",) if swiglu else ("weight", "bias")
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (width, 3, 2, 14, 14),
        **{f"visual.merger.ln_q.{part}": (width,) for part in parts},
        **dense("visual.merger.mlp.0", wide, wide),
        **dense("visual.merger.mlp.2", text, wide),
    }
    for index in range(blocks):
        block = f"visual.blocks.{index}"
        shapes |= dense(f"{block}.attn.qkv", 3 * width, width)
        shapes |= dense(f"{block}.attn.proj", width, width)
        if swiglu:
            for name in ("gate_proj", "up_proj"):
                shapes |= dense(f"{block}.mlp.{name}", swiglu, width)
            shapes |= dense(f"{block}.mlp.down_proj", width, swiglu)
        else:
            shapes |= dense(f"{block}.mlp.fc1", wide, width)
            shapes |= dense(f"{block}.mlp.fc2", width, wide)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.{part}": (width,) for part in parts}
    return shapes


def language_model(config: dict[str, Any]) -> Shapes:
    """The same."""
    width, mlp, layers, heads, kv_heads, vocab, tied = (config[key] for key in _KEYS)
    head = width // heads
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, width)
    for index in range(layers):
        layer = f"model.layers.{index}"
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            shapes |= dense(f"{layer}.self_attn.{name}_proj", count * head, width)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (width, width)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (mlp, width)
        shapes[f"{layer}.mlp.up_proj.weight"] = (mlp, width)
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, mlp)
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
    return shapes


def dense(name: str, rows: int, columns: int) -> Shapes:
    """Weight and bias."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def write_headers(folder: Path, shapes: Shapes, shards: int) -> None:
    """Files of the right length that hold headers, and the index of them."""
    placed = {}
    for shard in range(shards):
        file = folder / f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        header: dict[str, object] = {}
        end = 0
        for name in list(shapes)[shard::shards]:
            start, end = end, end + 2 * prod(shapes[name])
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
            placed[name] = file.name
        words = json.dumps(header).encode()
        with file.open("wb") as opened:
            opened.write(len(words).to_bytes(8, "little") + words)
            os.truncate(opened.fileno(), 8 + len(words) + end)
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_true_headers_of_the_largest_model_are_shared_out(largest, ranks):
    """Every row that a rank reads lies in its file, and all together are the whole model."""
    layout = Layout.read(largest, "qwen2vl")
    whole = sum(prod(shape) for shape in layout.text.shapes().values())
    norms = sum(prod(s) for n, s in layout.text.shapes().items() if n.endswith("norm.weight"))
    shares = [Share(index, ranks) for index in range(ranks)]
    kept = sum(share.parameters(layout.text) for share in shares)
    assert kept == whole + (ranks - 1) * norms
    last = shares[-1]
    tower, part = layout.parameters() - whole, last.tower_parameters(layout.tower)
    assert layout.divided()[ranks] == last.parameters(layout.text) + part
    # What leads out of the tower, 94 million numbers, is whole, and so are biases of sums.
    assert tower / ranks <= part < tower / ranks + 95e6
    assert layout.text_weight("layers.79.self_attn.k_proj.weight", last).shape == (
        1024 // ranks, 8192
    )  # fmt: skip
    assert layout.text_weight("layers.79.self_attn.o_proj.weight", last).shape == (
        8192, 8192 // ranks
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "weights", "ranks"),
    [
        ("3B", 7.51, [1, 2, 4, 8, 16]),
        ("7B", 16.58, [1, 2, 4, 28]),
        ("32B", 66.9, [1, 2, 4, 8, 40]),
        ("72B", 146.8, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_true_headers_of_qwen25vl_are_read(tmp_path, monkeypatch, name, weights, ranks):
    monkeypatch.setattr(inspected, "device_sizes", lambda: [64 * G] * 64)
    folder = write_qwen25vl(tmp_path, name)
    layout = Layout.read(folder, "qwen2vl")
    assert 2 * layout.parameters() / G == pytest.approx(weights, rel=1e-3)
    assert list(layout.divided()) == ranks
    told = inspect(folder).as_dict()["facts"]
    assert told["model"]["vision_tower"] == {"layers": 32, "width": 1280}
    assert told["weights"]["parameters"] == layout.parameters()
    sharing = told["tensor_parallel"]["ranks_that_share_it:_1"]
    assert sharing["fits"] == (name in ("3B", "7B"))


def test_what_each_rank_keeps_is_told(largest, monkeypatch):
    monkeypatch.setattr(inspected, "device_sizes", lambda: [64 * G] * 4)
    told = inspect(largest).as_dict()["facts"]["tensor_parallel"]
    assert list(told) == [f"ranks_that_share_it:_{ranks}" for ranks in (1, 2, 4, 8, 16)]
    assert [it["fits"] for it in told.values()] == [False, False, True, False, False]
    parts = {int(name.split("_")[-1]): it["weights"] / G for name, it in told.items()}
    assert parts[1] == pytest.approx(146.8, abs=0.05)
    assert parts[4] == pytest.approx(36.81, abs=0.01)
    words = [fact.words for fact in sharing_facts(largest, "qwen2vl", [64 * G] * 4)]
    assert words[1].endswith("does not fit the devices of 64.0 GB")
    assert words[2].endswith("fits, and leaves 27.2 GB of a device")
    assert words[3].endswith("needs 8 devices, of which there are 4")
    alone = [fact.words for fact in sharing_facts(largest, "qwen2vl", [])]
    assert alone[0] == "146.8 GB of weights a rank in 16 bits, 327.7 MB for 1,000 tokens"
