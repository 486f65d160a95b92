# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "transformers==4.57.6", "peft==0.17.1", "accelerate==1.10.1", "psutil",
#     "numpy", "av", "pillow", "safetensors", "tokenizers", "sentencepiece", "protobuf",
# ]
# ///
"""Goldens of the compiled engine: greedy token ids and logits of transformers on real PyTorch.

The models are those of the other goldens: transformers' Qwen2-VL, Qwen2.5-VL and LLaVA, PLLaVA
from its parts, in float32. Writes ``engine.json`` beside this file: for each case of
``engine_cases`` and each of its prompts the token ids and, at the end of the prompt and after every
one of them, the raw logits (before the repetition penalty): the largest with their ids, the largest
magnitude and the mean; and the mean log-probability of the caption's tokens by these logits. Run it
with ``uv run --no-project tests/goldens/make_engine.py [NAME ...]`` when a case is added; names of
cases say which to try, and nothing is written then. Names of families say which to write; others
stay.

transformers 4.57 rounds ``second_per_grid_ts`` down before it multiplies it by
``tokens_per_second``, so that at four frames a second all moments are one; 5.24 rounds the product,
as Qwen2.5-VL was published. So 4.57 is told the product as its ``tokens_per_second`` here.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    LlamaTokenizerFast,
    LlavaForConditionalGeneration,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from tests.goldens import make_llava, make_pllava
from tests.goldens.cases import noise
from tests.goldens.engine_cases import CASES, NEW_TOKENS, Asked, Case
from tests.goldens.llava_cases import QUESTION
from tests.goldens.make_clip import HUB
from tests.goldens.make_qwen2vl import reference_patches
from tests.helpers.tiny import write_qwen2vl
from tests.helpers.tiny_llava import drift, write_llava

KEPT = 8  # the largest logits of a position
# The best score of a step is ahead of the next by more than this part of the largest logit, so
# that rounding cannot change a token.
LEAD = 1e-3
# Decoding with and without a cache agree within this part of the largest logit.
SAME = 1e-5

Inputs = dict[str, torch.Tensor]
Ask = Callable[[Asked], Inputs]


def loaded(kind: Any, folder: Path) -> Any:
    """A transformers model in float32, every weight accounted for."""
    model, report = kind.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    return model


def qwen2vl(folder: Path, case: Case) -> tuple[Any, Ask]:
    """The model of a checkpoint, and what makes its inputs."""
    ask = qwen_inputs(folder, case)
    return loaded(Qwen2VLForConditionalGeneration, folder), ask


def qwen_inputs(folder: Path, case: Case) -> Ask:
    """Write a checkpoint of Qwen2-VL or Qwen2.5-VL: what makes its inputs."""
    write_qwen2vl(folder, case.spec)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ask(asked: Asked) -> Inputs:
        patches, grid = reference_patches(noise(*asked.clip))
        text = (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|>"
            + "<|video_pad|>" * (grid[0] * grid[1] * grid[2] // 4)
            + f"<|vision_end|>{asked.question}<|im_end|>\n<|im_start|>assistant\n"
        )
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return {
            "input_ids": torch.tensor([ids]),
            "pixel_values_videos": torch.from_numpy(patches),
            "video_grid_thw": torch.tensor([grid]),
        }

    return ask


def qwen25vl(folder: Path, case: Case) -> tuple[Any, Ask]:
    """The same; positions in time are those of the clip that is asked about."""
    ask = qwen_inputs(folder, case)
    model = loaded(Qwen2_5_VLForConditionalGeneration, folder)

    def timed(asked: Asked) -> Inputs:
        seconds = float(np.float32(2 * asked.seconds / asked.clip[1]))
        model.model.config.vision_config.tokens_per_second = case.spec.rate * seconds
        return ask(asked)

    return model, timed


def llava(folder: Path, case: Case) -> tuple[Any, Ask]:
    """The model of a checkpoint, and what makes its inputs."""
    spec = case.spec
    write_llava(folder, spec)
    tokenizer, pixels = words_and_pixels(folder, case)
    features = (spec.side // 14) ** 2 + (spec.strategy == "full")

    def ask(asked: Asked) -> Inputs:
        # The other goldens have one question and as many images as the checkpoint is shown.
        text = make_llava.prompt(replace(spec, num_frames=asked.clip[1]), features)
        ids = tokenizer(text.replace(QUESTION, asked.question))["input_ids"]
        return {"input_ids": torch.tensor([ids]), "pixel_values": pixels(asked)}

    return loaded(LlavaForConditionalGeneration, folder), ask


def pllava(folder: Path, case: Case) -> tuple[Any, Ask]:
    """The language model of a checkpoint, and what makes its inputs."""
    write_llava(folder, case.spec)
    tokenizer, pixels = words_and_pixels(folder, case)
    parts = make_pllava.Composed(folder, case.spec)
    half = case.spec.side // 14 // 2
    parts.pooling = torch.nn.AdaptiveAvgPool3d(
        case.pooling or (case.spec.num_frames, max(1, half), max(1, half))
    )

    def ask(asked: Asked) -> Inputs:
        text = make_pllava.prompt(case.spec).replace(QUESTION, asked.question)
        ids = tokenizer(text)["input_ids"]
        place = ids.index(parts.image_token)
        embed = parts.llama.get_input_embeddings()
        before, after = (embed(torch.tensor(part)) for part in (ids[:place], ids[place + 1 :]))
        features = parts.features(pixels(asked))
        return {"inputs_embeds": torch.cat([before, features, after])[None]}

    return parts.llama, ask


def words_and_pixels(folder: Path, case: Case) -> tuple[Any, Callable[[Asked], torch.Tensor]]:
    """The tokenizer of a LLaVA or PLLaVA checkpoint, and what makes pixels of a clip."""
    kind = LlamaTokenizerFast if case.spec.tokenizer == "spm" else AutoTokenizer
    given = (folder / "preprocessor_config.json").is_file()
    processor = CLIPImageProcessor.from_pretrained(folder) if given else CLIPImageProcessor(**HUB)

    def pixels(asked: Asked) -> torch.Tensor:
        return processor(list(drift(*asked.clip)), return_tensors="pt")["pixel_values"]

    return kind.from_pretrained(folder), pixels


def golden(model: Any, inputs: Inputs, eos: tuple[int, ...], case: Case) -> dict[str, object]:
    """The caption of one prompt, and the logits on the way; see the head of this file."""
    name = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
    prompt = inputs[name]
    penalties = {"repetition_penalty": case.penalty, "no_repeat_ngram_size": case.ngram}
    output = model.generate(
        **inputs,
        attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        **{name: value for name, value in penalties.items() if value is not None},
        eos_token_id=list(eos),
        pad_token_id=eos[0],
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
    )
    steps = len(output.scores)
    new = output.sequences[0, -steps:]
    stopped = int(new[-1]) in eos
    kept = new[: steps - stopped]
    places = {getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")}
    # transformers would want features for it in the pass below.
    assert not places & set(kept.tolist()), "a placeholder came out; take another seed"
    more = model.get_input_embeddings()(kept) if name == "inputs_embeds" else kept
    whole = torch.cat([prompt, more[None]], dim=1)
    logits = forced(model, {**inputs, name: whole}, len(kept) + 1)
    largest = logits.abs().amax(-1, keepdim=True)
    cached = torch.cat(output.logits)
    assert ((logits[:steps] - cached).abs() <= SAME * largest[:steps]).all()
    log_probs = torch.log_softmax(cached[: len(kept)].float(), -1)
    best = torch.cat(output.scores).topk(2).values
    leads = (best[:, 0] - best[:, 1]) / largest[:steps, 0]
    return {
        "prompt_tokens": prompt.shape[1],
        "ids": kept.tolist(),
        "finish": "stop" if stopped else "length",
        "lead": short(leads.min()),
        # Of the caption's tokens, before the repetition penalty; without the end token.
        "logprob": short(log_probs[torch.arange(len(kept)), kept].mean()) if len(kept) else None,
        "logits": [position(row) for row in logits],
    }


def forced(model: Any, inputs: Inputs, count: int) -> torch.Tensor:
    """Raw logits ``[count, vocab]`` of the last ``count`` positions, in one pass, uncached."""
    size = (inputs.get("inputs_embeds", inputs.get("input_ids"))).shape[:2]
    output = model(**inputs, attention_mask=torch.ones(size, dtype=torch.long), use_cache=False)
    return output.logits[0, -count:]


def position(logits: torch.Tensor) -> dict[str, object]:
    """What is kept of the logits ``[vocab]`` of one position."""
    top = logits.topk(KEPT)
    return {
        "ids": top.indices.tolist(),
        "values": [short(value) for value in top.values],
        "largest": short(logits.abs().max()),
        "mean": short(logits.double().mean()),
    }


def short(value: torch.Tensor) -> float:
    """``value`` in seven digits, as many as float32 has."""
    return float(f"{float(value):.7g}")


def answers(case: Case) -> list[dict[str, object]]:
    """One golden for each prompt of ``case``."""
    eos = (258, 256) if case.family == "qwen2vl" else (case.spec.eos_token,)
    make = {"qwen2vl": qwen2vl, "qwen2.5vl": qwen25vl, "llava": llava, "pllava": pllava}[case.kind]
    with TemporaryDirectory() as place, torch.no_grad():
        model, ask = make(Path(place), case)
        return [golden(model, ask(asked), eos, case) for asked in case.asked]


def summary(case: Case, prompts: list[dict[str, Any]]) -> str:
    """A line about each prompt: its length, how it ends and how clear the choices were."""
    lines = [
        f"{case.kind} {case.name}: {p['prompt_tokens']} + {len(p['ids'])} {p['finish']}, "
        f"{len(set(p['ids']))} different, lead {p['lead']:.2g}"
        + ("" if p["lead"] > LEAD else ": TOO NEAR, take another seed")
        for p in prompts
    ]
    return "\n".join(lines)


def main() -> None:
    """Write the file, a line for each prompt, or try the cases that are named."""
    families = [name for name in sys.argv[1:] if name in CASES]
    named, sections, near = [name for name in sys.argv[1:] if name not in CASES], [], False
    before = (HERE / "engine.json").read_text()
    for family, cases in CASES.items():
        lines = []
        if families and family not in families:
            start = before.index(f'"{family}": [\n')
            sections.append(before[start : before.index("\n]", start) + 2])
            continue
        for case in cases:
            if named and case.name not in named:
                continue
            prompts = answers(case)
            print(summary(case, prompts), flush=True)
            near = near or any(p["lead"] <= LEAD for p in prompts)
            lines += [json.dumps({"case": case.name, **p}, separators=(",", ":")) for p in prompts]
        sections.append(f'"{family}": [\n' + ",\n".join(lines) + "\n]")
    if near or named:
        sys.exit("Nothing was written.")
    (HERE / "engine.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main()
