# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = [
#     "torch>=2.7",
#     "transformers==4.57.6",
#     "tokenizers>=0.22,<0.23",
#     "safetensors>=0.5",
#     "numpy>=1.26",
#     "av>=14",
# ]
# ///
"""Train and measure the nano Qwen2-VL checkpoint.

The model is transformers' own ``Qwen2VLForConditionalGeneration`` with 1.08 million parameters, so
the checkpoint has the real layout. From the top of the repository, in an environment of its own
(the package's has no torch)::

    PYTHONPATH=. uv run --script tests/nano/train_qwen2vl.py \\
        --cache ../nano-pool --out ../nano-qwen2vl
    PYTHONPATH=. uv run --script tests/nano/train_qwen2vl.py --steps 0 \\
        --out vidcap_cli/nano/qwen2vl --report tests/nano/report_qwen2vl.json

The first trains and measures: on one CPU core 5 minutes for the pool of clips, 40 for 2000 steps
of 16 clips, 5 for the measurement. The second measures the bundled checkpoint. Training is seeded
and scheduled by steps: the same pool of clips gives the same weights on the same kind of machine.
(The pool behind the bundled weights was encoded by x264's AVX-512 code, whose bytes vary a little
from run to run. ``world`` avoids that code now, so a rerun will not meet their very bits.)

``report_qwen2vl.json`` has what the bundled checkpoint reaches; README.md explains it.
"""

import argparse
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from numpy.typing import NDArray
from safetensors.torch import save as safetensors
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from tests.nano import training, world
from tests.nano.training import Example, Muon
from vidcap_cli.processors import qwen2vl

RULE = qwen2vl.FrameRule(min_pixels=12 * 28**2, max_pixels=35 * 28**2)
QUESTIONS = (world.DETAIL, world.BRIEF)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WIDTH = 96
TEXT_LAYERS = 4
MOTION_LAYER = 2  # the language layer whose output must know the motion
SHORT_SHARE = 0.4  # of the steps learn from short excerpts
BATCH, BATCHES = 8, 2  # clips of one size in a batch, batches in a step
MANNERS = (
    *((motion, speed) for motion in world.DIRECTIONS for speed in world.SPEEDS),
    *(("still", place) for place in world.PLACES),
)


def config(tokenizer: Tokenizer) -> dict[str, object]:
    """``config.json`` in the flat layout of Qwen/Qwen2-VL-2B-Instruct."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.05,
        "intermediate_size": 256,
        "max_position_embeddings": 32768,
        "max_window_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_hidden_layers": TEXT_LAYERS,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        # Positions go to about 30, not 30 000: every frequency must tell neighbours apart.
        "rope_theta": 5.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 4, 4]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "transformers_version": "4.57.6",
        "use_cache": True,
        "vision_config": {
            "depth": 3,
            "embed_dim": 96,
            "mlp_ratio": 4,
            "num_heads": 4,
            "in_chans": 3,
            "hidden_size": WIDTH,
            "hidden_act": "quick_gelu",
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "vocab_size": tokenizer.get_vocab_size(),
    }


def make_tokenizer() -> Tokenizer:
    """The tokenizer of the two prompts and of every sentence of the world."""
    clips = [training.clip_of(training.DRAWN, index) for index in range(4000)]
    texts = [world.sentence(clip, "qwen2vl", question) for clip in clips for question in QUESTIONS]
    prompts = [qwen2vl.prompt(question, 0) for question in QUESTIONS]
    for name in SPECIAL:
        prompts = [prompt.replace(name, "\n") for prompt in prompts]
    return training.make_tokenizer(texts + prompts, SPECIAL)


def make_model(tokenizer: Tokenizer) -> Qwen2VLForConditionalGeneration:
    """The untrained model, its patch embedding set to low-order DCT filters."""
    settings = Qwen2VLConfig(**config(tokenizer), attn_implementation="sdpa")
    model = Qwen2VLForConditionalGeneration(settings).float()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight.normal_(std=0.1)
        model.model.visual.patch_embed.proj.weight.copy_(_patch_filters())
    return model


def _patch_filters() -> Tensor:
    """Patch embedding ``[96, 3, 2, 14, 14]``: brightness and colour, their mean and their change.

    From random filters the model of this size never learns shapes.
    """
    spatial = torch.from_numpy(training.dct_filters(36, 14))
    colours = F.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]]))
    times = F.normalize(torch.tensor([[1.0, 1], [1, -1]]))
    plan = ((0, 0, 36), (1, 0, 15), (2, 0, 15), (0, 1, 15), (1, 1, 8), (2, 1, 7))
    filters = [
        torch.einsum("c,t,nyx->nctyx", colours[colour], times[moment], spatial[:count])
        for colour, moment, count in plan
    ]
    return 0.3 * torch.cat(filters)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips of one frame size and number of frames, with their prompts and answers."""

    patches: Tensor  # [clips * pairs * patches, 1176]
    pairs: int
    grid: tuple[int, int]  # of a frame, in patches
    ids: Tensor  # [rows, tokens]; the first rows are the detailed prompts of all clips
    clip_of_row: list[int]
    positions: Tensor  # [3, rows, tokens]
    answers: Tensor  # [rows, tokens]: whether the next token is to be predicted
    visual: slice  # tokens that the frames become
    examples: list[Example]


class Prompts:
    """Token ids of prompts and answers, and their M-RoPE positions as transformers has them."""

    def __init__(self, tokenizer: Tokenizer, model: Qwen2VLForConditionalGeneration) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.pad = tokenizer.token_to_id("<|endoftext|>")
        self.video = tokenizer.token_to_id("<|video_pad|>")

    def prompt(self, question: str, tokens: int) -> list[int]:
        """Ids of the chat prompt."""
        text = qwen2vl.prompt(question, tokens)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def answer(self, clip: world.Clip, question: str) -> list[int]:
        """Ids of the true sentence and the end token."""
        text = world.sentence(clip, "qwen2vl", question)
        return [*self.tokenizer.encode(text, add_special_tokens=False).ids, self.end]

    def positions(self, ids: Tensor, grid: Tensor, examples: list[Example]) -> Tensor:
        """M-RoPE positions ``[3, clips, tokens]`` of rows like ``ids`` ``[1, tokens]``.

        The frames come before the question: every row has the same.
        """
        positions, _ = self.model.model.get_rope_index(ids, video_grid_thw=grid)
        return positions.expand(-1, len(examples), -1)

    def batch(self, examples: list[Example], brief: int) -> Batch:
        """A batch in which the first ``brief`` clips are asked the brief question too."""
        count, height, width, _ = examples[0].frames.shape
        pairs, grid = count // 2, (height // 14, width // 14)
        tokens = pairs * grid[0] * grid[1] // 4
        asked = [(n, world.DETAIL) for n in range(len(examples))]
        asked += [(n, world.BRIEF) for n in range(brief)]
        prompts = {question: self.prompt(question, tokens) for question in QUESTIONS}
        rows = [(prompts[q], self.answer(examples[n].clip, q)) for n, q in asked]
        length = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((len(rows), length), self.pad)
        answers = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(rows):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            answers[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
        clip_of_row = [n for n, _ in asked]
        positions = self.positions(ids[:1], torch.tensor([[pairs, *grid]]), examples)
        first = prompts[world.DETAIL].index(self.video)
        return Batch(
            patches=torch.cat([_patches(example.frames) for example in examples]),
            pairs=pairs,
            grid=grid,
            ids=ids,
            clip_of_row=clip_of_row,
            positions=positions[:, clip_of_row],
            answers=answers,
            visual=slice(first, first + tokens),
            examples=examples,
        )


_SCALE = torch.tensor(qwen2vl.CLIP_STD).reciprocal().div(255)[:, None]
_SHIFT = -torch.tensor(qwen2vl.CLIP_MEAN).div(torch.tensor(qwen2vl.CLIP_STD))[:, None]


def _patches(frames: NDArray[np.uint8]) -> Tensor:
    """What ``qwen2vl.patchify`` gives, cut as bytes and normalised after, which is faster."""
    count, height, width, _ = frames.shape
    tiles = torch.from_numpy(frames).view(count // 2, 2, height // 28, 2, 14, width // 28, 2, 14, 3)
    tiles = tiles.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3, 2 * 14 * 14)
    return (tiles * _SCALE + _SHIFT).flatten(1)


def see(model: Qwen2VLForConditionalGeneration, batch: Batch) -> Tensor:
    """Visual tokens ``[clips, tokens, width]``.

    The layers of transformers' vision tower, over all frames of equal size at once; its own
    ``forward`` attends frame by frame in a Python loop, which is several times slower here.
    """
    tower = model.model.visual
    height, width = batch.grid
    angles = tower.rot_pos_emb(torch.tensor([[1, height, width]]))
    rotary = torch.cat((angles, angles), dim=-1)
    cos, sin = rotary.cos(), rotary.sin()
    weight = tower.patch_embed.proj.weight
    x = F.linear(batch.patches, weight.flatten(1)).view(-1, height * width, weight.shape[0])
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
        q, k, v = qkv.unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        x = x + attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x.flatten(0, 1)).unflatten(0, (len(batch.examples), -1))


def answer_loss(model: Any, batch: Batch, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the answers, whether each row is right in every token, and the middle layer."""
    embeddings = model.model.language_model.embed_tokens.weight
    rows = F.embedding(batch.ids, embeddings)
    before, after = rows[:, : batch.visual.start], rows[:, batch.visual.stop :]
    rows = torch.cat([before, seen[batch.clip_of_row], after], dim=1)
    output = model.model.language_model(
        inputs_embeds=rows,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    logits = output.last_hidden_state[batch.answers] @ embeddings.T
    targets = batch.ids[:, 1:][batch.answers[:, :-1]]
    wrong = torch.zeros_like(batch.answers)
    wrong[batch.answers] = logits.argmax(-1) != targets
    middle = output.hidden_states[MOTION_LAYER][: len(batch.examples), batch.visual]
    return F.cross_entropy(logits, targets), ~wrong.any(1), middle


class Guide(nn.Module):
    """The dense auxiliary loss, thrown away after training.

    Visual tokens at the shape must tell what is there, how far off its centre is and how fast it
    goes; after a middle language layer they must tell the motion. From the sentences alone a
    model of this size does not find out that there are shapes and motions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Linear(WIDTH, 1 + len(world.SHAPES) + len(world.COLOURS) + 4)
        self.manner = nn.Linear(WIDTH, len(MANNERS))

    def forward(self, batch: Batch, seen: Tensor, middle: Tensor) -> Tensor:
        """The losses ``[6]``, from visual tokens and the middle layer at them."""
        centre, speed, radius = _whereabouts(batch)
        height, width = batch.grid[0] // 2, batch.grid[1] // 2
        grid = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(1)
        offset = centre[:, :, None] - (grid + 0.5) * 28.0  # [clips, pairs, tokens of a frame, 2]
        reach = offset.norm(dim=-1) - radius[:, None, None]
        near = (reach < 10).flatten(1)
        parts = self.seen(seen)
        found, shape, colour, place, pace = parts.split([1, 3, 8, 2, 2], dim=-1)
        clips = [example.clip for example in batch.examples]
        shapes = torch.tensor([world.SHAPES.index(clip.shape) for clip in clips])
        colours = torch.tensor([list(world.COLOURS).index(clip.colour) for clip in clips])
        manners = torch.tensor([MANNERS.index((c.motion, c.speed or c.place)) for c in clips])
        row = torch.arange(len(clips))[:, None].expand_as(near)[near]
        speeds = speed[:, :, None].expand_as(offset).flatten(1, 2)
        # One pair of frames cannot tell slow from still: the motion is asked from the second on.
        later = near.clone()
        later[:, : height * width] = False
        late = torch.arange(len(clips))[:, None].expand_as(later)[later]
        return torch.stack(
            (
                F.binary_cross_entropy_with_logits(found[..., 0], (reach < 7).flatten(1).float()),
                F.cross_entropy(shape[near], shapes[row]),
                0.5 * F.cross_entropy(colour[near], colours[row]),
                F.smooth_l1_loss(place[near], offset.flatten(1, 2)[near] / 14),
                F.smooth_l1_loss(pace[near], speeds[near] / 4),
                F.cross_entropy(self.manner(middle)[later], manners[late]),
            )
        )


def _whereabouts(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Centre and displacement ``[clips, pairs, 2]`` in each pair of frames, and radius."""
    height, width = batch.grid[0] * 14, batch.grid[1] * 14
    centres, radii = [], []
    for example in batch.examples:
        clip = example.clip
        scale = np.array([width / clip.width, height / clip.height])
        at = np.array([clip.centre(index) for index in example.indices]) * scale
        centres.append(at.reshape(-1, 2, 2))
        radii.append(clip.radius * np.sqrt(scale.prod()))
    both = torch.tensor(np.stack(centres), dtype=torch.float32)
    return both.mean(2), both[:, :, 1] - both[:, :, 0], torch.tensor(radii, dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs between models that are trained like this one.

    ``see(model, batch)`` are visual tokens; ``batches(seed)`` are endless, of shortened clips for
    seed 0; ``doubt(batch)`` is one more loss, of the first batch of a step.
    """

    prompts: Prompts
    see: Callable[[Any, Batch], Tensor]
    batches: Callable[[int], Iterator[list[Example]]]
    save: Callable[[Any, Tokenizer, Path], None]
    seed: int = 1  # of the clips at full length
    short: float = SHORT_SHARE  # of the steps
    peak: float = 1.0  # of the learning rates
    guided: bool = True
    doubt: Callable[[Batch], Tensor] | None = None


def train(steps: int, recipe: Recipe, out: Path) -> None:
    """Train for ``steps`` steps and save the checkpoint to ``out``, also now and then before."""
    prompts = recipe.prompts
    model, tokenizer = prompts.model, prompts.tokenizer
    guide = Guide()
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim >= 2 and "embed_tokens" not in name]
    others = [p for name, p in named if p.ndim < 2 or "embed_tokens" in name]
    muon = Muon(matrices, lr=0.02)
    adam = torch.optim.AdamW([*others, *guide.parameters()], lr=3e-3, weight_decay=0.0)
    short, full = recipe.batches(0), recipe.batches(recipe.seed)
    started, right, losses = time.monotonic(), [], []
    for step in range(steps):
        factor = recipe.peak * training.schedule(step, steps)
        muon.lr, adam.param_groups[0]["lr"] = 0.02 * factor, 3e-3 * factor
        guidance = 0.5 if step < steps // 2 else 0.15
        model.zero_grad()
        guide.zero_grad()
        stream = short if step < recipe.short * steps else full
        for number, examples in enumerate(itertools.islice(stream, BATCHES)):
            batch = prompts.batch(examples, brief=BATCH // 2)
            seen = recipe.see(model, batch)
            loss, exact, middle = answer_loss(model, batch, seen)
            aux_parts = guide(batch, seen, middle) if recipe.guided else torch.zeros(6)
            total = (loss + guidance * aux_parts.sum()) / BATCHES
            if recipe.doubt and number == 0:
                total = total + recipe.doubt(batch)
            total.backward()
            right += exact[: len(examples)].tolist()
            losses.append((loss.item(), *aux_parts.tolist()))
        nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        muon.step()
        adam.step()
        if step % 50 == 49 or step == steps - 1:
            answer, *parts = np.mean(losses, axis=0)
            print(
                f"{step + 1:5d} {time.monotonic() - started:6.0f} s  loss {answer:.4f}"
                f"  exact {np.mean(right):.3f}  guide {' '.join(f'{part:.3f}' for part in parts)}",
                flush=True,
            )
            right, losses = [], []
        if step % 300 == 299 or step == steps - 1:
            recipe.save(model, tokenizer, out)


def batches_of(filed: list[Example], share: float, seed: int) -> Iterator[list[Example]]:
    """Endless batches of clips of one size and length, shortened ones for seed 0."""
    examples = training.mixed(RULE, filed, share, seed)
    if seed == 0:
        examples = training.shortened(examples, seed)
    return training.batches(examples, BATCH, lambda example: example.frames.shape)


def save(
    model: Any,
    tokenizer: Tokenizer,
    out: Path,
    settings: dict[str, object] | None = None,
    processor_class: str = "Qwen2VLProcessor",
) -> None:
    """Write the checkpoint as the hub has it: its key names, tied embeddings, float16."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        short = name.removeprefix("model.").replace("language_model.", "model.", 1)
        weights[short] = value.half().contiguous()
    (out / "model.safetensors").write_bytes(safetensors(weights, metadata={"format": "pt"}))
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    processor = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(qwen2vl.CLIP_MEAN),
        "image_std": list(qwen2vl.CLIP_STD),
        "merge_size": 2,
        "patch_size": 14,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "temporal_patch_size": 2,
    }
    bounds = {"shortest_edge": RULE.min_pixels, "longest_edge": RULE.max_pixels}
    pixels = {"min_pixels": RULE.min_pixels, "max_pixels": RULE.max_pixels}
    files = {
        "config.json": settings or config(tokenizer),
        "generation_config.json": {
            "bos_token_id": ids["<|endoftext|>"],
            "do_sample": False,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "repetition_penalty": 1.0,
            "transformers_version": "4.57.6",
        },
        "preprocessor_config.json": {
            **processor,
            **pixels,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": processor_class,
        },
        "video_preprocessor_config.json": {
            **processor,
            "size": bounds,
            "frame_bounds": [RULE.min_pixels, RULE.max_pixels],
            "video_processor_type": "Qwen2VLVideoProcessor",
            "processor_class": processor_class,
        },
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(ids[name]): {
                    "content": name,
                    "lstrip": False,
                    "normalized": False,
                    "rstrip": False,
                    "single_word": False,
                    "special": True,
                }
                for name in SPECIAL
            },
            "additional_special_tokens": list(SPECIAL[1:]),
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (out / name).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> tuple[Qwen2VLForConditionalGeneration, Prompts]:
    """A checkpoint, read by transformers itself, in float32."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), Prompts(tokenizer, model)


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to caption, right or wrong on purpose; ``spoil`` is given the prompts and their model
    and puts them right again.
    """

    fps: float = 4.0
    swapped: bool = False  # BGR for RGB
    reversed: bool = False
    normalised: bool = True
    mrope: bool = True
    raster: bool = False  # patches in raster order, not in groups of four
    codec: str = "h264"
    spoil: Callable[[Prompts], AbstractContextManager[None]] = nullcontext


VARIANTS = {
    "bgr": Variant(swapped=True),
    "reversed": Variant(reversed=True),
    "half rate": Variant(fps=2.0),
    "double rate": Variant(fps=8.0),
    "not normalised": Variant(normalised=False),
    "1-d positions": Variant(mrope=False),
    "raster patches": Variant(raster=True),
}


class HeldOut:
    """Clips of seeds never trained on, as files of each codec."""

    def __init__(self, stream: int = training.HELD_OUT) -> None:
        self.stream = stream
        self.files: dict[tuple[int, str], bytes] = {}

    def clip(self, index: int) -> world.Clip:
        """Clip number ``index``."""
        return training.clip_of(self.stream, index)

    def example(self, index: int, variant: Variant) -> Example:
        """A clip and its frames, resized as the product does it."""
        clip = self.clip(index)
        key = (index, variant.codec)
        if key not in self.files:
            file = io.BytesIO()
            world.write(clip, file, variant.codec)
            self.files[key] = file.getvalue()
        rule = replace(RULE, fps=variant.fps)
        chosen = rule.indices(clip.frames, clip.rate)
        frames = world.read(io.BytesIO(self.files[key]), chosen)
        return Example(clip, rule.prepare(frames, len(chosen)), chosen)


@torch.no_grad()
def caption(
    model: Any,
    prompts: Prompts,
    example: Example,
    question: str,
    variant: Variant,
) -> str:
    """The greedy answer of transformers' model, all its own code but the preprocessing."""
    frames = example.frames
    if variant.swapped:
        frames = frames[..., ::-1]
    if variant.reversed:
        frames = frames[::-1]
    if variant.normalised:
        patches, grid = qwen2vl.patchify(frames)
    else:
        patches, grid = qwen2vl.patchify(frames, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if variant.raster:
        t, h, w = grid
        groups = patches.reshape(t, h // 2, w // 2, 2, 2, -1)
        patches = groups.transpose(0, 1, 3, 2, 4, 5).reshape(patches.shape)
    ids = prompts.prompt(question, grid[0] * grid[1] * grid[2] // 4)
    start = len(ids)
    tokens = torch.tensor([ids])
    video = {
        "pixel_values_videos": torch.from_numpy(patches),
        "video_grid_thw": torch.tensor([grid]),
    }
    positions = prompts.positions(tokens, video["video_grid_thw"], [example])
    if not variant.mrope:
        positions = torch.arange(start).expand(3, 1, -1)
    cache = None
    following = positions.max() + 1
    while len(ids) < start + 40:
        output = model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            cache_position=torch.arange(len(ids) - tokens.shape[1], len(ids)),
            **video,
        )
        cache, video = output.past_key_values, {}
        ids.append(int(output.logits[0, -1].argmax()))
        if ids[-1] == prompts.end:
            break
        tokens = torch.tensor([ids[-1:]])
        positions = (following + len(ids) - 1 - start).expand(3, 1, 1)
    return str(prompts.tokenizer.decode(ids[start:]))


def measure(
    model: Any,
    prompts: Prompts,
    clips: int,
    report: Path,
    variants: Mapping[str, Variant],
) -> None:
    """Measure a checkpoint on held-out clips through real files; write and print the report."""
    held_out = HeldOut()

    def right(count: int, question: str, variant: Variant) -> list[bool]:
        exact = []
        for index in range(count):
            example = held_out.example(index, variant)
            with variant.spoil(prompts):
                said = caption(model, prompts, example, question, variant)
            truth = world.sentence(example.clip, "qwen2vl", question)
            exact.append(said == truth)
            if variant == Variant() and said != truth:
                print(f"  wrong: {truth}\n     is: {said}")
        return exact

    few = min(100, clips)
    moves = [held_out.clip(index).motion != "still" for index in range(few)]
    detail = right(clips, world.DETAIL, Variant())
    spoilt = {name: right(few, world.DETAIL, variant) for name, variant in variants.items()}
    figures = {
        "clips": clips,
        "detail": _share(detail),
        "brief": _share(right(clips, world.BRIEF, Variant())),
        "sensitivity_clips": few,
        "sensitivity": {name: _share(exact) for name, exact in spoilt.items()},
        "moving_clips": sum(moves),
        "sensitivity_moving": {
            name: _share(list(itertools.compress(exact, moves))) for name, exact in spoilt.items()
        },
        "codec_clips": few // 4,
        "codecs": {
            codec: _share(right(few // 4, world.DETAIL, Variant(codec=codec)))
            for codec in world.ENCODERS
        },
    }
    text = json.dumps(figures, indent=2)
    report.write_text(text + "\n", encoding="utf-8")
    print(text)


def _share(right: list[bool]) -> float:
    return round(sum(right) / len(right), 4)


def main() -> None:
    """Train, measure, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="0 only measures")
    parser.add_argument("--pool", type=int, default=1000, help="clips through real H.264 files")
    parser.add_argument("--share", type=float, default=0.4, help="share of pool clips in training")
    parser.add_argument("--cache", type=Path, default=Path("nano-pool"))
    parser.add_argument("--out", type=Path, default=Path("nano-qwen2vl"))
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to measure on")
    parser.add_argument("--report", type=Path, default=Path("report_qwen2vl.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps:
        torch.manual_seed(0)
        tokenizer = make_tokenizer()
        model = make_model(tokenizer)
        filed = training.pool(RULE, options.pool, options.cache)
        batches = partial(batches_of, filed, options.share)
        train(options.steps, Recipe(Prompts(tokenizer, model), see, batches, save), options.out)
    measure(*load(options.out), options.clips, options.report, VARIANTS)


if __name__ == "__main__":
    main()
