"""Checkpoints of all families under one set of names, LoRA merged into the weights it adapts.

PLLaVA's checkpoints hold the language model as PEFT wraps it: ``base_layer`` weights with low-rank
``lora_A`` and ``lora_B`` beside them. What was meant is ``W + (alpha / r) * B @ A`` (Hu et al.
2021, as PEFT merges it); a loader that drops the pairs captions with the base model instead. So
every tensor in the files has to be used, and what does not fit stops with a list.

Names that come out are those of transformers 4.57: ``model.language_model.*``, ``lm_head.weight``,
``model.vision_tower.*``, ``model.multi_modal_projector.*``, ``model.visual.*``, from its older
layouts as well.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.settings import number, whole
from vidcap_cli.checkpoint.weights import FLOATS, Tensor
from vidcap_cli.errors import ModelError
from vidcap_cli.families import FAMILIES

ALPHA = 4.0  # what the authors run PLLaVA with; its checkpoints do not say

# Computed from the configuration, though older files store them.
_BUFFER = re.compile(r"(^|\.)(rotary(_pos)?_emb\.inv_freq|position_ids)$")
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
_LAYER = re.compile(r"\.layers\.(\d+)\.")
_RENAMED = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    *(rename for family in FAMILIES.values() for rename in family.renames),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
)
_MOST_NAMED = 8
_LARGEST_RANK = 1 << 16
# What alters the update that a pair stands for.
_NOT_KNOWN = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


@dataclass(frozen=True, slots=True)
class Source:
    """Where one weight of the model comes from: a tensor, and perhaps a scaled low-rank update."""

    base: Tensor
    down: Tensor | None = None
    up: Tensor | None = None
    scale: float = 0.0

    def kinds(self) -> set[str]:
        """The types of numbers that it is stored in: BF16, F16, ..."""
        return {part.number for part in (self.base, self.down, self.up) if part is not None}

    def read(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The weight, merged, as float32, or some ``rows`` of it."""
        weight = self.base.read(rows)
        if self.down is not None and self.up is not None:
            weight = weight + np.float32(self.scale) * (self.up.read(rows) @ self.down.read())
        return weight


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a checkpoint says of its LoRA: ``alpha``, and the rank ``r`` when it says that, too."""

    alpha: float = ALPHA
    r: int | None = None

    @classmethod
    def read(cls, folder: Path, alpha: float | None) -> "Scaling":
        """From ``adapter_config.json`` or ``config.json``; ``alpha`` is the user's, or None."""
        file = folder / "adapter_config.json"
        config = read_json(folder / "config.json")
        given: dict[str, Any] = {"r": config.get("lora_r"), "lora_alpha": config.get("lora_alpha")}
        if file.is_file():
            given |= read_json(file)
        unknown = [name for name in _NOT_KNOWN if given.get(name)]
        if unknown:
            raise ModelError(f"{file} asks for {unknown[0]}, which vidcap does not know.")
        stated, rank = given.get("lora_alpha"), given.get("r")
        chosen = ALPHA if stated is None else number("lora_alpha", stated, 0)
        return cls(
            chosen if alpha is None else alpha,
            None if rank is None else whole("the rank r of LoRA", rank, 1, _LARGEST_RANK),
        )


def merged(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], scaling: Scaling
) -> dict[str, Source]:
    """A source for every weight of ``expected`` (names to shapes), none left over.

    Raises ModelError with a list of all that is missing, left over or of the wrong shape.
    """
    wrong: list[str] = []
    bases: dict[str, Tensor] = {}
    adapted: set[str] = set()
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if _BUFFER.search(name):
            continue
        pair = _LORA.fullmatch(name)
        known = canonical(pair["module"] if pair else name)
        place = pairs[known] if pair else bases
        key = pair["half"] if pair else known
        if key in place:
            wrong.append(f"{name}: there twice")
        place[key] = tensor
        if ".base_layer." in name:
            adapted.add(known.rpartition(".")[0])
    wrong += _incomplete(bases, pairs, adapted)
    sources = {name: Source(base) for name, base in bases.items()}
    for module, halves in pairs.items():
        base = bases.get(f"{module}.weight")
        if base is None or len(halves) != 2:
            continue
        down, up = halves["A"], halves["B"]
        rank = down.shape[0] if down.shape else 0
        fits = (up.shape, down.shape) == ((*base.shape[:1], rank), (rank, *base.shape[1:]))
        if not rank or not fits or rank != (scaling.r or rank):
            asked = f", r={scaling.r}" if scaling.r else ""
            wrong.append(
                f"{module}: lora_B {up.shape} @ lora_A {down.shape}{asked} for {base.shape}"
            )
            continue
        sources[f"{module}.weight"] = Source(base, down, up, scaling.alpha / rank)
    wrong += [f"{name}: missing" for name in expected if name not in sources]
    wrong += [
        f"{name}: {kind}, not floats"
        for name, source in sources.items()
        for kind in source.kinds()
        if kind not in FLOATS
    ]
    wrong += [f"{name}: not part of the model" for name in sources if name not in expected]
    wrong += [
        f"{name}: {source.base.shape} instead of {expected[name]}"
        for name, source in sources.items()
        if name in expected and source.base.shape != expected[name]
    ]
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        shown = "; ".join(sorted(wrong)[:_MOST_NAMED])
        raise ModelError(
            f"the weights do not fit config.json: {shown}{more}. Download both again, "
            "from one place."
        )
    return sources


def canonical(name: str) -> str:
    """The name of a weight in transformers 4.57, from any of the layouts."""
    name = name.replace("base_model.model.", "", 1).replace(".base_layer.", ".")
    for old, new in _RENAMED:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _incomplete(
    bases: Mapping[str, Tensor], pairs: Mapping[str, Mapping[str, Tensor]], adapted: set[str]
) -> list[str]:
    """What is missing of LoRA pairs, judged by each other: PEFT adapts a kind in every layer."""
    wrong = [f"{module}.weight: missing, but it has LoRA" for module in pairs
             if f"{module}.weight" not in bases]  # fmt: skip
    for module in sorted(adapted | pairs.keys()):
        wrong += [
            f"{module}.lora_{half}: missing" for half in "AB" if half not in pairs.get(module, ())
        ]
    kinds = {_LAYER.sub(".layers.*.", module) for module in pairs}
    plain = {name.removesuffix(".weight") for name in bases} - adapted - pairs.keys()
    wrong += [
        f"{module}: has no LoRA, other layers do"
        for module in sorted(plain)
        if _LAYER.search(module) and _LAYER.sub(".layers.*.", module) in kinds
    ]
    return wrong
