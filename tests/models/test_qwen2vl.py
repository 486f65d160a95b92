"""Qwen2-VL preprocessing against qwen-vl-utils, torch and transformers, through the goldens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cases import PATCH_CASES, noise

from vidcap_cli.models.qwen2vl import FrameRule, patchify, prompt, read_bounds, smart_resize
from vidcap_cli.models.resize import bicubic

GOLDENS = Path(__file__).parents[1] / "goldens"
EXPECTED = json.loads((GOLDENS / "qwen2vl.json").read_text())


def test_frames_are_those_the_reference_chooses():
    for golden in EXPECTED["frames"]:
        total, rate, fps = golden["case"]
        chosen = FrameRule(fps=fps).indices(total, rate)
        assert chosen.tolist() == golden["indices"], golden["case"]


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


def test_bounds_come_from_the_checkpoint(tmp_path):
    assert read_bounds(tmp_path) == (128 * 28**2, 768 * 28**2)
    sizes = {"size": {"shortest_edge": 9408, "longest_edge": 27440}}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(sizes))
    assert read_bounds(tmp_path) == (9408, 27440)


def test_the_prompt_holds_one_placeholder_a_visual_token():
    text = prompt("Who?", 3)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|video_pad|><|video_pad|><|video_pad|><|vision_end|>Who?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


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
