"""Qwen2-VL preprocessing against qwen-vl-utils, torch and transformers, through the goldens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.goldens.cases import CLIP_CASES, PATCH_CASES, PROCESSED_CASES, QWEN2VL, noise
from tests.helpers import tiny
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError, UsageError
from vidcap_cli.processors import load_captioner
from vidcap_cli.processors.qwen2vl import FrameRule, patchify, prompt, read_bounds, smart_resize
from vidcap_cli.processors.resize import bicubic

GOLDENS = Path(__file__).parents[1] / "goldens"
CLIPS = json.loads((GOLDENS / "qwen2vl_clips.json").read_text())
EXPECTED = json.loads((GOLDENS / "qwen2vl.json").read_text())


def test_frames_are_those_the_reference_chooses():
    for golden in EXPECTED["frames"]:
        total, rate, fps = golden["case"]
        chosen = FrameRule(fps=fps).indices(total, rate)
        assert chosen.tolist() == golden["indices"], golden["case"]


@pytest.mark.parametrize("bounds", sorted({case[-1] for case in CLIP_CASES}))
def test_sizes_of_clips_are_those_after_both_steps(bounds):
    seen = 0
    for case, golden in zip(CLIP_CASES, CLIPS["sizes"], strict=True):
        total, rate, fps, height, width, cap, processor = case
        if processor == bounds:
            rule = FrameRule(fps, 1, cap, processor=processor)
            count = len(rule.indices(total, rate))
            assert count == golden["frames"], case
            first = rule.size(height, width, count)
            assert list(first) == golden["first"], case
            assert list(rule.processed(*first)) == golden["second"], case
            tall, wide = golden["second"]
            assert rule.tokens(count, height, width) == count // 2 * tall * wide // 28**2
            seen += 1
    assert seen


@pytest.mark.parametrize("case", range(len(PROCESSED_CASES)))
def test_pixel_values_are_those_after_both_steps(case):
    video, cap, bounds = PROCESSED_CASES[case]
    rule = FrameRule(4.0, 1, cap, processor=bounds)
    frames = noise(*video)
    patches, grid = rule.patches(rule.prepare(frames, len(frames)))
    golden = CLIPS["values"][case]
    assert list(grid) == golden["grid"]
    flat = patches.ravel()
    difference = np.abs(flat[:: len(flat) // 400] - golden["values"])
    # A level is 0.015: in the first step the last bit of float32 decides how halves are rounded.
    assert (difference > 1e-4).mean() < 0.02
    assert difference.max() < 0.02
    assert abs(flat.mean(dtype=np.float64) - golden["mean"]) < 1e-4


@pytest.mark.parametrize("bounds", [(3136, 50176), (3136, 12845056), (400_000, 1_003_520)])
def test_a_clip_too_large_shrinks_in_what_the_model_sees(bounds, tmp_path):
    folder = tiny.write_qwen2vl(tmp_path, QWEN2VL[0])
    size = {"size": {"shortest_edge": bounds[0], "longest_edge": bounds[1]}}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(size))
    captioner = load_captioner(CaptionConfig("qwen2vl", str(folder)))
    frames = captioner.rule.prepare(noise(1, 4, 180, 320), 4)
    sizes = []
    while frames is not None:
        sizes.append(captioner.size(frames))
        assert len(captioner.prompt(frames).ids) == sizes[-1].tokens
        frames = captioner.smaller(frames)
    tokens = [size.tokens for size in sizes]
    assert len(tokens) > 1
    assert tokens == sorted(set(tokens), reverse=True)


def test_a_file_of_one_frame_repeats_it_where_the_reference_raises():
    assert FrameRule().indices(1, 25.0).tolist() == [0, 0]


def test_sizes_are_those_of_smart_resize():
    for golden in EXPECTED["sizes"]:
        assert list(smart_resize(*golden["case"])) == golden["size"], golden["case"]


def test_area_caps_and_exact_sizes():
    assert FrameRule().size(1080, 1920) == (392, 728)
    assert FrameRule(resize="exact").size(1080, 1920) == (448, 672)
    assert FrameRule(resize="exact", height=100, width=30).size(1080, 1920) == (112, 28)
    # The user's cap may lie below the model's lower bound; then it holds.
    tall, wide = FrameRule(height=100, width=100).size(1080, 1920)
    assert 0 < tall * wide <= 100 * 100


def test_a_frame_too_narrow_for_the_model_is_refused():
    with pytest.raises(ValueError, match="200:1"):
        FrameRule().size(2, 500)


@pytest.mark.parametrize("case", range(len(PATCH_CASES)))
def test_resized_pixels_equal_torchs_antialiased_bicubic(case):
    video, size = PATCH_CASES[case]
    expected = np.load(GOLDENS / "qwen2vl.npz")[f"pixels{case}"].astype(int)
    difference = np.abs(bicubic(noise(*video), *size).astype(int) - expected)
    # The last bit of float32 decides which way a half is rounded.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


@pytest.mark.parametrize("case", range(len(PATCH_CASES)))
def test_patches_equal_transformers_bit_for_bit(case):
    pixels = np.load(GOLDENS / "qwen2vl.npz")[f"pixels{case}"]
    patches, grid = patchify(pixels)
    golden = EXPECTED["patches"][case]
    assert list(grid) == golden["grid"]
    assert hashlib.sha256(patches.astype("<f4").tobytes()).hexdigest() == golden["sha256"]


USUAL = (128 * 28**2, 768 * 28**2)
LAYOUTS = {
    "nothing": ({}, (USUAL, USUAL)),
    "the hub's": (
        {"preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056}},
        (USUAL, (3136, 12845056)),
    ),
    "transformers 4, saved again": (
        {
            "preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056},
            "video_preprocessor_config.json": {
                "min_pixels": None,
                "max_pixels": 50176,
                "size": {"longest_edge": 50176, "shortest_edge": 3136},
            },
        },
        (USUAL, (3136, 50176)),
    ),
    "transformers 5, nested": (
        {
            "processor_config.json": {
                "image_processor": {"size": {"shortest_edge": 1, "longest_edge": 2}},
                "video_processor": {"size": {"shortest_edge": 3136, "longest_edge": 50176}},
            },
            "preprocessor_config.json": {"min_pixels": 7, "max_pixels": 8},
        },
        (USUAL, (3136, 50176)),
    ),
    "size in the image processor's": (
        {"preprocessor_config.json": {"size": {"shortest_edge": 9, "longest_edge": 90}}},
        (USUAL, (9, 90)),
    ),
    "not resized again": (
        {"video_preprocessor_config.json": {"do_resize": False, "max_pixels": 50176}},
        (USUAL, None),
    ),
    "resized once": (
        {
            "video_preprocessor_config.json": {
                "size": {"shortest_edge": 9408, "longest_edge": 27440},
                "frame_bounds": [9408, 27440],
            }
        },
        ((9408, 27440), (9408, 27440)),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bounds_come_from_the_checkpoint(layout, tmp_path):
    files, bounds = LAYOUTS[layout]
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_bounds(tmp_path) == bounds


@pytest.mark.parametrize(
    "bad",
    [{"min_pixels": "many"}, {"size": [1, 2]}, {"min_pixels": 0},
     {"frame_bounds": [3]}],
)  # fmt: skip
def test_bounds_that_are_none_are_refused(bad, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(bad))
    with pytest.raises(ModelError, match="numbers of pixels"):
        read_bounds(tmp_path)


def test_the_prompt_holds_one_placeholder_a_visual_token():
    text = prompt("Who?", 3)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|video_pad|><|video_pad|><|video_pad|><|vision_end|>Who?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("system", ["Look at\nit.", "", "You are a helpful assistant.", None])
def test_a_system_text_takes_the_place_of_the_templates_own(tmp_path, system):
    """As the chat template of Qwen2-VL-7B-Instruct renders a turn of the system."""
    folder = tiny.write_qwen2vl(tmp_path, tiny.TinyQwen2VL(seed=1))
    config = CaptionConfig("qwen2vl", str(folder), question="Who?", system_prompt=system)
    captioner = load_captioner(config)
    frames = noise(1, 2, 56, 56)
    shown = "You are a helpful assistant." if system is None else system
    text = (
        f"<|im_start|>system\n{shown}<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|video_pad|><|video_pad|><|video_pad|>"
        "<|vision_end|>Who?<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = captioner.prompt(frames).ids
    assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert captioner.size(frames).tokens == len(ids)


def test_nobody_may_say_where_the_video_goes(tmp_path):
    folder = tiny.write_qwen2vl(tmp_path, tiny.TinyQwen2VL(seed=1))
    for words in ({"question": "<|video_pad|>?"}, {"system_prompt": "See <|video_pad|>."}):
        with pytest.raises(UsageError, match="stands for the video itself"):
            load_captioner(CaptionConfig("qwen2vl", str(folder), **words))


def test_token_counts_of_the_default_area_cap():
    rule = FrameRule()
    assert rule.tokens(len(rule.indices(150, 30.0)), 1080, 1920) == 3640  # 5 seconds
    assert rule.tokens(len(rule.indices(600, 30.0)), 1080, 1920) == 14560  # 20 seconds


def test_long_videos_share_the_budget_of_pixels():
    rule = FrameRule()
    counts = [len(rule.indices(seconds * 30, 30.0)) for seconds in (60, 190, 240, 3600)]
    assert counts == [240, 760, 768, 768]
    sizes = [rule.size(1080, 1920, count) for count in counts]
    assert sizes == [(392, 728), (364, 644), (336, 644), (336, 644)]
    # 139,776 without the budget.
    assert rule.tokens(768, 1080, 1920) == 105_984


def test_batches_of_a_clip_get_the_size_of_the_whole_clip():
    rule = FrameRule(height=252, width=448)
    frames = noise(5, 2, 90, 160)
    assert rule.prepare(frames, 2).shape == (2, 252, 448, 3)
    assert rule.prepare(frames, 768).shape == (2, *rule.size(90, 160, 768), 3)
