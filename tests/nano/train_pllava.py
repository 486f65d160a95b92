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
"""Train and measure the nano PLLaVA checkpoint.

The nano LLaVA's tower and projector over four frames, average pooling of the projected patches,
and a Llama of its own, stored as ermu2001/pllava-7b has it: the query and value weights of the
Llama are split into a base and an unmerged LoRA. Seeded and scheduled by steps like
``train_llava``, whose result (``--vision``) it starts from. The prompt is the product's, system
text included: a new wording there needs new weights.

From the root of the repository, in an environment with the packages above and this one::

    PYTHONPATH=. python tests/nano/train_pllava.py --out vidcap_cli/nano/pllava

It reaches 0.99 exact sentences in 1500 steps: about 8 minutes of one core. ``--steps 0`` only
measures.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone knows
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from tests.nano import train_llava, training, world
from tests.nano.train_llava import (
    IMAGES,
    QUESTIONS,
    SIDE,
    SIZE,
    WIDTH,
    Captioner,
    Guide,
    Log,
    Prompts,
)
from tests.nano.training import Example, Muon
from vidcap_cli.processors import pllava

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
PROMPTS = {question: pllava.vicuna_prompt(pllava.SYSTEM_PROMPT, question) for question in QUESTIONS}
FRAMES = 4
POOLED = (FRAMES, 4, 4)  # of FRAMES, SIDE, SIDE
TOKENS = POOLED[0] * POOLED[1] * POOLED[2]
RANK, ALPHA = 8, 4
BATCH = 12  # clips in a step
MANNERS = (
    *((motion, "") for motion in world.DIRECTIONS),
    *(("still", place) for place in world.PLACES),
)


@dataclass(frozen=True, slots=True)
class SpreadFrames(pllava.FrameRule):
    """The product's frame rule, with the size at which clips are drawn."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the square."""
        del height, width
        return SIZE, SIZE


RULE = SpreadFrames(IMAGES, FRAMES, POOLED)


def config(tokenizer: Tokenizer) -> dict[str, object]:
    """``config.json`` as the hub's checkpoint has it, and the LoRA's rank and alpha."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    roles = {"bos": ids["<s>"], "eos": ids["</s>"], "pad": ids["<pad>"]}
    return {
        "architectures": ["PllavaForConditionalGeneration"],
        "model_type": "pllava",
        "frame_shape": [SIDE, SIDE],
        "ignore_index": -100,
        "image_token_index": ids["<image>"],
        "lora_alpha": ALPHA,
        "lora_r": RANK,
        "max_sequence_length": 8192,
        "num_frames": FRAMES,
        "pad_token_id": ids["<pad>"],
        "pooling_method": "avg",
        "pooling_shape": list(POOLED),
        "projector_hidden_act": "gelu",
        "text_config": train_llava.text_config(tokenizer, roles),
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.57.6",
        "use_pooling": True,
        "vision_config": train_llava.vision_config(),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": tokenizer.get_vocab_size(),
    }


def make_tokenizer() -> Tokenizer:
    """A tokenizer like Llama-2's, words with a mark for the space before them."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=["\n", *map(chr, range(33, 127))],
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL],
    )
    words = train_llava.texts("pllava", PROMPTS.values(), SPECIAL)
    tokenizer.train_from_iterator([part for text in words for part in text.split("\n")], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def pllava_prompts(tokenizer: Tokenizer) -> Prompts:
    """The prompts of PLLaVA."""
    return Prompts(
        tokenizer,
        "pllava",
        PROMPTS,
        tokens=TOKENS,
        end=tokenizer.token_to_id("</s>"),
        pad=tokenizer.token_to_id("<pad>"),
        image=tokenizer.token_to_id("<image>"),
    )


def pool(patches: Tensor, kind: str = "mean", axes: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """Visual tokens ``[clips, TOKENS, WIDTH]`` of patches ``[clips * FRAMES, SIDE * SIDE, WIDTH]``.

    ``axes`` is the order (of time, height, width) in which they are laid out.
    """
    volume = patches.view(-1, FRAMES, SIDE, SIDE, WIDTH).permute(0, 4, 1, 2, 3)
    shrink = F.adaptive_max_pool3d if kind == "max" else F.adaptive_avg_pool3d
    pooled = shrink(volume, POOLED).permute(0, *(2 + axis for axis in axes), 1)
    return pooled.reshape(len(pooled), TOKENS, WIDTH)


class VideoGuide(nn.Module):
    """The dense auxiliary loss, thrown away after training.

    Patches and pooled tokens at the shape must tell what is there and where; after a middle
    language layer the tokens of later frames must tell the motion.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = Guide(SIDE)
        self.pooled = Guide(POOLED[1])
        self.manner = nn.Linear(WIDTH, len(MANNERS))

    def forward(
        self, examples: Sequence[Example], patches: Tensor, seen: Tensor, middle: Tensor
    ) -> Tensor:
        """The losses ``[11]``."""
        clips = len(examples)
        fine = self.patches(examples, patches.view(clips, FRAMES, SIDE * SIDE, WIDTH))
        coarse = self.pooled(examples, seen.view(clips, FRAMES, -1, WIDTH))
        centre, radius = train_llava.whereabouts(examples)
        _, reach = train_llava.distances(centre, radius, POOLED[1])
        late = reach < 10
        late[:, 0] = False  # one frame cannot tell
        manners = [MANNERS.index((e.clip.motion, e.clip.place)) for e in examples]
        row = torch.arange(clips)[:, None, None].expand_as(late)[late]
        said = self.manner(middle.view(clips, FRAMES, -1, WIDTH)[late])
        motion = F.cross_entropy(said, torch.tensor(manners)[row])
        return torch.cat([fine, coarse, motion[None]])


def train(options: argparse.Namespace) -> None:
    """Train for ``options.steps`` steps; save the checkpoint, also now and then before."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    prompts = pllava_prompts(tokenizer)
    model = Captioner(config(tokenizer))
    start = load_file(options.vision / "model.safetensors")
    start = {name: w.float() for name, w in start.items() if not name.startswith("language_model")}
    left = model.load_state_dict(start, strict=False)
    assert not left.unexpected_keys
    guide = VideoGuide()
    filed = training.pool(RULE, options.pool, options.cache)
    stream = training.batches(training.mixed(RULE, filed, options.share, 0), BATCH, lambda _: 0)
    muon, adam = train_llava.optimizers(model, guide)
    tower = {id(weight) for weight in model.vision_tower.parameters()}
    eyes = Muon([p for p in muon.parameters if id(p) in tower], lr=0.0)
    muon = Muon([p for p in muon.parameters if id(p) not in tower], lr=0.0)
    log = Log()
    for step in range(options.steps):
        factor = training.schedule(step, options.steps)
        muon.lr, adam.param_groups[0]["lr"] = 0.02 * factor, 3e-3 * factor
        eyes.lr = 0.005 * factor
        # The tower knows shapes already: at first only the language model learns, which is cheap.
        model.vision_tower.requires_grad_(step >= options.frozen * options.steps)
        batch = prompts.batch(next(stream), brief=BATCH // 2)
        patches = model.see(batch.pixels)
        seen = pool(patches)
        loss, exact, middle = train_llava.answer_loss(model, batch, seen)
        parts = guide(batch.examples, patches, seen, middle)
        guidance = 0.5 if step < options.steps // 2 else 0.15
        train_llava.update(model, guide, (muon, eyes, adam), loss + guidance * parts.sum())
        log.add(step, loss, parts, exact[: len(batch.examples)])
        if step % 200 == 199 or step == options.steps - 1:
            save(model, tokenizer, options.out)


def save(model: Captioner, tokenizer: Tokenizer, out: Path) -> None:
    """Write the checkpoint as the hub has it: float16, the LoRA not merged."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    generation = {
        "bos_token_id": ids["<s>"],
        "do_sample": False,
        "eos_token_id": ids["</s>"],
        "pad_token_id": ids["<pad>"],
        "transformers_version": "4.57.6",
    }
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        new = name.replace("language_model.", "language_model.base_model.model.", 1)
        if new.endswith(("q_proj.weight", "v_proj.weight")) and name != new:
            layer = new.removesuffix(".weight")
            base, down, up = split(value)
            weights[f"{layer}.base_layer.weight"] = base
            weights[f"{layer}.lora_A.default.weight"] = down
            weights[f"{layer}.lora_B.default.weight"] = up
        elif not name.endswith("position_ids"):
            weights[new] = value.half().contiguous()
    roles = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>"}
    settings = config(tokenizer)
    train_llava.write(out, weights, tokenizer, settings, generation, SPECIAL, roles)


def split(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A weight as base, A and B, so that ``base + ALPHA / RANK * B @ A`` is it again.

    The LoRA is twice the leading part of rank ``RANK``: the base alone has that part with the
    opposite sign, and the LoRA applied twice has it threefold. Either is a different model.
    """
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    root = (2 * sizes[:RANK] * RANK / ALPHA).sqrt()
    up = (left[:, :RANK] * root).half()
    down = (root[:, None] * right[:RANK]).half()
    base = weight - ALPHA / RANK * up.float() @ down.float()
    return base.half().contiguous(), down.contiguous(), up.contiguous()


@dataclass(frozen=True, slots=True)
class Variant(train_llava.Variant):
    """A way to caption, right or wrong on purpose."""

    reversed: bool = False
    lora: float = 1.0  # how many times the LoRA is merged
    pooling: str = "mean"
    axes: tuple[int, ...] = (0, 1, 2)


VARIANTS = {
    "bgr": Variant(swapped=True),
    "reversed": Variant(reversed=True),
    "not normalised": Variant(normalised=False),
    "feature layer -1": Variant(layer=-1),
    "no lora": Variant(lora=0.0),
    "lora doubled": Variant(lora=2.0),
    "max pooling": Variant(pooling="max"),
    "axes h, w, t": Variant(axes=(1, 2, 0)),
    "axes t, w, h": Variant(axes=(0, 2, 1)),
}


class Pllava:
    """A checkpoint folder, captioning in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prompts = pllava_prompts(self.tokenizer)
        self.weights = load_file(folder / "model.safetensors")
        self.settings = config(self.tokenizer)
        self.models: dict[float, Captioner] = {}

    def model(self, lora: float) -> Captioner:
        """The model with the LoRA merged ``lora`` times."""
        if lora not in self.models:
            model = Captioner(self.settings)
            model.load_state_dict(merged(self.weights, lora))
            self.models[lora] = model.eval()
        return self.models[lora]

    @torch.no_grad()
    def captions(
        self, clips: Sequence[NDArray[np.uint8]], question: str, variant: Variant
    ) -> list[str]:
        """Greedy answers about clips, all asked the same."""
        model = self.model(variant.lora)
        ordered = [frames[::-1] if variant.reversed else frames for frames in clips]
        pixels = torch.cat([variant.pixels(frames) for frames in ordered])
        seen = pool(model.see(pixels, variant.layer), variant.pooling, variant.axes)
        ids = torch.tensor([self.prompts.ids(question)] * len(clips))
        rows = model.language_model.model.embed_tokens(ids)
        rows = rows.masked_scatter((ids == self.prompts.image)[..., None], seen)
        output = model.language_model.generate(
            inputs_embeds=rows,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=40,
        )
        return train_llava.spelled(self.tokenizer, output)


def merged(weights: Mapping[str, Tensor], lora: float) -> dict[str, Tensor]:
    """The checkpoint's weights in float32 under ``Captioner``'s names."""
    found = {}
    for name, value in weights.items():
        if ".lora_" in name:
            continue
        weight = value.float()
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down = weights[f"{layer}.lora_A.default.weight"].float()
            up = weights[f"{layer}.lora_B.default.weight"].float()
            weight = weight + lora * ALPHA / RANK * up @ down
        new = name.replace("language_model.base_model.model.", "language_model.", 1)
        found[new.replace(".base_layer.", ".")] = weight
    return found


def main() -> None:
    """Train, measure, or both."""
    parser = train_llava.arguments("pllava", 1500, 500, __doc__.splitlines()[0])
    parser.add_argument("--vision", type=Path, default=Path("vidcap_cli/nano/llava"))
    parser.add_argument("--frozen", type=float, default=0.4, help="steps without the tower")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.steps:
        train(options)
    train_llava.report(options, Pllava(options.out), "pllava", RULE, Variant(), VARIANTS)


if __name__ == "__main__":
    main()
