# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "transformers==4.57.6", "numpy", "av", "pillow", "safetensors", "tokenizers",
#     "sentencepiece", "protobuf",
# ]
# ///
"""Goldens of LLaVA: greedy token ids of transformers on real PyTorch for tiny random checkpoints.

Pixels come from transformers' slow ``CLIPImageProcessor``, token ids from its tokenizer classes.
Writes ``llava.json`` beside this file. Run it with
``uv run --no-project tests/goldens/make_llava.py`` when a case is added.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    LlamaTokenizerFast,
    LlavaForConditionalGeneration,
)

from tests.goldens.llava_cases import LLAVA, NEW_TOKENS, QUESTION, videos_of
from tests.helpers.tiny_llava import TinyLlava, drift, write_llava


def prompt(spec: TinyLlava, features: int) -> str:
    """The text that transformers' LlavaProcessor would hand to the tokenizer."""
    images = ("<image>" * features + "\n") * spec.num_frames
    if spec.tokenizer == "llama3":
        return (
            f"<|start_header_id|>user<|end_header_id|>\n\n{images}{QUESTION}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
    return f"USER: {images}{QUESTION} ASSISTANT:"


def caption(folder: Path, spec: TinyLlava) -> list[dict[str, object]]:
    """Greedy token ids of the videos of one checkpoint."""
    model, report = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    kind = LlamaTokenizerFast if spec.tokenizer == "spm" else AutoTokenizer
    tokenizer = kind.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)
    features = (spec.side // 14) ** 2 + (spec.strategy == "full")
    done = []
    for video in videos_of(spec):
        pixels = processor(list(drift(*video)), return_tensors="pt")["pixel_values"]
        ids = torch.tensor([tokenizer(prompt(spec, features))["input_ids"]])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=spec.eos_token,
            pad_token_id=spec.eos_token,
        )
        done.append({"prompt": ids[0].tolist(), "ids": output[0, ids.shape[1] :].tolist()})
    return done


def main() -> None:
    """Write the file, a line for each checkpoint."""
    lines = []
    for spec in LLAVA:
        with TemporaryDirectory() as place:
            videos = caption(write_llava(Path(place), spec), spec)
        lines.append(json.dumps({"seed": spec.seed, "eos": spec.eos_token, "videos": videos}))
    (HERE / "llava.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
