"""Captions checkpoints of the goldens with one engine; prints token ids as JSON.

``python qwen2vl_ids.py ENGINE SEED...``. A program of its own: importing mindnlp changes what
``import torch`` means for good.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.cases import QWEN2VL, frames_of, noise
from tests.helpers import tiny
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import generate_all, load_engine
from vidcap_cli.processors import load_captioner


def main() -> None:
    """One object a checkpoint: each video alone, and both in one batch."""
    _, engine_name, *seeds = sys.argv
    specs = {spec.seed: spec for spec in QWEN2VL}
    done = []
    for spec in (specs[int(seed)] for seed in seeds):
        with TemporaryDirectory() as place:
            folder = tiny.write_qwen2vl(Path(place), spec)
            config = CaptionConfig(
                "qwen2vl",
                str(folder),
                question="What is this?",
                max_new_tokens=24,
                slots=2,
                engine=engine_name,
            )
            captioner = load_captioner(config)
            engine = load_engine(config)
            prompts = [captioner.prompt(noise(*video)) for video in frames_of(spec)]
            alone = [generate_all(engine, [prompt])[0] for prompt in prompts]
            together = generate_all(engine, prompts)
        done.append(
            {
                "prompt_tokens": [len(prompt.ids) for prompt in prompts],
                "alone": [asdict(row) for row in alone],
                "together": [asdict(row) for row in together],
            }
        )
    print(json.dumps(done))


if __name__ == "__main__":
    main()
