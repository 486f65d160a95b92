"""Captions the penalised Qwen2-VL cases of ``engine_cases`` with mindnlp; prints JSON.

A program of its own, as the others here are. Each prompt is in a batch with a longer one, so that
its row is padded.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.cases import noise
from tests.goldens.engine_cases import CASES, NEW_TOKENS, Case, words
from tests.helpers.tiny import write_qwen2vl
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import generate_all, load_engine
from vidcap_cli.processors import load_captioner


def caption(case: Case) -> dict[str, object]:
    """What mindnlp says to the prompt of ``case``."""
    (asked,) = case.asked
    with TemporaryDirectory() as place:
        config = CaptionConfig(
            "qwen2vl",
            str(write_qwen2vl(Path(place), case.spec)),
            question=asked.question,
            repetition_penalty=case.penalty,
            no_repeat_ngram_size=case.ngram,
            max_new_tokens=NEW_TOKENS,
            slots=2,
            engine="mindnlp",
        )
        captioner, engine = load_captioner(config), load_engine(config)
        prompt = captioner.prompt(noise(*asked.clip))
        longer = captioner.asked(prompt, words(100))
        return asdict(generate_all(engine, [prompt, longer])[0])


if __name__ == "__main__":
    asked_for = [case for case in CASES["qwen2vl"] if case.ngram or case.penalty]
    print(json.dumps({case.name: caption(case) for case in asked_for}))
