"""The model of a checkpoint folder: its vision tower and its decoder, from prompt to prefilled.

Here the families differ: in the tower, in the names of its weights, and in the positions that the
tokens of a video take.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine.checkpoint import Tensor as Stored
from vidcap_cli.engine.checkpoint import Weights
from vidcap_cli.engine.clip import ClipConfig, ClipVision
from vidcap_cli.engine.decoder import Decoder, Prefilled
from vidcap_cli.engine.decoder_config import DecoderConfig
from vidcap_cli.engine.lora import Scaling, Source, merged
from vidcap_cli.engine.qwen2vl_vision import Qwen2VLVision, Qwen2VLVisionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.models import Prompt, Size
from vidcap_cli.models.checkpoint import read_json
from vidcap_cli.models.pllava import pooled_shape

Vision = Qwen2VLVision | ClipVision

_HEAD = "lm_head.weight"
_LANGUAGE = "model.language_model."


@dataclass(frozen=True, slots=True)
class Model:
    """A vision tower, a decoder, and the token that stands where the tower's embeddings go.

    ``merge`` is how many patches a side become one token of Qwen2-VL, whose positions count time,
    height and width apart; 0 for models whose tokens are simply counted.
    """

    vision: Vision
    decoder: Decoder
    placeholder: int
    merge: int = 0

    def prefill(self, prompt: Prompt) -> Prefilled:
        """Run the tower and the prompt. Raises ModelError when the two do not fit together."""
        here = prompt.ids == self.placeholder
        features, used = self.vision(prompt.vision)
        if len(used) != here.sum():
            raise ModelError(f"{here.sum()} places in the prompt for {len(used)} features")
        rows = ops.concat((*features, self.decoder.embed(prompt.ids[~here])), 0)
        where = np.empty(len(here), np.int64)
        where[here] = used
        where[~here] = np.arange(rows.shape[0] - (~here).sum(), rows.shape[0])
        return self.decoder.prefill(rows, where, self._positions(here, prompt))

    def shapes(self, prompt: Prompt) -> set[object]:
        """What graphs a prompt runs through."""
        return self.vision.shapes(prompt.vision) | self.decoder.shapes(len(prompt.ids))

    def need(self, size: Size, new_tokens: int) -> int:
        """Bytes that a prompt and ``new_tokens`` more take at most."""
        return self.vision.need(size) + self.decoder.need(size.tokens, new_tokens)

    def _positions(self, here: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.int64]:
        if not self.merge:
            return np.arange(len(here), dtype=np.int64)
        return mrope_positions(here, prompt.vision["video_grid_thw"][0], self.merge)


def load_model(config: CaptionConfig, number: Any) -> Model:
    """The model in ``config.model``, its weights in type ``number``, tensor by tensor.

    Raises ModelError with a list when a weight is missing, left over or of the wrong shape.
    """
    folder = Path(config.model)
    settings = read_json(folder / "config.json")
    text = DecoderConfig.read(settings)
    if config.family == "qwen2vl":
        tower: Qwen2VLVisionConfig | ClipConfig = Qwen2VLVisionConfig.read(settings)
        names = "model.visual."
    else:
        tower, names = ClipConfig.read(settings, text.hidden), "model."
    expected = {names + name: shape for name, shape in tower.shapes().items()}
    expected |= {_of_text(name): shape for name, shape in text.shapes().items()}
    sources = _sources(folder, config, expected, tied=text.tied)
    decoder = Decoder(
        text, lambda name: sources[_of_text(name)].read(), slots=config.slots, number=number
    )

    def read(name: str) -> NDArray[np.float32]:
        return sources[names + name].read()

    if isinstance(tower, Qwen2VLVisionConfig):
        token = int(settings["video_token_id"])
        return Model(Qwen2VLVision(tower, read, number), decoder, token, tower.merge)
    pooled = pooled_shape(config) if config.family == "pllava" else None
    token = int(settings.get("image_token_index") or settings["image_token_id"])
    return Model(ClipVision(tower, read, number, pooled), decoder, token)


def _of_text(name: str) -> str:
    return name if name == _HEAD else _LANGUAGE + name


def _sources(
    folder: Path, config: CaptionConfig, expected: Mapping[str, tuple[int, ...]], *, tied: bool
) -> dict[str, Source]:
    stored: dict[str, Stored] = dict(Weights(folder))
    if config.family != "pllava":
        adapted = sorted(name for name in stored if ".lora_" in name)
        if adapted:
            raise ModelError(
                f"{folder} holds LoRA that is not merged ({adapted[0]}, ...): merge it first."
            )
    if tied:  # some files store the head all the same
        stored = {name: tensor for name, tensor in stored.items() if not name.endswith(_HEAD)}
    try:
        return merged(stored, expected, Scaling.read(folder, config.lora_alpha))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def mrope_positions(
    here: NDArray[np.bool_], grid: NDArray[np.int64], merge: int
) -> NDArray[np.int64]:
    """Positions ``[3, n]`` in time, height and width of a prompt with one video at ``here``.

    The tokens of the video count from where the text stopped, each axis for itself; the text
    goes on behind the largest of them (Wang et al. 2024, Qwen2-VL, section 2.1).
    """
    first, tokens = int(np.argmax(here)), int(here.sum())
    axes = np.indices((grid[0], grid[1] // merge, grid[2] // merge)).reshape(3, -1)
    video = axes + first
    before, after = np.arange(first), np.arange(len(here) - first - tokens) + video.max() + 1
    parts = [np.tile(before, (3, 1)), video, np.tile(after, (3, 1))]
    positions: NDArray[np.int64] = np.concatenate(parts, 1).astype(np.int64)
    return positions
