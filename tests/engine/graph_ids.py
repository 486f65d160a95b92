"""Captions the checkpoints of ``engine_cases`` with the compiled engine; prints JSON.

``python graph_ids.py FAMILY CASE...``. A program of its own, as the others here are. Each prompt
alone, with its logits where the goldens have theirs; those of ``MANY``, whose engine has eight
slots, all together as well.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
GOLDENS = TESTS / "goldens"
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.goldens.cases import noise
from tests.goldens.engine_cases import CASES, MANY, NEW_TOKENS, Asked, Case
from tests.goldens.llava_cases import SYSTEM
from tests.helpers.tiny import write_qwen2vl
from tests.helpers.tiny_llava import drift, write_llava
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import generate_all, load_engine
from vidcap_cli.processors import load_captioner

SLOTS = 8


def config_of(folder: Path, case: Case, asked: Asked, slots: int) -> CaptionConfig:
    """The options of one prompt."""
    return CaptionConfig(
        case.family,
        str(folder),
        question=asked.question,
        repetition_penalty=case.penalty,
        no_repeat_ngram_size=case.ngram,
        max_new_tokens=NEW_TOKENS,
        num_frames=asked.clip[1],
        pooling_shape="-".join(map(str, case.pooling)) if case.pooling else None,
        system_prompt=SYSTEM if case.family == "pllava" else None,
        slots=slots,
        engine="graph",
    )


def prompt_of(folder: Path, case: Case, asked: Asked) -> Any:
    """The model inputs of one prompt; the question belongs to the captioner."""
    captioner = load_captioner(config_of(folder, case, asked, 1))
    if case.family == "qwen2vl":
        return captioner.prompt(noise(*asked.clip), asked.seconds)
    clip = drift(*asked.clip)
    return captioner.prompt(captioner.rule.prepare(clip, len(clip)))


def logits(engine: Any, prompt: Any, golden: dict[str, Any]) -> list[dict[str, object]]:
    """The logits along the golden caption, of the ids that the golden kept."""
    rows = engine.logits(prompt, golden["ids"])
    assert len(rows) == len(golden["logits"])
    return [
        {
            "values": row[kept["ids"]].tolist(),
            "largest": float(np.abs(row).max()),
            "mean": float(row.mean(dtype=np.float64)),
        }
        for row, kept in zip(rows, golden["logits"], strict=True)
    ]


def captions(case: Case, goldens: list[dict[str, Any]]) -> list[dict[str, object]]:
    """One object for each prompt of ``case``; ``together`` is None where it was not tried."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        (write_qwen2vl if case.family == "qwen2vl" else write_llava)(folder, case.spec)
        prompts = [prompt_of(folder, case, asked) for asked in case.asked]
        many = case is MANY[case.kind]
        engine = load_engine(config_of(folder, case, case.asked[0], SLOTS if many else 1))
        alone = [asdict(generate_all(engine, [prompt])[0]) for prompt in prompts]
        along = [logits(engine, *pair) for pair in zip(prompts, goldens, strict=True)]
        together: list[Any] = [None] * len(prompts)
        if many:
            together = [asdict(row) for row in generate_all(engine, prompts)]
    return [
        {"prompt_tokens": len(prompt.ids), "alone": one, "logits": rows, "together": both}
        for prompt, one, rows, both in zip(prompts, alone, along, together, strict=True)
    ]


def main() -> None:
    """Print what ``captions`` gives, by the names of the cases."""
    family, *names = sys.argv[1:]
    goldens = json.loads((GOLDENS / "engine.json").read_text())[family]
    done = {
        case.name: captions(case, [golden for golden in goldens if golden["case"] == case.name])
        for case in CASES[family]
        if case.name in names
    }
    print(json.dumps(done))


if __name__ == "__main__":
    main()
