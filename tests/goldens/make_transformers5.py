# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "torchvision", "transformers>=5",
#     "numpy", "pillow", "safetensors", "tokenizers",
# ]
# ///
"""Goldens of folders as transformers 5 saves them: their settings, and its token ids on PyTorch.

Of three tiny checkpoints ``transformers5.json`` keeps ``config.json`` and
``generation_config.json`` after load and save, and the greedy ids and first logits of one prompt.
The weights are not kept: transformers 5 saves them under the names that ``tiny`` writes. Run it
with ``uv run --no-project tests/goldens/make_transformers5.py``.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from safetensors import safe_open

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.tiny import TinyQwen2VL, write_qwen2vl
from tests.helpers.tiny_llava import TinyLlava, write_llava

IDS = 24
SEED = 7
SPECS = {
    "qwen2vl": TinyQwen2VL(seed=1101, tied=False),
    "tied": TinyQwen2VL(seed=1105, hidden=64, heads=8, kv_heads=2, mrope=(1, 1, 2)),
    "llava": TinyLlava(seed=2001),
}


def main() -> None:
    """Write the file."""
    assert int(transformers.__version__.split(".")[0]) >= 5
    goldens = {}
    for name, spec in SPECS.items():
        llava = isinstance(spec, TinyLlava)
        kind = (
            transformers.LlavaForConditionalGeneration
            if llava
            else transformers.Qwen2VLForConditionalGeneration
        )
        with TemporaryDirectory() as place, torch.no_grad():
            first, saved = Path(place) / "first", Path(place) / "saved"
            (write_llava if llava else write_qwen2vl)(first, spec)
            model = kind.from_pretrained(first, dtype=torch.float32, attn_implementation="eager")
            model.save_pretrained(saved)
            # Loaded again: what counts is what the saved folder says.
            model = kind.from_pretrained(saved, dtype=torch.float32, attn_implementation="eager")
            file = "model.safetensors"
            with safe_open(first / file, "pt") as a, safe_open(saved / file, "pt") as b:
                assert set(a.keys()) == set(b.keys())
            prompt = np.random.default_rng(SEED).integers(0, 256, 40)
            ids = torch.from_numpy(prompt)[None]
            steps = []
            for _ in range(IDS):
                logits = model(input_ids=ids, use_cache=False).logits[0, -1]
                steps.append([float(f"{float(value):.7g}") for value in logits.topk(2).values])
                ids = torch.cat([ids, logits.argmax()[None, None]], 1)
            goldens[name] = {
                "config": json.loads((saved / "config.json").read_text()),
                "generation": json.loads((saved / "generation_config.json").read_text()),
                "prompt": prompt.tolist(),
                "ids": ids[0, len(prompt) :].tolist(),
                "largest": steps,
            }
            print(name, goldens[name]["ids"], min(a - b for a, b in steps))
    (HERE / "transformers5.json").write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
