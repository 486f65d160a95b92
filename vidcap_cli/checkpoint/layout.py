"""Which weights a model has by its ``config.json``, and where in the folder each of them lies.

What loads a model and what checks a folder beforehand both read the layout, so neither takes what
the other refuses. Only headers are read: a folder of 37 shards takes a fraction of a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.lora import Scaling, Source, canonical, merged
from vidcap_cli.checkpoint.shares import WHOLE, Share, Tower, ways
from vidcap_cli.checkpoint.weights import Tensor, Weights
from vidcap_cli.errors import ModelError
from vidcap_cli.families import Family, family_for, part
from vidcap_cli.models.decoder_config import DecoderConfig

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
_LANGUAGE = "model.language_model."
_SAMPLE = 1 << 16  # numbers at either end by which a stored head is compared with the embeddings


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the parts of a model, and a source for every weight of them.

    ``sources`` has the names of ``vidcap_cli.checkpoint.lora``.
    """

    text: DecoderConfig
    tower: Tower
    tower_prefix: str
    sources: Mapping[str, Source]

    @classmethod
    def read(cls, folder: Path, family: str, alpha: float | None = None) -> "Layout":
        """The layout of ``folder``; ``alpha`` is the user's scale of LoRA, or None.

        Raises ModelError with a list when a weight is missing, left over or of the wrong shape.
        """
        try:
            stored = Weights(folder)
            stored.check_floats()
            settings = read_json(folder / "config.json")
            text = DecoderConfig.read(settings)
            row = family_for(family, settings)
            tower: Tower = part(row.tower_config).read(settings, text.hidden)
            _check_lora(folder, row, stored)
            tensors, text = _head(stored, text)
            expected = {row.tower_prefix + name: it for name, it in tower.shapes().items()}
            expected |= {_of_text(name): shape for name, shape in text.shapes().items()}
            sources = merged(tensors, expected, Scaling.read(folder, alpha))
            return cls(text, tower, row.tower_prefix, sources)
        except ModelError as error:
            if str(folder) in str(error):
                raise
            raise ModelError(f"{folder}: {error}") from error

    @classmethod
    def of_settings(cls, folder: Path, family: str) -> "Layout":
        """The sizes alone, by ``config.json``: no weight is there, or asked for.

        Raises ModelError for settings that are not computed.
        """
        settings = read_json(folder / "config.json")
        row = family_for(family, settings)
        try:
            text = DecoderConfig.read(settings)
            tower: Tower = part(row.tower_config).read(settings, text.hidden)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        return cls(text, tower, row.tower_prefix, {})

    def parameters(self, share: Share = WHOLE) -> int:
        """How many numbers all weights are, or those of a rank that has a ``share`` of them."""
        return share.parameters(self.text) + share.tower_parameters(self.tower)

    def divided(self, least: int = 1) -> dict[int, int]:
        """How many numbers a rank keeps at most, by how many share the model, ``least`` or more."""
        shares = (Share(ranks - 1, ranks) for ranks in ways(self.text) if ranks >= least)
        return {share.of: self.parameters(share) for share in shares}

    def text_weight(self, name: str, share: Share = WHOLE) -> NDArray[np.float32]:
        """A weight of the language model by its name in its ``shapes``, or a ``share`` of it."""
        rows, *columns = share.slices(self.text, name)
        weight = self.sources[_of_text(name)].read(rows)
        return weight[:, columns[0]] if columns else weight

    def tower_weight(self, name: str, share: Share = WHOLE) -> NDArray[np.float32]:
        """A weight of the vision tower by its name in the ``shapes`` of its sizes, or a ``share``
        of it.
        """
        whole = self.sources[self.tower_prefix + name].read()
        return share.of_tower(self.tower).tower_part(self.tower, name, whole)


def _of_text(name: str) -> str:
    return name if name == _HEAD else _LANGUAGE + name


def _check_lora(folder: Path, family: Family, stored: Mapping[str, Tensor]) -> None:
    """Raise ModelError for LoRA that would not become part of the weights."""
    adapted = sorted(name for name in stored if ".lora_" in name)
    merge = "merge it first, with PEFT (merge_and_unload), and give the folder of the result."
    if adapted and not family.lora:
        raise ModelError(f"the weights hold LoRA that is not merged ({adapted[0][:200]}): {merge}")
    beside = next(iter(sorted(folder.glob("adapter_model.*"))), None)
    if beside and not adapted:
        raise ModelError(f"{beside.name} holds an adapter of the weights beside it: {merge}")


def _head(
    stored: Mapping[str, Tensor], text: DecoderConfig
) -> tuple[dict[str, Tensor], DecoderConfig]:
    """The tensors without a head that is the embeddings once more, and whether they are tied.

    transformers 4 passes over a stored head where ``tie_word_embeddings`` says so, and asks the
    language model's settings alone; transformers 5 uses a head that differs, whatever they say.
    """
    names = {canonical(name): name for name in stored}
    if not text.tied or _HEAD not in names or _EMBEDDING not in names:
        return dict(stored), text
    head, embedding = stored[names[_HEAD]], stored[names[_EMBEDDING]]
    if head.shape == embedding.shape and np.array_equal(
        head.ends(_SAMPLE), embedding.ends(_SAMPLE)
    ):
        return {name: it for name, it in stored.items() if name != names[_HEAD]}, text
    if text.tied_by_itself:
        raise ModelError(
            "config.json says that lm_head.weight is the embeddings (tie_word_embeddings), but the "
            "file holds another: set tie_word_embeddings to false to use it, or remove it."
        )
    return dict(stored), replace(text, tied=False)
