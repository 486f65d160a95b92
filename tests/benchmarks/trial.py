"""What the peers' programs share: the job, the clock, random weights and the captioning loop.

Runs in every peer's environment, so it imports numpy and the parts of vidcap that know no
framework. A program takes its job as JSON on the command line and prints one line of JSON.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vidcap_cli import video
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Engine, Request
from vidcap_cli.processors import Prompt, load_captioner

Job = dict[str, Any]


def answer(sections: dict[str, Callable[[Job], Job]]) -> None:
    """Do the job on the command line and print its result."""
    job = json.loads(sys.argv[1])
    print(json.dumps(sections[job["section"]](job)))


def median(step: Callable[[], Any], warm: int, count: int) -> float:
    """Seconds of ``step``, the median of ``count`` after ``warm`` that do not count."""
    seconds = []
    for _ in range(warm + count):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[warm:])


@functools.cache
def _block() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, 1_000_003).astype(np.float32)


def values(shape: tuple[int, ...]) -> np.ndarray:
    """The weights of this shape, the same for every peer: a repeated block of normal numbers."""
    filled = np.resize(_block(), shape)
    return filled + 1 if len(shape) == 1 else filled


def settings(job: Job) -> Job:
    """``config.json`` of the job's checkpoint folder."""
    return json.loads(Path(job["folder"], "config.json").read_text(encoding="utf-8"))


def is_qwen(job: Job) -> bool:
    """Whether the job's model is Qwen2-VL."""
    return settings(job)["model_type"] == "qwen2_vl"


def pixels(job: Job, size: int | list[int]) -> dict[str, np.ndarray]:
    """What a vision tower is given: patches of a grid (t, h, w), or so many frames for CLIP."""
    rng = np.random.default_rng(1)
    if isinstance(size, list):
        patches = rng.normal(0, 1, (int(np.prod(size)), 1176)).astype(np.float32)
        return {"pixel_values_videos": patches, "video_grid_thw": np.array([size], np.int64)}
    side = settings(job)["vision_config"]["image_size"]
    return {"pixel_values": rng.normal(0, 1, (size, 3, side, side)).astype(np.float32)}


def config(job: Job, **options: Any) -> CaptionConfig:
    """The product's own configuration for a job that captions."""
    return CaptionConfig(
        job["family"],
        job["folder"],
        max_new_tokens=job["tokens"],
        num_frames=job.get("frames", 4),
        slots=job["batch"],
        **options,
    )


def caption_clips(job: Job, generate: Callable[[Iterator[Prompt]], list[list[int]]]) -> Job:
    """Caption the job's clips, from files to texts, after its warm-up clips.

    ``generate`` gives the token ids of prompts, each of which is read when it asks for it.
    """
    captioner = load_captioner(config(job))
    reading = 0.0

    def prompts(paths: list[str]) -> Iterator[Prompt]:
        nonlocal reading
        for path in paths:
            began = time.perf_counter()
            prompt = captioner.prompt(video.read_frames(path, captioner.rule).frames)
            reading += time.perf_counter() - began
            yield prompt

    generate(prompts(job["warm"]))
    reading, began = 0.0, time.perf_counter()
    done = generate(prompts(job["clips"]))
    texts = [captioner.text(ids) for ids in done]
    whole, count = time.perf_counter() - began, len(texts)
    seconds = {"clip": whole / count, "clip, read already": (whole - reading) / count}
    return {"seconds": seconds, "ids": done, "texts": texts}


def decode_all(engine: Engine, prompts: Iterator[Prompt]) -> list[list[int]]:
    """The token ids of prompts, in their order, from one of vidcap's engines."""
    left = enumerate(prompts)

    def feed(*, wait: bool) -> Request | None:
        entry = next(left, None)
        return Request(*entry) if entry else None

    found = {}
    for answered in engine.answers(feed, lambda: False):
        if answered.error or not answered.generated:
            raise answered.error or RuntimeError("the engine gave no caption")
        found[answered.row_id] = answered.generated.ids
    return [found[number] for number in sorted(found)]
