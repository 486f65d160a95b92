"""Qwen2.5-VL sees files as qwen-vl-utils and transformers 5.24 show them to it, time included."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.cases import CLIPS, HUB, KEPT, QWEN25VL, TIMED_CASES
from tests.helpers import tiny
from vidcap_cli.config import CaptionConfig
from vidcap_cli.models.rope import mrope_positions
from vidcap_cli.processors import load_captioner
from vidcap_cli.video import read_frames

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "qwen25vl_clips.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tiny.write_qwen2vl(tmp_path_factory.mktemp("model"), QWEN25VL)
    bounds = dict(zip(("min_pixels", "max_pixels"), HUB, strict=True))
    tiny.write_json(made / "video_preprocessor_config.json", bounds)
    return made


@pytest.mark.parametrize("case", range(len(TIMED_CASES)))
def test_a_file_is_seen_as_the_reference_shows_it(folder, case):
    name, fps, cap = TIMED_CASES[case]
    golden = GOLDENS[case]
    config = CaptionConfig("qwen2vl", str(folder), question="Who?", fps=fps, height=1, width=cap)
    captioner = load_captioner(config)
    clip = read_frames(CLIPS / name, captioner.rule)
    prompt = captioner.prompt(clip.frames, clip.seconds)
    grid, seconds = prompt.vision["video_grid_thw"][0], prompt.vision["second_per_grid_ts"]
    assert grid.tolist() == golden["grid"]
    assert len(prompt.ids) == golden["prompt_tokens"] == captioner.size(clip.frames).tokens
    assert seconds.dtype == np.float32
    assert seconds.tolist() == [golden["seconds"]]
    flat = prompt.vision["pixel_values_videos"].ravel()
    # A level is 0.015: readers and the first resizing round some of them otherwise.
    difference = np.abs(flat[:: len(flat) // KEPT] - golden["values"])
    assert (difference > 1e-4).mean() < 0.05
    assert difference.max() < 0.02
    assert abs(flat.mean(dtype=np.float64) - golden["mean"]) < 1e-3
    here = prompt.ids == 256 + tiny.SPECIAL_TOKENS.index("<|video_pad|>")
    time = mrope_positions(here, grid, 2, QWEN25VL.rate * float(seconds[0]))[0][here]
    assert np.unique(time - time[0]).tolist() == golden["time"]


def test_frames_that_are_fewer_are_further_apart(folder):
    captioner = load_captioner(CaptionConfig("qwen2vl", str(folder)))
    frames = np.zeros((8, 56, 56, 3), np.uint8)
    given = [captioner.prompt(frames[:: 2**n], 3.0).vision["second_per_grid_ts"] for n in range(3)]
    assert np.concatenate(given).tolist() == [0.75, 1.5, 3.0]
    assert captioner.prompt(frames).vision["second_per_grid_ts"].tolist() == [0.5]  # 4 a second
