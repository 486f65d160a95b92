"""This machine: is what vidcap needs installed, does it start, and what mends it if not."""

import importlib.metadata
import os
import platform
import shutil
from importlib import resources
from pathlib import Path

from packaging.requirements import Requirement

from vidcap_cli import __version__
from vidcap_cli.host_memory import available, total
from vidcap_cli.inspect.ascend import ascend_facts, ascend_problems, look_at_ascend
from vidcap_cli.inspect.engines import REINSTALL, engine_facts
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.native import library
from vidcap_cli.view.words import count, size

PACKAGES = (
    "mindspore",
    "tokenizers",
    "numpy",
    "pyarrow",
    "decord2",
    "av",
    "typer",
    "rich",
)
# What only --engine mindnlp needs; nothing is wrong without them.
OPTIONAL = ("mindnlp", "transformers")
CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mpeg2video", "wmv2")
_START_SECONDS = 180.0
_LITTLE_DISK = 5_000_000_000  # bytes; caches and logs of a run fit


def machine_report(limit: float = _START_SECONDS) -> Report:
    """The report on this machine; ``limit`` is seconds for MindSpore and mindnlp to start."""
    problems: list[Problem] = []
    packages, machine = _packages(problems), _machine(problems)
    ascend = look_at_ascend()
    problems += ascend_problems(ascend)
    sections = (
        Section("packages", packages),
        Section("machine", machine),
        Section("devices", ascend_facts(ascend)),
        Section("engines", engine_facts(ascend, limit, problems)),
        Section("videos", _videos(problems)),
        Section("models", _models()),
    )
    serious = any(problem.serious for problem in problems)
    place = count(len(ascend.visible), "Ascend device") if ascend.visible else "the CPU"
    verdict = "vidcap cannot caption here yet" if serious else f"ready to caption on {place}"
    return Report(
        "machine", f"vidcap {__version__} on this machine", verdict, sections, tuple(problems)
    )


def _packages(problems: list[Problem]) -> tuple[Fact, ...]:
    wanted = _requirements()
    facts = [Fact("python", platform.python_version())]
    for name in (*PACKAGES, *OPTIONAL):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in OPTIONAL:
                facts.append(Fact(name, "not installed, for --engine mindnlp only", ""))
                continue
            facts.append(Fact(name, "missing", "missing"))
            problems.append(Problem(f"the package {name} is not installed", REINSTALL))
            continue
        facts.append(Fact(name, version))
        need = wanted.get(name)
        if need is not None and not need.specifier.contains(version, prereleases=True):
            problems.append(
                Problem(
                    f"{name} {version} is installed, vidcap needs {need.specifier}",
                    f"pip install '{name}{need.specifier}'",
                    serious=False,
                )
            )
    return tuple(facts)


def _requirements() -> dict[str, Requirement]:
    """What the installed vidcap declares that it needs with this Python, by name."""
    declared = map(Requirement, importlib.metadata.requires("vidcap") or [])
    return {
        need.name: need
        for need in declared
        if need.marker is None or need.marker.evaluate({"extra": "mindnlp"})
    }


def _machine(problems: list[Problem]) -> tuple[Fact, ...]:
    memory, free = total(), available()
    disk = shutil.disk_usage(Path.cwd()).free
    if disk < _LITTLE_DISK:
        problems.append(
            Problem(f"only {size(disk)} are free here", "work on another disk", serious=False)
        )
    kernels = library()
    cores = len(os.sched_getaffinity(0))
    return (
        Fact("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Fact("cores", str(cores), cores),
        Fact("kernels for CPU", f"vidcap's, {kernels.stem}" if kernels else "MindSpore's"),
        Fact("memory", f"{size(memory)}, {size(free)} free", {"total": memory, "free": free}),
        Fact("free disk here", size(disk), disk),
    )


def _videos(problems: list[Problem]) -> tuple[Fact, ...]:
    import av  # noqa: PLC0415 - reported above when it is missing

    from vidcap_cli.inspect.video import RULE, probe_and_read  # noqa: PLC0415 - needs decoders
    from vidcap_cli.video.pool import DecodePool  # noqa: PLC0415

    known = [name for name in CODECS if name in av.codecs_available]
    facts = [Fact("codecs", ", ".join(known), known)]
    lacking = sorted(set(CODECS) - set(known))
    if lacking:
        text = f"videos in {', '.join(lacking)} cannot be read"
        problems.append(Problem(text, "pip install --force-reinstall av", serious=False))
    folder = Path(str(resources.files("vidcap_cli") / "nano" / "clips"))
    clip = min(folder.glob("*.mp4"), default=None)
    if clip is None:
        problems.append(Problem("the bundled clips are missing", REINSTALL, serious=False))
        return tuple(facts)
    with DecodePool(RULE, workers=1, timeout=30, read=probe_and_read) as pool:
        pool.submit(0, str(clip))
        decoded = pool.next()
    if decoded is None or decoded.clip is None:
        why = decoded.error if decoded else "no answer"
        problems.append(Problem(f"a bundled clip cannot be read: {why}", REINSTALL))
        return (*facts, Fact("bundled clip", "cannot be read", False))
    return (*facts, Fact("bundled clip", f"read by {decoded.clip.reader}", True))


def _models() -> tuple[Fact, ...]:
    home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    there = cache
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    state = "" if cache.is_dir() else " (not there yet)"
    return (
        Fact(
            "Hugging Face cache",
            f"{cache}{state}, {size(free)} free",
            {"path": str(cache), "free": free},
        ),
    )
