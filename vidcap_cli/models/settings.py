"""What a ``config.json`` asks of the mathematics, checked before any weight is read.

The engines compute the Llama and Qwen2-VL language models, CLIP and Qwen2-VL's tower, and nothing
else. A key that would change what they compute is refused by name and value, never passed over:
the captions would be wrong without a word. Files of transformers 4 and 5 are both read; 5 keeps
``rope_theta`` and ``rope_scaling`` together in ``rope_parameters``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidcap_cli.errors import ModelError

_TEXTS = {"llava": ("llama",), "pllava": ("llama",), "qwen2_vl": ("qwen2_vl_text", "qwen2_vl")}
_TOWERS = {
    "llava": ("clip_vision_model",),
    "pllava": ("clip_vision_model",),
    "qwen2_vl": ("qwen2_vl", "qwen2_vl_vision"),
}
# Keys of language models like these, and the values that leave the mathematics as they are.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "final_logit_softcapping": (),
    "attn_logit_softcapping": (),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "attention_multiplier": (),
    "query_pre_attn_scalar": (),
    "use_qk_norm": (False,),
    "num_local_experts": (0, 1),
    "num_experts": (0, 1),
}
# The largest number of each that a model could have: beyond it a file is damaged.
_MOST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 13,
    "vocab_size": 10_000_000,
}
_MOST_OF_TOWER = {
    "num_hidden_layers": 1_000,
    "depth": 1_000,
    "hidden_size": 1 << 17,
    "embed_dim": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 12,
    "num_heads": 1 << 12,
    "image_size": 1 << 14,
    "patch_size": 1 << 10,
    "spatial_merge_size": 64,
    "temporal_patch_size": 64,
}
_TOKENS = ("image_token_index", "image_token_id", "video_token_id")
_NUMBERS = ("rms_norm_eps", "rope_theta")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: the base, and M-RoPE's shares of half a head, or None."""

    theta: float | None
    sections: tuple[int, ...] | None


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise ModelError for what the engines do not compute, or what no model can be.

    ``config`` is a ``config.json`` whose type is known to be one of vidcap's.
    """
    kind = "qwen2_vl" if config.get("model_type") == "qwen2_vl" else "llava"
    text = _nested(config, "text_config") or config
    vision = _nested(config, "vision_config")
    check_quantisation(config)
    check_quantisation(text)
    _known("vision_config.model_type", vision.get("model_type"), _TOWERS[kind])
    if text is not config:
        _known("text_config.model_type", text.get("model_type"), _TEXTS[kind])
    _known("hidden_act", text.get("hidden_act"), ("silu",))
    _known("vision_config.hidden_act", vision.get("hidden_act"), ("quick_gelu",))
    for key, values in _NEUTRAL.items():
        _known(key, text.get(key), values)
    layers = text.get("layer_types")
    if layers is not None:
        other = [name for name in _list("layer_types", layers) if name != "full_attention"]
        _known("layer_types", other[0] if other else None, ("full_attention",))
    _sizes(text, _MOST, "")
    _sizes(vision, _MOST_OF_TOWER, "vision_config.")
    for key in _TOKENS:
        if (value := config.get(key)) is not None:
            _whole(key, value, 0, _MOST["vocab_size"])
    for key in _NUMBERS:
        if (value := text.get(key)) is not None:
            _positive(key, value)
    rope = rope_of(text)
    if kind == "qwen2_vl":
        _qwen2vl(text, rope)
    else:
        _known("attention_bias", text.get("attention_bias"), (False,))
        _llava(config, vision, rope)


def check_quantisation(config: Mapping[str, Any]) -> None:
    """Raise ModelError when a ``config.json`` says that its weights are quantised."""
    given = config.get("quantization_config")
    if given:
        method = given.get("quant_method") if isinstance(given, Mapping) else given
        raise ModelError(
            f"the weights are quantised (quantization_config: {str(method)[:40]}), which vidcap "
            "does not compute. Give the folder of the model that was quantised, in 16 or 32 bits."
        )


def rope_of(text: Mapping[str, Any]) -> Rope:
    """The rotary positions of a language model's settings; ModelError for those not known."""
    theta, scaling = text.get("rope_theta"), text.get("rope_scaling")
    name = "rope_scaling"
    if (parameters := text.get("rope_parameters")) is not None:
        name, scaling = "rope_parameters", parameters
        theta = _nested(text, name).get("rope_theta", theta)
    given = _nested(text, name) if scaling is not None else {}
    for key in ("rope_type", "type"):
        _known(f"{name}.{key}", given.get(key), ("default", "mrope"))
    for key in ("factor", "partial_rotary_factor"):
        _known(f"{name}.{key}", given.get(key), (1,))
    sections = given.get("mrope_section")
    if sections is not None:
        sections = tuple(
            _whole(f"{name}.mrope_section", part, 0, _MOST["head_dim"])
            for part in _list(f"{name}.mrope_section", sections)
        )
    return Rope(None if theta is None else _positive("rope_theta", theta), sections or None)


def as_transformers_4(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with ``rope_parameters`` as transformers 4 reads them; others as they are."""
    translated = dict(config)
    if isinstance(config.get("text_config"), Mapping):
        text = as_transformers_4(config["text_config"])
        if "rope_parameters" in config["text_config"] and "tie_word_embeddings" in config:
            # transformers 4 asks the language model's settings alone.
            text.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
        translated["text_config"] = text
    parameters = translated.pop("rope_parameters", None)
    if parameters is None:
        return translated
    rope = rope_of(config)
    if rope.theta is not None:
        translated["rope_theta"] = rope.theta
    if rope.sections:
        translated["rope_scaling"] = {"type": "mrope", "mrope_section": list(rope.sections)}
    return translated


def _qwen2vl(text: Mapping[str, Any], rope: Rope) -> None:
    hidden, heads = text.get("hidden_size") or 8192, text.get("num_attention_heads") or 64
    _known("head_dim", text.get("head_dim"), (hidden // heads,))
    if rope.sections is None or len(rope.sections) != 3:
        raise ModelError("config.json has no rope_scaling.mrope_section of three numbers.")
    if sum(rope.sections) * 2 != hidden // heads:
        raise ModelError(
            f"config.json: mrope_section {list(rope.sections)} does not make up half a head "
            f"({hidden // heads} numbers)."
        )


def _llava(config: Mapping[str, Any], vision: Mapping[str, Any], rope: Rope) -> None:
    _known("rope_scaling.mrope_section", rope.sections, ())
    _known("projector_hidden_act", config.get("projector_hidden_act"), ("gelu",))
    _known(
        "vision_feature_select_strategy",
        config.get("vision_feature_select_strategy"),
        ("default", "full"),
    )
    layer = config.get("vision_feature_layer")
    depth = vision.get("num_hidden_layers") or (12 if vision else 24)
    if layer is not None:
        _whole("vision_feature_layer", layer, -depth - 1, depth)


def _nested(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ModelError(f"config.json: {key} is not a JSON object.")
    return value


def _list(key: str, value: object) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ModelError(f"config.json: {key} is not a list.")
    return list(value)


def _known(key: str, value: object, values: tuple[Any, ...]) -> None:
    """Refuse ``value`` unless it is left out or one of ``values``."""
    if value is not None and value not in values:
        raise ModelError(
            f"config.json: {key} {str(value)[:60]!r} is not known to vidcap, which would caption "
            "wrongly without it."
        )


def _sizes(given: Mapping[str, Any], most: Mapping[str, int], prefix: str) -> None:
    for key, limit in most.items():
        if (value := given.get(key)) is not None:
            _whole(prefix + key, value, 1, limit)
    heads = given.get("num_attention_heads") or given.get("num_heads")
    keys = given.get("num_key_value_heads")
    if heads and keys and heads % keys:
        raise ModelError(
            f"config.json: {prefix}num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {keys}."
        )


def _whole(key: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelError(
            f"config.json: {key} {str(value)[:40]!r} is not a whole number from {low:,} to "
            f"{high:,}."
        )
    return value


def _positive(key: str, value: object) -> float:
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong or not 0 < float(str(value)) < float("inf"):
        raise ModelError(f"config.json: {key} {str(value)[:40]!r} is not a positive number.")
    return float(str(value))
