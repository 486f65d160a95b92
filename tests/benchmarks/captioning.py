"""The captioning that the peers' programs share, from files to texts.

It imports the parts of vidcap that know no framework: PyTorch's environment has them, too.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from trial import Job

from vidcap_cli import video
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Engine, Request
from vidcap_cli.processors import Prompt, load_captioner


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
            clip = video.read_frames(path, captioner.rule)
            prompt = captioner.prompt(clip.frames, clip.seconds)
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
