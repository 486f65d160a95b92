"""Sizes of the vision towers, from a ``config.json``: CLIP with its projector, and those of
Qwen2-VL and Qwen2.5-VL.

They say what every weight of the tower is called and how large it is, for all who ask: the engine
that reads the weights, and the check before a run that they are there.
Sources: transformers 4.57 ``modeling_clip.py``, ``modeling_llava.py``, ``modeling_qwen2_vl.py``,
``modeling_qwen2_5_vl.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidcap_cli.checkpoint.settings import check_settings
from vidcap_cli.errors import ModelError

# transformers' LlavaConfig without a vision_config, and its CLIPVisionConfig.
_VIT_L = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "layer_norm_eps": 1e-5,
}  # fmt: skip
_CLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5,
}  # fmt: skip
_QWEN2_VL = {
    "embed_dim": 1280, "num_heads": 16, "depth": 32, "mlp_ratio": 4, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
_QWEN25VL = {
    "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16, "depth": 32, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "tokens_per_second": 4,
    "fullatt_block_indexes": (7, 15, 23, 31),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Sizes of tower and projector. ``used`` layers run; ``out`` is the language model's width."""

    width: int
    mlp: int
    depth: int
    heads: int
    side: int
    patch: int
    eps: float
    used: int
    with_class: bool
    out: int
    biased: bool

    @classmethod
    def read(cls, config: Mapping[str, Any], out: int) -> "ClipConfig":
        """From a ``config.json``; what it leaves out is what transformers' classes assume.

        Raises ModelError for sizes that no tower has.
        """
        check_settings(config)
        vision = _given(config, _CLIP if config.get("vision_config") else _VIT_L)
        depth = int(vision["num_hidden_layers"])
        layer = config.get("vision_feature_layer")
        layer = -2 if layer is None else layer
        sizes = cls(
            width=int(vision["hidden_size"]),
            mlp=int(vision["intermediate_size"]),
            depth=depth,
            heads=int(vision["num_attention_heads"]),
            side=int(vision["image_size"]),
            patch=int(vision["patch_size"]),
            eps=float(vision["layer_norm_eps"]),
            # hidden_states[0] is what enters the first layer.
            used=layer if layer >= 0 else depth + 1 + layer,
            with_class=config.get("vision_feature_select_strategy") == "full",
            out=out,
            biased=config.get("multimodal_projector_bias") is not False,
        )
        _divides(sizes.heads, sizes.width, "num_attention_heads", "hidden_size")
        if sizes.patch > sizes.side:
            raise ModelError(
                f"config.json: vision_config.patch_size {sizes.patch} is larger than image_size "
                f"{sizes.side}."
            )
        return sizes

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, as in the files, those of unused layers included."""
        tower, projector = "vision_tower.vision_model", "multi_modal_projector"
        shapes: dict[str, tuple[int, ...]] = {
            f"{tower}.embeddings.class_embedding": (self.width,),
            f"{tower}.embeddings.patch_embedding.weight": (self.width, 3, self.patch, self.patch),
            f"{tower}.embeddings.position_embedding.weight": (self.grid**2 + 1, self.width),
        }

        def dense(name: str, rows: int, columns: int) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

        norms = ["pre_layrnorm", "post_layernorm"]
        for index in range(self.depth):
            layer = f"encoder.layers.{index}"
            norms += [f"{layer}.layer_norm1", f"{layer}.layer_norm2"]
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                dense(f"{tower}.{layer}.self_attn.{name}", self.width, self.width)
            dense(f"{tower}.{layer}.mlp.fc1", self.mlp, self.width)
            dense(f"{tower}.{layer}.mlp.fc2", self.width, self.mlp)
        for norm in norms:
            shapes[f"{tower}.{norm}.weight"] = shapes[f"{tower}.{norm}.bias"] = (self.width,)
        dense(f"{projector}.linear_1", self.out, self.width)
        dense(f"{projector}.linear_2", self.out, self.out)
        if not self.biased:
            del shapes[f"{projector}.linear_1.bias"], shapes[f"{projector}.linear_2.bias"]
        return shapes


@dataclass(frozen=True, slots=True)
class Qwen2VLVisionConfig:
    """Sizes of the tower; ``out`` is the width of the language model."""

    width: int
    heads: int
    depth: int
    mlp: int
    out: int
    patch: int
    merge: int
    temporal: int

    @classmethod
    def read(cls, config: Mapping[str, Any], out: int) -> "Qwen2VLVisionConfig":
        """From a ``config.json``; what it leaves out is what transformers' class assumes, the
        width ``out`` of the language model apart.

        Raises ModelError for sizes that no tower has.
        """
        check_settings(config)
        vision = _given(config, {**_QWEN2_VL, "hidden_size": out})
        sizes = _qwen_sizes(vision, "embed_dim", "hidden_size", out)
        return cls(**sizes, mlp=int(sizes["width"] * vision["mlp_ratio"]))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, as in the files."""
        width, merged = self.width, self.width * self.merge**2
        shapes: dict[str, tuple[int, ...]] = {
            "patch_embed.proj.weight": (width, 3, self.temporal, self.patch, self.patch)
        }
        dense = {"merger.mlp.0": (merged, merged), "merger.mlp.2": (self.out, merged)}
        norms = ["merger.ln_q"]
        for index in range(self.depth):
            block = f"blocks.{index}"
            norms += [f"{block}.norm1", f"{block}.norm2"]
            dense[f"{block}.attn.qkv"] = (3 * width, width)
            dense[f"{block}.attn.proj"] = (width, width)
            dense |= {f"{block}.mlp.{name}": shape for name, shape in self._mlp().items()}
        for name, (rows, columns) in dense.items():
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)
        for norm in norms:
            shapes |= {f"{norm}.{part}": (width,) for part in self._norm}
        return shapes

    @property
    def _norm(self) -> tuple[str, ...]:
        """What a norm has: this tower's is LayerNorm."""
        return "weight", "bias"

    def _mlp(self) -> dict[str, tuple[int, int]]:
        """The products of an MLP."""
        return {"fc1": (self.mlp, self.width), "fc2": (self.width, self.mlp)}


@dataclass(frozen=True, slots=True)
class Qwen25VLVisionConfig(Qwen2VLVisionConfig):
    """Sizes of the tower. ``window`` is tokens of a side; the layers ``whole`` see all of a frame.

    A second of video is ``rate`` positions of the language model.
    """

    window: int
    whole: frozenset[int]
    rate: float

    @classmethod
    def read(cls, config: Mapping[str, Any], out: int) -> "Qwen25VLVisionConfig":
        """From a ``config.json``; what it leaves out is what transformers' class assumes, the
        width ``out`` of the language model apart.

        Raises ModelError for sizes that no tower has.
        """
        check_settings(config)
        vision = _given(config, {**_QWEN25VL, "out_hidden_size": out})
        sizes = _qwen_sizes(vision, "hidden_size", "out_hidden_size", out)
        return cls(
            **sizes,
            mlp=int(vision["intermediate_size"]),
            window=int(vision["window_size"]) // sizes["merge"] // sizes["patch"],
            whole=frozenset(vision["fullatt_block_indexes"]),
            rate=float(vision["tokens_per_second"]),
        )

    @property
    def _norm(self) -> tuple[str, ...]:
        """This tower's is RMSNorm."""
        return ("weight",)

    def _mlp(self) -> dict[str, tuple[int, int]]:
        """SwiGLU."""
        inner = (self.mlp, self.width)
        return {"gate_proj": inner, "up_proj": inner, "down_proj": (self.width, self.mlp)}


def _given(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The tower's settings; those left out, or null, are the ``usual``."""
    vision: Mapping[str, Any] = config.get("vision_config") or {}
    return {**usual, **{key: value for key, value in vision.items() if value is not None}}


def _qwen_sizes(vision: Mapping[str, Any], width: str, given: str, out: int) -> dict[str, int]:
    """Sizes that both towers of Qwen have. ``width`` and ``given`` are the keys of their own width
    and of that of their embeddings, which must be ``out``, the language model's.

    Raises ModelError.
    """
    sizes = {
        "width": int(vision[width]),
        "heads": int(vision["num_heads"]),
        "depth": int(vision["depth"]),
        "out": out,
        "patch": int(vision["patch_size"]),
        "merge": int(vision["spatial_merge_size"]),
        "temporal": int(vision["temporal_patch_size"]),
    }
    _divides(sizes["heads"], sizes["width"], "num_heads", width)
    # Rotary positions turn pairs of numbers, half of the pairs by height, half by width.
    _divides(4, sizes["width"] // sizes["heads"], "four", "the width of a head")
    if vision[given] != out:
        raise ModelError(
            f"config.json: vision_config.{given} {vision[given]} is not the hidden_size {out} of "
            "the language model."
        )
    return sizes


def _divides(part: int, whole: int, part_name: str, whole_name: str) -> None:
    if whole % part:
        raise ModelError(
            f"config.json: {whole_name} {whole} of the vision tower is no multiple of {part_name} "
            f"{part}."
        )
