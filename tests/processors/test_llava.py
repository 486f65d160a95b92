"""LLaVA and PLLaVA: prompts, frames, placeholders, against goldens and the originals' rules."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.goldens.llava_cases import LLAVA, PLLAVA, POOLING, QUESTION, SYSTEM
from tests.helpers.tiny_llava import TinyLlava, TinyPllava, write_llava
from vidcap_cli.checkpoint.folder import check_model, command_of
from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError, UsageError
from vidcap_cli.processors import load_captioner
from vidcap_cli.processors.llava import llama3_prompt
from vidcap_cli.processors.pllava import SYSTEM_PROMPT, averaging, vicuna_prompt, yi_prompt

GOLDENS = Path(__file__).parents[1] / "goldens"
LLAVA_GOLDENS = json.loads((GOLDENS / "llava.json").read_text())
PLLAVA_GOLDENS = json.loads((GOLDENS / "pllava.json").read_text())


def config_of(folder: Path, spec: TinyLlava, **more: object) -> CaptionConfig:
    shape = "-".join(map(str, POOLING[spec.seed])) if spec.seed in POOLING else None
    config = CaptionConfig(
        spec.family,
        str(folder),
        question=QUESTION,
        num_frames=spec.num_frames,
        pooling_shape=shape,
        system_prompt=SYSTEM if spec.family == "pllava" else None,
    )
    return replace(config, **more)


def blank(spec: TinyLlava) -> np.ndarray:
    return np.zeros((spec.num_frames, spec.side, spec.side, 3), np.uint8)


@pytest.mark.parametrize("number", range(len(LLAVA)))
def test_llava_prompts_equal_those_of_transformers(number, tmp_path):
    spec = LLAVA[number]
    captioner = load_captioner(config_of(write_llava(tmp_path, spec), spec))
    prompt = captioner.prompt(blank(spec))
    assert prompt.ids.tolist() == LLAVA_GOLDENS[number]["videos"][0]["prompt"]
    assert prompt.vision["pixel_values"].shape == (spec.num_frames, 3, spec.side, spec.side)
    places = int((prompt.ids == spec.image_token).sum())
    assert captioner.rule.tokens(spec.num_frames, 480, 640) == places


@pytest.mark.parametrize("number", range(len(PLLAVA)))
def test_pllava_prompts_hold_the_pooled_features_at_one_image(number, tmp_path):
    spec = PLLAVA[number]
    captioner = load_captioner(config_of(write_llava(tmp_path, spec), spec))
    ids = captioner.prompt(blank(spec)).ids.tolist()
    golden = PLLAVA_GOLDENS["captions"][number]["videos"][0]["prompt"]
    place = golden.index(spec.image_token)
    count = ids.count(spec.image_token)
    assert ids == [*golden[:place], *[spec.image_token] * count, *golden[place + 1 :]]
    half = spec.side // 14 // 2
    assert count == np.prod(POOLING.get(spec.seed, (spec.num_frames, half, half)))
    assert captioner.rule.tokens(spec.num_frames, 480, 640) == count


def test_llava_looks_at_the_middle_frame(tmp_path):
    spec = TinyLlava(seed=1)
    rule = load_captioner(config_of(write_llava(tmp_path, spec), spec)).rule
    assert [rule.indices(total, 30.0).tolist() for total in (1, 2, 3, 100)] == [[0], [1], [1], [50]]


def test_llava_looks_at_the_middles_of_equal_pieces(tmp_path):
    spec = TinyLlava(seed=1, num_frames=4)
    rule = load_captioner(config_of(write_llava(tmp_path, spec), spec)).rule
    assert rule.indices(100, 30.0).tolist() == [12, 37, 62, 87]
    assert rule.indices(2, 30.0).tolist() == [0, 0, 1, 1]


def test_pllava_frames_are_those_of_the_original(tmp_path):
    spec = TinyPllava(seed=1)
    rule = load_captioner(config_of(write_llava(tmp_path, spec), spec)).rule
    for golden in PLLAVA_GOLDENS["frames"]:
        total, count = golden["case"]
        chosen = replace(rule, num_frames=count).indices(total, 30.0)
        assert chosen.tolist() == golden["indices"], golden["case"]
        assert chosen.max() < total


def test_the_prompts():
    assert llama3_prompt("Who?", 2) == (
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n<image>\nWho?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert vicuna_prompt("Look.\n", "Who?") == "Look.\nUSER: Who? </s> USER:<image> ASSISTANT:"
    assert yi_prompt("Look.", "Who?") == (
        "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n<image>\n<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_system_prompt_is_ours_unless_told(tmp_path):
    spec = TinyPllava(seed=1, tokenizer="vicuna")
    config = config_of(write_llava(tmp_path, spec), spec)
    said = {
        given: load_captioner(replace(config, system_prompt=given)).prompt(blank(spec)).ids
        for given in (None, SYSTEM_PROMPT, "", SYSTEM)
    }
    assert np.array_equal(said[None], said[SYSTEM_PROMPT])
    assert len(said[""]) < len(said[SYSTEM]) < len(said[None])


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (
            "llama3",
            (
                "<|start_header_id|>system<|end_header_id|>\n\nLook at\nit.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is this?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        ("vicuna", "Look at\nit. USER: <image>\nWhat is this? ASSISTANT:"),
    ],
)
def test_a_system_text_stands_where_the_chat_template_has_it(tmp_path, tokenizer, text):
    """As the templates of Meta-Llama-3-8B-Instruct and llava-1.5-7b-hf render these turns."""
    spec = TinyLlava(seed=1, tokenizer=tokenizer)
    config = config_of(write_llava(tmp_path, spec), spec)
    told = load_captioner(replace(config, system_prompt="Look at\nit.")).prompt(blank(spec)).ids
    expected = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    place = expected.index(spec.image_token)
    count = told.tolist().count(spec.image_token)
    assert told.tolist() == [*expected[:place], *[spec.image_token] * count, *expected[place + 1 :]]
    untold, nothing = (
        load_captioner(replace(config, system_prompt=system)).prompt(blank(spec)).ids.tolist()
        for system in (None, "")
    )
    assert untold == nothing
    assert len(untold) < len(told)


@pytest.mark.parametrize("family", ["llava", "pllava"])
def test_a_question_cannot_ask_for_another_image(family, tmp_path):
    spec = TinyLlava(seed=1, family=family)
    config = config_of(write_llava(tmp_path, spec), spec, question="What is <image>?")
    with pytest.raises(UsageError, match="stands for the video"):
        load_captioner(config)


def test_pixels_that_the_vision_tower_cannot_take_are_refused(tmp_path):
    spec = TinyLlava(seed=1, resize="")  # CLIP-336 for a tower of 56 pixels
    with pytest.raises(ModelError, match="takes 56x56 pixels"):
        load_captioner(config_of(write_llava(tmp_path, spec), spec))


def test_the_hubs_sizes_give_the_tokens_of_the_original(tmp_path):
    spec = TinyLlava(seed=1, side=336, resize="")
    rule = load_captioner(config_of(write_llava(tmp_path / "l", spec), spec)).rule
    assert rule.tokens(1, 1080, 1920) == 576
    spec = TinyPllava(seed=1, side=336)
    rule = load_captioner(config_of(write_llava(tmp_path / "p", spec), spec)).rule
    assert rule.tokens(4, 1080, 1920) == 4 * 12 * 12


@pytest.mark.parametrize("shape", ["4", "4x12x12", "0-1-1", "4-12"])
def test_a_pooling_shape_that_is_none(shape, tmp_path):
    spec = TinyPllava(seed=1)
    with pytest.raises(UsageError, match="T-H-W"):
        load_captioner(config_of(write_llava(tmp_path, spec), spec, pooling_shape=shape))


@pytest.mark.parametrize(("source", "target"), [(24, 12), (5, 3), (3, 5), (7, 7), (4, 1)])
def test_averaging_is_that_of_adaptive_pooling(source, target):
    values = np.random.default_rng(0).normal(size=source)
    cuts = [(i * source // target, -(-(i + 1) * source // target)) for i in range(target)]
    means = [values[first:last].mean() for first, last in cuts]
    assert np.allclose(averaging(source, target) @ values, means)


def test_families_are_told_apart():
    assert command_of({"model_type": "llava"}) == "llava"
    assert command_of({"model_type": "pllava"}) == "pllava"
    assert command_of({"model_type": "llava", "pooling_shape": [8, 16, 16]}) == "pllava"
    named = {"model_type": "llava", "architectures": ["PllavaForConditionalGeneration"]}
    assert command_of(named) == "pllava"
    assert command_of({"model_type": "bert"}) is None


@pytest.mark.parametrize("spec", [TinyLlava(seed=1), TinyPllava(seed=1)], ids=["llava", "pllava"])
def test_the_other_command_is_named(spec, tmp_path):
    folder = write_llava(tmp_path, spec)
    check_model(folder, spec.family)
    other = {"llava": "pllava", "pllava": "llava"}[spec.family]
    with pytest.raises(ModelError, match=f"use `vidcap {spec.family}`"):
        check_model(folder, other)


def test_generation_ends_where_the_turn_ends(tmp_path):
    folder = write_llava(tmp_path, TinyLlava(seed=1))
    (folder / "generation_config.json").write_text('{"eos_token_id": 257}')
    assert read_generation(folder).eos == (257, 260)
    (folder / "generation_config.json").unlink()
    assert read_generation(folder).eos == (260,)
