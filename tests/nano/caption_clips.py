"""Captions fresh nano clips as the product does, and with one thing wrong at a time.

``python caption_clips.py COUNT VARIANT...`` prints the share of exact sentences of each variant as
JSON. Clips go through real H.264 files. A program of its own: importing mindnlp changes what
``import torch`` means for good.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import world

from vidcap_cli.caption import bundled
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import load_engine
from vidcap_cli.models import Prompt, load_captioner
from vidcap_cli.models.qwen2vl import patchify
from vidcap_cli.video import read_frames

BATCH = 16
SEED = 20_261_122  # training draws from other seeds

CONFIG = CaptionConfig("qwen2vl", str(bundled("qwen2vl")), slots=BATCH, max_new_tokens=40)


def main() -> None:
    """Measure the variants named on the command line."""
    count, variants = int(sys.argv[1]), sys.argv[2:]
    rng = np.random.default_rng(SEED)
    clips = [world.sample(rng) for _ in range(count)]
    with TemporaryDirectory() as place:
        paths = [Path(place) / f"{index}.mp4" for index in range(count)]
        for clip, path in zip(clips, paths, strict=True):
            world.write(clip, path)
        engine = load_engine(CONFIG)
        print(json.dumps({name: measure(name, clips, paths, engine) for name in variants}))


def measure(name: str, clips: list[world.Clip], paths: list[Path], engine: object) -> float:
    """The share of clips whose caption is the true sentence, to the letter."""
    config, question = CONFIG, world.DETAIL
    if name == "brief":
        question = world.BRIEF
    config = replace(
        config, question=question, fps={"half_fps": 2.0, "double_fps": 8.0}.get(name, 4.0)
    )
    captioner = load_captioner(config)
    change: Callable[[np.ndarray], np.ndarray] = {
        "bgr": lambda frames: np.ascontiguousarray(frames[..., ::-1]),
        "reversed": lambda frames: np.ascontiguousarray(frames[::-1]),
    }.get(name, lambda frames: frames)
    prompts = []
    for path in paths:
        frames = change(read_frames(path, captioner.rule).frames)
        prompt = captioner.prompt(frames)
        if name == "unnormalised":
            raw, _ = patchify(frames, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
            prompt = Prompt(prompt.ids, {**prompt.vision, "pixel_values_videos": raw})
        prompts.append(prompt)
    inner = engine._model.model
    known = inner.get_rope_index
    if name == "flat_positions":
        inner.get_rope_index = flat_positions
    texts = []
    for start in range(0, len(prompts), 1 if name == "alone" else BATCH):
        batch = prompts[start : start + (1 if name == "alone" else BATCH)]
        made = [captioner.text(row.ids) for row in engine.generate(batch, lambda: False)]
        texts += made[1:] + made[:1] if name == "mixed_up_slots" else made
    inner.get_rope_index = known
    truth = [world.sentence(clip, "qwen2vl", question) for clip in clips]
    return sum(text == true for text, true in zip(texts, truth, strict=True)) / len(truth)


def flat_positions(input_ids, *_args, attention_mask=None, **_kwargs):
    """Positions of plain text for every token, as a model without M-RoPE would count them."""
    import torch

    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    deltas = torch.zeros((input_ids.shape[0], 1), dtype=torch.int64)
    return torch.stack([positions] * 3), deltas


if __name__ == "__main__":
    main()
