"""Captions fresh nano clips as the product does, and with one thing wrong at a time.

``python caption_clips.py FAMILY COUNT VARIANT...`` prints the share of exact sentences of each
variant as JSON. Clips go through real H.264 files. A program of its own: importing mindnlp changes
what ``import torch`` means for good.
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
BATCHES = {"alone": 1, "by_eights": 8}
SEED = 20_261_122  # training draws from other seeds

FRAMES = {"llava": 1, "pllava": 4, "qwen2vl": 4}
LORA_ALPHA = {"lora_dropped": 0.0, "lora_doubled": 8.0}  # the checkpoint's own is 4


def main() -> None:
    """Measure the variants named on the command line."""
    family, count, variants = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    config = CaptionConfig(
        family,
        str(bundled(family)),
        slots=BATCH,
        max_new_tokens=40,
        num_frames=FRAMES[family],
    )
    rng = np.random.default_rng(SEED)
    clips = [world.sample(rng) for _ in range(count)]
    with TemporaryDirectory() as place:
        paths = [Path(place) / f"{index}.mp4" for index in range(count)]
        for clip, path in zip(clips, paths, strict=True):
            world.write(clip, path)
        engine = load_engine(config)
        shares = {}
        for name in variants:
            loaded = engine
            if name in LORA_ALPHA:
                loaded = load_engine(replace(config, lora_alpha=LORA_ALPHA[name]))
            shares[name] = measure(name, config, clips, paths, loaded)
    print(json.dumps(shares))


def measure(
    name: str,
    config: CaptionConfig,
    clips: list[world.Clip],
    paths: list[Path],
    engine: object,
) -> float:
    """The share of clips whose caption is the true sentence, to the letter."""
    family, question = config.family, world.DETAIL
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
        if name == "unnormalised" and family == "qwen2vl":
            raw, _ = patchify(frames, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
            prompt = Prompt(prompt.ids, {**prompt.vision, "pixel_values_videos": raw})
        elif name == "unnormalised":
            raw = frames.transpose(0, 3, 1, 2).astype(np.float32) / 255
            prompt = Prompt(prompt.ids, {"pixel_values": raw})
        prompts.append(prompt)
    inner = engine._model.model
    if name == "flat_positions":
        known, inner.get_rope_index = inner.get_rope_index, flat_positions
    texts = []
    together = BATCHES.get(name, BATCH)
    for start in range(0, len(prompts), together):
        batch = prompts[start : start + together]
        made = [captioner.text(row.ids) for row in engine.generate(batch, lambda: False)]
        texts += made[1:] + made[:1] if name == "mixed_up_slots" else made
    if name == "flat_positions":
        inner.get_rope_index = known
    truth = [world.sentence(clip, family, question) for clip in clips]
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
