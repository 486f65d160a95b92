# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "transformers==4.57.6", "torch>=2.6", "numpy", "av", "pillow", "scikit-video==1.1.11",
# ]
# ///
"""Goldens of PLLaVA's preprocessing, from its authors' own ``PllavaProcessor``.

Give it a checkout of github.com/magic-research/PLLaVA (6f49fd2), of which only
``models/pllava/processing_pllava.py`` is used. Writes ``pllava_pixels.json`` beside this file: for
each frame and each ``preprocessor_config.json`` the digest and a few of the pixel values. Run it
with ``uv run --no-project tests/goldens/make_pllava_pixels.py CHECKOUT`` when a case is added.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import CLIPImageProcessor

from tests.goldens.llava_cases import PLLAVA_CONFIGS, pllava_frames


def reference(checkout: Path) -> type:
    """``PllavaProcessor``."""
    file = checkout / "models" / "pllava" / "processing_pllava.py"
    spec = importlib.util.spec_from_file_location("processing_pllava", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PllavaProcessor


def processing(kind: type, clip: CLIPImageProcessor) -> Callable[[np.ndarray], np.ndarray]:
    """What turns a clip ``[T, H, W, 3]`` into pixel values, without a tokenizer.

    CLIP's alone where it has no shortest edge, on which ``PllavaProcessor`` insists.
    """
    if "shortest_edge" not in clip.size:
        return lambda frames: clip(list(frames), return_tensors="np")["pixel_values"]
    processor = kind.__new__(kind)
    processor.center_pad = False
    processor.image_processor = clip
    return lambda frames: processor(images=[list(frames)], return_tensors="np")["pixel_values"]


def main() -> None:
    """Write the file, a line for each entry."""
    kind = reference(Path(sys.argv[1]))
    lines = []
    for frame_number, frame in enumerate(pllava_frames()):
        for config_number, config in enumerate(PLLAVA_CONFIGS):
            clip = np.stack([frame, frame[::-1]])
            flat = np.ascontiguousarray(
                processing(kind, CLIPImageProcessor(**config))(clip), "<f4"
            ).ravel()
            entry = {
                "frame": frame_number,
                "config": config_number,
                "shape": list(frame.shape),
                "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
                "values": [round(float(value), 5) for value in flat[:: len(flat) // 12]],
            }
            lines.append(json.dumps(entry))
    (HERE / "pllava_pixels.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
