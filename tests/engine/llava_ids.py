"""Captions LLaVA or PLLaVA checkpoints of the goldens with one engine, as JSON.

``python llava_ids.py ENGINE FAMILY SEED...``, or ``mistakes`` for what deliberate mistakes make of
the captions. A program of its own: importing mindnlp changes what ``import torch`` means for good.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.llava_cases import (
    LLAVA,
    NEW_TOKENS,
    PLLAVA,
    POOLING,
    QUESTION,
    SYSTEM,
    videos_of,
)
from tests.helpers.tiny_llava import TinyLlava, drift, write_llava
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import generate_all, load_engine
from vidcap_cli.processors import load_captioner

ENGINE = sys.argv[1]
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
        system_prompt=SYSTEM if spec.family == "pllava" else None,
        slots=2,
        engine=ENGINE,
    )


def prompts_of(captioner: Any, clips: Sequence[np.ndarray]) -> list[Any]:
    """Model inputs of clips as the decoder would hand them over."""
    return [captioner.prompt(captioner.rule.prepare(clip, len(clip))) for clip in clips]


def captions(specs: Sequence[TinyLlava]) -> list[dict[str, object]]:
    """One object a checkpoint: each video alone, and both in one batch."""
    done = []
    for spec in specs:
        with TemporaryDirectory() as place:
            config = config_of(write_llava(Path(place), spec), spec)
            engine = load_engine(config)
            prompts = prompts_of(load_captioner(config), [drift(*v) for v in videos_of(spec)])
        alone = [generate_all(engine, [prompt])[0] for prompt in prompts]
        together = generate_all(engine, prompts)
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
            rows = generate_all(engine, prompts_of(load_captioner(config), clips))
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
    """``work()`` while PLLaVA's features ``[t, h, w, hidden]`` come from ``wrong``."""
    owner, name, features = (_of_graph if ENGINE == "graph" else _of_reference)(wrong)
    kept = getattr(owner, name)
    setattr(owner, name, features)
    try:
        return work()
    finally:
        setattr(owner, name, kept)


def _of_graph(wrong: Callable[[Any, Any], Any]) -> tuple[Any, str, Any]:
    from mindspore import Tensor

    from vidcap_cli.models.clip import ClipVision

    def features(self: Any, joined: Any, frames: int, shape: Any) -> Any:
        side = self.config.grid
        pooled = wrong(joined.asnumpy().reshape(frames, side, side, -1), shape)
        return Tensor(pooled.reshape(-1, pooled.shape[-1]))

    return ClipVision, "_pool", features


def _of_reference(wrong: Callable[[Any, Any], Any]) -> tuple[Any, str, Any]:
    import torch
    from transformers.models.llava.modeling_llava import LlavaModel

    from vidcap_cli.engine import reference_pllava as pllava

    def features(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        frames = torch.stack(LlavaModel.get_image_features(self, *args, **kwargs)).numpy()
        side = int(frames.shape[1] ** 0.5)
        videos = frames.reshape(-1, self.config.frames, side, side, frames.shape[-1])
        pooled = [wrong(video, self.config.pooled) for video in videos]
        return [torch.tensor(video.reshape(-1, video.shape[-1])) for video in pooled]

    return pllava._PooledLlava, "get_image_features", features


def blocks(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """``[t, h, w, cells, hidden]``: what falls into each pooled cell; sides divide evenly."""
    *sides, hidden = volume.shape
    (t, a), (h, b), (w, c) = ((n, side // n) for n, side in zip(shape, sides, strict=True))
    cells = volume.reshape(t, a, h, b, w, c, hidden).transpose(0, 2, 4, 1, 3, 5, 6)
    return cells.reshape(t, h, w, a * b * c, hidden)


def max_pooled(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Maxima where means belong."""
    return blocks(volume, shape).max(3)


def axes_swapped(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Means in the order height, width, time."""
    return np.ascontiguousarray(blocks(volume, shape).mean(3).transpose(1, 2, 0, 3))


def mean_pooled(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """What is right, by the means of the mistakes above: they change one thing each."""
    return blocks(volume, shape).mean(3)


POOLINGS = {"no other": mean_pooled, "max pooling": max_pooled, "axes swapped": axes_swapped}


def main() -> None:
    """Print a JSON list of captions, or an object of mistakes."""
    _, _, family, *what = sys.argv
    specs = {spec.seed: spec for spec in {"llava": LLAVA, "pllava": PLLAVA}[family]}
    if what == ["mistakes"]:
        print(json.dumps(mistakes(specs[MUTANT_SEEDS[family]])))
    else:
        print(json.dumps(captions([specs[int(seed)] for seed in what])))


if __name__ == "__main__":
    main()
