"""The engines: does each start and compute here, and what mends it if not.

MindSpore and mindnlp are tried in a process of their own: a driver that does not answer hangs
their import, and a library that does not fit kills it. Without the engine graph nothing can be
captioned; without mindnlp only ``--engine mindnlp`` is missing.
"""

import importlib.util
from pathlib import Path
from typing import Any

from rich.console import Console

from vidcap_cli.engine import INSTALL_MINDNLP, has_mindnlp
from vidcap_cli.inspect.ascend import Ascend
from vidcap_cli.inspect.report import Fact, Problem
from vidcap_cli.inspect.trial import Trial, try_out

REINSTALL = "uv sync, or: pip install --force-reinstall vidcap"
AGAIN = "repeat it when the machine is less busy"

_START = """
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


def engine_facts(ascend: Ascend, limit: float, problems: list[Problem]) -> tuple[Fact, ...]:
    """Start the engines where ranks would, for ``limit`` seconds at most, and tell how it went."""
    device = "Ascend" if ascend.visible else "CPU"
    with Console(stderr=True).status("starting the engines to see whether they work"):
        trial = start(device, limit)
    computes = bool(trial.steps.get("device", {}).get("right"))
    _judge_graph(device, trial, ascend, problems)
    mindnlp = trial.steps.get("mindnlp")
    if mindnlp is None and computes and has_mindnlp():
        text = f"--engine mindnlp does not start: {trial.why}"
        remedy = AGAIN if trial.unanswered else INSTALL_MINDNLP
        remedy = ascend.mend_mindnlp(trial.why) or remedy
        problems.append(Problem(text, remedy, serious=False))
    msrun = has_msrun()
    if not msrun:
        problems.append(Problem("MindSpore's launcher msrun is missing", REINSTALL))
    return (
        _engine("graph", trial.steps.get("mindspore"), "mindspore does not start"),
        _engine("mindnlp", mindnlp, _without_mindnlp(tried=computes)),
        Fact(f"computes on {device}", "yes" if computes else "no", computes),
        Fact("msrun", "found" if msrun else "missing", msrun),
    )


def start(device: str, limit: float) -> Trial:
    """Try MindSpore, a sum on ``device`` and, where it is installed, mindnlp: a step each."""
    program = _START + (_START_MINDNLP if has_mindnlp() else "")
    return try_out(program, device, limit=limit)


def _judge_graph(device: str, trial: Trial, ascend: Ascend, problems: list[Problem]) -> None:
    """Say what is wrong with MindSpore, which every caption needs."""
    otherwise = AGAIN if trial.unanswered else REINSTALL
    missed = next((step for step in ("mindspore", "device") if step not in trial.steps), None)
    if missed == "mindspore":
        text = f"MindSpore does not start: {trial.why}"
        problems.append(Problem(text, ascend.mend_mindspore(trial.why) or otherwise))
    elif missed == "device":
        text = f"MindSpore does not compute on {device}: {trial.why}"
        problems.append(Problem(text, ascend.mend_mindspore(trial.why) or otherwise))
    elif not trial.steps["device"]["right"]:
        text = f"MindSpore computes 1 + 1 wrong on {device}"
        problems.append(Problem(text, ascend.mend_mindspore("") or REINSTALL))


def _without_mindnlp(*, tried: bool) -> str:
    if not has_mindnlp():
        return f"not installed: {INSTALL_MINDNLP}"
    return "mindnlp does not start" if tried else "not tried, it needs MindSpore"


def _engine(name: str, started: dict[str, Any] | None, otherwise: str) -> Fact:
    """Whether an engine starts, and how long that takes."""
    value = {"starts": started is not None, "seconds": (started or {}).get("seconds")}
    words = f"{started['step']} starts in {started['seconds']:.1f} s" if started else otherwise
    return Fact(f"engine {name}", words, value)


def has_msrun() -> bool:
    """Whether MindSpore's launcher is there, found without importing MindSpore."""
    # Looked for on the disk: to find the submodule, Python would import MindSpore.
    package = importlib.util.find_spec("mindspore")
    if package is None or package.origin is None:
        return False
    return (Path(package.origin).parent / "parallel" / "cluster" / "run.py").is_file()
