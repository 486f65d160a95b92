"""How a checkpoint wants to be decoded: which keys of ``generation_config.json`` are followed.

Captions are decoded greedily, with penalties for repetition. A key that asks for another search is
refused; keys of sampling are left aside, and the user is told so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.checkpoint.tokenizer import eos_token, read_tokenizer
from vidcap_cli.errors import ModelError

_MOST_TOKENS = 10_000_000


# Tokens that end a turn in the chat templates of the models; generation stops there, too, where
# the checkpoint's own settings name the end of the text alone.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>")

# Keys that alter what greedy search chooses, and the values with which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "exponential_decay_length_penalty": (),
    "sequence_bias": ({}, []),
    "guidance_scale": (1,),
    "constraints": ([],),
    "dola_layers": (),
    "stop_strings": ([],),
    "watermarking_config": (),
}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True, slots=True)
class Generation:
    """How a checkpoint wants to be decoded: greedily, until one of ``eos`` (token ids)."""

    eos: tuple[int, ...]
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


def read_generation(folder: Path) -> Generation:
    """Decoding settings of ``generation_config.json``.

    Without it, or where it names no end, the eos ids of ``config.json`` or of its text model.
    """
    file = folder / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    config = read_json(folder / "config.json")
    check_generation(settings)
    text = config.get("text_config")
    places = (settings, config, text if isinstance(text, dict) else {})
    eos = next((e for e in (place.get("eos_token_id") for place in places) if e is not None), None)
    ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    if not all(type(end) is int and 0 <= end < _MOST_TOKENS for end in ids):
        raise ModelError(
            f"{folder}: eos_token_id {str(eos)[:60]} is not a token or a list of them."
        )
    tokenizer = read_tokenizer(folder)
    ends = [tokenizer.token_to_id(text) for text in (*_TURN_ENDS, eos_token(folder))]
    ids += tuple(end for end in dict.fromkeys(ends) if end is not None and end not in ids)
    if not ids:
        raise ModelError(f"{folder} names no eos_token_id, so captions would never end.")
    return Generation(ids, repetition_penalty(settings), no_repeat_ngram_size(settings))


def sampling_keys(folder: Path) -> tuple[str, ...]:
    """The keys by which ``generation_config.json`` asks for sampling, which is not done."""
    file = folder / "generation_config.json"
    return sampling(read_json(file)) if file.is_file() else ()


def check_generation(settings: Mapping[str, Any]) -> None:
    """Raise ModelError when ``settings`` ask for what is not greedy search."""
    for key, values in _NEUTRAL.items():
        value = settings.get(key)
        if value is not None and value not in values:
            raise ModelError(
                f"generation_config.json: {key} {str(value)[:60]} is not known to vidcap, which "
                "decodes greedily; remove it from the file to caption without it."
            )


def repetition_penalty(settings: Mapping[str, Any]) -> float:
    """The factor by which tokens seen before count for less; 1 where none is given."""
    value = settings.get("repetition_penalty")
    if value is None:
        return 1.0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        raise ModelError(
            f"generation_config.json: repetition_penalty {str(value)[:40]!r} is not a positive "
            "number."
        )
    return float(value)


def no_repeat_ngram_size(settings: Mapping[str, Any]) -> int:
    """How many tokens may not follow each other twice; 0 for any."""
    value = settings.get("no_repeat_ngram_size")
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < _MOST_TOKENS:
        raise ModelError(
            f"generation_config.json: no_repeat_ngram_size {str(value)[:40]!r} is not a number of "
            "tokens."
        )
    return value


def sampling(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys by which ``settings`` ask for sampling; none where they do not."""
    if settings.get("do_sample") is not True:
        return ()
    return ("do_sample", *(key for key in _SAMPLING if settings.get(key) is not None))
