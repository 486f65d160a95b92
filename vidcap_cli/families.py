"""The model families: one table, one row a family. Who asks which family it is asks here.

A row says what its command offers, how its checkpoints are told and checked, and where its parts
are: processor, vision tower, reference. Parts are written ``module:name`` within the package and
imported when they are asked for, so the table itself costs nothing. A command may have several
rows: its options are those of the first, and the ``config.json`` of a checkpoint says which holds.

A new family is its processor, its tower with its sizes, what it alone checks of a ``config.json``,
and a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from vidcap_cli.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Family:
    """One row of the table.

    The command: its name; ``summary`` and ``example`` for its help; ``options``, the fields of
    CaptionConfig that not every family has; ``defaults`` that differ from CaptionConfig's;
    ``model_flags``, more spellings of ``--model``; ``hub_name``, one of its checkpoints, and
    ``small_hub_name``, one for machines without a device; ``nano``, what ``--model`` calls the
    bundled one, and its folder.

    Its ``config.json``: ``model_type``, or one of ``also_called`` when a key of ``marks`` is there
    or an architecture that begins with ``architecture``; the types of language model and tower
    that are computed, and the tower's ``activation``; ``check(config, text, vision, rope)`` refuses
    other mathematics; ``placeholders``, keys of the token where the features go, and its usual id.

    Its weights: ``renames``, prefixes in older files and in transformers 4.57; ``tower_prefix``
    there; ``tower_keys``, prefixes of the tower in any file; ``lora``, whether it may be unmerged.

    Its parts: ``processor(config)``; ``frame_rule()``, that of its defaults;
    ``tower_config.read(config, width)``; ``tower(config, layout, kernels, dtype)``;
    ``reference_class`` of transformers and ``reference(folder, config, dtype)``, which loads it.
    """

    command: str
    summary: str
    example: str
    options: tuple[str, ...]
    defaults: Mapping[str, Any]
    model_type: str
    text_types: tuple[str, ...]
    tower_types: tuple[str, ...]
    check: str
    placeholders: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    tower_prefix: str
    tower_keys: tuple[str, ...]
    processor: str
    frame_rule: str
    tower_config: str
    tower: str
    reference_class: str
    hub_name: str
    small_hub_name: str
    nano: tuple[str, str]
    reference: str = "engine.reference:load_published"
    activation: str = "quick_gelu"
    model_flags: tuple[str, ...] = ()
    also_called: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    architecture: str = ""
    usual_placeholder: int | None = None
    lora: bool = False


_LLAVA = Family(
    command="llava",
    summary="Caption videos with LLaVA, which looks at the middle frame.",
    example="vidcap llava meta.csv",
    options=("num_frames",),
    defaults={
        "model": "./pretrained_models/llava-llama-3-8b-v1_1-transformers",
        "num_frames": 1,
    },
    model_flags=("--llava-model-path",),
    model_type="llava",
    text_types=("llama",),
    tower_types=("clip_vision_model",),
    check="checkpoint.settings:check_llava",
    placeholders=("image_token_index", "image_token_id"),
    renames=(
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ),
    tower_prefix="model.",
    tower_keys=("vision_tower.", "model.vision_tower."),
    processor="processors.llava:Llava",
    frame_rule="processors.llava:usual_rule",
    tower_config="models.vision_config:ClipConfig",
    tower="models.model:clip_tower",
    reference_class="LlavaForConditionalGeneration",
    hub_name="xtuner/llava-llama-3-8b-v1_1-transformers",
    small_hub_name="xtuner/llava-llama-3-8b-v1_1-transformers",
    nano=("nano", "llava"),
)
_PLLAVA = replace(
    _LLAVA,
    command="pllava",
    summary="Caption videos with PLLaVA, which looks at a few frames.",
    example="vidcap pllava meta.csv --num-frames 8",
    options=("num_frames", "pooling_shape", "lora_alpha"),
    defaults={"model": "./pretrained_models/pllava"},
    model_flags=(),
    model_type="pllava",
    also_called=("llava",),
    marks=("pooling_shape", "pooling_method", "use_pooling", "frame_shape"),
    architecture="Pllava",
    lora=True,
    hub_name="ermu2001/pllava-7b",
    small_hub_name="ermu2001/pllava-7b",
    nano=("nano", "pllava"),
    processor="processors.pllava:Pllava",
    frame_rule="processors.pllava:usual_rule",
    tower="models.model:pooled_clip_tower",
    reference="engine.reference_pllava:load_pllava",
)
_QWEN2VL = Family(
    command="qwen2vl",
    summary="Caption videos with Qwen2-VL or Qwen2.5-VL, the recommended models.",
    example="vidcap qwen2vl meta.csv --fps 4",
    options=("fps", "height", "width", "resize"),
    defaults={"model": "./pretrained_models/Qwen2-VL-7B-Instruct"},
    model_type="qwen2_vl",
    text_types=("qwen2_vl_text", "qwen2_vl"),
    tower_types=("qwen2_vl", "qwen2_vl_vision"),
    check="checkpoint.settings:check_qwen2vl",
    placeholders=("video_token_id",),
    usual_placeholder=151656,
    renames=(("visual.", "model.visual."),),
    tower_prefix="model.visual.",
    tower_keys=("visual.", "model.visual."),
    processor="processors.qwen2vl:Qwen2VL",
    frame_rule="processors.qwen2vl:FrameRule",
    tower_config="models.vision_config:Qwen2VLVisionConfig",
    tower="models.model:qwen2vl_tower",
    reference_class="Qwen2VLForConditionalGeneration",
    hub_name="Qwen/Qwen2-VL-7B-Instruct",
    small_hub_name="Qwen/Qwen2-VL-2B-Instruct",
    nano=("nano", "qwen2vl"),
)
_QWEN25VL = replace(
    _QWEN2VL,
    model_type="qwen2_5_vl",
    text_types=("qwen2_5_vl_text", "qwen2_5_vl"),
    tower_types=("qwen2_5_vl", "qwen2_5_vl_vision"),
    activation="silu",
    check="checkpoint.settings:check_qwen25vl",
    processor="processors.qwen2vl:Qwen25VL",
    tower_config="models.vision_config:Qwen25VLVisionConfig",
    tower="models.model:qwen25vl_tower",
    reference_class="Qwen2_5_VLForConditionalGeneration",
    hub_name="Qwen/Qwen2.5-VL-7B-Instruct",
    small_hub_name="Qwen/Qwen2.5-VL-3B-Instruct",
    nano=("nano2.5", "qwen25vl"),
)
FAMILIES: Mapping[str, Family] = {row.command: row for row in (_LLAVA, _PLLAVA, _QWEN2VL)}
CHECKPOINTS = (*FAMILIES.values(), _QWEN25VL)
RECOMMENDED = _QWEN2VL


def family_of(command: str) -> Family:
    """The family of a command; raises ModelError for a name that is none."""
    if command not in FAMILIES:
        raise ModelError(f"there is no captioner of the name {command}")
    return FAMILIES[command]


def recognised(config: Mapping[str, Any]) -> Family | None:
    """The family of a checkpoint, by its ``config.json``; None for none of them."""
    kind = str(config.get("model_type", ""))
    marked = (row for row in CHECKPOINTS if kind in row.also_called and _marked(row, config))
    plain = (row for row in CHECKPOINTS if kind == row.model_type)
    return next(iter((*marked, *plain)), None)


def family_for(command: str, config: Mapping[str, Any]) -> Family:
    """The family of a checkpoint with this ``config.json`` among those of a command, its first
    if it is of none; raises ModelError for a command that is none.
    """
    first, found = family_of(command), recognised(config)
    return found if found and found.command == command else first


def _marked(family: Family, config: Mapping[str, Any]) -> bool:
    listed = config.get("architectures")
    architectures = listed if isinstance(listed, list) else ()
    named = any(str(name).startswith(family.architecture) for name in architectures)
    return named or any(name in config for name in family.marks)


def bundled_models(command: str) -> dict[str, str]:
    """The folders of the bundled checkpoints of a command, by what ``--model`` calls them."""
    return dict(row.nano for row in CHECKPOINTS if row.command == command)


def part(name: str) -> Any:
    """The part of a family that ``module:name`` names, imported now."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(f"vidcap_cli.{module}"), attribute)
