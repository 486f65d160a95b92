"""Tiny random LLaVA and PLLaVA checkpoints in the hub's exact layouts, for goldens and tests.

As in ``tiny``: the same bytes on every machine, weights from numpy's seeded generator. The layouts
are the hub's and the newer ones, one file or shards, all number types; PLLaVA's language model
with LoRA beside it (with and without ``.default``) or merged already; tokenizers as
``tokenizer.json`` (bytes and special tokens) or as a sentencepiece ``tokenizer.model`` alone.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, processors

from tests.helpers.tiny import write_byte_tokenizer, write_json, write_weights

LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<image>", "<pad>",
)  # fmt: skip
VICUNA_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
YI_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<pad>")
# What the tiny sentencepiece vocabulary knows beyond bytes, in order of rank.
PIECES = (
    "\u2581t", "he", "\u2581the", "in", "\u2581a", "er", "on", "\u2581v", "id", "eo", "ideo",
    "\u2581video", "SE", "USE", "USER", "\u2581USER", "\u2581\u2581",
)  # fmt: skip


@dataclass(frozen=True)
class TinyLlava:
    """The sizes and the layout of one tiny LLaVA or PLLaVA checkpoint.

    ``keys``: "hub" (language_model.model, vision_tower) or "new" (model.language_model, ...).
    ``lora``: None; "plain" or "default" (lora_A.weight, lora_A.default.weight) beside base_layer;
    ``rank`` and ``alpha`` are what the config says, alpha None to say nothing. ``tokenizer``:
    "llama3", "vicuna" and "yi" are tokenizer.json; "spm" is tokenizer.model alone. ``resize``:
    "crop" is the hub's processor, "square" resizes without cropping, "" leaves the file out.
    """

    seed: int
    family: str = "llava"
    hidden: int = 48
    mlp: int = 80
    layers: int = 2
    heads: int = 6
    kv_heads: int = 2
    vision_width: int = 32
    vision_heads: int = 2
    vision_depth: int = 3
    side: int = 56
    feature_layer: int = -2
    strategy: str = "default"
    keys: str = "hub"
    shards: int = 1
    dtype: str = "F32"
    tokenizer: str = "llama3"
    resize: str = "crop"
    num_frames: int = 1
    lora: str | None = None
    rank: int = 8
    alpha: float | None = None
    model_type: str = "llava"

    @property
    def vocab(self) -> int:
        """Bytes, pieces and special tokens, padded as the hub pads."""
        return 320

    @property
    def image_token(self) -> int:
        """The id of ``<image>``."""
        special = {"llama3": LLAMA3_TOKENS, "vicuna": VICUNA_TOKENS, "yi": YI_TOKENS}
        if self.tokenizer == "spm":
            return len(_spm_pieces())
        return 256 + special[self.tokenizer].index("<image>")

    @property
    def eos_token(self) -> int:
        """The id that ends an answer."""
        return {"llama3": 260, "vicuna": 258, "yi": 260, "spm": 2}[self.tokenizer]


@dataclass(frozen=True)
class TinyPllava(TinyLlava):
    """A tiny PLLaVA checkpoint: four frames, Vicuna's template, ``tokenizer.model`` alone."""

    family: str = "pllava"
    tokenizer: str = "spm"
    num_frames: int = 4


def write_llava(folder: Path, spec: TinyLlava) -> Path:
    """Write the checkpoint of ``spec`` into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    number = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[spec.dtype]
    config: dict[str, object] = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": spec.image_token,
        "model_type": spec.model_type,
        "pad_token_id": spec.image_token + 1,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": spec.hidden,
            "intermediate_size": spec.mlp,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": spec.heads,
            "num_hidden_layers": spec.layers,
            "num_key_value_heads": spec.kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "torch_dtype": number,
            "vocab_size": spec.vocab,
        },
        "torch_dtype": number,
        "vision_config": {
            "hidden_size": spec.vision_width,
            "image_size": spec.side,
            "intermediate_size": 2 * spec.vision_width,
            "model_type": "clip_vision_model",
            "num_attention_heads": spec.vision_heads,
            "num_hidden_layers": spec.vision_depth,
            "patch_size": 14,
            "projection_dim": 24,
        },
        "vision_feature_layer": spec.feature_layer,
        "vision_feature_select_strategy": spec.strategy,
    }
    if spec.family == "pllava":
        config["architectures"] = ["PllavaForConditionalGeneration"]
        config |= {"pooling_method": "avg", "pooling_shape": [8, 16, 16], "use_pooling": True}
        if spec.lora and spec.alpha is not None:
            config |= {"lora_r": spec.rank, "lora_alpha": spec.alpha}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": spec.eos_token})
    if spec.resize:
        side = {"height": spec.side, "width": spec.side}
        settings: dict[str, object] = {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": side,
            "do_center_crop": spec.resize == "crop",
            "do_convert_rgb": True,
            "resample": 3,
            "size": {"shortest_edge": spec.side} if spec.resize == "crop" else side,
        }
        write_json(folder / "preprocessor_config.json", settings)
    _write_tokenizer(folder, spec.tokenizer)
    write_weights(folder, llava_weights(spec), spec.dtype, spec.shards)
    return folder


def llava_weights(spec: TinyLlava) -> dict[str, np.ndarray]:  # noqa: C901, PLR0915 - a list
    """Random weights under the key names of ``spec``, large enough to vary the captions."""
    rng = np.random.default_rng(spec.seed)
    hub = spec.keys == "hub"
    text, head = ("language_model.model", "language_model.lm_head") if hub else (
        "model.language_model", "lm_head",
    )  # fmt: skip
    tower = f"{'' if hub else 'model.'}vision_tower.vision_model"
    projector = f"{'' if hub else 'model.'}multi_modal_projector"
    if spec.lora:
        text, head = (
            "language_model.base_model.model.model",
            "language_model.base_model.model.lm_head",
        )
    weights: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, columns: int, *, bias: bool, scale: float = 1.6) -> None:
        weights[f"{name}.weight"] = rng.normal(0, scale / np.sqrt(columns), (rows, columns))
        if bias:
            weights[f"{name}.bias"] = rng.normal(0, 0.1, rows)

    def norm(name: str, size: int, *, bias: bool) -> None:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, size)
        if bias:
            weights[f"{name}.bias"] = rng.normal(0, 0.1, size)

    def adapted(name: str, rows: int, columns: int) -> None:
        base = rng.normal(0, 1.6 / np.sqrt(columns), (rows, columns))
        if not spec.lora:
            weights[f"{name}.weight"] = base
            return
        adapter = ".default" if spec.lora == "default" else ""
        weights[f"{name}.base_layer.weight"] = base
        # With alpha / rank in front, the product is about as large as the base.
        down = rng.normal(0, 1.0 / np.sqrt(columns), (spec.rank, columns))
        up = rng.normal(0, 2.0, (rows, spec.rank))
        weights[f"{name}.lora_A{adapter}.weight"] = down
        weights[f"{name}.lora_B{adapter}.weight"] = up

    side = spec.hidden // spec.heads
    weights[f"{text}.embed_tokens.weight"] = rng.normal(0, 1, (spec.vocab, spec.hidden))
    for index in range(spec.layers):
        layer = f"{text}.layers.{index}"
        adapted(f"{layer}.self_attn.q_proj", spec.heads * side, spec.hidden)
        linear(f"{layer}.self_attn.k_proj", spec.kv_heads * side, spec.hidden, bias=False)
        adapted(f"{layer}.self_attn.v_proj", spec.kv_heads * side, spec.hidden)
        linear(f"{layer}.self_attn.o_proj", spec.hidden, spec.heads * side, bias=False)
        linear(f"{layer}.mlp.gate_proj", spec.mlp, spec.hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", spec.mlp, spec.hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", spec.hidden, spec.mlp, bias=False)
        norm(f"{layer}.input_layernorm", spec.hidden, bias=False)
        norm(f"{layer}.post_attention_layernorm", spec.hidden, bias=False)
    norm(f"{text}.norm", spec.hidden, bias=False)
    weights[f"{head}.weight"] = rng.normal(0, 1, (spec.vocab, spec.hidden))
    width, patches = spec.vision_width, (spec.side // 14) ** 2
    weights[f"{tower}.embeddings.class_embedding"] = rng.normal(0, 1, width)
    weights[f"{tower}.embeddings.patch_embedding.weight"] = rng.normal(0, 0.06, (width, 3, 14, 14))
    weights[f"{tower}.embeddings.position_embedding.weight"] = rng.normal(
        0, 1, (patches + 1, width)
    )
    norm(f"{tower}.pre_layrnorm", width, bias=True)
    for index in range(spec.vision_depth):
        block = f"{tower}.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{block}.self_attn.{name}", width, width, bias=True)
        norm(f"{block}.layer_norm1", width, bias=True)
        norm(f"{block}.layer_norm2", width, bias=True)
        linear(f"{block}.mlp.fc1", 2 * width, width, bias=True)
        linear(f"{block}.mlp.fc2", width, 2 * width, bias=True)
    norm(f"{tower}.post_layernorm", width, bias=True)
    linear(f"{projector}.linear_1", spec.hidden, width, bias=True)
    linear(f"{projector}.linear_2", spec.hidden, spec.hidden, bias=True)
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def _write_tokenizer(folder: Path, kind: str) -> None:
    if kind == "spm":
        write_spm_folder(folder, {})
        return
    special = {"llama3": LLAMA3_TOKENS, "vicuna": VICUNA_TOKENS, "yi": YI_TOKENS}[kind]
    write_byte_tokenizer(folder, special)
    begin = {"llama3": "<|begin_of_text|>", "vicuna": "<s>"}.get(kind)
    if begin:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def write_spm_folder(folder: Path, settings: Mapping[str, object]) -> Path:
    """A tokenizer as ``tokenizer.model`` with two tokens added to it, and ``settings``."""
    write_spm(folder / "tokenizer.model")
    start = len(_spm_pieces())
    write_json(folder / "added_tokens.json", {"<image>": start, "<pad>": start + 1})
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {0: "<unk>", 1: "<s>", 2: "</s>", start: "<image>", start + 1: "<pad>"}
    added = {str(i): {"content": name, **flags, "special": True} for i, name in names.items()}
    usual: dict[str, object] = {"added_tokens_decoder": added}
    usual |= {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    usual |= {"unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", {**usual, **settings})
    return folder


def _spm_pieces() -> list[tuple[str, float, int]]:
    """Pieces of the tiny sentencepiece model: text, score, kind (2 unknown, 3 control, 6 byte)."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    letters = sorted({letter for piece in PIECES for letter in piece})
    pieces = pieces[: 3 + 256]
    pieces += [(piece, -float(rank), 1) for rank, piece in enumerate(PIECES)]
    return pieces + [(letter, -100.0 - i, 1) for i, letter in enumerate(letters)]


def write_spm(file: Path) -> None:
    """A sentencepiece byte-pair model in protobuf, written by hand: no training, no chance."""
    blob = b"".join(_field(1, _piece(*piece)) for piece in _spm_pieces())
    # TrainerSpec: model_type 3 = BPE, byte_fallback 35; ids of unk, bos, eos, pad 40-43.
    trainer = _varint(3, 2) + _varint(35, 1) + _varint(40, 0) + _varint(41, 1) + _varint(42, 2)
    trainer += _varint(43, (1 << 64) - 1)
    # NormalizerSpec: identity, a dummy prefix, spaces kept, spaces escaped.
    normalizer = _field(1, b"identity") + _varint(3, 1) + _varint(4, 0) + _varint(5, 1)
    file.write_bytes(blob + _field(2, trainer) + _field(3, normalizer))


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _varint(3, kind)


def _field(number: int, content: bytes) -> bytes:
    return _bytes(number << 3 | 2) + _bytes(len(content)) + content


def _varint(number: int, value: int) -> bytes:
    return _bytes(number << 3) + _bytes(value)


def _bytes(value: int) -> bytes:
    groups: list[int] = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if not value:
            return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def drift(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A clip ``[T, H, W, 3]`` (uint8) that differs in time, in both directions and in colour."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    speeds: Iterable[np.ndarray] = (rng.uniform(0.02, 0.12, 2) for _ in range(3))
    waves = [np.sin(t * (0.8 + c) + y * fy + x * fx) for c, (fy, fx) in enumerate(speeds)]
    pixels = 127 + 100 * np.stack(waves, axis=-1) * np.array([1.0, 0.7, 0.4])
    pixels += np.array([20.0, 0.0, -50.0]) + rng.normal(0, 8, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)
