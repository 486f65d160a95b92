"""Captions the LLaVA or PLLaVA checkpoints of the goldens with the reference engine, as JSON.

``python llava_ids.py FAMILY``. A program of its own: importing mindnlp changes what
``import torch`` means for good. Besides the captions it prints those of deliberate mistakes.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "goldens")]

from llava_cases import LLAVA, NEW_TOKENS, PLLAVA, POOLING, QUESTION, SYSTEM, videos_of
from tiny_llava import TinyLlava, drift, write_llava

from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import load_engine
from vidcap_cli.models import load_captioner

MUTANT_SEEDS = {"llava": 6, "pllava": 22}


def config_of(folder: Path, spec: TinyLlava) -> CaptionConfig:
    """The options of one checkpoint."""
    shape = POOLING.get(spec.seed)
    return CaptionConfig(
        spec.family,
        str(folder),
        question=QUESTION,
        max_new_tokens=NEW_TOKENS,
        num_frames=spec.num_frames,
        pooling_shape="-".join(map(str, shape)) if shape else None,
        system_prompt=SYSTEM,
        slots=2,
    )


def prompts_of(captioner: Any, clips: Sequence[np.ndarray]) -> list[Any]:
    """Model inputs of clips as the decoder would hand them over."""
    return [captioner.prompt(captioner.rule.prepare(clip)) for clip in clips]


def captions(specs: Sequence[TinyLlava]) -> list[dict[str, object]]:
    """One object a checkpoint: each video alone, and both in one batch."""
    done = []
    for spec in specs:
        with TemporaryDirectory() as place:
            config = config_of(write_llava(Path(place), spec), spec)
            engine = load_engine(config)
            prompts = prompts_of(load_captioner(config), [drift(*v) for v in videos_of(spec)])
        alone = [engine.generate([prompt], lambda: False)[0] for prompt in prompts]
        together = engine.generate(prompts, lambda: False)
        done.append(
            {
                "prompts": [prompt.ids.tolist() for prompt in prompts],
                "alone": [asdict(row) for row in alone],
                "together": [asdict(row) for row in together],
            }
        )
    return done


def mistakes(spec: TinyLlava) -> dict[str, list[list[int]]]:
    """Token ids of both videos of ``spec`` under each mistake, and under none."""
    clips = [drift(*video) for video in videos_of(spec)]
    done = {}
    with TemporaryDirectory() as place:
        folder = write_llava(Path(place), spec)
        config = config_of(folder, spec)

        def ids(config: CaptionConfig, clips: Sequence[np.ndarray], engine: Any = None) -> Any:
            engine = engine or load_engine(config)
            rows = engine.generate(prompts_of(load_captioner(config), clips), lambda: False)
            return [row.ids for row in rows]

        engine = load_engine(config)
        done["none"] = ids(config, clips, engine)
        done["reversed frames"] = ids(config, [clip[::-1] for clip in clips], engine)
        done["BGR for RGB"] = ids(config, [clip[..., ::-1] for clip in clips], engine)
        if spec.family == "pllava":
            done["LoRA dropped"] = ids(replace(config, lora_alpha=0.0), clips)
            done["LoRA doubled"] = ids(replace(config, lora_alpha=8.0), clips)
            for name, wrong in POOLINGS.items():
                done[name] = with_pooling(wrong, lambda: ids(config, clips, engine))
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "vision_feature_layer": -1}))
        done["feature layer -1"] = ids(config, clips)
    return done


def with_pooling(wrong: Callable[[Any, Any], Any], work: Callable[[], Any]) -> Any:
    """``work()`` while PLLaVA's features ``[V, t, h, w, hidden]`` come from ``wrong``."""
    import torch
    from transformers.models.llava.modeling_llava import LlavaModel

    from vidcap_cli.engine import pllava

    def features(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        frames = torch.stack(LlavaModel.get_image_features(self, *args, **kwargs))
        side = int(frames.shape[1] ** 0.5)
        volume = frames.reshape(-1, self.config.frames, side, side, frames.shape[-1])
        pooled = wrong(volume, self.config.pooled)
        return list(pooled.reshape(len(pooled), -1, frames.shape[-1]))

    kept = pllava._PooledLlava.get_image_features
    pllava._PooledLlava.get_image_features = features
    try:
        return work()
    finally:
        pllava._PooledLlava.get_image_features = kept


def blocks(volume: Any, shape: Sequence[int]) -> Any:
    """``[V, t, h, w, cells, hidden]``: what falls into each pooled cell; sides divide evenly."""
    videos, *sides, hidden = volume.shape
    (t, a), (h, b), (w, c) = ((n, side // n) for n, side in zip(shape, sides, strict=True))
    cells = volume.reshape(videos, t, a, h, b, w, c, hidden).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return cells.reshape(videos, t, h, w, a * b * c, hidden)


def max_pooled(volume: Any, shape: Sequence[int]) -> Any:
    """Maxima where means belong."""
    return blocks(volume, shape).amax(4)


def axes_swapped(volume: Any, shape: Sequence[int]) -> Any:
    """Means in the order height, width, time."""
    return blocks(volume, shape).mean(4).permute(0, 2, 3, 1, 4)


def mean_pooled(volume: Any, shape: Sequence[int]) -> Any:
    """What is right, by the means of the mistakes above: they change one thing each."""
    return blocks(volume, shape).mean(4)


POOLINGS = {"no other": mean_pooled, "max pooling": max_pooled, "axes swapped": axes_swapped}


def main() -> None:
    """Print one JSON object."""
    family = sys.argv[1]
    specs = {"llava": LLAVA, "pllava": PLLAVA}[family]
    mutant = next(spec for spec in specs if spec.seed == MUTANT_SEEDS[family])
    print(json.dumps({"captions": captions(specs), "mistakes": mistakes(mutant)}))


if __name__ == "__main__":
    main()
