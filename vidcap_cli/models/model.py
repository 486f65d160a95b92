"""The model of a checkpoint folder: its vision tower and its decoder, from prompt to prefilled.

Here the families differ: in the tower, and in the positions that the tokens of a video take.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import placeholder
from vidcap_cli.checkpoint.shares import WHOLE, Share
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.families import family_for, part
from vidcap_cli.models.clip import ClipVision
from vidcap_cli.models.decoder import Decoder, NextToken, Prefilled
from vidcap_cli.models.device import current_device
from vidcap_cli.models.kernels import Kernels, kernels_for
from vidcap_cli.models.qwen2vl_vision import Qwen2VLVision
from vidcap_cli.models.qwen25vl_vision import Qwen25VLVision
from vidcap_cli.models.rope import mrope_positions
from vidcap_cli.models.vision_config import (
    ClipConfig,
    Qwen2VLVisionConfig,
    Qwen25VLVisionConfig,
)
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.processors.pllava import pooled_shape

Vision = Qwen2VLVision | ClipVision
# From where a prompt's placeholders are to the positions of its tokens, ``[n]`` or ``[3, n]``.
Positions = Callable[[NDArray[np.bool_], Prompt], NDArray[np.int64]]
# Tokens that two prompts have in common from which the second takes them from the first: all of a
# shorter one go through some layers in one graph, which is as fast (nano, CPU).
WORTH_KEEPING = 512


@dataclass(slots=True)
class _Last:
    """The prompt that was run last, kept while others may be about the same ``video``: its tower's
    ``features`` and the places of these, its ``ids`` and what it was ``prefilled`` to.
    """

    video: int | None = None
    features: Any = None
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    prefilled: Prefilled | None = None

    def is_about(self, prompt: Prompt) -> bool:
        """Whether ``prompt`` has the same frames; if not, all of it is forgotten."""
        if prompt.video is not None and prompt.video == self.video:
            return True
        self.video = self.features = self.prefilled = None
        return False

    def keep(self, prompt: Prompt, features: Any, prefilled: Prefilled) -> None:
        """Remember what ``prompt`` came to, if others may have its frames."""
        if prompt.video is not None:
            self.video, self.features = prompt.video, features
            self.ids, self.prefilled = prompt.ids, prefilled

    def common(self, ids: NDArray[np.int64]) -> int:
        """How many tokens both begin with; a prompt has one more at least."""
        if self.prefilled is None:
            return 0
        least = min(len(ids), len(self.ids)) - 1
        differ = np.flatnonzero(ids[:least] != self.ids[:least])
        return int(differ[0]) if len(differ) else least


@dataclass(frozen=True, slots=True)
class Model:
    """A vision tower, a decoder, the token that stands where the tower's embeddings go, and the
    positions of tokens.
    """

    vision: Vision
    decoder: Decoder
    placeholder: int
    positions: Positions
    last: _Last = field(default_factory=_Last)

    def prefill(self, prompt: Prompt) -> Prefilled:
        """Run the tower and the prompt, or what is new of them after the last one.

        Raises ModelError when the two do not fit together.
        """
        here = prompt.ids == self.placeholder
        known = self.last.is_about(prompt)
        features, used = self.last.features if known else self.vision(prompt.vision)
        if len(used) != here.sum():
            raise ModelError(f"{here.sum()} places in the prompt for {len(used)} features")
        last = prompt.ids[~here].max()
        if last >= self.decoder.config.vocab:  # a kernel would take any number for its embedding
            raise ModelError(
                f"the tokenizer gives token {last}, but the model ends at "
                f"{self.decoder.config.vocab - 1}: download both again, from one place."
            )
        embeds = ops.concat((*features, self.decoder.embed(prompt.ids[~here])), 0)
        index = np.empty(len(here), np.int64)
        index[here] = used
        index[~here] = np.arange(embeds.shape[0] - (~here).sum(), embeds.shape[0])
        positions = self.positions(here, prompt)
        common = self.last.common(prompt.ids)
        if self.last.prefilled and common >= WORTH_KEEPING:
            rest = embeds, index[common:], positions[..., common:]
            prefilled = self.decoder.extend(self.last.prefilled, common, *rest)
        else:
            prefilled = self.decoder.prefill(embeds, index, positions)
        self.last.keep(prompt, (features, used), prefilled)
        return prefilled

    def begin(self, slot: int, prompt: Prompt, new_tokens: int) -> NextToken:
        """Put a prompt into a slot that is free, with room for ``new_tokens``; what follows it."""
        prefilled = self.prefill(prompt)
        self.decoder.insert(slot, prefilled, new_tokens)
        return prefilled.next_token

    def step(self, ids: NDArray[np.int64]) -> NextToken:
        """Append a token to every slot; what follows."""
        return self.decoder.step(ids)

    def free(self, slot: int) -> None:
        """Forget the sequence in a slot."""
        self.decoder.free(slot)

    def keep_to(self, room: int) -> None:
        """Prefill with no more at a time than there is ``room`` for, in bytes."""
        self.decoder.score_bytes = min(self.decoder.score_bytes, room // 4)

    def shapes(self, prompt: Prompt) -> set[object]:
        """What graphs a prompt runs through."""
        return self.vision.shapes(prompt.vision) | self.decoder.shapes(len(prompt.ids))

    def need(self, size: Size, new_tokens: int) -> int:
        """Bytes that a prompt and ``new_tokens`` more take at most."""
        return self.vision.need(size) + self.decoder.need(size.tokens, new_tokens)


def load_model(config: CaptionConfig, layout: Layout, dtype: Any, share: Share = WHOLE) -> Model:
    """The model in ``config.model``, or a ``share`` of it, its weights in ``dtype``, tensor by
    tensor.
    """
    kernels = kernels_for(current_device(), shared=share.of > 1)
    read = partial(layout.text_weight, share=share)
    decoder = Decoder(layout.text, read, kernels, slots=config.slots, dtype=dtype, share=share)
    decoder.kept = 1 if len(config.questions) == 1 else 2
    given = read_json(Path(config.model) / "config.json")
    tower = part(family_for(config.family, given).tower)
    vision, positions = tower(config, layout, kernels, dtype, share.of_tower(layout.tower))
    return Model(vision, decoder, placeholder(given), positions)


def clip_tower(
    _config: CaptionConfig, layout: Layout, kernels: Kernels, dtype: Any, share: Share
) -> tuple[Vision, Positions]:
    """The tower of LLaVA, and positions that count."""
    assert isinstance(layout.tower, ClipConfig)
    read = partial(layout.tower_weight, share=share)
    return ClipVision(layout.tower, read, kernels, dtype, None, share=share), counted


def pooled_clip_tower(
    config: CaptionConfig, layout: Layout, kernels: Kernels, dtype: Any, share: Share
) -> tuple[Vision, Positions]:
    """The tower of PLLaVA, which pools the features of frames, and positions that count."""
    assert isinstance(layout.tower, ClipConfig)
    pooled = pooled_shape(config)
    read = partial(layout.tower_weight, share=share)
    return ClipVision(layout.tower, read, kernels, dtype, pooled, share=share), counted


def qwen2vl_tower(
    _config: CaptionConfig, layout: Layout, kernels: Kernels, dtype: Any, share: Share
) -> tuple[Vision, Positions]:
    """The tower of Qwen2-VL, and positions in time, height and width."""
    config = layout.tower
    assert isinstance(config, Qwen2VLVisionConfig)

    def positions(here: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.int64]:
        return mrope_positions(here, prompt.vision["video_grid_thw"][0], config.merge)

    read = partial(layout.tower_weight, share=share)
    return Qwen2VLVision(config, read, kernels, dtype, share=share), positions


def qwen25vl_tower(
    _config: CaptionConfig, layout: Layout, kernels: Kernels, dtype: Any, share: Share
) -> tuple[Vision, Positions]:
    """The tower of Qwen2.5-VL, and positions in time by the clock, in height and width."""
    config = layout.tower
    assert isinstance(config, Qwen25VLVisionConfig)

    def positions(here: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.int64]:
        grid, seconds = prompt.vision["video_grid_thw"][0], prompt.vision["second_per_grid_ts"]
        return mrope_positions(here, grid, config.merge, config.rate * float(seconds[0]))

    read = partial(layout.tower_weight, share=share)
    return Qwen25VLVision(config, read, kernels, dtype, share=share), positions


def counted(here: NDArray[np.bool_], _: Prompt) -> NDArray[np.int64]:
    """Positions that count."""
    return np.arange(len(here), dtype=np.int64)
