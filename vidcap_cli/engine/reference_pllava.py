"""PLLaVA for the reference engine: transformers' LLaVA with the features of its frames pooled.

What PLLaVA adds to LLaVA is one step, adaptive average pooling over time, height and width between
projector and language model, and LoRA in the checkpoint. Imported after mindnlp, by the engine.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.llava.modeling_llava import LlavaModel

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import as_transformers_4
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.processors.pllava import averaging, pooled_shape

_CONFIG: Any = transformers.LlavaConfig


def load_pllava(folder: Path, config: CaptionConfig, number: Any) -> Any:
    """The model in ``folder`` in type ``number``, LoRA merged, every key accounted for."""
    given = read_json(folder / "config.json")
    layout = Layout.read(folder, config.family, config.lora_alpha)
    given = as_transformers_4(given, tied=layout.text.tied)
    given.pop("model_type", None)
    settings: Any = _CONFIG(**given, attn_implementation="eager")
    settings.pooled = pooled_shape(config)
    settings.frames = config.num_frames
    state = {
        name: torch.tensor(source.read()).to(number) for name, source in layout.sources.items()
    }
    model, report = Pllava.from_pretrained(
        None, config=settings, state_dict=state, dtype=number, output_loading_info=True
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        raise ModelError(f"{folder}: transformers did not take all weights: {wrong}")
    return model.eval()


class _PooledLlava(LlavaModel):  # type: ignore[no-untyped-call]
    """LLaVA whose images are frames: one pooled sequence of features for each video."""

    def get_image_features(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Features ``[t*h*w, hidden]`` of every video in the batch."""
        frames = torch.stack(super().get_image_features(*args, **kwargs))  # [V*T, H*W, hidden]
        grid = int(frames.shape[1] ** 0.5)
        videos = frames.reshape(-1, self.config.frames, grid, grid, frames.shape[-1])
        for axis, target in enumerate(self.config.pooled, start=1):
            matrix = torch.tensor(averaging(videos.shape[axis], target)).to(frames)
            # The axis goes last, is multiplied down to ``target``, and goes back.
            videos = torch.matmul(videos.transpose(axis, -1), matrix.T).transpose(axis, -1)
        return list(videos.reshape(len(videos), -1, frames.shape[-1]))


class Pllava(transformers.LlavaForConditionalGeneration):  # type: ignore[no-untyped-call]
    """``LlavaForConditionalGeneration`` around the pooled model; its config holds the shapes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = _PooledLlava(config)
        self.post_init()  # type: ignore[no-untyped-call]
