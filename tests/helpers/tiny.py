"""Tiny random checkpoints in the hub's exact layouts, the same bytes on every machine.

Weights come from numpy's seeded generator, so the scripts under ``tests/goldens`` (PyTorch) and
the tests (MindSpore) build identical folders and only the goldens need keeping. The layouts are
those a user meets: the hub's key names and the newer ones, one file or shards, float32, float16
or bfloat16, tied or untied embeddings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True)
class TinyQwen2VL:
    """The sizes and the layout of one tiny Qwen2-VL checkpoint."""

    seed: int
    hidden: int = 48
    mlp: int = 80
    layers: int = 2
    heads: int = 6
    kv_heads: int = 2
    mrope: tuple[int, int, int] = (1, 1, 2)
    vision_width: int = 32
    vision_heads: int = 2
    vision_depth: int = 2
    tied: bool = True
    keys: str = (
        "hub"  # "hub": model.layers, visual.blocks; "new": model.language_model, model.visual
    )
    shards: int = 1
    dtype: str = "F32"
    repetition_penalty: float = 1.0

    model_type = "qwen2_vl"
    architecture = "Qwen2VLForConditionalGeneration"

    @property
    def vocab(self) -> int:
        """256 bytes and the special tokens, padded to a multiple of 8."""
        return 264

    def vision_config(self) -> dict[str, object]:
        """The tower's settings."""
        return {
            "depth": self.vision_depth,
            "embed_dim": self.vision_width,
            "mlp_ratio": 4,
            "num_heads": self.vision_heads,
            "in_chans": 3,
            "hidden_size": self.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        }

    def vision_mlp(self) -> dict[str, tuple[int, int]]:
        """The products of an MLP of the tower."""
        inner = 4 * self.vision_width
        return {"fc1": (inner, self.vision_width), "fc2": (self.vision_width, inner)}


@dataclass(frozen=True)
class TinyQwen25VL(TinyQwen2VL):
    """The same of a Qwen2.5-VL: windows of ``window`` pixels but in the layers ``whole``, and
    ``rate`` positions a second.
    """

    vision_inner: int = 44
    window: int = 112
    whole: tuple[int, ...] = (1,)
    rate: int = 2

    model_type = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"

    def vision_config(self) -> dict[str, object]:
        """The tower's settings."""
        return {
            "depth": self.vision_depth,
            "hidden_act": "silu",
            "hidden_size": self.vision_width,
            "intermediate_size": self.vision_inner,
            "num_heads": self.vision_heads,
            "in_chans": 3,
            "out_hidden_size": self.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": self.window,
            "fullatt_block_indexes": list(self.whole),
            "tokens_per_second": self.rate,
            "temporal_patch_size": 2,
        }

    def vision_mlp(self) -> dict[str, tuple[int, int]]:
        """SwiGLU."""
        inner = (self.vision_inner, self.vision_width)
        return {"gate_proj": inner, "up_proj": inner, "down_proj": inner[::-1]}


def write_qwen2vl(folder: Path, spec: TinyQwen2VL) -> Path:
    """Write the checkpoint of ``spec`` into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {name: 256 + index for index, name in enumerate(SPECIAL_TOKENS)}
    config = {
        "architectures": [spec.architecture],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "initializer_range": 0.02,
        "intermediate_size": spec.mlp,
        "max_position_embeddings": 32768,
        "max_window_layers": spec.layers,
        "model_type": spec.model_type,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[spec.dtype],
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": spec.vision_config(),
        "rope_scaling": {"type": "mrope", "mrope_section": list(spec.mrope)},
        "vocab_size": spec.vocab,
    }
    generation = {
        "bos_token_id": ids["<|endoftext|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "repetition_penalty": spec.repetition_penalty,
        "temperature": 0.01,
        "top_p": 0.001,
        "top_k": 1,
    }
    bounds = {
        "size": {"shortest_edge": 4 * 28**2, "longest_edge": 16 * 28**2},
        "frame_bounds": [4 * 28**2, 16 * 28**2],
        # Some clips of the goldens are larger: what a test gives the model, the model sees.
        "do_resize": False,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "video_preprocessor_config.json", bounds)
    write_byte_tokenizer(folder, SPECIAL_TOKENS)
    write_weights(folder, qwen2vl_weights(spec), spec.dtype, spec.shards)
    return folder


def qwen2vl_weights(spec: TinyQwen2VL) -> dict[str, np.ndarray]:
    """Random weights under the key names of ``spec.keys``, large enough to vary the captions."""
    rng = np.random.default_rng(spec.seed)
    text, visual = ("model", "visual") if spec.keys == "hub" else (
        "model.language_model", "model.visual",
    )  # fmt: skip
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool) -> None:
        weights[f"{name}.weight"] = rng.normal(0, 1.6 / np.sqrt(columns), (rows, columns))
        if bias:
            weights[f"{name}.bias"] = rng.normal(0, 0.1, rows)

    def norm(name: str, size: int, *, bias: bool) -> None:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, size)
        if bias:
            weights[f"{name}.bias"] = rng.normal(0, 0.1, size)

    head = spec.hidden // spec.heads
    weights[f"{text}.embed_tokens.weight"] = rng.normal(0, 1, (spec.vocab, spec.hidden))
    for index in range(spec.layers):
        layer = f"{text}.layers.{index}"
        linear(f"{layer}.self_attn.q_proj", spec.heads * head, spec.hidden, bias=True)
        linear(f"{layer}.self_attn.k_proj", spec.kv_heads * head, spec.hidden, bias=True)
        linear(f"{layer}.self_attn.v_proj", spec.kv_heads * head, spec.hidden, bias=True)
        linear(f"{layer}.self_attn.o_proj", spec.hidden, spec.heads * head, bias=False)
        linear(f"{layer}.mlp.gate_proj", spec.mlp, spec.hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", spec.mlp, spec.hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", spec.hidden, spec.mlp, bias=False)
        norm(f"{layer}.input_layernorm", spec.hidden, bias=False)
        norm(f"{layer}.post_attention_layernorm", spec.hidden, bias=False)
    norm(f"{text}.norm", spec.hidden, bias=False)
    if not spec.tied:
        weights["lm_head.weight"] = rng.normal(0, 1, (spec.vocab, spec.hidden))
    width, biased = spec.vision_width, not isinstance(spec, TinyQwen25VL)
    weights[f"{visual}.patch_embed.proj.weight"] = rng.normal(0, 0.04, (width, 3, 2, 14, 14))
    for index in range(spec.vision_depth):
        block = f"{visual}.blocks.{index}"
        norm(f"{block}.norm1", width, bias=biased)
        norm(f"{block}.norm2", width, bias=biased)
        linear(f"{block}.attn.qkv", 3 * width, width, bias=True)
        linear(f"{block}.attn.proj", width, width, bias=True)
        for name, (rows, columns) in spec.vision_mlp().items():
            linear(f"{block}.mlp.{name}", rows, columns, bias=True)
    norm(f"{visual}.merger.ln_q", width, bias=biased)
    linear(f"{visual}.merger.mlp.0", 4 * width, 4 * width, bias=True)
    linear(f"{visual}.merger.mlp.2", spec.hidden, 4 * width, bias=True)
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def write_byte_tokenizer(folder: Path, special: tuple[str, ...]) -> None:
    """A byte-level tokenizer without merges: ids 0-255 are bytes, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": special[0]}
    write_json(folder / "tokenizer_config.json", config)


def write_weights(folder: Path, weights: Mapping[str, np.ndarray], dtype: str, shards: int) -> None:
    """Write ``model.safetensors``, or shards and their index as the hub has them."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, dtype)
        return
    names = list(weights)
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[shard::shards]
        write_safetensors(folder / file, {name: weights[name] for name in mine}, dtype)
        index.update(dict.fromkeys(mine, file))
    size = sum(weight.size for weight in weights.values()) * (4 if dtype == "F32" else 2)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}
    write_json(folder / "model.safetensors.index.json", content)


def write_safetensors(file: Path, weights: Mapping[str, np.ndarray], dtype: str) -> None:
    """One safetensors file (an 8-byte length, a JSON header, the data); numpy has no bfloat16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, weight in weights.items():
        blob = _as_bytes(weight, dtype)
        span = [offset, offset + len(blob)]
        header[name] = {"dtype": dtype, "shape": list(weight.shape), "data_offsets": span}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def _as_bytes(weight: np.ndarray, dtype: str) -> bytes:
    if dtype == "F32":
        return weight.astype("<f4").tobytes()
    if dtype == "F16":
        return weight.astype("<f2").tobytes()
    bits = np.ascontiguousarray(weight, "<f4").view(np.uint32)
    # Round to nearest, ties to even, on the upper half of the float32.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_json(file: Path, content: object) -> None:
    """Write ``content`` as the hub formats its configuration files."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
