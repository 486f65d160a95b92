# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.6", "transformers==4.57.6", "peft==0.17.1", "accelerate==1.10.1", "psutil",
#     "numpy", "av", "pillow", "safetensors", "tokenizers", "sentencepiece", "protobuf",
# ]
# ///
"""Goldens of PLLaVA: greedy token ids of its parts put together on real PyTorch.

transformers has no PLLaVA, so it is composed here as its authors describe it: ``CLIPVisionModel``,
two linear layers with GELU, ``torch.nn.AdaptiveAvgPool3d``, the features at the one ``<image>`` of
the prompt, ``LlamaForCausalLM`` on embeddings; LoRA merged by PEFT. Pixel values are those of
their ``PllavaProcessor`` where it can work with the checkpoint's settings. Nothing of vidcap is
used.

Give it a checkout of github.com/magic-research/PLLaVA (6f49fd2). Writes ``pllava.json`` beside
this file. Run it with ``uv run --no-project tests/goldens/make_pllava.py CHECKOUT`` when a case is
added.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizerFast,
)

from tests.goldens.llava_cases import (
    FRAME_CASES,
    NEW_TOKENS,
    PLLAVA,
    POOLING,
    QUESTION,
    SYSTEM,
    videos_of,
)
from tests.goldens.make_pllava_pixels import processing, reference
from tests.helpers.tiny_llava import TinyLlava, drift, write_llava

State = dict[str, torch.Tensor]


def under(state: State, *prefixes: str) -> State:
    """The weights below one of ``prefixes``, the prefix taken off, as float32."""
    return {
        name.removeprefix(prefix): weight.float()
        for prefix in prefixes
        for name, weight in state.items()
        if name.startswith(prefix)
    }


def language_model(spec: TinyLlava, state: State, config: LlamaConfig) -> LlamaForCausalLM:
    """Llama with LoRA merged as PEFT merges it."""
    model = LlamaForCausalLM(config)
    if spec.lora is None:
        if spec.keys == "hub":
            weights = under(state, "language_model.")
        else:
            weights = {f"model.{n}": w for n, w in under(state, "model.language_model.").items()}
            weights["lm_head.weight"] = state["lm_head.weight"].float()
        model.load_state_dict(weights)
        return model
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=spec.rank,
            lora_alpha=4 if spec.alpha is None else spec.alpha,
            target_modules=["q_proj", "v_proj"],
        ),
    )
    weights = under(state, "language_model.")
    for half in ("lora_A", "lora_B"):
        weights = {
            n.replace(f"{half}.weight", f"{half}.default.weight"): w for n, w in weights.items()
        }
    adapted.load_state_dict(weights)
    return adapted.merge_and_unload()


class Composed:
    """The parts of one checkpoint."""

    def __init__(self, folder: Path, spec: TinyLlava) -> None:
        config = json.loads((folder / "config.json").read_text())
        state: State = {}
        for file in folder.glob("*.safetensors"):
            state |= load_file(file)
        self.tower = CLIPVisionModel(
            CLIPVisionConfig(**config["vision_config"], attn_implementation="eager")
        ).eval()
        self.tower.load_state_dict(under(state, "vision_tower.", "model.vision_tower."))
        projector = under(state, "multi_modal_projector.", "model.multi_modal_projector.")
        self.linear_1 = torch.nn.Linear(spec.vision_width, spec.hidden)
        self.linear_2 = torch.nn.Linear(spec.hidden, spec.hidden)
        for name, layer in (("linear_1", self.linear_1), ("linear_2", self.linear_2)):
            layer.load_state_dict({n: projector[f"{name}.{n}"] for n in ("weight", "bias")})
        half = spec.side // 14 // 2
        self.pooling = torch.nn.AdaptiveAvgPool3d(
            POOLING.get(spec.seed, (spec.num_frames, half, half))
        )
        text = LlamaConfig(**config["text_config"], attn_implementation="eager")
        self.llama = language_model(spec, state, text).eval()
        self.layer = config["vision_feature_layer"]
        self.image_token = config["image_token_index"]

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pooled features ``[t*h*w, hidden]`` of one video ``[T, 3, side, side]``."""
        hidden = self.tower(pixels, output_hidden_states=True).hidden_states[self.layer][:, 1:]
        hidden = self.linear_2(torch.nn.functional.gelu(self.linear_1(hidden)))
        count, patches, width = hidden.shape
        side = round(patches**0.5)
        volume = hidden.reshape(1, count, side, side, width).permute(0, 4, 1, 2, 3)
        return self.pooling(volume)[0].permute(1, 2, 3, 0).reshape(-1, width)

    def caption(self, ids: list[int], pixels: torch.Tensor, eos: int) -> list[int]:
        """New token ids; those of ``ids`` hold ``<image>`` once."""
        place = ids.index(self.image_token)
        embed = self.llama.get_input_embeddings()
        before, after = (embed(torch.tensor(part)) for part in (ids[:place], ids[place + 1 :]))
        inputs = torch.cat([before, self.features(pixels), after])[None]
        output = self.llama.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos,
        )
        return output[0].tolist()


def prompt(spec: TinyLlava) -> str:
    """The text of the prompt, with one ``<image>``."""
    if spec.tokenizer == "yi":
        return (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<image>\n<|im_end|>\n"
            f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
        )
    return f"{SYSTEM}USER: {QUESTION} </s> USER:<image> ASSISTANT:"


def captions() -> list[dict[str, object]]:
    """One entry for each checkpoint."""
    done = []
    authors = reference(Path(sys.argv[1]))
    for spec in PLLAVA:
        with TemporaryDirectory() as place, torch.no_grad():
            folder = write_llava(Path(place), spec)
            kind = LlamaTokenizerFast if spec.tokenizer == "spm" else AutoTokenizer
            ids = kind.from_pretrained(folder)(prompt(spec))["input_ids"]
            processor = processing(authors, CLIPImageProcessor.from_pretrained(folder))
            model = Composed(folder, spec)
            videos = []
            for video in videos_of(spec):
                pixels = torch.from_numpy(processor(drift(*video)))
                videos.append({"prompt": ids, "ids": model.caption(ids, pixels, spec.eos_token)})
        done.append({"seed": spec.seed, "eos": spec.eos_token, "videos": videos})
    return done


def frame_choices() -> list[dict[str, object]]:
    """The frames that the authors' ``get_index`` chooses, in numpy as it is there."""
    done = []
    for total, count in FRAME_CASES:
        seg_size = float(total - 1) / count
        start = int(seg_size / 2)
        offsets = [start + int(np.round(seg_size * index)) for index in range(count)]
        done.append({"case": [total, count], "indices": offsets})
    return done


def main() -> None:
    """Write the file, a line for each entry."""
    sections = [
        f'"{name}": [\n' + ",\n".join(json.dumps(entry) for entry in entries) + "\n]"
        for name, entries in {"captions": captions(), "frames": frame_choices()}.items()
    ]
    (HERE / "pllava.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")


if __name__ == "__main__":
    main()
