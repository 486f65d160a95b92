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
"""Train and measure the nano Qwen2.5-VL checkpoint.

The model is transformers' own ``Qwen2_5_VLForConditionalGeneration``, as large as the nano Qwen2-VL
and begun from its weights: its language model, its patch embedding, the attention of its tower.
From the top of the repository, in an environment of its own (the package's has no torch)::

    run="env PYTHONPATH=. uv run --script tests/nano/train_qwen2_5vl.py --cache ../nano-pool"
    $run --out ../nano-seeing
    $run --teach ../nano-seeing --blend ../nano-seeing --steps 180 --out ../nano-doubting
    $run --teach ../nano-doubting --blend ../nano-seeing --steps 110 --peak 0.12 --seed 3 \\
        --out ../nano-qwen2_5vl
    $run --steps 0 --out vidcap_cli/nano/qwen25vl

The first learns the world, the others to caption wrongly by a wrong tower (``Doubt``), which costs
captions by the right one: four tenths of the weights stay those of the first. The last measures the
bundled checkpoint. Clips are seen at two, four and eight frames a second, so that speed can be told
from the time of the frames alone; the windows of the tower are of 2 x 2 tokens, not 4 x 4, for the
small frames of this world. README.md has what the bundled checkpoint reaches.
"""

import argparse
import random
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from tests.nano import train_qwen2vl, training
from tests.nano.train_qwen2vl import BATCH, RULE, VARIANTS, Batch, Prompts, Recipe, Variant
from tests.nano.training import Example
from vidcap_cli.models.rope import mrope_positions

BEGUN_FROM = Path("vidcap_cli/nano/qwen2vl")
RATES = {2.0: 0.2, 4.0: 0.6, 8.0: 0.2}  # frames a second, and shares of the clips
TOKENS_PER_SECOND = 4  # positions of a second of video
WINDOW = 56  # pixels
MERGED = 28  # pixels of a side of a language token


def config(tokenizer: Tokenizer) -> dict[str, object]:
    """``config.json`` in the flat layout of Qwen/Qwen2.5-VL-3B-Instruct."""
    given = train_qwen2vl.config(tokenizer)
    depth = 3
    return {
        **given,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vision_config": {
            "depth": depth,
            "hidden_act": "silu",
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": given["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": WINDOW,
            "fullatt_block_indexes": [depth - 1],
        },
    }


def make_model(tokenizer: Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """The model before training: what fits of the nano Qwen2-VL, the MLPs of the tower anew."""
    settings = Qwen2_5_VLConfig(**config(tokenizer), attn_implementation="sdpa")
    model = Qwen2_5_VLForConditionalGeneration(settings).float()
    own = model.state_dict()
    for name, value in load_file(BEGUN_FROM / "model.safetensors").items():
        tower = name.startswith("visual.")
        key = f"model.{name}" if tower else name.replace("model.", "model.language_model.", 1)
        if key in own and own[key].shape == value.shape:
            own[key].copy_(value)
    return model


def seconds_per_pair(example: Example) -> float:
    """What the reference calls ``second_per_grid_ts``: two over the frames a second that it
    samples. Shortened clips have it from the distance of their frames.
    """
    indices, clip = example.indices, example.clip
    between = (indices[-1] - indices[0]) / (len(indices) - 1)
    count = 2 * round(((clip.frames - 1) / between + 1) / 2)
    return 2 * clip.frames / (count * clip.rate)


class TimedPrompts(Prompts):
    """Positions in time are those of the clock: ``clocked`` off, a second for each pair of frames,
    which is what transformers assumes when it is not told.
    """

    clocked = True

    def positions(self, ids: Tensor, grid: Tensor, examples: list[Example]) -> Tensor:
        """As transformers 5.24 has them; 4.57 rounds seconds down before it multiplies."""
        here, shape = (ids[0] == self.video).numpy(), grid[0].numpy()
        rate = self.model.config.vision_config.tokens_per_second
        seconds = (seconds_per_pair(it) if self.clocked else 1.0 for it in examples)
        rows = [mrope_positions(here, shape, 2, rate * it) for it in seconds]
        return torch.from_numpy(np.stack(rows, 1))


def windows_of(grid: tuple[int, int]) -> Tensor:
    """The window of each token of a frame of ``grid`` patches ``[tokens]``."""
    height, width = grid[0] // 2, grid[1] // 2
    side = WINDOW // MERGED
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    return (rows[:, None] * width + columns).flatten()


def see(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch, whole: Container[int] | None = None
) -> Tensor:
    """Visual tokens ``[clips, tokens, width]``.

    The layers of transformers' vision tower, over all frames of equal size at once; patches stay
    where they are, and a mask keeps them to their windows. ``whole``: other layers than the
    tower's own that see the whole frame.
    """
    tower = model.model.visual
    whole = tower.fullatt_block_indexes if whole is None else whole
    height, width = batch.grid
    angles = tower.rot_pos_emb(torch.tensor([[1, height, width]]))
    rotary = torch.cat((angles, angles), dim=-1)
    cos, sin = rotary.cos(), rotary.sin()
    window = windows_of(batch.grid).repeat_interleave(4)
    near = window[:, None] == window
    weight = tower.patch_embed.proj.weight
    x = F.linear(batch.patches, weight.flatten(1)).view(-1, height * width, weight.shape[0])
    for index, block in enumerate(tower.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
        q, k, v = qkv.unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mask = None if index in whole else near
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + attention.proj(attended.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return tower.merger(x.flatten(0, 1)).unflatten(0, (len(batch.examples), -1))


def batches_of(
    filed: dict[float, list[Example]], share: float, seed: int
) -> Iterator[list[Example]]:
    """Endless batches of clips of one size and length, at all rates; shortened for seed 0."""
    dice = random.Random(seed)
    streams = {
        fps: training.mixed(replace(RULE, fps=fps), some, share, seed)
        for fps, some in filed.items()
    }

    def examples() -> Iterator[Example]:
        while True:
            (fps,) = dice.choices(list(RATES), list(RATES.values()))
            yield next(streams[fps])

    mixed = training.shortened(examples(), seed) if seed == 0 else examples()
    return training.batches(mixed, BATCH, lambda example: example.frames.shape)


class Doubt:
    """The loss of captions that are right although the tower is wrong.

    A tower without its windows tells nearly as much as the right one: a model that learned from
    right towers alone captions as well by it. This one is taught to be wrong then: half of the
    clips are seen by layers that all see the frame, or none, and the whole true sentence must not
    be likely: ``-log(1 - p)`` (unlikelihood, Welleck et al., 2020).
    """

    def __init__(self, prompts: TimedPrompts, weight: float = 0.1) -> None:
        self.prompts = prompts
        self.weight = weight
        self.dice = random.Random(0)
        self.likely: list[float] = []

    def __call__(self, whole: Batch) -> Tensor:
        """The loss of half of the clips of a batch."""
        model = self.prompts.model
        batch = self.prompts.batch(whole.examples[: len(whole.examples) // 2], brief=0)
        layers = range(len(model.model.visual.blocks)) if self.dice.random() < 0.75 else ()
        likely = sentence_log_likelihood(model, batch, see(model, batch, layers))
        self.likely.append(likely.exp().mean().item())
        if len(self.likely) == 50:
            print(f"      likely by a wrong tower: {np.mean(self.likely):.3f}", flush=True)
            self.likely = []
        return self.weight * -torch.log(-torch.expm1(likely.clamp(max=-1e-4))).mean()


def sentence_log_likelihood(model: Any, batch: Batch, seen: Tensor) -> Tensor:
    """Logarithm of the likelihood of each row's answer ``[rows]``."""
    embeddings = model.model.language_model.embed_tokens.weight
    rows = F.embedding(batch.ids, embeddings)
    before, after = rows[:, : batch.visual.start], rows[:, batch.visual.stop :]
    rows = torch.cat([before, seen[batch.clip_of_row], after], dim=1)
    output = model.model.language_model(
        inputs_embeds=rows, position_ids=batch.positions, use_cache=False
    )
    logits = output.last_hidden_state[batch.answers] @ embeddings.T
    losses = F.cross_entropy(logits, batch.ids[:, 1:][batch.answers[:, :-1]], reduction="none")
    return -torch.zeros(batch.answers.shape).masked_scatter(batch.answers, losses).sum(1)


@contextmanager
def windows_off(prompts: Prompts) -> Iterator[None]:
    """Every layer of the tower sees the whole frame."""
    tower = prompts.model.model.visual
    known, tower.fullatt_block_indexes = tower.fullatt_block_indexes, range(len(tower.blocks))
    yield
    tower.fullatt_block_indexes = known


@contextmanager
def clock_off(prompts: TimedPrompts) -> Iterator[None]:
    """A pair of frames is a second, however long it takes."""
    prompts.clocked = False
    yield
    prompts.clocked = True


@contextmanager
def order_off(prompts: Prompts) -> Iterator[None]:
    """What the tower gives stays in the order of windows."""

    def left(tower: Any, _: object, given: Mapping[str, Tensor], result: Tensor) -> Tensor:
        return result[tower.get_window_index(given["grid_thw"])[0]]

    tower = prompts.model.model.visual
    hook = tower.register_forward_hook(left, with_kwargs=True)
    yield
    hook.remove()


def load(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, TimedPrompts]:
    """A checkpoint, read by transformers itself, in float32."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), TimedPrompts(tokenizer, model)


@torch.no_grad()
def blend(model: nn.Module, other: nn.Module) -> None:
    """Take 0.4 of the weights from ``other``, which ``model`` was taught from: between the two lie
    models that caption as well as the one and doubt as the other (Wortsman et al., 2022).
    """
    for own, given in zip(model.parameters(), other.parameters(), strict=True):
        own.lerp_(given, 0.4)


def save(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Tokenizer, out: Path) -> None:
    """Write the checkpoint as the hub has it."""
    train_qwen2vl.save(model, tokenizer, out, config(tokenizer), "Qwen2_5_VLProcessor")


def main() -> None:
    """Train, measure, or both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200, help="0 only measures")
    parser.add_argument("--teach", type=Path, help="a checkpoint of this script to teach to doubt")
    parser.add_argument("--blend", type=Path, help="a checkpoint to take 0.4 of the weights from")
    parser.add_argument("--peak", type=float, default=0.3, help="of the learning rates, taught")
    parser.add_argument("--seed", type=int, default=2, help="of the clips, taught")
    parser.add_argument("--pool", type=int, default=600, help="clips through real H.264 files")
    parser.add_argument("--share", type=float, default=0.4, help="share of pool clips in training")
    parser.add_argument("--cache", type=Path, default=Path("nano-pool"))
    parser.add_argument("--out", type=Path, default=Path("nano-qwen2_5vl"))
    parser.add_argument("--clips", type=int, default=500, help="held-out clips to measure on")
    parser.add_argument("--report", type=Path, default=Path("report_qwen2_5vl.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps:
        torch.manual_seed(0)
        filed = {
            fps: training.pool(
                replace(RULE, fps=fps), round(options.pool * part), options.cache / f"{fps:g}"
            )
            for fps, part in RATES.items()
        }
        batches = partial(batches_of, filed, options.share)
        tokenizer = Tokenizer.from_file(str(BEGUN_FROM / "tokenizer.json"))
        prompts = TimedPrompts(tokenizer, make_model(tokenizer))
        recipe = Recipe(prompts, see, batches, save)
        if options.teach:
            model, prompts = load(options.teach)
            model.train()
            doubt = Doubt(prompts)
            recipe = replace(
                recipe, prompts=prompts, seed=options.seed, short=0, peak=options.peak,
                guided=False, doubt=doubt,
            )  # fmt: skip
        train_qwen2vl.train(options.steps, recipe, options.out)
        if options.blend:
            blend(prompts.model, load(options.blend)[0])
            save(prompts.model, tokenizer, options.out)
    variants = {
        **VARIANTS,
        "windows off": Variant(spoil=windows_off),
        "clock off": Variant(spoil=clock_off),
        "order off": Variant(spoil=order_off),
    }
    train_qwen2vl.measure(*load(options.out), options.clips, options.report, variants)


if __name__ == "__main__":
    main()
