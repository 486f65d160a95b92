# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "torchvision", "transformers==4.57.6", "qwen-vl-utils==0.0.14", "numpy",
#     "pillow", "requests", "packaging",
# ]
# ///
"""Goldens of whole clips: what qwen-vl-utils and then the video processor make of them.

Runs the library's own ``fetch_video`` over a reader that gives made-up frames, then transformers'
``Qwen2VLVideoProcessor`` with several bounds. Writes ``qwen2vl_clips.json`` beside this file. Run
it with ``uv run --no-project tests/goldens/make_qwen2vl_clips.py`` when a case is added.
transformers 5.18 gives the same file.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from qwen_vl_utils import vision_process as library
from transformers import Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

from tests.goldens.cases import CLIP_CASES, PROCESSED_CASES, noise


def fetch(total: int, rate: float, fps: float, cap: int, frames: torch.Tensor) -> torch.Tensor:
    """``fetch_video`` of a file of ``total`` frames, each of them one of ``frames``."""

    def read(ele: dict[str, object]) -> tuple[torch.Tensor, dict[str, object], float]:
        count = library.smart_nframes(ele, total_frames=total, video_fps=rate)
        return frames.expand(count, -1, -1, -1) if len(frames) == 1 else frames[:count], {}, fps

    library.get_video_reader_backend.cache_clear()
    with (
        patch.dict(library.VIDEO_READER_BACKENDS, made=read),
        patch.object(library, "FORCE_QWENVL_VIDEO_READER", "made"),
    ):
        return library.fetch_video({"video": "made", "fps": fps, "max_pixels": cap})


def sizes() -> list[dict[str, object]]:
    """Frames and size of each case after the first step, and after the second with some bounds."""
    done = []
    for total, rate, fps, height, width, cap, bounds in CLIP_CASES:
        # One pixel stands for the frame; what it would be resized to is looked up.
        frames = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(1, 3, height, width)
        asked: list[list[int]] = []

        def resize(video: torch.Tensor, size: list[int], **_: object) -> torch.Tensor:
            asked.append(size)  # noqa: B023 - called before the next turn
            return video[:, :, :1, :1]

        with patch.object(library.transforms.functional, "resize", resize):
            count = len(fetch(total, rate, fps, cap, frames))
        first = [int(side) for side in asked[0]]
        second = smart_resize(*first, factor=28, min_pixels=bounds[0], max_pixels=bounds[1])
        done.append({"frames": count, "first": first, "second": list(second)})
    return done


def values() -> list[dict[str, object]]:
    """Pixel values of small clips after both steps."""
    done = []
    for video, cap, bounds in PROCESSED_CASES:
        frames = torch.from_numpy(noise(*video)).permute(0, 3, 1, 2)
        fetched = fetch(len(frames), 4.0, 4.0, cap, frames)
        size = {"shortest_edge": bounds[0], "longest_edge": bounds[1]}
        made = Qwen2VLVideoProcessor(size=size)(
            videos=fetched, return_tensors="pt", do_sample_frames=False
        )
        flat = made["pixel_values_videos"].numpy().ravel()
        entry = {
            "grid": made["video_grid_thw"][0].tolist(),
            "values": [round(float(value), 5) for value in flat[:: len(flat) // 400]],
            "mean": float(np.mean(flat, dtype=np.float64)),
        }
        done.append(entry)
    return done


def main() -> None:
    """Write the file, a line for each entry."""
    sections = [
        f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]"
        for name, entries in {"sizes": sizes(), "values": values()}.items()
    ]
    (HERE / "qwen2vl_clips.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main()
