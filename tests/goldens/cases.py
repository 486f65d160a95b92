"""The inputs of the goldens, shared by the scripts that make them and the tests that compare."""

from pathlib import Path

import numpy as np

from tests.helpers.tiny import TinyQwen2VL, TinyQwen25VL

# Every layout of facts: old and new keys, one file and shards, all number types, tied and not,
# different sizes, head ratios, M-RoPE sections and a repetition penalty.
QWEN2VL = [
    TinyQwen2VL(seed=1),
    TinyQwen2VL(seed=2, keys="new"),
    TinyQwen2VL(seed=3, shards=3),
    TinyQwen2VL(seed=4, tied=False, dtype="F16"),
    TinyQwen2VL(seed=5, tied=False, keys="new", shards=2, dtype="BF16"),
    TinyQwen2VL(seed=6, heads=4, kv_heads=4, mrope=(2, 2, 2)),
    TinyQwen2VL(seed=7, heads=6, kv_heads=1, repetition_penalty=1.3),
    TinyQwen2VL(seed=8, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3), layers=3, dtype="BF16"),
    TinyQwen2VL(seed=9, vision_width=64, vision_heads=4, vision_depth=3, repetition_penalty=1.05),
    TinyQwen2VL(seed=10, hidden=96, heads=6, kv_heads=3, mrope=(2, 3, 3), mlp=160, tied=False),
]

Video = tuple[int, int, int, int]  # seed, frames, height, width


def frames_of(spec: TinyQwen2VL) -> list[Video]:
    """Two videos for each checkpoint, of different lengths and shapes."""
    seed = spec.seed
    return [
        (seed, 2 * (seed % 4 + 1), 28 * (seed % 3 + 2), 28 * (seed % 5 + 2)),
        (100 + seed, 4, 56, 28 * (seed % 2 + 2)),
    ]


def noise(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A clip ``[T, H, W, 3]`` (uint8): gradients that drift, plus noise."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin(t / 3 + y / rng.uniform(4, 40) + x / rng.uniform(4, 40)) for _ in range(3)]
    pixels = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 12, (frames, height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


# Frames in the file, its frames per second, frames to sample per second.
FRAME_CASES = [
    (total, rate, fps)
    for total in (2, 3, 4, 5, 7, 30, 97, 250, 1001, 9000)
    for rate in (12.0, 24.0, 29.97, 60.0)
    for fps in (1.0, 2.0, 4.0, 8.0)
]

# Height, width, smallest and largest area in pixels.
SIZE_CASES = [
    (height, width, low, high)
    for height, width in [
        (1080, 1920), (1920, 1080), (272, 640), (144, 256), (90, 100), (2160, 3840), (448, 672),
        (17, 300), (333, 517), (720, 720),
    ]
    for low, high in [(128 * 784, 768 * 784), (128 * 784, 448 * 672), (12 * 784, 35 * 784)]
]  # fmt: skip

# A clip and the size it is resized to.
PATCH_CASES = [
    ((1, 2, 90, 160), (84, 140)),
    ((2, 4, 50, 37), (84, 56)),
    ((3, 3, 200, 120), (56, 28)),
    ((4, 2, 56, 84), (56, 84)),
]

HUB = (3136, 12845056)  # pixels; the video processor's bounds with the hub's files

# Frames in the file, its frames per second, frames to sample per second, height, width, the cap on
# the area, the video processor's bounds.
CLIP_CASES = [
    (int(seconds * rate), rate, fps, height, width, cap, bounds)
    for seconds, rate, fps in [
        (0.3, 10.0, 4.0), (5, 30.0, 4.0), (7.7, 29.97, 2.0), (60, 25.0, 4.0), (150, 24.0, 4.0),
        (190, 30.0, 4.0), (240, 30.0, 4.0), (3600, 60.0, 1.0),
    ]
    for height, width in [
        (1080, 1920), (1920, 1080), (480, 640), (144, 256), (333, 517), (90, 100), (200, 3000),
        (2160, 3840),
    ]
    for cap, bounds in [
        (448 * 672, HUB), (10**9, HUB), (448 * 672, (3136, 50176)), (448 * 672, (150_000, 200_704)),
        (360 * 640, (400_000, 1_003_520)),
    ]
]  # fmt: skip

# A clip, the cap on the area, the video processor's bounds.
PROCESSED_CASES = [
    ((1, 4, 180, 320), 448 * 672, HUB),
    ((2, 4, 180, 320), 448 * 672, (3136, 50176)),
    ((3, 2, 333, 517), 448 * 672, (3136, 100_352)),
    ((4, 2, 120, 90), 448 * 672, (200_000, 400_000)),
]

# A bundled clip, frames to sample per second, the cap on the area.
CLIPS = Path(__file__).parents[2] / "vidcap_cli" / "nano" / "clips"
TIMED_CASES = [
    (name, fps, cap)
    for name in (
        "blue-triangle-quickly-down.mp4",
        "orange-square-top-left.mp4",
        "red-circle-slowly-right.mp4",
    )
    for fps, cap in ((4.0, 301_056), (1.5, 301_056), (8.0, 150_000), (23.0, 120_000))
]
KEPT = 200  # of the pixel values of a clip
QWEN25VL = TinyQwen25VL(seed=6201)
