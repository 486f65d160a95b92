"""Which keys of a ``generation_config.json`` vidcap follows, refuses or leaves aside.

Captions are decoded greedily, with a repetition penalty. A key that asks for another search is
refused; keys of sampling are left aside, and the user is told so.
"""

from collections.abc import Mapping
from typing import Any

from vidcap_cli.errors import ModelError

# Keys that alter what greedy search chooses, and the values with which they do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "no_repeat_ngram_size": (0,),
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


def sampling(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys by which ``settings`` ask for sampling; none where they do not."""
    if settings.get("do_sample") is not True:
        return ()
    return ("do_sample", *(key for key in _SAMPLING if settings.get(key) is not None))
