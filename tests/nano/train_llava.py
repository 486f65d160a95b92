# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "torch>=2.7",
#     "transformers==4.57.6",
#     "tokenizers>=0.22,<0.23",
#     "safetensors>=0.5",
#     "numpy>=1.26",
#     "pillow>=11",
#     "av>=14",
# ]
# ///
"""Train and measure the nano LLaVA checkpoint.

A CLIP vision tower, a projector of two layers and a Llama, stored as
xtuner/llava-llama-3-8b-v1_1-transformers has them; measured through transformers' own
``LlavaForConditionalGeneration``. The model sees one frame, number ``total // 2``. Everything is
seeded and scheduled by steps: on the same kind of machine a rerun gives the same weights.
``train_pllava`` builds on the pieces here.

From the root of the repository, in an environment with the packages above and this one::

    PYTHONPATH=. python tests/nano/train_llava.py --out vidcap_cli/nano/llava

It reaches 0.99 exact sentences in 1000 steps: about 4 minutes of one core. ``--steps 0`` only
measures.
"""

import argparse
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from numpy.typing import NDArray
from safetensors.torch import save as safetensors
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
)

from tests.nano import training, world
from tests.nano.training import Example, Muon
from vidcap_cli.processors import llava
from vidcap_cli.processors.clip_image import ClipImages

QUESTIONS = (world.DETAIL, world.BRIEF)
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<image>",
    "<pad>",
)
SIZE, PATCH = 112, 14
IMAGES = ClipImages(size=(SIZE, SIZE), crop=None)
PROMPTS = {question: llava.llama3_prompt(question, 1) for question in QUESTIONS}
SIDE = SIZE // PATCH  # patches along a side of a frame
WIDTH = 96
VISION_LAYERS = 4  # the last one is not used
TEXT_LAYERS = 3
BATCH = 16  # clips in a step


@dataclass(frozen=True, slots=True)
class MiddleFrame(llava.FrameRule):
    """The product's frame rule, with the size at which clips are drawn."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the square."""
        del height, width
        return SIZE, SIZE


RULE = MiddleFrame(IMAGES, num_frames=1, tokens_per_frame=SIDE**2)


def vision_config() -> dict[str, object]:
    """``vision_config`` of ``config.json``."""
    return {
        "model_type": "clip_vision_model",
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "hidden_size": WIDTH,
        "image_size": SIZE,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4 * WIDTH,
        "layer_norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": VISION_LAYERS,
        "patch_size": PATCH,
        "projection_dim": WIDTH,
    }


def text_config(tokenizer: Tokenizer, ids: Mapping[str, int]) -> dict[str, object]:
    """``text_config`` of ``config.json``; ``ids`` are those of bos, eos and pad."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
        "head_dim": WIDTH // 4,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.05,
        "intermediate_size": 256,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "num_attention_heads": 4,
        "num_hidden_layers": TEXT_LAYERS,
        "num_key_value_heads": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": tokenizer.get_vocab_size(),
    }


def config(tokenizer: Tokenizer) -> dict[str, object]:
    """``config.json`` as the hub's checkpoint has it."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    roles = {"bos": ids["<|begin_of_text|>"], "eos": ids["<|eot_id|>"], "pad": ids["<pad>"]}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_seq_length": SIDE**2,
        "image_token_index": ids["<image>"],
        "multimodal_projector_bias": True,
        "pad_token_id": ids["<pad>"],
        "projector_hidden_act": "gelu",
        "text_config": text_config(tokenizer, roles),
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.57.6",
        "vision_config": vision_config(),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": tokenizer.get_vocab_size(),
    }


def make_tokenizer() -> Tokenizer:
    """The tokenizer of the two prompts and of every sentence of the world."""
    tokenizer = training.make_tokenizer(texts("llava", PROMPTS.values(), SPECIAL), SPECIAL)
    bos = SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def texts(family: str, prompts: Iterable[str], special: Sequence[str]) -> list[str]:
    """What a tokenizer learns its words from: prompts without special tokens, and sentences."""
    clips = [training.clip_of(training.DRAWN, index) for index in range(4000)]
    known = {world.sentence(clip, family, question) for clip in clips for question in QUESTIONS}
    for text in prompts:
        for name in special:
            text = text.replace(name, "\n")  # noqa: PLW2901
        known.add(text)
    return sorted(known)


class Projector(nn.Module):
    """LLaVA's projector."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(WIDTH, WIDTH)
        self.linear_2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        """Language tokens of patch features, ``[..., WIDTH]`` both."""
        return self.linear_2(F.gelu(self.linear_1(features)))


class Captioner(nn.Module):
    """Vision tower, projector and language model; its parameters have the hub's names."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        super().__init__()
        vision, text = settings["vision_config"], settings["text_config"]
        assert isinstance(vision, dict)
        assert isinstance(text, dict)
        self.vision_tower = CLIPVisionModel(CLIPVisionConfig(**vision, attn_implementation="sdpa"))
        self.multi_modal_projector = Projector()
        self.language_model = LlamaForCausalLM(LlamaConfig(**text, attn_implementation="sdpa"))
        self.float()
        with torch.no_grad():
            self.language_model.model.embed_tokens.weight.normal_(std=0.1)
            embeddings = self.vision_tower.vision_model.embeddings
            embeddings.patch_embedding.weight.copy_(patch_filters())
            embeddings.position_embedding.weight[1:] = _grid_waves()
            for weight in self.unused().parameters():
                weight.normal_(std=0.5)

    def unused(self) -> nn.Module:
        """The last vision layer. Its random weights make the wrong feature layer show."""
        layer: nn.Module = self.vision_tower.vision_model.encoder.layers[-1]
        return layer

    def see(self, pixels: Tensor, layer: int = -2) -> Tensor:
        """Projected patches ``[frames, SIDE * SIDE, WIDTH]`` of ``[frames, 3, SIZE, SIZE]``."""
        tower = self.vision_tower.vision_model
        x = tower.pre_layrnorm(tower.embeddings(pixels))
        for block in tower.encoder.layers[: VISION_LAYERS + 1 + layer]:
            x = block(x, None, None)[0]
        return self.multi_modal_projector(x[:, 1:])


def patch_filters() -> Tensor:
    """Patch embedding ``[96, 3, 14, 14]``: low-order DCT filters of brightness and colour."""
    spatial = torch.from_numpy(training.dct_filters(48, PATCH))
    colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]))
    plan = ((0, 48), (1, 24), (2, 24))
    filters = [
        torch.einsum("c,nyx->ncyx", colours[colour], spatial[:count]) for colour, count in plan
    ]
    return 0.3 * torch.cat(filters)


def _grid_waves() -> Tensor:
    """First position embeddings: random mixtures of smooth waves over the grid of patches."""
    waves = torch.from_numpy(training.dct_filters(16, SIDE)).flatten(1)[1:]  # [15, patches]
    return SIDE * 0.1 * waves.T @ torch.randn(len(waves), WIDTH)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips with their prompts and answers."""

    pixels: Tensor  # [clips * frames, 3, SIZE, SIZE]
    ids: Tensor  # [rows, tokens]; the first rows are the detailed prompts of all clips
    clip_of_row: list[int]
    visual: Tensor  # [rows, tokens]: which tokens the frames become
    answers: Tensor  # [rows, tokens]: whether the next token is to be predicted
    examples: list[Example]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of prompts and answers."""

    tokenizer: Tokenizer
    family: str
    prompts: Mapping[str, str]  # by question
    tokens: int  # that the one <image> of a prompt becomes
    end: int
    pad: int
    image: int

    def ids(self, question: str) -> list[int]:
        """Ids of the prompt, ``<image>`` repeated."""
        found: list[int] = self.tokenizer.encode(self.prompts[question]).ids
        at = found.index(self.image)
        return [*found[:at], *[self.image] * self.tokens, *found[at + 1 :]]

    def answer(self, clip: world.Clip, question: str) -> list[int]:
        """Ids of the true sentence and the end token."""
        text = world.sentence(clip, self.family, question)
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end]

    def batch(self, examples: list[Example], brief: int) -> Batch:
        """A batch in which the first ``brief`` clips are asked the brief question too."""
        asked = [(n, world.DETAIL) for n in range(len(examples))]
        asked += [(n, world.BRIEF) for n in range(brief)]
        prompts = {question: self.ids(question) for question in QUESTIONS}
        rows = [(prompts[q], self.answer(examples[n].clip, q)) for n, q in asked]
        length = max(len(first) + len(answer) for first, answer in rows)
        ids = torch.full((len(rows), length), self.pad)
        answers = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (first, answer) in enumerate(rows):
            ids[row, : len(first) + len(answer)] = torch.tensor(first + answer)
            answers[row, len(first) - 1 : len(first) + len(answer) - 1] = True
        return Batch(
            pixels=torch.cat([torch.from_numpy(IMAGES.normalise(e.frames)) for e in examples]),
            ids=ids,
            clip_of_row=[n for n, _ in asked],
            visual=ids == self.image,
            answers=answers,
            examples=examples,
        )


def llava_prompts(tokenizer: Tokenizer) -> Prompts:
    """The prompts of LLaVA."""
    return Prompts(
        tokenizer,
        "llava",
        PROMPTS,
        tokens=SIDE**2,
        end=tokenizer.token_to_id("<|eot_id|>"),
        pad=tokenizer.token_to_id("<pad>"),
        image=tokenizer.token_to_id("<image>"),
    )


def answer_loss(model: Captioner, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the answers, whether each row is right in every token, and the middle layer.

    ``seen`` is ``[clips, tokens, WIDTH]``; the middle language layer is given at these tokens.
    """
    rows = model.language_model.model.embed_tokens(batch.ids)
    rows = rows.masked_scatter(batch.visual[..., None], seen[batch.clip_of_row])
    output = model.language_model.model(
        inputs_embeds=rows, use_cache=False, output_hidden_states=True
    )
    logits = model.language_model.lm_head(output.last_hidden_state[batch.answers])
    targets = batch.ids[:, 1:][batch.answers[:, :-1]]
    wrong = torch.zeros_like(batch.answers)
    wrong[batch.answers] = logits.argmax(-1) != targets
    clips = len(batch.examples)
    middle = output.hidden_states[2][:clips][batch.visual[:clips]].view(clips, -1, WIDTH)
    return F.cross_entropy(logits, targets), ~wrong.any(1), middle


class Guide(nn.Module):
    """The dense auxiliary loss, thrown away after training.

    Visual tokens at the shape must tell what is there and where its centre is. From the
    sentences alone a model of this size does not find out that there are shapes.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.seen = nn.Linear(WIDTH, 1 + len(world.SHAPES) + len(world.COLOURS) + 4)

    def forward(self, examples: Sequence[Example], seen: Tensor) -> Tensor:
        """The losses ``[5]`` from visual tokens ``[clips, frames, side * side, WIDTH]``."""
        centre, radius = whereabouts(examples)
        offset, reach = distances(centre, radius, self.side)
        pitch = SIZE / self.side
        near = reach < 5 / 14 * pitch
        found, shape, colour, place, whole = self.seen(seen).split([1, 3, 8, 2, 2], dim=-1)
        clips = [example.clip for example in examples]
        shapes = torch.tensor([world.SHAPES.index(clip.shape) for clip in clips])
        colours = torch.tensor([list(world.COLOURS).index(clip.colour) for clip in clips])
        row = torch.arange(len(clips))[:, None, None].expand_as(near)[near]
        centres = (centre / SIZE)[:, :, None].expand_as(offset)
        return torch.stack(
            (
                F.binary_cross_entropy_with_logits(found[..., 0], (reach < pitch / 7).float()),
                F.cross_entropy(shape[near], shapes[row]),
                0.5 * F.cross_entropy(colour[near], colours[row]),
                F.smooth_l1_loss(place[near], offset[near] * 2 / pitch),
                F.smooth_l1_loss(whole[near] * 8, centres[near] * 16),
            )
        )


def whereabouts(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Centres ``[clips, frames, 2]`` and radii ``[clips]`` of the shapes, in resized pixels."""
    centres, radii = [], []
    for example in examples:
        clip = example.clip
        scale = np.array([SIZE / clip.width, SIZE / clip.height])
        centres.append(np.array([clip.centre(index) for index in example.indices]) * scale)
        radii.append(clip.radius * np.sqrt(scale.prod()))
    centre = torch.tensor(np.stack(centres), dtype=torch.float32)
    return centre, torch.tensor(radii, dtype=torch.float32)


def distances(centre: Tensor, radius: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """From each cell of a grid ``side`` x ``side`` to the shape's centre (x, y), and to its rim."""
    grid = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(1)
    offset = centre[:, :, None] - (grid + 0.5) * (SIZE / side)
    return offset, offset.norm(dim=-1) - radius[:, None, None]


def optimizers(model: Captioner, guide: nn.Module) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices between the embeddings, AdamW for the rest."""
    idle = {
        id(weight)
        for part in (model.unused(), model.vision_tower.vision_model.post_layernorm)
        for weight in part.parameters()
    }
    named = [(name, p) for name, p in model.named_parameters() if id(p) not in idle]
    tables = ("embed_tokens", "lm_head", "position_embedding")

    def matrix(name: str, parameter: Tensor) -> bool:
        return parameter.ndim >= 2 and not any(table in name for table in tables)

    others = [p for name, p in named if not matrix(name, p)]
    muon = Muon([p for name, p in named if matrix(name, p)], lr=0.02)
    return muon, torch.optim.AdamW([*others, *guide.parameters()], lr=3e-3, weight_decay=0.0)


def train(options: argparse.Namespace) -> None:
    """Train for ``options.steps`` steps; save the checkpoint, also now and then before."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    prompts = llava_prompts(tokenizer)
    model = Captioner(config(tokenizer))
    guide = Guide(SIDE)
    filed = training.pool(RULE, options.pool, options.cache)
    stream = training.batches(training.mixed(RULE, filed, options.share, 0), BATCH, lambda _: 0)
    muon, adam = optimizers(model, guide)
    log = Log()
    for step in range(options.steps):
        factor = training.schedule(step, options.steps)
        muon.lr, adam.param_groups[0]["lr"] = 0.02 * factor, 3e-3 * factor
        batch = prompts.batch(next(stream), brief=BATCH // 2)
        seen = model.see(batch.pixels)
        loss, exact, _ = answer_loss(model, batch, seen)
        parts = guide(batch.examples, seen[:, None])
        guidance = 0.5 if step < options.steps // 2 else 0.15
        update(model, guide, (muon, adam), loss + guidance * parts.sum())
        log.add(step, loss, parts, exact[: len(batch.examples)])
        if step % 300 == 299 or step == options.steps - 1:
            save(model, tokenizer, options.out)


def update(
    model: nn.Module,
    guide: nn.Module,
    optimizers: Sequence[Muon | torch.optim.AdamW],
    loss: Tensor,
) -> None:
    """One step of all optimizers."""
    model.zero_grad()
    guide.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


class Log:
    """A line every fifty steps: time, losses, share of exact detailed answers."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.right: list[bool] = []
        self.losses: list[tuple[float, ...]] = []

    def add(self, step: int, loss: Tensor, parts: Tensor, exact: Tensor) -> None:
        """Note one step."""
        self.right += exact.tolist()
        self.losses.append((loss.item(), *parts.tolist()))
        if step % 50 == 49:
            answer, *guide = np.mean(self.losses, axis=0)
            print(
                f"{step + 1:5d} {time.monotonic() - self.started:6.0f} s  loss {answer:.4f}"
                f"  exact {np.mean(self.right):.3f}  guide {' '.join(f'{x:.3f}' for x in guide)}",
                flush=True,
            )
            self.right, self.losses = [], []


def save(model: Captioner, tokenizer: Tokenizer, out: Path) -> None:
    """Write the checkpoint as the hub has it, in float16."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    generation = {
        "bos_token_id": ids["<|begin_of_text|>"],
        "do_sample": False,
        "eos_token_id": [ids["<|eot_id|>"], ids["<|end_of_text|>"]],
        "pad_token_id": ids["<pad>"],
        "transformers_version": "4.57.6",
    }
    weights = {
        name: value.half().contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    roles = {"bos": SPECIAL[0], "eos": "<|eot_id|>", "pad": "<pad>", "unk": None}
    write(out, weights, tokenizer, config(tokenizer), generation, SPECIAL, roles)


def write(
    out: Path,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    settings: Mapping[str, object],
    generation: Mapping[str, object],
    special: Sequence[str],
    roles: Mapping[str, str | None],
) -> None:
    """Write the files of a checkpoint folder."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes(safetensors(dict(weights), metadata={"format": "pt"}))
    tokenizer.save(str(out / "tokenizer.json"))
    square = {"height": SIZE, "width": SIZE}
    files = {
        "config.json": settings,
        "generation_config.json": generation,
        "preprocessor_config.json": {
            "crop_size": square,
            "do_center_crop": False,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(IMAGES.mean),
            "image_processor_type": "CLIPImageProcessor",
            "image_std": list(IMAGES.std),
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": square,
        },
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(name)): {
                    "content": name,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for name in special
            },
            "clean_up_tokenization_spaces": False,
            "model_max_length": 8192,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": name for role, name in roles.items()},
        },
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (out / name).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to caption, right or wrong on purpose."""

    swapped: bool = False  # BGR for RGB
    normalised: bool = True
    layer: int = -2  # whose features the projector gets

    def pixels(self, frames: NDArray[np.uint8]) -> Tensor:
        """What the vision tower is given for frames ``[T, h, w, 3]``."""
        if self.swapped:
            frames = frames[..., ::-1]
        neutral = replace(IMAGES, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return torch.from_numpy((IMAGES if self.normalised else neutral).normalise(frames))


VARIANTS = {
    "bgr": Variant(swapped=True),
    "not normalised": Variant(normalised=False),
    "feature layer -1": Variant(layer=-1),
}


class Llava:
    """A checkpoint folder, captioning through transformers' own code in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prompts = llava_prompts(self.tokenizer)
        self.model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()

    def captions(
        self, clips: Sequence[NDArray[np.uint8]], question: str, variant: Variant
    ) -> list[str]:
        """Greedy answers about clips, all asked the same."""
        ids = torch.tensor([self.prompts.ids(question)] * len(clips))
        self.model.config.vision_feature_layer = variant.layer
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.cat([variant.pixels(frames) for frames in clips]),
            do_sample=False,
            max_new_tokens=40,
        )
        return spelled(self.tokenizer, output[:, ids.shape[1] :])


def spelled(tokenizer: Tokenizer, output: Tensor) -> list[str]:
    """The texts of generated ids, special tokens left out."""
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in output.tolist()]


def measure(options: argparse.Namespace) -> None:
    """Measure a checkpoint on held-out clips through real files; write and print the report."""
    report(options, Llava(options.out), "llava", RULE, Variant(), VARIANTS)


def report(
    options: argparse.Namespace,
    model: object,
    family: str,
    rule: training.FrameRule,
    right: object,
    wrong: Mapping[str, object],
) -> None:
    """Measure ``model.captions`` in the ``right`` way and in ``wrong`` ones."""

    def share(examples: Sequence[Example], question: str, variant: object) -> float:
        said: list[str] = []
        for start in range(0, len(examples), 25):
            frames = [example.frames for example in examples[start : start + 25]]
            said += model.captions(frames, question, variant)  # type: ignore[attr-defined]
        truths = [world.sentence(example.clip, family, question) for example in examples]
        if variant == right:
            for truth, text in zip(truths, said, strict=True):
                if truth != text:
                    print(f"  wrong: {truth}\n     is: {text}")
        return round(float(np.mean([a == b for a, b in zip(truths, said, strict=True)])), 4)

    held_out = training.pool(rule, options.clips, options.cache, training.HELD_OUT)
    few = held_out[:100]
    figures = {
        "clips": len(held_out),
        "detail": share(held_out, world.DETAIL, right),
        "brief": share(held_out, world.BRIEF, right),
        "sensitivity_clips": len(few),
        "sensitivity": {name: share(few, world.DETAIL, variant) for name, variant in wrong.items()},
        "codec_clips": len(few) // 4,
        "codecs": {
            codec: share(
                [coded(rule, example.clip, codec) for example in few[: len(few) // 4]],
                world.DETAIL,
                right,
            )
            for codec in world.ENCODERS
        },
    }
    text = json.dumps(figures, indent=2)
    options.report.write_text(text + "\n", encoding="utf-8")
    print(text)


def coded(rule: training.FrameRule, clip: world.Clip, codec: str) -> Example:
    """A clip written to a file with ``codec`` and read again."""
    file = io.BytesIO()
    world.write(clip, file, codec)
    file.seek(0)
    indices = rule.indices(clip.frames, clip.rate)
    return Example(clip, rule.prepare(world.read(file, indices), len(indices)), indices)


def arguments(family: str, steps: int, pool: int, summary: str) -> argparse.ArgumentParser:
    """The options of the script of one family."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--steps", type=int, default=steps, help="0 only measures")
    parser.add_argument("--pool", type=int, default=pool, help="clips through real H.264 files")
    parser.add_argument("--share", type=float, default=0.4, help="share of pool clips in training")
    parser.add_argument("--cache", type=Path, default=Path(f"nano-{family}-clips"))
    parser.add_argument("--out", type=Path, default=Path(f"nano-{family}"))
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to measure on")
    parser.add_argument("--report", type=Path, default=Path(f"report_{family}.json"))
    return parser


def main() -> None:
    """Train, measure, or both."""
    options = arguments("llava", 1000, 300, __doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    if options.steps:
        train(options)
    measure(options)


if __name__ == "__main__":
    main()
