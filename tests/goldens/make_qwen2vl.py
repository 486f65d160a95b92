# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "transformers==4.57.6", "qwen-vl-utils==0.0.14", "numpy", "av", "pillow",
#     "requests", "packaging", "safetensors", "tokenizers",
# ]
# ///
"""Goldens of Qwen2-VL from the reference code: transformers on real PyTorch, qwen-vl-utils.

Writes ``qwen2vl.json`` (captions of tiny random checkpoints, token for token; frame choices,
sizes, digests of patches) and ``qwen2vl.npz`` (a few resized clips) beside this file. Run it with
``uv run --no-project tests/goldens/make_qwen2vl.py`` when a case is added.

qwen-vl-utils imports torchvision, which only its image loading uses: an empty stand-in serves.
"""

import hashlib
import json
import sys
import types
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from tokenizers import Tokenizer
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

from tests.goldens.cases import FRAME_CASES, PATCH_CASES, QWEN2VL, SIZE_CASES, frames_of, noise
from tests.helpers import tiny


def reference_library() -> types.ModuleType:
    """qwen_vl_utils.vision_process with torchvision stood in for."""
    vision = types.ModuleType("torchvision")
    vision.io = vision.transforms = types.ModuleType("nothing")
    vision.__version__ = "0.20.0"
    modes = types.ModuleType("torchvision.transforms")
    modes.InterpolationMode = types.SimpleNamespace(BICUBIC="bicubic")
    sys.modules |= {"torchvision": vision, "torchvision.transforms": modes}
    from qwen_vl_utils import vision_process

    return vision_process


def captions() -> list[dict[str, object]]:
    """Greedy token ids of every checkpoint and video in ``cases``."""
    done = []
    for spec in QWEN2VL:
        with TemporaryDirectory() as place:
            folder = tiny.write_qwen2vl(Path(place), spec)
            model, report = Qwen2VLForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
            )
            assert not any(report.values()), report
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        videos = []
        for video in frames_of(spec):
            patches, grid = reference_patches(noise(*video))
            text = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n<|vision_start|>"
                + "<|video_pad|>" * (grid[0] * grid[1] * grid[2] // 4)
                + "<|vision_end|>What is this?<|im_end|>\n<|im_start|>assistant\n"
            )
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values_videos=torch.from_numpy(patches),
                video_grid_thw=torch.tensor([grid]),
                max_new_tokens=24,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
            new = output[0, ids.shape[1] :].tolist()
            videos.append({"video": video, "prompt_tokens": ids.shape[1], "ids": new})
        done.append({"spec": asdict(spec), "videos": videos})
    return done


def reference_patches(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Patches and grid of frames ``[T, h, w, 3]`` as transformers' slow processor makes them."""
    processor = Qwen2VLImageProcessor()
    patches, grid = processor._preprocess(
        list(frames.transpose(0, 3, 1, 2).astype(np.float32)),
        do_resize=False,
        size={"shortest_edge": 1, "longest_edge": 1 << 30},
        resample=3,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        do_convert_rgb=False,
        data_format="channels_first",
        input_data_format="channels_first",
    )
    return patches, [int(side) for side in grid]


def frame_choices(library: types.ModuleType) -> list[dict[str, object]]:
    """Indices that the reference chooses; the reference raises for files of one frame."""
    chosen = []
    for total, rate, fps in FRAME_CASES:
        count = library.smart_nframes({"fps": fps}, total_frames=total, video_fps=rate)
        indices = torch.linspace(0, total - 1, count).round().long().tolist()
        chosen.append({"case": [total, rate, fps], "indices": indices})
    return chosen


def sizes(library: types.ModuleType) -> list[dict[str, object]]:
    """Sizes that the reference gives frames under an area cap."""
    return [
        {
            "case": [height, width, low, high],
            "size": library.smart_resize(height, width, factor=28, min_pixels=low, max_pixels=high),
        }
        for height, width, low, high in SIZE_CASES
    ]


def resized_patches() -> tuple[dict[str, np.ndarray], list[dict[str, object]]]:
    """Frames resized by torch's antialiased bicubic, and the digests of their patches."""
    arrays, digests = {}, []
    for index, (video, size) in enumerate(PATCH_CASES):
        frames = torch.from_numpy(noise(*video)).permute(0, 3, 1, 2).float()
        resized = torch.nn.functional.interpolate(
            frames, size=size, mode="bicubic", align_corners=False, antialias=True
        )
        pixels = resized.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
        arrays[f"pixels{index}"] = pixels
        patches, grid = reference_patches(pixels)
        digest = hashlib.sha256(np.ascontiguousarray(patches, "<f4").tobytes()).hexdigest()
        digests.append({"grid": grid, "sha256": digest})
    return arrays, digests


def main() -> None:
    """Write both files."""
    library = reference_library()
    resized, patches = resized_patches()
    goldens = {
        "patches": patches,
        "captions": captions(),
        "frames": frame_choices(library),
        "sizes": sizes(library),
    }
    sections = [
        f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]"
        for name, cases in goldens.items()
    ]
    (HERE / "qwen2vl.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")
    np.savez_compressed(HERE / "qwen2vl.npz", **resized)


if __name__ == "__main__":
    main()
