"""The peer ``torch``: transformers on PyTorch, as a plain script would use them."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers
from captioning import caption_clips
from transformers.modeling_utils import no_init_weights
from trial import Job, answer, decode_seconds, is_qwen, median, pixels, seeded, sequence, values

from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.processors import Prompt

TESTS = Path(__file__).parents[1]
Generate = Callable[[Iterator[Prompt]], list[list[int]]]
CORES = os.cpu_count() or 1
torch.set_num_threads(CORES)
torch.set_grad_enabled(False)


def build(job: Job) -> transformers.PreTrainedModel:
    """The model of ``config.json`` with the weights of ``trial``, nothing read from disk."""
    config = transformers.AutoConfig.from_pretrained(job["folder"])
    kind = getattr(transformers, config.architectures[0])
    number = getattr(torch, job["dtype"])
    for each in (config, config.get_text_config(), config.vision_config):
        each.dtype = number  # a part with a type of its own would keep it
    with no_init_weights():
        model = kind._from_config(config, dtype=number, attn_implementation="sdpa")
    for weight in model.parameters():
        weight.copy_(torch.from_numpy(values(tuple(weight.shape))))
    model.generation_config.eos_token_id = None  # so that nothing ends a caption early
    return model.eval()


def parts(job: Job) -> Job:
    """Seconds of the parts of the model that the job asks for."""
    model, seconds = build(job), {}
    text, number = model.config.get_text_config(), getattr(torch, job["dtype"])
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads

    def places(batch: int, start: int, count: int) -> torch.Tensor:
        row = torch.arange(start, start + count)
        return row.expand(3, batch, count) if is_qwen(job) else row.expand(batch, count)

    for batch in job.get("slots", []):
        cache = transformers.DynamicCache()
        shape = (batch, text.num_key_value_heads, job["cached"], head)
        for layer in range(text.num_hidden_layers):
            cache.update(torch.randn(shape).to(number), torch.randn(shape).to(number), layer)
        token = torch.full((batch, 1), 5)

        def step(cache=cache, token=token, batch=batch) -> None:
            start = cache.get_seq_length()
            output = model(
                input_ids=token,
                position_ids=places(batch, start, 1),
                cache_position=torch.tensor([start]),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token.copy_(output.logits[:, -1:].argmax(-1))

        seconds[f"step {batch}"] = decode_seconds(step, job["count"])
    for length in job.get("prefill", []):
        embeddings = torch.randn(1, length, text.hidden_size).to(number) * 0.02

        def prefill(embeddings=embeddings, length=length) -> None:
            hidden = model.model.language_model(
                inputs_embeds=embeddings,
                position_ids=places(1, 0, length),
                past_key_values=transformers.DynamicCache(),
                use_cache=True,
            ).last_hidden_state
            model.lm_head(hidden[:, -1]).argmax(-1).item()

        seconds[f"prefill {length}"] = median(prefill, 1, 1)
    for size in job.get("vision", []):
        image = {name: torch.from_numpy(array) for name, array in pixels(job, size).items()}

        def see(image=image) -> None:
            if is_qwen(job):
                model.model.visual(image["pixel_values_videos"].to(number), image["video_grid_thw"])
            else:
                model.model.get_image_features(pixel_values=image["pixel_values"].to(number))

        seconds[f"vision {size}"] = median(see, 1, 1)
    return {"seconds": seconds}


def agreement(job: Job) -> Job:
    """The logits after a prompt and each token of a caption, of many random checkpoints."""
    model, rows = build(job), []
    model.tie_weights()
    names = {
        re.sub(r".*language_model\.(?:model\.)?", "", name): weight
        for name, weight in model.named_parameters()
        if "visual" not in name
    }
    for seed in range(job["seeds"]):
        for name, weight in names.items():
            weight.copy_(torch.from_numpy(seeded(name, tuple(weight.shape), seed)))
        ids = torch.from_numpy(sequence(job, seed))[None]
        logits = model(input_ids=ids).logits[0, job["prompt"] - 1 : -1]
        rows.append(logits.float().numpy())
    np.save(job["out"], np.concatenate(rows))
    return {}


def caption(job: Job) -> Job:
    """One whole caption through ``generate``, the weights random and no token ending it."""
    return caption_clips(job, plain_loop(build(job), job))


def nano(job: Job) -> Job:
    """Nano clips through the bundled checkpoint."""
    if job["family"] == "pllava":
        return caption_clips(job, composed_pllava(job))
    kind = transformers.AutoConfig.from_pretrained(job["folder"]).architectures[0]
    model = getattr(transformers, kind).from_pretrained(job["folder"], dtype=torch.float32).eval()
    return caption_clips(job, plain_loop(model, job, read_generation(Path(job["folder"])).eos))


def plain_loop(
    model: transformers.PreTrainedModel, job: Job, eos: tuple[int, ...] = ()
) -> Generate:
    """What captions one prompt after the other."""

    def generate(prompts: Iterator[Prompt]) -> list[list[int]]:
        done = []
        for prompt in prompts:
            ids = torch.from_numpy(prompt.ids)[None]
            vision = {name: torch.from_numpy(array) for name, array in prompt.vision.items()}
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **vision,
                do_sample=False,
                max_new_tokens=job["tokens"],
                eos_token_id=list(eos) or None,
                pad_token_id=0,
            )
            done.append(until_end(output[0, ids.shape[1] :].tolist(), eos))
        return done

    return generate


def composed_pllava(job: Job) -> Generate:
    """PLLaVA as the goldens put it together: transformers has none."""
    sys.path.insert(0, str(TESTS.parent))
    from tests.goldens import make_pllava
    from tests.helpers.tiny_llava import TinyLlava

    folder = Path(job["folder"])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    spec = TinyLlava(
        seed=-1,
        family="pllava",
        hidden=text["hidden_size"],
        vision_width=vision["hidden_size"],
        side=vision["image_size"],
        num_frames=job["frames"],
        lora="default",
        rank=config["lora_r"],
        alpha=config["lora_alpha"],
    )
    make_pllava.NEW_TOKENS = job["tokens"]
    model = make_pllava.Composed(folder, spec)
    model.llama.set_attn_implementation("sdpa")
    eos = read_generation(folder).eos

    def generate(prompts: Iterator[Prompt]) -> list[list[int]]:
        done = []
        for prompt in prompts:
            ids = prompt.ids.tolist()
            place, count = ids.index(model.image_token), ids.count(model.image_token)
            ids[place : place + count] = [model.image_token]
            frames = torch.from_numpy(prompt.vision["pixel_values"])
            done.append(until_end(model.caption(ids, frames, eos[0]), eos))
        return done

    return generate


def until_end(ids: list[int], eos: tuple[int, ...]) -> list[int]:
    """The ids before the first one that ends a caption."""
    return ids[: next((i for i, token in enumerate(ids) if token in eos), len(ids))]


def floor(job: Job) -> Job:
    """Seconds to read a gigabyte of float32 from memory: the best of four ways to do so."""
    side = job["side"]
    matrix, vector = torch.ones(side, side), torch.ones(side)
    array, row = matrix.numpy(), np.ones(side, np.float32)
    pieces = np.array_split(array, CORES)
    with ThreadPoolExecutor(CORES) as pool:
        ways = {
            "torch matrix-vector product": lambda: torch.mv(matrix, vector),
            "torch sum": matrix.sum,
            "numpy sum, a thread a core": lambda: list(pool.map(np.sum, pieces)),
            "numpy matrix-vector product": lambda: array @ row,
        }
        taken = {name: min(median(way, 0, 1) for _ in range(6)) for name, way in ways.items()}
    best = min(taken, key=taken.__getitem__)
    return {"seconds": {"gigabyte": taken[best] / array.nbytes * 1e9}, "way": best}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    answer(
        {"parts": parts, "caption": caption, "nano": nano, "floor": floor, "agreement": agreement}
    )
