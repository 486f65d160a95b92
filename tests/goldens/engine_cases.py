"""The inputs of the compiled engine's goldens, for the script that makes them and for the tests.

A case is a tiny checkpoint and what it is asked. Their shapes differ as those of real models do:
sizes, head ratios, rotary sections, tied embeddings, penalties, towers, pooling and LoRA. So do the
prompts: lengths on both sides of powers of two, where a static cache changes its size. One case of
a family has a dozen prompts, to be decoded alone and all together.
"""

from dataclasses import dataclass, replace

from tests.goldens.cases import Video
from tests.goldens.llava_cases import QUESTION
from tests.helpers.tiny import TinyQwen2VL, TinyQwen25VL
from tests.helpers.tiny_llava import TinyLlava, TinyPllava

NEW_TOKENS = 24
FAMILIES = ("qwen2vl", "qwen2.5vl", "llava", "pllava")
SHORT = "?"
CHINESE = "影片里发生了什么"


def words(length: int) -> str:
    """A question of ``length`` characters; byte vocabularies make a token of each."""
    text = "Who does what, where and when? And what comes next, after all of that? "
    return (text * (length // len(text) + 1))[:length]


@dataclass(frozen=True)
class Asked:
    """A question about a clip (seed, frames, height and width in pixels) that lasts ``seconds``."""

    clip: Video
    question: str = QUESTION
    seconds: float = 1.0


@dataclass(frozen=True)
class Case:
    """A checkpoint and what it is asked; ``pooling`` is PLLaVA's shape, None for the usual one.

    ``penalty`` and ``ngram`` are asked for, whatever the checkpoint says.
    """

    name: str
    spec: TinyQwen2VL | TinyLlava
    asked: tuple[Asked, ...]
    pooling: tuple[int, int, int] | None = None
    penalty: float | None = None
    ngram: int | None = None

    @property
    def penalised(self) -> bool:
        """Whether another token than the likeliest may be chosen."""
        own = getattr(self.spec, "repetition_penalty", 1.0)
        return bool(self.ngram) or (own if self.penalty is None else self.penalty) != 1.0

    @property
    def family(self) -> str:
        """The name of the command, as ``CaptionConfig`` has it."""
        return self.spec.family if isinstance(self.spec, TinyLlava) else "qwen2vl"

    @property
    def kind(self) -> str:
        """Where in ``CASES`` it is."""
        return "qwen2.5vl" if isinstance(self.spec, TinyQwen25VL) else self.family


def _qwen2vl(
    name: str, frames: int, height: int, width: int, spec: TinyQwen2VL, question: str = QUESTION
) -> Case:
    return Case(name, spec, (Asked((spec.seed, frames, height, width), question),))


def _timed(
    name: str, clip: tuple[int, int, int], seconds: float, spec: TinyQwen25VL,
    question: str = QUESTION,
) -> Case:  # fmt: skip
    return Case(name, spec, (Asked((spec.seed, *clip), question, seconds),))


def _llava(name: str, height: int, width: int, spec: TinyLlava, question: str = QUESTION) -> Case:
    return Case(name, spec, (Asked((spec.seed, spec.num_frames, height, width), question),))


def _pllava(
    name: str,
    spec: TinyPllava,
    pooling: tuple[int, int, int] | None = None,
    question: str = QUESTION,
) -> Case:
    clip = (spec.seed, spec.num_frames, 60 + spec.seed % 50, 90)
    return Case(name, spec, (Asked(clip, question),), pooling)


# Sides of clips are multiples of 28 pixels, two patches; two frames make a pair.
QWEN2VL = [
    _qwen2vl("smallest clip", 2, 56, 56, TinyQwen2VL(seed=1101), SHORT),
    _qwen2vl("one layer", 4, 56, 84, TinyQwen2VL(
        seed=5502, hidden=32, mlp=48, layers=1, heads=4, kv_heads=4, vision_depth=1)),
    _qwen2vl("grouped by 2", 8, 112, 84, TinyQwen2VL(
        seed=1103, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3), layers=3)),
    _qwen2vl("grouped by 3, untied", 6, 84, 140, TinyQwen2VL(seed=3004, tied=False, shards=2)),
    _qwen2vl("grouped by 4", 4, 140, 112, TinyQwen2VL(
        seed=1105, hidden=64, heads=8, kv_heads=2, layers=4, keys="new"), CHINESE),
    _qwen2vl("grouped by 6", 6, 84, 84, TinyQwen2VL(
        seed=1106, hidden=96, mlp=160, heads=6, kv_heads=1, mrope=(4, 2, 2), tied=False)),
    _qwen2vl("two groups of 6", 4, 84, 112, TinyQwen2VL(
        seed=3507, hidden=96, heads=12, kv_heads=2, dtype="F16")),
    _qwen2vl("heads of 24, a key each", 2, 168, 112, TinyQwen2VL(
        seed=1008, hidden=96, mlp=136, heads=4, kv_heads=4, mrope=(4, 4, 4), vision_heads=1)),
    _qwen2vl("heads of 32", 6, 56, 168, TinyQwen2VL(
        seed=1909, hidden=64, heads=2, kv_heads=1, mrope=(4, 6, 6), layers=3, tied=False)),
    _qwen2vl("one head", 4, 84, 56, TinyQwen2VL(
        seed=1110, hidden=16, mlp=40, heads=1, kv_heads=1, mrope=(2, 3, 3)), SHORT),
    _qwen2vl("six layers", 4, 112, 112, TinyQwen2VL(
        seed=1011, hidden=128, mlp=320, layers=6, heads=8, kv_heads=4, mrope=(2, 3, 3),
        vision_width=64, vision_heads=4, vision_depth=4, shards=3)),
    _qwen2vl("wide deep tower", 2, 112, 140, TinyQwen2VL(
        seed=1512, vision_width=96, vision_heads=6, vision_depth=6, dtype="BF16", tied=False)),
    _qwen2vl("narrow tower", 4, 112, 56, TinyQwen2VL(
        seed=1013, vision_width=16, vision_heads=4, vision_depth=1, keys="new", dtype="BF16")),
    _qwen2vl("penalty", 4, 84, 84, TinyQwen2VL(seed=1114, repetition_penalty=1.3)),
    _qwen2vl("slight penalty, long question", 4, 56, 112, TinyQwen2VL(
        seed=1415, repetition_penalty=1.05, heads=4, kv_heads=4, mrope=(2, 2, 2)), words(700)),
    _qwen2vl("strong penalty, untied", 2, 140, 84, TinyQwen2VL(
        seed=1316, repetition_penalty=2.0, tied=False, hidden=64, heads=8, kv_heads=2)),
    _qwen2vl("wide clip", 4, 56, 560, TinyQwen2VL(seed=2117, heads=6, kv_heads=3)),
    _qwen2vl("tall clip", 6, 560, 56, TinyQwen2VL(
        seed=1218, hidden=64, heads=4, kv_heads=1, mrope=(2, 4, 2)), SHORT),
    _qwen2vl("16 pairs", 32, 56, 84, TinyQwen2VL(seed=1819, mrope=(2, 1, 1)), words(150)),
    _qwen2vl("7 pairs of 24 x 18, odd frames", 13, 336, 252, TinyQwen2VL(
        seed=3920, vision_heads=1, tied=False)),
    _qwen2vl("2 pairs of 40 x 40", 4, 560, 560, TinyQwen2VL(
        seed=2321, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3))),
    _qwen2vl("3 pairs of 40 x 40, penalty", 6, 560, 560, TinyQwen2VL(
        seed=2622, tied=False, repetition_penalty=1.1)),
]  # fmt: skip

QWEN2VL += [
    replace(case, name=name, penalty=penalty, ngram=ngram)
    for case, name, penalty, ngram in (
        (QWEN2VL[2], "no token twice", None, 1),
        (QWEN2VL[3], "no two tokens twice", None, 2),
        (QWEN2VL[4], "no three tokens twice, and a penalty", 1.2, 3),
        (QWEN2VL[13], "another penalty than its own", 1.05, None),
    )
]

# Windows of 112 pixels are 4 x 4 tokens of 28; those at the edges may be smaller.
QWEN25VL = [
    _timed("one window", (2, 112, 112), 0.5, TinyQwen25VL(seed=7101, tied=False), SHORT),
    _timed("a smaller window", (2, 56, 84), 0.5, TinyQwen25VL(seed=6102, layers=1)),
    _timed("windows at two edges", (4, 140, 168), 1.0, TinyQwen25VL(
        seed=7103, tied=False, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3), vision_depth=4,
        whole=(1, 3))),
    _timed("rows of windows", (4, 280, 56), 1.2, TinyQwen25VL(seed=6104, tied=False, shards=2)),
    _timed("windows that divide the frame", (6, 224, 112), 1.5, TinyQwen25VL(
        seed=7105, tied=False, vision_depth=3, whole=(2,), keys="new"), CHINESE),
    _timed("windows of four tokens", (8, 84, 140), 2.0, TinyQwen25VL(
        seed=7300, tied=False, window=56, heads=6, kv_heads=1, vision_depth=3, whole=(1,))),
    _timed("windows of a token", (4, 84, 84), 1.0, TinyQwen25VL(
        seed=7107, tied=False, window=28, hidden=64, heads=8, kv_heads=2, dtype="F16")),
    _timed("windows of 100 pixels", (6, 140, 112), 1.5, TinyQwen25VL(
        seed=6108, window=100, vision_width=64, vision_heads=4, vision_inner=100, dtype="BF16")),
    _timed("no layer sees the frame", (4, 168, 140), 1.0, TinyQwen25VL(
        seed=6109, whole=(), vision_depth=3, tied=False)),
    _timed("all layers see the frame", (4, 140, 140), 1.0, TinyQwen25VL(
        seed=6110, whole=(0, 1), heads=4, kv_heads=4, mrope=(2, 2, 2))),
    _timed("deep tower", (4, 112, 168), 1.0, TinyQwen25VL(
        seed=6111, vision_depth=16, whole=(3, 7, 11, 15), vision_width=48, vision_heads=3,
        vision_inner=90, shards=3)),
    _timed("one head of 16", (2, 168, 112), 0.7, TinyQwen25VL(
        seed=7112, tied=False, hidden=16, mlp=40, heads=1, kv_heads=1, mrope=(2, 3, 3),
        vision_width=16, vision_heads=1, vision_inner=30)),
    _timed("a frame in two seconds", (8, 84, 112), 16.0, TinyQwen25VL(
        seed=7113, tied=False, rate=4)),
    _timed("many frames a second", (16, 56, 84), 0.9, TinyQwen25VL(seed=7114, tied=False, rate=25)),
    _timed("positions that share a moment", (24, 56, 56), 2.3, TinyQwen25VL(
        seed=6115, repetition_penalty=1.2)),
    _timed("16 pairs, odd moments", (32, 84, 56), 7.7, TinyQwen25VL(
        seed=6116, mrope=(2, 1, 1)), words(150)),
    _timed("7 pairs of 24 x 18, odd frames", (13, 336, 252), 3.1, TinyQwen25VL(
        seed=6117, tied=False, vision_heads=1)),
    _timed("2 pairs of 40 x 40, penalty", (4, 560, 560), 1.0, TinyQwen25VL(
        seed=7402, tied=False, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3),
        repetition_penalty=1.05)),
]  # fmt: skip

# A frame of 28 pixels a side has 4 features, one of 168 has 144.
LLAVA = [
    _llava("one image", 60, 100, TinyLlava(seed=2001)),
    _llava("two images, one layer", 110, 70, TinyLlava(
        seed=2002, num_frames=2, layers=1, keys="new"), SHORT),
    _llava("three images, a key a head", 70, 90, TinyLlava(
        seed=2103, num_frames=3, heads=4, kv_heads=4, shards=3)),
    _llava("four images, grouped by 2", 80, 120, TinyLlava(
        seed=2704, num_frames=4, hidden=64, heads=4, kv_heads=2, layers=3, keys="new")),
    _llava("five images, grouped by 4", 64, 64, TinyLlava(
        seed=2205, num_frames=5, hidden=64, heads=8, kv_heads=2, dtype="F16"), CHINESE),
    _llava("six images of 10 x 10, grouped by 6", 100, 160, TinyLlava(
        seed=2406, num_frames=6, side=140, hidden=96, mlp=160, heads=6, kv_heads=1)),
    _llava("one large image", 200, 180, TinyLlava(
        seed=2007, side=168, vision_width=64, vision_heads=4, vision_depth=4, layers=4)),
    _llava("smallest image", 50, 40, TinyLlava(
        seed=2008, side=28, hidden=32, mlp=48, heads=2, kv_heads=1, dtype="BF16"), SHORT),
    _llava("class token kept", 70, 70, TinyLlava(
        seed=4609, num_frames=2, strategy="full", keys="new", dtype="F16")),
    _llava("last feature layer", 90, 60, TinyLlava(
        seed=2010, feature_layer=-1, tokenizer="vicuna", vision_width=48, vision_heads=3)),
    _llava("feature layer from the front", 60, 90, TinyLlava(
        seed=2011, feature_layer=1, vision_depth=5, num_frames=3, heads=12, kv_heads=2, hidden=96)),
    _llava("class token, third layer from the end", 60, 80, TinyLlava(
        seed=6312, feature_layer=-3, strategy="full", vision_depth=6, tokenizer="spm",
        num_frames=2)),
    _llava("long question", 80, 60, TinyLlava(
        seed=4913, side=70, tokenizer="vicuna", hidden=64, heads=2, kv_heads=2), words(600)),
    _llava("six layers, squeezed", 120, 70, TinyLlava(
        seed=2014, layers=6, hidden=128, mlp=300, heads=8, kv_heads=4, resize="square",
        num_frames=2, shards=2, dtype="BF16")),
    _llava("no preprocessor, CLIP's own size", 240, 320, TinyLlava(
        seed=2115, side=336, resize="", vision_depth=2, tokenizer="spm")),
    _llava("sentencepiece, three images of 7 x 7", 98, 98, TinyLlava(
        seed=2016, side=98, num_frames=3, tokenizer="spm", heads=3, kv_heads=1), words(200)),
]  # fmt: skip

LLAVA += [
    replace(LLAVA[2], name="no two tokens twice", ngram=2),
    replace(LLAVA[6], name="a penalty, and no two tokens twice", penalty=1.5, ngram=2),
]

PLLAVA = [
    _pllava("usual pooling, plain LoRA", TinyPllava(seed=3701, lora="plain", alpha=4.0)),
    _pllava("unsaid alpha", TinyPllava(seed=3102, lora="default", model_type="pllava", layers=3)),
    _pllava("alpha 16, two frames of four", TinyPllava(
        seed=3303, lora="default", alpha=16.0, tokenizer="vicuna", shards=3), (2, 3, 4)),
    _pllava("rank 2, five frames", TinyPllava(
        seed=3704, lora="plain", rank=2, num_frames=5, side=84, tokenizer="vicuna"), (3, 2, 4)),
    _pllava("rank 16, Yi's template", TinyPllava(
        seed=3205, lora="default", rank=16, alpha=8.0, tokenizer="yi", dtype="BF16"), None, SHORT),
    _pllava("merged, grouped by 6", TinyPllava(
        seed=3106, keys="new", heads=6, kv_heads=1, dtype="F16")),
    _pllava("merged, one frame", TinyPllava(
        seed=3407, num_frames=1, tokenizer="yi", keys="new", resize="square"), None, CHINESE),
    _pllava("sixteen frames to four", TinyPllava(
        seed=3008, num_frames=16, side=112, lora="plain", alpha=2.0), (4, 4, 4), words(120)),
    _pllava("more frames than there are", TinyPllava(
        seed=4309, lora="default", hidden=64, heads=4, kv_heads=4), (6, 5, 1)),
    _pllava("one feature for all", TinyPllava(
        seed=3010, lora="plain", hidden=64, heads=8, kv_heads=2, tokenizer="vicuna"), (1, 1, 1)),
    _pllava("eight frames unpooled", TinyPllava(
        seed=3211, num_frames=8, side=112, hidden=96, heads=6, kv_heads=3), (8, 8, 8)),
    _pllava("12 x 12 grid", TinyPllava(
        seed=4812, side=168, lora="default", alpha=6.0, shards=2, hidden=96, mlp=160, heads=4,
        kv_heads=2, tokenizer="yi")),
    _pllava("odd grid", TinyPllava(
        seed=3113, side=98, lora="plain", num_frames=3, rank=4, alpha=1.0, layers=1), (2, 5, 3)),
    _pllava("other tower", TinyPllava(
        seed=4914, vision_width=48, vision_heads=4, feature_layer=-3, vision_depth=5,
        tokenizer="vicuna"), None, words(400)),
    _pllava("last feature layer", TinyPllava(
        seed=3115, feature_layer=-1, lora="default", dtype="F16", heads=3, kv_heads=1,
        num_frames=6)),
    _pllava("six layers, LoRA", TinyPllava(
        seed=4916, layers=6, hidden=128, mlp=320, heads=8, kv_heads=4, lora="plain", alpha=4.0,
        side=84, num_frames=2)),
]  # fmt: skip

MANY = {
    "qwen2vl": Case(
        "a dozen",
        TinyQwen2VL(seed=1105, hidden=64, heads=4, kv_heads=2, mrope=(2, 3, 3), tied=False),
        (
            Asked((1, 2, 56, 56), SHORT),
            Asked((2, 4, 56, 84), words(56)),
            Asked((3, 2, 84, 84), words(60)),
            Asked((4, 8, 112, 140), words(200)),
            Asked((5, 12, 56, 112)),
            Asked((6, 4, 336, 336), SHORT),
            Asked((7, 2, 112, 56), words(950)),
            Asked((8, 32, 56, 56), CHINESE),
            Asked((9, 6, 140, 84), words(30)),
            Asked((10, 4, 560, 560)),
            Asked((11, 2, 168, 224), words(405)),
            Asked((12, 16, 84, 56), SHORT),
        ),
    ),
    "qwen2.5vl": Case(
        "a dozen",
        TinyQwen25VL(
            seed=7205,
            hidden=64,
            heads=4,
            kv_heads=2,
            mrope=(2, 3, 3),
            tied=False,
            vision_depth=3,
            whole=(1,),
        ),
        (
            Asked((1, 2, 56, 56), SHORT, 0.5),
            Asked((2, 4, 140, 84), words(56), 1.0),
            Asked((3, 2, 84, 84), words(60), 3.0),
            Asked((4, 8, 112, 140), words(200), 2.2),
            Asked((5, 12, 56, 112), QUESTION, 2.9),
            Asked((6, 4, 336, 336), SHORT, 1.0),
            Asked((7, 2, 112, 56), words(950), 0.1),
            Asked((8, 32, 56, 56), CHINESE, 8.0),
            Asked((9, 6, 140, 84), words(30), 1.6),
            Asked((10, 4, 560, 560), QUESTION, 2.0),
            Asked((11, 2, 168, 224), words(405), 0.5),
            Asked((12, 16, 84, 140), SHORT, 5.3),
        ),
    ),
    "llava": Case(
        "a dozen",
        TinyLlava(seed=2442, side=84, hidden=64, heads=4, kv_heads=2),
        (
            Asked((1, 1, 60, 90), SHORT),
            Asked((2, 6, 90, 60)),
            Asked((3, 2, 84, 84), words(160)),
            Asked((4, 1, 100, 84), words(67)),
            Asked((5, 1, 84, 100), words(68)),
            Asked((6, 3, 70, 120), CHINESE),
            Asked((7, 5, 90, 90), words(47)),
            Asked((8, 1, 60, 60), words(952)),
            Asked((9, 4, 120, 80), SHORT),
            Asked((10, 2, 64, 96)),
            Asked((11, 6, 96, 64), words(500)),
            Asked((12, 3, 80, 88), words(10)),
        ),
    ),
    "pllava": Case(
        "a dozen",
        TinyPllava(
            seed=3112, hidden=64, heads=4, kv_heads=2, tokenizer="vicuna", lora="default", alpha=8.0
        ),
        (
            Asked((1, 4, 60, 90), SHORT),
            Asked((2, 4, 90, 60)),
            Asked((3, 4, 84, 84), words(300)),
            Asked((4, 4, 100, 84), words(64)),
            Asked((5, 4, 84, 100), words(65)),
            Asked((6, 4, 70, 120), CHINESE),
            Asked((7, 4, 90, 90), words(193)),
            Asked((8, 4, 60, 60), words(960)),
            Asked((9, 4, 120, 80), words(2)),
            Asked((10, 4, 64, 96), words(25)),
            Asked((11, 4, 96, 64), words(449)),
            Asked((12, 4, 80, 88), words(120)),
        ),
    ),
}

CASES = {
    "qwen2vl": [*QWEN2VL, MANY["qwen2vl"]],
    "qwen2.5vl": [*QWEN25VL, MANY["qwen2.5vl"]],
    "llava": [*LLAVA, MANY["llava"]],
    "pllava": [*PLLAVA, MANY["pllava"]],
}
