"""Captions fresh nano clips as the product does, and with one thing wrong at a time.

``python caption_clips.py FAMILY COUNT VARIANT...`` prints the share of exact sentences of each
variant as JSON, and how many captions of "by_eights" differ from those of "alone". Clips go
through real H.264 files. A program of its own: MindSpore's threads and its graphs end with it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.nano import world
from vidcap_cli.checkpoint.called import bundled
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Engine, generate_all, load_engine
from vidcap_cli.models import model
from vidcap_cli.processors import Prompt, load_captioner
from vidcap_cli.processors.qwen2vl import patchify
from vidcap_cli.video import read_frames

SLOTS = 16
OTHER_SLOTS = {"alone": 1, "by_eights": 8}
OTHER_DTYPES = {"float32", "bfloat16"}  # than the checkpoints' own, float16
SEED = 20_261_122  # training draws from other seeds

FRAMES = {"llava": 1, "pllava": 4, "qwen2vl": 4}
LORA_ALPHA = {"lora_dropped": 0.0, "lora_doubled": 8.0}  # the checkpoint's own is 4


def main() -> None:
    """Measure the variants named on the command line."""
    family, count, variants = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    config = CaptionConfig(
        family,
        str(bundled(family)),
        slots=SLOTS,
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
        shares, texts = {}, {}
        truth = {name: truth_of(name, family, clips) for name in variants}
        for name in variants:
            changed = replace(
                config,
                lora_alpha=LORA_ALPHA.get(name),
                slots=OTHER_SLOTS.get(name, SLOTS),
                dtype=name if name in OTHER_DTYPES else config.dtype,
            )
            loaded = engine if changed == config else load_engine(changed)
            texts[name] = captions(name, config, paths, loaded)
            right = sum(map(str.__eq__, texts[name], truth[name]))
            shares[name] = right / count
    if {"alone", "by_eights"} <= texts.keys():
        shares["differing"] = sum(map(str.__ne__, texts["alone"], texts["by_eights"]))
    print(json.dumps(shares))


def question_of(name: str) -> str:
    """What a variant asks."""
    return world.BRIEF if name == "brief" else world.DETAIL


def truth_of(name: str, family: str, clips: list[world.Clip]) -> list[str]:
    """The true sentences, to the letter."""
    return [world.sentence(clip, family, question_of(name)) for clip in clips]


def captions(name: str, config: CaptionConfig, paths: list[Path], engine: Engine) -> list[str]:
    """The captions of the clips under a variant."""
    family = config.family
    fps = {"half_fps": 2.0, "double_fps": 8.0}.get(name, 4.0)
    config = replace(config, question=question_of(name), fps=fps)
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
    known = model.mrope_positions
    if name == "flat_positions":
        model.mrope_positions = flat_positions
    texts = [captioner.text(row.ids) for row in generate_all(engine, prompts)]
    model.mrope_positions = known
    if name == "mixed_up_slots":
        texts = texts[1:] + texts[:1]
    return texts


def flat_positions(here, *_):
    """Positions of plain text for every token, as a model without M-RoPE would count them."""
    return np.tile(np.arange(len(here)), (3, 1))


if __name__ == "__main__":
    main()
