"""What a ``config.json`` asks of the mathematics, checked before any weight is read.

The engines compute the Llama and Qwen2-VL language models, CLIP and the towers of Qwen2-VL and
Qwen2.5-VL, and nothing else. A key that would change what they compute is refused by name and
value, never passed over: the captions would be wrong without a word. Files of transformers 4 and 5
are both read; 5 keeps ``rope_theta`` and ``rope_scaling`` together in ``rope_parameters``.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

from vidcap_cli.errors import ModelError
from vidcap_cli.families import FAMILIES, Family, part, recognised

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
    "out_hidden_size": 1 << 17,
    "window_size": 1 << 14,
}
_TOKENS = ("image_token_index", "image_token_id", "video_token_id")
_IDS = _MOST["vocab_size"]
_LEAST = 1e-30  # of numbers above 0
_NUMBERS = ("rms_norm_eps", "rope_theta")
_NUMBERS_OF_TOWER = ("layer_norm_eps", "mlp_ratio", "tokens_per_second")
_YES_OR_NO = ("tie_word_embeddings", "multimodal_projector_bias")
# The patches that frames are cut into are these.
_FRAMES_OF_QWEN2_VL = {
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_chans": 3,
    "in_channels": 3,
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: the base, and M-RoPE's shares of half a head, or None."""

    theta: float | None
    sections: tuple[int, ...] | None


def check_settings(config: Mapping[str, Any]) -> None:
    """Raise ModelError for what the engines do not compute, or what no model can be.

    ``config`` is a ``config.json`` whose type is known to be one of vidcap's.
    """
    check_architecture(config)
    family = _family(config)
    text = _nested(config, "text_config") or config
    vision = _nested(config, "vision_config")
    check_quantisation(config)
    check_quantisation(text)
    _known("vision_config.model_type", vision.get("model_type"), family.tower_types)
    if text is not config:
        _known("text_config.model_type", text.get("model_type"), family.text_types)
    _of_text(text)
    _of_tower(vision, family)
    for key in _TOKENS:
        if (value := config.get(key)) is not None:
            whole(f"config.json: {key}", value, 0, _IDS)
    for key in _YES_OR_NO:
        for given in (config, text):
            _known(key, given.get(key), (True, False))
    part(family.check)(config, text, vision, rope_of(text))


def check_architecture(config: Mapping[str, Any]) -> None:
    """Raise ModelError for a model that goes by another's type: Tarsier and Tarsier2, by LLaVA's.

    Source: bytedance/tarsier, ``modeling_tarsier.py``, ``processor.py``.
    """
    listed = config.get("architectures")
    names = map(str, listed if isinstance(listed, list) else ())
    if tarsier := next((name for name in names if name.startswith("Tarsier")), None):
        raise ModelError(
            f"config.json: architecture {_shown(tarsier)} is none of vidcap's. Tarsier and "
            "Tarsier2 take frames as pictures of their own, not as a video; as LLaVA or Qwen2-VL "
            "they would caption wrongly."
        )


def _family(config: Mapping[str, Any]) -> Family:
    """The family of a ``config.json``; LLaVA for one that does not say."""
    return recognised(config) or FAMILIES["llava"]


def _of_text(text: Mapping[str, Any]) -> None:
    _known("hidden_act", text.get("hidden_act"), ("silu",))
    for key, values in _NEUTRAL.items():
        _known(key, text.get(key), values)
    layers = text.get("layer_types")
    if layers is not None:
        other = [name for name in _list("layer_types", layers) if name != "full_attention"]
        _known("layer_types", str(other[0]) if other else None, ("full_attention",))
    _sizes(text, _MOST, "")
    for key in _NUMBERS:
        if (value := text.get(key)) is not None:
            number(f"config.json: {key}", value, _LEAST)


def _of_tower(vision: Mapping[str, Any], family: Family) -> None:
    _known("vision_config.hidden_act", vision.get("hidden_act"), (family.activation,))
    _sizes(vision, _MOST_OF_TOWER, "vision_config.")
    for key in _NUMBERS_OF_TOWER:
        if (value := vision.get(key)) is not None:
            number(f"config.json: vision_config.{key}", value, _LEAST, 64)


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
            whole(f"config.json: {name}.mrope_section", part, 0, _MOST["head_dim"])
            for part in _list(f"{name}.mrope_section", sections)
        )
    return Rope(
        None if theta is None else number("config.json: rope_theta", theta, _LEAST),
        sections or None,
    )


def as_transformers_4(config: Mapping[str, Any], *, tied: bool | None = None) -> dict[str, Any]:
    """``config`` as transformers 4 reads it: ``rope_parameters`` in its words, and whether the
    embeddings are ``tied``, if that is known, where it looks for it; the rest as it is.
    """
    translated = dict(config)
    if isinstance(config.get("text_config"), Mapping):
        text = as_transformers_4(config["text_config"])
        if tied is not None:
            text["tie_word_embeddings"] = tied
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


def check_qwen2vl(
    _config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], rope: Rope
) -> None:
    """Raise ModelError for what Qwen2-VL does not compute: other patches or rotary positions."""
    for key, value in _FRAMES_OF_QWEN2_VL.items():
        _known(f"vision_config.{key}", vision.get(key), (value,))
    hidden, heads = text.get("hidden_size") or 8192, text.get("num_attention_heads") or 64
    _known("head_dim", text.get("head_dim"), (hidden // heads,))
    if rope.sections is None or len(rope.sections) != 3:
        raise ModelError("config.json has no rope_scaling.mrope_section of three numbers.")
    if sum(rope.sections) * 2 != hidden // heads:
        raise ModelError(
            f"config.json: mrope_section {list(rope.sections)} does not make up half a head "
            f"({hidden // heads} numbers)."
        )


def check_qwen25vl(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], rope: Rope
) -> None:
    """Raise ModelError for what Qwen2.5-VL does not compute: what Qwen2-VL does not either, or
    windows that are none.
    """
    check_qwen2vl(config, text, vision, rope)
    least = _FRAMES_OF_QWEN2_VL["patch_size"] * _FRAMES_OF_QWEN2_VL["spatial_merge_size"]
    if (side := vision.get("window_size")) is not None:
        whole("config.json: vision_config.window_size", side, least, _MOST_OF_TOWER["window_size"])
    layers = vision.get("fullatt_block_indexes")
    for layer in () if layers is None else _list("vision_config.fullatt_block_indexes", layers):
        whole("config.json: vision_config.fullatt_block_indexes", layer, 0, _MOST_OF_TOWER["depth"])


def check_llava(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], rope: Rope
) -> None:
    """Raise ModelError for what LLaVA and PLLaVA do not compute: other features or biases."""
    _known("attention_bias", text.get("attention_bias"), (False,))
    _known("rope_scaling.mrope_section", rope.sections, ())
    _known("vision_config.num_channels", vision.get("num_channels"), (3,))
    _known("projector_hidden_act", config.get("projector_hidden_act"), ("gelu",))
    _known(
        "vision_feature_select_strategy",
        config.get("vision_feature_select_strategy"),
        ("default", "full"),
    )
    layer = config.get("vision_feature_layer")
    depth = vision.get("num_hidden_layers") or (12 if vision else 24)
    if layer is not None:
        whole("config.json: vision_feature_layer", layer, -depth - 1, depth)


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
            f"config.json: {key} {_shown(value)} is not known to vidcap, which would caption "
            "wrongly without it."
        )


def _sizes(given: Mapping[str, Any], most: Mapping[str, int], prefix: str) -> None:
    for key, limit in most.items():
        if (value := given.get(key)) is not None:
            whole(f"config.json: {prefix}{key}", value, 1, limit)
    heads = given.get("num_attention_heads") or given.get("num_heads")
    keys = given.get("num_key_value_heads")
    if heads and keys and heads % keys:
        raise ModelError(
            f"config.json: {prefix}num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {keys}."
        )


def whole(key: str, value: object, low: int, high: int) -> int:
    """``value`` where it is a whole number from ``low`` to ``high``; ModelError names ``key``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelError(f"{key} {_shown(value)} is not a whole number from {low:,} to {high:,}.")
    return value


def number(key: str, value: object, low: float = -inf, high: float = inf) -> float:
    """``value`` where it is a finite number from ``low`` to ``high``; ModelError names ``key``."""
    if not isinstance(value, bool) and isinstance(value, int | float):
        with suppress(OverflowError):
            if low <= value <= high and isfinite(value):
                return float(value)
    limits = "" if high == inf else f" from {low:g} to {high:g}"
    limits = f" of {low:g} or more" if not limits and low != -inf else limits
    raise ModelError(f"{key} {_shown(value)} is not a finite number{limits}.")


def placeholder(config: Mapping[str, Any]) -> int:
    """The id of the token that stands where the features of a picture or a video go."""
    family = _family(config)
    for key in family.placeholders:
        if (given := config.get(key)) is not None:
            return whole(f"config.json: {key}", given, 0, _IDS)
    if family.usual_placeholder is None:
        raise ModelError(f"config.json has no {family.placeholders[0]}.")
    return family.usual_placeholder


def _shown(value: object) -> str:
    """``value`` as a sentence may hold it: short, and never a number too long to be written."""
    if isinstance(value, int) and abs(value) > 10**18:
        return "of more than 18 digits"
    return repr(str(value)[:40])
