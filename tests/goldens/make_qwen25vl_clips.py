# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "torchvision", "transformers>=5.24", "qwen-vl-utils==0.0.14", "decord", "numpy",
#     "pillow", "requests", "packaging", "safetensors", "tokenizers",
# ]
# ///
"""Goldens of files as Qwen2.5-VL sees them: the whole of the reference, nothing stood in for.

The bundled clips at several rates through qwen-vl-utils' ``process_vision_info`` (decord reads),
``Qwen2_5_VLProcessor`` and the model's own ``get_rope_index``. ``qwen25vl_clips.json`` keeps the
grid, some pixel values, ``second_per_grid_ts``, the number of tokens, and the positions in time
of the video. Run it with ``uv run --no-project tests/goldens/make_qwen25vl_clips.py``. Earlier
versions of transformers have other positions: they round ``second_per_grid_ts`` down first. Version
5 has to be told the rate with the video's metadata: it passes over the ``fps`` of qwen-vl-utils.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from qwen_vl_utils import process_vision_info
from transformers import (
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tests.goldens.cases import CLIPS, KEPT, QWEN25VL, TIMED_CASES
from tests.helpers.tiny import write_qwen2vl
from vidcap_cli.processors.qwen2vl import prompt


def main() -> None:
    """Write the file, a line for each clip and rate."""
    with TemporaryDirectory() as place:
        folder = write_qwen2vl(Path(place), QWEN25VL)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
        low, high = 3136, 12845056
        size = {"shortest_edge": low, "longest_edge": high}
        processor = Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=size),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            video_processor=Qwen2VLVideoProcessor(size=size),
        )
        lines = [json.dumps(golden(model, processor, *case)) for case in TIMED_CASES]
    (HERE / "qwen25vl_clips.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def golden(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    name: str,
    fps: float,
    cap: int,
) -> dict[str, object]:
    """What the reference makes of a clip."""
    video = {"type": "video", "video": str(CLIPS / name), "fps": fps, "max_pixels": cap}
    chat = [{"role": "user", "content": [video]}]
    _, videos, settings = process_vision_info(
        chat, return_video_kwargs=True, return_video_metadata=True
    )
    frames, metadata = zip(*videos, strict=True)
    inputs = processor(
        text=[prompt("Who?", 1)],
        videos=list(frames),
        video_metadata=list(metadata),
        return_tensors="pt",
        **settings,
    )
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
    )
    here = inputs["input_ids"][0] == model.config.video_token_id
    time = positions[0, 0, here]
    flat = inputs["pixel_values_videos"].numpy().ravel()
    return {
        "grid": inputs["video_grid_thw"][0].tolist(),
        "values": [round(float(value), 5) for value in flat[:: len(flat) // KEPT]],
        "mean": float(np.mean(flat, dtype=np.float64)),
        "seconds": float(inputs["second_per_grid_ts"][0]),
        "prompt_tokens": int(inputs["input_ids"].shape[1]),
        "time": torch.unique_consecutive(time - time[0]).tolist(),
    }


if __name__ == "__main__":
    main()
