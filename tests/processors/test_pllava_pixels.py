"""PLLaVA's preprocessing against its authors' ``PllavaProcessor``, through the goldens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.llava_cases import PLLAVA_CONFIGS, PLLAVA_SIZES, pllava_frames
from vidcap_cli.processors.clip_image import ClipImages, read_clip_images
from vidcap_cli.processors.pllava import FrameRule

PIXELS = json.loads((Path(__file__).parents[1] / "goldens" / "pllava_pixels.json").read_text())


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(pllava_frames())


@pytest.mark.parametrize("config", range(len(PLLAVA_CONFIGS)))
@pytest.mark.parametrize(
    "number", range(len(PLLAVA_SIZES)), ids=lambda n: "{}x{}".format(*PLLAVA_SIZES[n])
)
def test_pixels_equal_the_authors_bit_for_bit(number, config, frames, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PLLAVA_CONFIGS[config]))
    images = read_clip_images(tmp_path)
    rule = FrameRule(images, num_frames=2, pooled=(2, 12, 12))
    clip = np.stack([frames[number], frames[number][::-1]])
    prepared = rule.prepare(clip, 2)
    golden = PIXELS[number * len(PLLAVA_CONFIGS) + config]
    assert golden["shape"] == list(clip.shape[1:])
    flat = np.ascontiguousarray(images.normalise(prepared), "<f4").ravel()
    np.testing.assert_allclose(flat[:: len(flat) // 12], golden["values"], rtol=0, atol=1e-5)
    assert hashlib.sha256(flat.tobytes()).hexdigest() == golden["sha256"]
    # Batches of a clip are prepared one by one.
    np.testing.assert_array_equal(rule.prepare(clip[1:], 2), prepared[1:])


def test_the_first_resize_matters(frames):
    rule = FrameRule(ClipImages(), num_frames=1, pooled=(1, 12, 12))
    wide = frames[PLLAVA_SIZES.index((720, 1280))][None]
    assert (rule.prepare(wide, 1) != ClipImages().prepare(wide)).mean() > 0.05
    small = frames[PLLAVA_SIZES.index((144, 176))][None]
    np.testing.assert_array_equal(rule.prepare(small, 1), ClipImages().prepare(small))


def test_settings_that_squeeze_frames_to_a_square_resize_once(frames):
    images = ClipImages(size=(112, 112), crop=None)
    rule = FrameRule(images, num_frames=1, pooled=(1, 4, 4))
    wide = frames[0][None]
    np.testing.assert_array_equal(rule.prepare(wide, 1), images.prepare(wide))
