"""Captions fresh nano clips as the product does, and with one thing wrong at a time.

``python caption_clips.py MODEL COUNT VARIANT...`` prints the share of exact sentences of each
variant as JSON, and how many captions of "by_eights" differ from those of "alone". Clips go
through real H.264 files. A program of its own: MindSpore's threads and its graphs end with it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.nano import world
from vidcap_cli.checkpoint.called import bundled
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Engine, generate_all, load_engine
from vidcap_cli.models import model
from vidcap_cli.models.qwen2vl_vision import Qwen2VLVision
from vidcap_cli.processors import Prompt, load_captioner
from vidcap_cli.processors.qwen2vl import patchify
from vidcap_cli.video import read_frames

SLOTS = 16
OTHER_SLOTS = {"alone": 1, "by_eights": 8}
OTHER_DTYPES = {"float32", "bfloat16"}  # than the checkpoints' own, float16
SEED = 20_261_122  # training draws from other seeds

FRAMES = {"llava": 1, "pllava": 4, "qwen2vl": 4}
OTHER_COMMANDS = {"qwen25vl": "qwen2vl"}  # than the name of the bundled folder
LORA_ALPHA = {"lora_dropped": 0.0, "lora_doubled": 8.0}  # the checkpoint's own is 4


def main() -> None:
    """Measure the variants named on the command line."""
    name, count, variants = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    family = OTHER_COMMANDS.get(name, name)
    config = CaptionConfig(
        family,
        str(bundled(name)),
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
        clip = read_frames(path, captioner.rule)
        frames = change(clip.frames)
        # A second for each pair is what transformers assumes when it is not told.
        prompt = captioner.prompt(frames, len(frames) / 2 if name == "clock_off" else clip.seconds)
        if name == "unnormalised" and family == "qwen2vl":
            raw, _ = patchify(frames, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
            prompt = Prompt(prompt.ids, {**prompt.vision, "pixel_values_videos": raw})
        elif name == "unnormalised":
            raw = frames.transpose(0, 3, 1, 2).astype(np.float32) / 255
            prompt = Prompt(prompt.ids, {"pixel_values": raw})
        prompts.append(prompt)
    with changes(name, engine):
        texts = [captioner.text(row.ids) for row in generate_all(engine, prompts)]
    if name == "mixed_up_slots":
        texts = texts[1:] + texts[:1]
    return texts


@contextmanager
def changes(name: str, engine: Engine) -> Iterator[None]:
    """What a variant changes of the model."""
    vision = engine.model.vision
    with pytest.MonkeyPatch.context() as patch:
        if name == "flat_positions":
            patch.setattr(model, "mrope_positions", flat_positions)
        if name == "windows_off":
            whole = frozenset(range(vision.config.depth))
            patch.setattr(vision, "config", replace(vision.config, whole=whole))
        if name == "order_off":
            patch.setattr(type(vision), "__call__", in_order_of_windows)
        yield


def in_order_of_windows(tower, vision):
    """A tower whose embeddings stay as they come."""
    features, used = Qwen2VLVision.__call__(tower, vision)
    return features, np.sort(used)


def flat_positions(here, *_):
    """Positions of plain text for every token, as a model without M-RoPE would count them."""
    return np.tile(np.arange(len(here)), (3, 1))


if __name__ == "__main__":
    main()
