"""The peer ``llama``: llama.cpp through its C interface, all but the threads at its defaults.

It has the language model alone, in a GGUF file beside the checkpoint that the first job of its
number type writes. Norms and biases are float32, keys and values float16.
"""

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import gguf
import llama_cpp as llama
import numpy as np
from trial import Job, answer, decode_seconds, is_qwen, median, settings, values

CORES = os.cpu_count() or 1
NUMBERS = {
    "float32": gguf.GGMLQuantizationType.F32,
    "float16": gguf.GGMLQuantizationType.F16,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
}
Tensor = tuple[str, list[int], gguf.GGMLQuantizationType]


def tensors(job: Job, arch: gguf.MODEL_ARCH, layers: int) -> Iterator[Tensor]:
    """What llama.cpp calls the weights of the job's language model, their shapes and numbers."""
    with Path(job["folder"], "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = gguf.get_tensor_name_map(arch, layers)
    for name, entry in header.items():
        short = re.sub(r".*language_model\.(?:model\.)?(?!lm_head)", "model.", name)
        if re.match(r"model\.(?:embed_tokens|layers|norm)\.|lm_head\.", short) is None:
            continue  # of the vision tower
        known = names.get_name(short, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        shape = entry["shape"]
        yield known, shape, NUMBERS[job["dtype"] if len(shape) > 1 else "float32"]


def write(job: Job) -> Path:
    """The GGUF file: sizes, random weights and no vocabulary."""
    target = Path(job["folder"], f"{job['dtype']}.gguf")
    if target.exists():
        return target
    whole = settings(job)
    text = whole.get("text_config", whole)
    heads, layers = text["num_attention_heads"], text["num_hidden_layers"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    arch = gguf.MODEL_ARCH.QWEN2VL if is_qwen(job) else gguf.MODEL_ARCH.LLAMA
    partial = target.with_suffix(".part")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(text["vocab_size"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_theta"])
    writer.add_rope_dimension_count(head)
    if is_qwen(job):
        writer.add_rope_dimension_sections([*text["rope_scaling"]["mrope_section"], 0])
    found = list(tensors(job, arch, layers))
    for name, shape, number in found:
        size = math.prod(shape) * gguf.GGML_QUANT_SIZES[number][1]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, shape, number in found:
        writer.write_tensor_data(gguf.quantize(values(tuple(shape)), number))
    writer.close()
    os.sync()  # so that nothing is written to disk while something is measured
    return partial.rename(target)


class Model:
    """The language model of a GGUF file."""

    def __init__(self, path: Path) -> None:
        options = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(str(path).encode(), options)
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))


class Context:
    """So many sequences of a model, each with a cache of its own for ``length`` tokens."""

    def __init__(self, model: Model, sequences: int, length: int) -> None:
        options = llama.llama_context_default_params()
        options.n_ctx, options.n_seq_max = sequences * length, sequences
        options.n_threads = options.n_threads_batch = CORES
        self.context = llama.llama_init_from_model(model.model, options)
        self.memory = llama.llama_get_memory(self.context)
        self.vocabulary = model.vocabulary

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama.llama_free(self.context)

    def decode(self, entries: list[tuple[int, int, int]], wanted: int) -> np.ndarray:
        """Append tokens (sequence, position, id): the likeliest that follow the last ``wanted``."""
        batch = llama.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for place, (sequence, position, token) in enumerate(entries):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = place >= len(entries) - wanted
        status = llama.llama_decode(self.context, batch)
        llama.llama_batch_free(batch)
        assert status == 0, f"llama_decode: {status}"
        logits = llama.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (wanted, self.vocabulary)).argmax(-1)

    def prefill(self, length: int) -> None:
        """Prefill the first sequence with ``length`` tokens, to the choice of the next."""
        llama.llama_memory_clear(self.memory, False)
        self.decode([(0, place, 5) for place in range(length)], 1)


def step_of(context: Context, slots: int, cached: int) -> Callable[[], None]:
    """What appends a token to every sequence, ``cached`` of them being there at the beginning."""
    context.prefill(cached)
    for slot in range(1, slots):
        llama.llama_memory_seq_cp(context.memory, 0, slot, -1, -1)
    places, ids = itertools.count(cached), np.full(slots, 5)

    def step() -> None:
        place = next(places)
        ids[:] = context.decode([(slot, place, int(ids[slot])) for slot in range(slots)], slots)

    return step


def parts(job: Job) -> Job:
    """Seconds of the parts of the model that the job asks for."""
    model, seconds = Model(write(job)), {}
    for slots in job.get("slots", []):
        with Context(model, slots, job["cached"] + 64) as context:
            step = step_of(context, slots, job["cached"])
            seconds[f"step {slots}"] = decode_seconds(step, job["count"])
    for length in job.get("prefill", []):
        with Context(model, 1, length) as context:
            seconds[f"prefill {length}"] = median(functools.partial(context.prefill, length), 1, 1)
    return {"seconds": seconds}


if __name__ == "__main__":
    answer({"parts": parts})
