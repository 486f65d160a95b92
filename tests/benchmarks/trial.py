"""What the peers' programs share: the job, the clock, random weights and pixels.

A program takes its job as JSON on the command line and prints one line of JSON. Runs in every
peer's environment, so it imports nothing but numpy.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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


def decode_seconds(step: Callable[[], Any], count: int) -> float:
    """Seconds of a decode step, the least of some medians.

    The memory of a machine that is shared may have two speeds, each for some seconds at a time.
    """
    return min(median(step, 2 if first else 0, count) for first in (True, *[False] * 5))


@functools.cache
def _block() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.02, 1_000_003).astype(np.float32)


def values(shape: tuple[int, ...]) -> np.ndarray:
    """The weights of this shape, the same for every peer: a repeated block of normal numbers."""
    filled = np.resize(_block(), shape)
    return filled + 1 if len(shape) == 1 else filled


def seeded(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A weight of one of many random checkpoints: rows that keep what they multiply in size."""
    rng = np.random.default_rng([seed, *name.encode()])
    drawn = rng.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)
    return drawn * shape[-1] ** 0.5 * 0.1 + ("norm" in name) if len(shape) == 1 else drawn


def sequence(job: Job, seed: int) -> np.ndarray:
    """The token ids of a prompt and of the caption that is put in the model's mouth."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, job["vocab"], job["prompt"] + job["count"])


def settings(job: Job) -> Job:
    """``config.json`` of the job's checkpoint folder."""
    return json.loads(Path(job["folder"], "config.json").read_text(encoding="utf-8"))


def is_qwen(job: Job) -> bool:
    """Whether the job's model is Qwen2-VL or Qwen2.5-VL."""
    return settings(job)["model_type"] in {"qwen2_vl", "qwen2_5_vl"}


def pixels(job: Job, size: int | list[int]) -> dict[str, np.ndarray]:
    """What a vision tower is given: patches of a grid (t, h, w), or so many frames for CLIP."""
    rng = np.random.default_rng(1)
    if isinstance(size, list):
        patches = rng.normal(0, 1, (int(np.prod(size)), 1176)).astype(np.float32)
        return {"pixel_values_videos": patches, "video_grid_thw": np.array([size], np.int64)}
    side = settings(job)["vision_config"]["image_size"]
    return {"pixel_values": rng.normal(0, 1, (size, 3, side, side)).astype(np.float32)}
