"""How much of a model each rank keeps when several share it, and whether the devices here hold it.

Computed from the sizes in ``config.json``: of a language model a rank keeps its part, of the vision
tower all.
"""

from collections.abc import Sequence
from pathlib import Path

from vidcap_cli.ascend import visible_devices
from vidcap_cli.checkpoint.folder import has_weights
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.inspect.ascend import look_at_ascend
from vidcap_cli.inspect.report import Fact
from vidcap_cli.view.words import size

_MOST = 16  # devices that a machine has, at most
_BYTES = 2  # of a number, as devices keep them


def sharing_facts(folder: Path, family: str, devices: Sequence[int]) -> tuple[Fact, ...]:
    """A fact for each number of ranks that can share the model; ``devices`` are their bytes.

    Raises ModelError when the folder is no whole checkpoint.
    """
    layout = (Layout.read if has_weights(folder) else Layout.of_settings)(folder, family)
    facts = []
    for ranks, parameters in layout.divided().items():
        if ranks > _MOST:
            break
        cache = Share(0, ranks).config(layout.text).kv_per_token * _BYTES * 1000
        weights = parameters * _BYTES
        words = f"{size(weights)} of weights a rank in 16 bits, {size(cache)} for 1,000 tokens"
        value: dict[str, object] = {"weights": weights, "cache_of_1000_tokens": cache}
        if devices:
            fits = len(devices) >= ranks and weights < min(devices)
            value["fits"] = fits
            words += f"; {_judged(ranks, weights, devices)}"
        facts.append(Fact(f"ranks that share it: {ranks}", words, value))
    return tuple(facts)


def device_sizes() -> list[int]:
    """Bytes of each Ascend device that ranks may use, as far as it could be asked."""
    if not visible_devices():
        return []
    steps = look_at_ascend().trial.steps
    told = (step.get("total") for name, step in steps.items() if name.startswith("device "))
    return [int(total) for total in told if total]


def _judged(ranks: int, weights: int, devices: Sequence[int]) -> str:
    if ranks > len(devices):
        return f"needs {ranks} devices, of which there are {len(devices)}"
    least = min(devices)
    if weights >= least:
        return f"does not fit the devices of {size(least)}"
    return f"fits, and leaves {size(least - weights)} of a device"
