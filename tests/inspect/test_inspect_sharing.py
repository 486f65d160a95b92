"""How a model is shared: the true sizes of the largest, from headers of files without contents."""

import json
import os
from math import prod
from pathlib import Path

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
    write_headers(folder, {**tower(1280, 32, 8192), **language_model(8192, 80)}, shards=38)
    return folder


def tower(width: int, blocks: int, text: int) -> Shapes:
    """The names in the hub's files, and the shapes of what they name."""
    wide = 4 * width
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (width, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (width,),
        "visual.merger.ln_q.bias": (width,),
        **dense("visual.merger.mlp.0", wide, wide),
        **dense("visual.merger.mlp.2", text, wide),
    }
    for index in range(blocks):
        block = f"visual.blocks.{index}"
        shapes |= dense(f"{block}.attn.qkv", 3 * width, width)
        shapes |= dense(f"{block}.attn.proj", width, width)
        shapes |= dense(f"{block}.mlp.fc1", wide, width) | dense(f"{block}.mlp.fc2", width, wide)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
    return shapes


def language_model(width: int, layers: int) -> Shapes:
    """The same."""
    shapes: Shapes = {
        "model.embed_tokens.weight": (152064, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (152064, width),
    }
    for index in range(layers):
        layer = f"model.layers.{index}"
        for name, rows in (("q", 8192), ("k", 1024), ("v", 1024)):
            shapes |= dense(f"{layer}.self_attn.{name}_proj", rows, width)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (width, 8192)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (29568, width)
        shapes[f"{layer}.mlp.up_proj.weight"] = (29568, width)
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, 29568)
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
    tower = layout.parameters() - whole
    assert layout.divided()[ranks] == shares[-1].parameters(layout.text) + tower
    last = shares[-1]
    assert layout.text_weight("layers.79.self_attn.k_proj.weight", last).shape == (
        1024 // ranks, 8192
    )  # fmt: skip
    assert layout.text_weight("layers.79.self_attn.o_proj.weight", last).shape == (
        8192, 8192 // ranks
    )  # fmt: skip


def test_what_each_rank_keeps_is_told(largest, monkeypatch):
    monkeypatch.setattr(inspected, "device_sizes", lambda: [64 * G] * 4)
    told = inspect(largest).as_dict()["facts"]["tensor_parallel"]
    assert list(told) == [f"ranks_that_share_it:_{ranks}" for ranks in (1, 2, 4, 8, 16)]
    assert [it["fits"] for it in told.values()] == [False, False, True, False, False]
    parts = {int(name.split("_")[-1]): it["weights"] / G for name, it in told.items()}
    assert parts[1] == pytest.approx(146.8, abs=0.05)
    assert parts[4] == pytest.approx(37.75, abs=0.01)
    words = [fact.words for fact in sharing_facts(largest, "qwen2vl", [64 * G] * 4)]
    assert words[1].endswith("does not fit the devices of 64.0 GB")
    assert words[2].endswith("fits, and leaves 26.2 GB of a device")
    assert words[3].endswith("needs 8 devices, of which there are 4")
    alone = [fact.words for fact in sharing_facts(largest, "qwen2vl", [])]
    assert alone[0] == "146.8 GB of weights a rank in 16 bits, 327.7 MB for 1,000 tokens"
