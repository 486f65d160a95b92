"""What the training scripts of the nano checkpoints share: data, tokenizer, optimizer, filters.

The data are clips of ``world``, preprocessed as the product does it. Most are drawn directly at
their final size, which is cheap; a pool of clips goes through real H.264 files, so that the
models know what a codec does to edges, colours and slow motion.
"""

import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from tests.nano import world

# Streams of seeds. Clips of one stream never occur in another.
DRAWN, POOL, HELD_OUT = 1, 2, 3

# The pre-tokenization of Qwen2: words with their leading space, single digits, punctuation.
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class FrameRule(Protocol):
    """Which frames of a clip a model sees, and at what size."""

    def indices(self, total: int, fps: float) -> NDArray[np.int64]:
        """Indices of the frames among ``total``."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""

    def prepare(self, frames: NDArray[np.uint8], clip_frames: int) -> NDArray[np.uint8]:
        """Resized frames ``[T, h, w, 3]``, of ``clip_frames`` in all."""


@dataclass(frozen=True, slots=True)
class Example:
    """A clip with its preprocessed frames ``[T, h, w, 3]``."""

    clip: world.Clip
    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]


def clip_of(stream: int, index: int) -> world.Clip:
    """Clip number ``index`` of a stream of seeds."""
    return world.sample(np.random.default_rng([stream, index]))


def drawn_example(rule: FrameRule, index: int) -> Example:
    """A clip drawn at its final size, half of them with a codec's main artefacts imitated."""
    clip = clip_of(DRAWN, index)
    indices = rule.indices(clip.frames, clip.rate)
    frames = world.draw(clip, indices, rule.size(clip.height, clip.width))
    if index % 2:
        frames = _soften(frames)
    return Example(clip, frames, indices)


def _soften(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve the resolution of the colour differences, as 4:2:0 video does."""
    luma = frames.mean(axis=3, keepdims=True, dtype=np.float32)
    chroma = frames - luma
    count, height, width, channels = frames.shape
    coarse = chroma.reshape(count, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
    soft = luma + coarse.repeat(2, axis=1).repeat(2, axis=2)
    return np.clip(np.rint(soft), 0, 255).astype(np.uint8)


def filed_example(rule: FrameRule, stream: int, index: int, crf: int | None = None) -> Example:
    """A clip written to an H.264 file, read again and resized: the product's own path."""
    clip = clip_of(stream, index)
    file = io.BytesIO()
    world.write(clip, file, options={} if crf is None else {"crf": str(crf)})
    file.seek(0)
    indices = rule.indices(clip.frames, clip.rate)
    return Example(clip, rule.prepare(world.read(file, indices), len(indices)), indices)


def pool(
    rule: FrameRule, size: int, cache: Path, stream: int = POOL, chunk: int = 100
) -> list[Example]:
    """``size`` examples through H.264, kept in ``cache``; those to train on at crf 18 to 27."""
    cache.mkdir(parents=True, exist_ok=True)
    name = "pool" if stream == POOL else "held-out"
    examples: list[Example] = []
    for start in range(0, size, chunk):
        file = cache / f"{name}-{start:05d}.npz"
        numbers = range(start, min(start + chunk, size))
        if not file.is_file():
            crf = {n: 18 + n % 10 if stream == POOL else None for n in numbers}
            made = {str(n): filed_example(rule, stream, n, crf[n]).frames for n in numbers}
            np.savez(file, **made)
        with np.load(file) as arrays:
            for n in numbers:
                clip = clip_of(stream, n)
                indices = rule.indices(clip.frames, clip.rate)
                examples.append(Example(clip, arrays[str(n)], indices))
    return examples


def batches(
    examples: Iterator[Example], size: int, key: Callable[[Example], object]
) -> Iterator[list[Example]]:
    """Group examples of equal ``key`` (say, of equal frame size) into batches, in order."""
    waiting: dict[object, list[Example]] = {}
    for example in examples:
        group = waiting.setdefault(key(example), [])
        group.append(example)
        if len(group) == size:
            yield group
            waiting[key(example)] = []


def mixed(rule: FrameRule, filed: Sequence[Example], share: float, seed: int) -> Iterator[Example]:
    """Endless examples: ``share`` of them from the pool, the others drawn afresh."""
    dice = random.Random(seed)
    order: list[Example] = []
    index = seed * 1_000_000
    while True:
        if filed and dice.random() < share:
            if not order:
                order = dice.sample(list(filed), len(filed))
            yield order.pop()
        else:
            yield drawn_example(rule, index)
            index += 1


def shortened(examples: Iterator[Example], seed: int) -> Iterator[Example]:
    """Six or eight consecutive frames of each example: as true, and cheaper to learn from."""
    dice = random.Random(seed)
    for example in examples:
        count = min(dice.choice((6, 8)), len(example.indices))
        first = dice.randint(0, len(example.indices) - count)
        part = slice(first, first + count)
        yield replace(example, frames=example.frames[part], indices=example.indices[part])


def make_tokenizer(texts: Sequence[str], special: Sequence[str]) -> Tokenizer:
    """A byte-level BPE like Qwen2's and Llama-3's in which every word of ``texts`` is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return tokenizer


def dct_filters(count: int, size: int) -> NDArray[np.float32]:
    """The ``count`` lowest-frequency 2-D DCT-II filters ``[count, size, size]``, unit norm.

    The constant one is scaled by 0.3: flat patches would drown the edges otherwise.
    """
    grid = np.arange(size) + 0.5
    waves = np.stack([np.cos(np.pi * k * grid / size) for k in range(size)])
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    pairs = sorted(((i, j) for i in range(size) for j in range(size)), key=lambda p: (sum(p), p))
    filters = np.stack([np.outer(waves[i], waves[j]) for i, j in pairs[:count]])
    filters[0] *= 0.3
    return filters.astype(np.float32)


class Muon:
    """Momentum with orthogonalised updates for matrices (Keller Jordan, 2024)."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, momentum: float = 0.95) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.momentum = momentum
        self.buffers = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            buffer.lerp_(gradient, 1 - self.momentum)
            update = gradient.lerp(buffer, self.momentum).flatten(1)
            update = _orthogonalise(update) * math.sqrt(max(1.0, update.shape[0] / update.shape[1]))
            parameter.sub_(update.view_as(parameter), alpha=self.lr)


def _orthogonalise(matrix: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def schedule(step: int, steps: int, warm_up: int = 50, decay: float = 0.7) -> float:
    """Learning-rate factor: linear warm-up, constant, linear to zero over the last ``decay``."""
    return min(1.0, (step + 1) / warm_up, (steps - step) / (decay * steps))
