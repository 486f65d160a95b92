"""CLIP preprocessing against transformers' slow processor on real frames, through the goldens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.llava_cases import CLIP_CONFIGS, REAL_SIZES, real_frames
from vidcap_cli.errors import ModelError
from vidcap_cli.processors.clip_image import ClipImages, read_clip_images

PIXELS = json.loads((Path(__file__).parents[1] / "goldens" / "clip.json").read_text())["pixels"]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(real_frames())


@pytest.mark.parametrize("config", range(len(CLIP_CONFIGS)))
@pytest.mark.parametrize(
    "number", range(len(REAL_SIZES)), ids=lambda n: "{}x{}".format(*REAL_SIZES[n])
)
def test_pixels_equal_the_slow_processor(number, config, frames, tmp_path):
    if CLIP_CONFIGS[config]:
        hub = {"size": {"shortest_edge": 336}, "crop_size": 336}
        text = json.dumps({**hub, **CLIP_CONFIGS[config]})
        (tmp_path / "preprocessor_config.json").write_text(text)
    images = read_clip_images(tmp_path)
    values = images.normalise(images.prepare(frames[number][None]))[0]
    golden = PIXELS[number * len(CLIP_CONFIGS) + config]
    assert (golden["frame"], golden["config"]) == (number, config)
    assert list(values.shape) == golden["shape"]
    flat = np.ascontiguousarray(values, "<f4").ravel()
    np.testing.assert_allclose(flat[:: len(flat) // 16], golden["values"], rtol=0, atol=1e-6)
    # Not merely close: the very bits.
    assert hashlib.sha256(flat.tobytes()).hexdigest() == golden["sha256"]


def test_frames_travel_as_bytes_and_each_by_itself():
    images = ClipImages(size=28, crop=(28, 28))
    clip = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    together = images.prepare(clip)
    assert together.dtype == np.uint8
    assert together.shape == (3, 28, 28, 3)
    assert np.array_equal(
        together, np.concatenate([images.prepare(clip[i : i + 1]) for i in range(3)])
    )


def test_padding_to_a_square_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_pad": True}))
    with pytest.raises(ModelError, match="do_pad"):
        read_clip_images(tmp_path)


def test_settings_that_transformers_5_nested_count_first(tmp_path):
    nested = {"image_processor": {"size": {"shortest_edge": 28}, "crop_size": 28}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert read_clip_images(tmp_path) == ClipImages(size=28, crop=(28, 28))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 56, "crop_size": 56}))
    assert read_clip_images(tmp_path).size == 28
    # Older folders have the file for other settings.
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Llava"}))
    assert read_clip_images(tmp_path).size == 56
