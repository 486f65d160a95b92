"""The model of a checkpoint folder: its vision tower and its decoder, from prompt to prefilled.

Here the families differ: in the tower, and in the positions that the tokens of a video take.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import ops
from numpy.typing import NDArray

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import placeholder
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.families import family_of, part
from vidcap_cli.models.clip import ClipVision
from vidcap_cli.models.decoder import Decoder, Prefilled
from vidcap_cli.models.qwen2vl_vision import Qwen2VLVision
from vidcap_cli.models.vision_config import ClipConfig, Qwen2VLVisionConfig
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.processors.pllava import pooled_shape

Vision = Qwen2VLVision | ClipVision


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
    layout = Layout.read(folder, config.family, config.lora_alpha)
    decoder = Decoder(layout.text, layout.text_weight, slots=config.slots, number=number)
    token = placeholder(read_json(folder / "config.json"))
    vision, merge = part(family_of(config.family).tower)(config, layout, number)
    return Model(vision, decoder, token, merge)


def clip_tower(_config: CaptionConfig, layout: Layout, number: Any) -> tuple[Vision, int]:
    """The tower of LLaVA, and no merging of patches."""
    assert isinstance(layout.tower, ClipConfig)
    return ClipVision(layout.tower, layout.tower_weight, number, None), 0


def pooled_clip_tower(config: CaptionConfig, layout: Layout, number: Any) -> tuple[Vision, int]:
    """The tower of PLLaVA, which pools the features of frames."""
    assert isinstance(layout.tower, ClipConfig)
    return ClipVision(layout.tower, layout.tower_weight, number, pooled_shape(config)), 0


def qwen2vl_tower(_config: CaptionConfig, layout: Layout, number: Any) -> tuple[Vision, int]:
    """The tower of Qwen2-VL, and how many patches a side become one token."""
    assert isinstance(layout.tower, Qwen2VLVisionConfig)
    return Qwen2VLVision(layout.tower, layout.tower_weight, number), layout.tower.merge


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
