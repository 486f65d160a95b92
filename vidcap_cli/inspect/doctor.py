"""This machine: is what vidcap needs installed, does it start, and what mends it if not.

MindSpore and mindnlp are imported in a process of their own with a time limit: a driver that does
not answer hangs their import, and a library that does not fit kills it.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement
from rich.console import Console

from vidcap_cli import __version__
from vidcap_cli.ascend import VISIBLE, device_nodes, visible_devices
from vidcap_cli.engine import INSTALL_MINDNLP, has_mindnlp
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.view.words import size

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
_REINSTALL = "uv sync, or: pip install --force-reinstall vidcap"

# Prints a line of JSON a step, so that what came before a crash is known.
_START = """
import json, sys, time
def say(**facts): print(json.dumps(facts), flush=True)
began = time.monotonic()
import mindspore as ms
import numpy as np
say(step="mindspore", seconds=time.monotonic() - began)
ms.set_device(sys.argv[1])
total = float((ms.Tensor(np.ones(3, np.float32)) + 1).asnumpy().sum())
say(step="device", right=total == 6.0)
"""
_START_MINDNLP = """
began = time.monotonic()
import mindnlp, transformers
say(step="mindnlp", seconds=time.monotonic() - began)
"""


def machine_report(limit: float = _START_SECONDS) -> Report:
    """The report on this machine; ``limit`` is seconds for MindSpore and mindnlp to start."""
    problems: list[Problem] = []
    devices = visible_devices()
    sections = (
        Section("packages", _packages(problems)),
        Section("machine", _machine(problems)),
        Section("devices", _devices(device_nodes(), devices, problems)),
        Section("engines", _engines("Ascend" if devices else "CPU", limit, problems)),
        Section("videos", _videos(problems)),
        Section("models", _models()),
    )
    serious = any(problem.serious for problem in problems)
    place = f"{len(devices)} Ascend devices" if devices else "the CPU"
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
            problems.append(Problem(f"the package {name} is not installed", _REINSTALL))
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
    memory, free = _memory()
    disk = shutil.disk_usage(Path.cwd()).free
    if disk < _LITTLE_DISK:
        problems.append(
            Problem(f"only {size(disk)} are free here", "work on another disk", serious=False)
        )
    cores = len(os.sched_getaffinity(0))
    return (
        Fact("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Fact("cores", str(cores), cores),
        Fact("memory", f"{size(memory)}, {size(free)} free", {"total": memory, "free": free}),
        Fact("free disk here", size(disk), disk),
    )


def _memory() -> tuple[int, int]:
    """Bytes of memory in all and free, within the limit of a container if there is one."""
    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file():
        most = limit.read_text(encoding="ascii").strip()
        if most.isdigit() and int(most) < total:
            total = int(most)
            free = min(free, total - int(used.read_text(encoding="ascii")))
    return total, max(0, free)


def _devices(nodes: list[Path], visible: list[int], problems: list[Problem]) -> tuple[Fact, ...]:
    smi = shutil.which("npu-smi")
    cann = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    if nodes and not cann:
        problems.append(
            Problem(
                "there are Ascend devices, but the environment names no CANN",
                "source /usr/local/Ascend/ascend-toolkit/set_env.sh",
            )
        )
    if smi and not nodes:
        problems.append(
            Problem(
                "npu-smi is installed, but no device is visible (/dev/davinci0)",
                "in a container, pass them in: --device /dev/davinci0 ...",
                serious=False,
            )
        )
    if len(visible) < len(nodes):
        problems.append(
            Problem(
                f"{VISIBLE} leaves {len(visible)} of {len(nodes)} devices to vidcap",
                f"unset {VISIBLE} to use all",
                serious=False,
            )
        )
    found = ", ".join(node.name for node in nodes)
    return (
        Fact("Ascend", found or "none found, the CPU stands in", [node.name for node in nodes]),
        Fact("visible to ranks", ", ".join(map(str, visible)) or "none", visible),
        Fact("npu-smi", smi or "not found", smi or ""),
        Fact("CANN", cann or "not named by ASCEND_HOME_PATH", cann or ""),
    )


def _engines(device: str, limit: float, problems: list[Problem]) -> tuple[Fact, ...]:
    with Console(stderr=True).status("starting the engines to see whether they work"):
        steps, why = _start(device, limit)
    facts = [
        _engine("graph", steps.get("mindspore"), "mindspore does not start"),
        _engine(
            "mindnlp",
            steps.get("mindnlp"),
            "mindnlp does not start" if has_mindnlp() else f"not installed: {INSTALL_MINDNLP}",
        ),
    ]
    computes = bool(steps.get("device", {}).get("right"))
    facts.append(Fact(f"computes on {device}", "yes" if computes else "no", computes))
    if why:
        last = next((n for n in ("mindspore", "device", "mindnlp") if n not in steps), "the end")
        problems.append(Problem(f"the engine does not get past {last}: {why}", _REINSTALL))
    elif not computes:
        problems.append(Problem(f"MindSpore computes 1 + 1 wrong on {device}", _REINSTALL))
    msrun = _has_msrun()
    facts.append(Fact("msrun", "found" if msrun else "missing", msrun))
    if not msrun:
        problems.append(Problem("MindSpore's launcher msrun is missing", _REINSTALL))
    return tuple(facts)


def _engine(name: str, started: dict[str, Any] | None, otherwise: str) -> Fact:
    """Whether an engine starts, and how long that takes."""
    value = {"starts": started is not None, "seconds": (started or {}).get("seconds")}
    words = f"{started['step']} starts in {started['seconds']:.1f} s" if started else otherwise
    return Fact(f"engine {name}", words, value)


def _start(device: str, limit: float) -> tuple[dict[str, dict[str, Any]], str]:
    """The steps that MindSpore and mindnlp got through, and why they got no further."""
    program = _START + (_START_MINDNLP if has_mindnlp() else "")
    command = [sys.executable, "-P", "-c", program, device]
    # mindnlp would set a mirror of its own; nothing is downloaded here anyway.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        out, code = done.stdout, done.returncode
        why = "" if code == 0 else _last_words(done.stderr, code)
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode(errors="replace")
        why = f"no answer within {limit:.0f} s"
    found = [json.loads(line) for line in out.splitlines() if line.startswith('{"step"')]
    return {fact["step"]: fact for fact in found}, why


def _last_words(stderr: str, code: int) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def _has_msrun() -> bool:
    # Looked for on the disk: to find the submodule, Python would import MindSpore.
    package = importlib.util.find_spec("mindspore")
    if package is None or package.origin is None:
        return False
    return (Path(package.origin).parent / "parallel" / "cluster" / "run.py").is_file()


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
        problems.append(Problem("the bundled clips are missing", _REINSTALL, serious=False))
        return tuple(facts)
    with DecodePool(RULE, workers=1, timeout=30, read=probe_and_read) as pool:
        pool.submit(0, str(clip))
        decoded = pool.next()
    if decoded is None or decoded.clip is None:
        why = decoded.error if decoded else "no answer"
        problems.append(Problem(f"a bundled clip cannot be read: {why}", _REINSTALL))
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
