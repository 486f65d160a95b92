"""The peer ``ours``: vidcap's compiled engine on MindSpore.

Everything that depends on the engine's own interface is in the functions ``make_...``.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from captioning import caption_clips, config, decode_all
from trial import (
    Job,
    answer,
    decode_seconds,
    is_qwen,
    median,
    pixels,
    seeded,
    sequence,
    settings,
    values,
)

from vidcap_cli.checkpoint import weights as checkpoint
from vidcap_cli.engine import load_engine
from vidcap_cli.models.decoder import Decoder, Prefilled
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.device import current_device, round_products, select_device
from vidcap_cli.models.kernels import Kernels, kernels_for

LANGUAGE = r".*language_model\.(?:model\.)?|(?=lm_head\.)"


def random_weights() -> None:
    """Make up what checkpoints hold: those of real size are true headers of empty files."""
    checkpoint.Tensor.read = lambda tensor, rows=slice(None): values(tensor.shape)[rows]


def read_part(job: Job, prefix: str) -> Callable[[str], np.ndarray]:
    """What reads the weights of the job's folder whose names begin with ``prefix``."""
    tensors = checkpoint.Weights(Path(job["folder"]))
    found = ((re.match(prefix, name), tensor) for name, tensor in tensors.items())
    named = {m.string[m.end() :]: tensor for m, tensor in found if m}
    return lambda name: named[name].read()


def number(job: Job) -> Any:
    """What the weights are kept in, and products computed in, as with ``--dtype``."""
    dtype = job.get("dtype", "float32")
    round_products(dtype, current_device())
    return getattr(ms, dtype)


def make_kernels() -> Kernels:
    """Those of the product."""
    return kernels_for(current_device())


def make_decoder(job: Job, slots: int) -> Decoder:
    """The language model of the job's folder."""
    sizes = DecoderConfig.read(settings(job))
    return Decoder(sizes, read_part(job, LANGUAGE), make_kernels(), slots=slots, dtype=number(job))


def make_prefill(decoder: Decoder, length: int) -> Callable[[], Prefilled]:
    """What prefills ``length`` random embeddings, to the choice of the first token."""
    rng = np.random.default_rng(2)
    hidden = rng.normal(0, 0.02, (length, decoder.config.hidden)).astype(np.float32)
    embedded, positions = ms.Tensor(hidden), np.arange(length)
    if decoder.config.mrope_section:
        positions = np.tile(positions, (3, 1))

    def prefill() -> Prefilled:
        prefilled = decoder.prefill(embedded, np.arange(length), positions)
        prefilled.next_token.argmax.asnumpy()
        return prefilled

    return prefill


def make_step(job: Job, slots: int) -> Callable[[], None]:
    """What appends a token to every slot, ``cached`` of them being there at the beginning."""
    decoder = make_decoder(job, slots)
    prefilled = make_prefill(decoder, job["cached"])()
    for slot in range(slots):
        decoder.insert(slot, prefilled, 64)
    ids = np.full(slots, 5, np.int64)

    def step() -> None:
        ids[:] = decoder.step(ids).argmax.asnumpy()

    return step


def make_vision(job: Job) -> Callable[[dict[str, Any]], Any]:
    """The vision tower of the job's folder, and what leads to the language model."""
    whole = settings(job)
    if is_qwen(job):
        from vidcap_cli.models.qwen2vl_vision import Qwen2VLVision
        from vidcap_cli.models.qwen25vl_vision import Qwen25VLVision
        from vidcap_cli.models.vision_config import Qwen2VLVisionConfig, Qwen25VLVisionConfig

        kind, tower = {
            "qwen2_vl": (Qwen2VLVisionConfig, Qwen2VLVision),
            "qwen2_5_vl": (Qwen25VLVisionConfig, Qwen25VLVision),
        }[whole["model_type"]]
        read = read_part(job, r".*visual\.")
        sizes = kind.read(whole, DecoderConfig.read(whole).hidden)
        return tower(sizes, read, make_kernels(), number(job))
    from vidcap_cli.models.clip import ClipVision
    from vidcap_cli.models.vision_config import ClipConfig

    read = read_part(job, r".*(?=(?:vision_tower|multi_modal_projector)\.)")
    sizes = ClipConfig.read(whole, whole["text_config"]["hidden_size"])
    return ClipVision(sizes, read, make_kernels(), number(job), None)


def see(tower: Callable[[dict[str, Any]], Any], image: dict[str, Any]) -> None:
    """Run the tower and wait for what it gives."""
    for features in tower(image)[0]:
        features.asnumpy()


def parts(job: Job) -> Job:
    """Seconds of the parts of the model that the job asks for."""
    select_device("CPU", compiled=True)
    random_weights()
    seconds = {}
    for slots in job.get("slots", []):
        seconds[f"step {slots}"] = decode_seconds(make_step(job, slots), job["count"])
    if job.get("prefill"):
        decoder = make_decoder(job, 1)
        for length in job["prefill"]:
            seconds[f"prefill {length}"] = median(make_prefill(decoder, length), 1, 1)
        del decoder
    if job.get("vision"):
        tower = make_vision(job)
        for size in job["vision"]:
            image = pixels(job, size)
            seconds[f"vision {size}"] = median(lambda image=image: see(tower, image), 1, 1)
    return {"seconds": seconds}


def agreement(job: Job) -> Job:
    """The logits after a prompt and each token of a caption, of many random checkpoints."""
    select_device("CPU", compiled=True)
    sizes, rows = DecoderConfig.read(settings(job)), []
    kernels, graphs = make_kernels(), None
    for seed in range(job["seeds"]):
        shapes = sizes.shapes()

        def read(name: str, seed: int = seed, shapes: dict[str, Any] = shapes) -> np.ndarray:
            return seeded(name, shapes[name], seed)

        decoder = Decoder(sizes, read, kernels, slots=1, dtype=number(job))
        # Compiled once: the same for all weights of these sizes.
        graphs = decoder._graphs = graphs or decoder._graphs
        ids = sequence(job, seed)
        prompt = ids[: job["prompt"]]
        places = np.tile(np.arange(len(prompt)), (3, 1))
        prefilled = decoder.prefill(decoder.embed(prompt), np.arange(len(prompt)), places)
        rows.append(prefilled.next_token.logits.asnumpy())
        decoder.insert(0, prefilled, job["count"])
        for token in ids[job["prompt"] : -1]:
            rows.append(decoder.step(np.array([token])).logits.asnumpy())
    np.save(job["out"], np.concatenate(rows))
    return {}


def captions(job: Job) -> Job:
    """Clips through the engine as the product runs it."""
    if job["section"] == "caption":
        random_weights()
    dtype = job.get("dtype", "auto")
    engine = load_engine(config(job, engine="graph", device_target="CPU", dtype=dtype))
    return caption_clips(job, lambda prompts: decode_all(engine, prompts))


def memory(job: Job) -> Job:
    """Peak resident bytes while a prompt is prefilled, and once it is in its slot, too."""
    select_device("CPU", compiled=True)
    random_weights()
    decoder = make_decoder(job, 1)
    prefill = make_prefill(decoder, job["prefill"])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again here
    prefilled = prefill()
    peak = resident("VmHWM")
    decoder.insert(0, prefilled, 200)
    return {"before": before, "peak": peak, "inserted": resident("VmHWM")}


def resident(kind: str) -> int:
    """A figure of ``/proc/self/status``, in bytes."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    answer(
        {
            "parts": parts,
            "caption": captions,
            "nano": captions,
            "memory": memory,
            "agreement": agreement,
        }
    )
