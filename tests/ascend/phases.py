"""What a nano model computes, and with which kernels: python -m tests.ascend.phases MODEL DTYPE.

Prints JSON: how many layers there are, the logits of some tokens after the prompt of a bundled
clip, and on Ascend the launches by kernel of vision, prefill, insert and step.
"""

import ctypes
import json
import os
import sys
import tempfile
from importlib import resources
from pathlib import Path

import mindspore as ms
import numpy as np

from vidcap_cli import video
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine.generate import GraphEngine
from vidcap_cli.models.device import current_device
from vidcap_cli.models.model import Model
from vidcap_cli.models.vision_config import ClipConfig
from vidcap_cli.processors import Prompt, load_captioner

NANO = Path(str(resources.files("vidcap_cli") / "nano"))
SLOTS = 2
TOKENS = [5, 17, 3, 40]


def launches() -> dict[str, int]:
    """Those since the last call, by kernel."""
    ms.runtime.synchronize()
    library = Path(os.environ["ASCEND_HOME_PATH"]) / "lib64" / "libstandin.so"
    counter = ctypes.CDLL(str(library))
    with tempfile.NamedTemporaryFile("r") as file:
        counter.stand_in_dump(file.name.encode())
        counter.stand_in_reset()
        pairs = [line.split() for line in file]
    return {name: int(count) for count, name in pairs}


def count(model: Model, prompt: Prompt) -> dict[str, dict[str, int]]:
    """The launches for one clip; graphs are compiled before they are counted."""
    decoder, ids = model.decoder, np.zeros(SLOTS, np.int64)
    found = {}
    for _ in range(2):
        launches()
        model.vision(prompt.vision)
        found["vision"] = launches()
        prefilled = model.prefill(prompt)
        both = launches()
        found["prefill"] = {
            name: more
            for name, number in both.items()
            if (more := number - found["vision"].get(name, 0)) > 0
        }
        decoder.insert(0, prefilled, 8)
        found["insert"] = launches()
        decoder.step(ids).argmax.asnumpy()
        found["step"] = launches()
        decoder.free(0)
    return found


def main(model: str, dtype: str) -> None:
    family = "qwen2vl" if model == "qwen25vl" else model
    config = CaptionConfig(
        family, str(NANO / model), dtype=dtype, slots=SLOTS, max_new_tokens=8,
        num_frames=1 if family == "llava" else 4,
    )  # fmt: skip
    captioner, engine = load_captioner(config), GraphEngine(config, lambda _: None)
    clip = video.read_frames(str(min((NANO / "clips").glob("*.mp4"))), captioner.rule)
    prompt = captioner.prompt(clip.frames, clip.seconds)
    tower = engine.model.vision.config
    found = {
        "decoder": engine.model.decoder.config.layers,
        "tower": tower.used if isinstance(tower, ClipConfig) else tower.depth,
        "logits": engine.logits(prompt, TOKENS).tolist(),
    }
    if current_device() == "Ascend":
        found["launches"] = count(engine.model, prompt)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
