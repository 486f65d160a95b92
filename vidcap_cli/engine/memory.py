"""The memory guard: how much a prompt may take.

On Linux a process that takes more than there is gets killed, not told, so what a prompt will need
is held against what is left before it is run. What is left is measured once, when the weights are
loaded; what the engine keeps afterwards (its caches) counts as part of each prompt's need. So
whether a clip fits does not depend on the clips before it.
"""

from pathlib import Path

import psutil

from vidcap_cli.errors import ModelError
from vidcap_cli.models.device import local_ranks, memory_used
from vidcap_cli.view.words import size

# What is available now is shared with whatever else runs here, and estimates are estimates.
_SHARE = 0.8


def room(limit: int | None, device: str) -> int | None:
    """Bytes that prompts may take in this rank; None where nobody knows.

    ``limit`` is the user's, for the whole rank, weights included. Without it a rank on CPU takes
    its share of what is available on the machine; on Ascend a device's own error has to tell.
    """
    if limit is None:
        if device != "CPU":
            return None
        return int(available() * _SHARE / local_ranks())
    used = memory_used(device)
    if used >= limit:
        raise ModelError(
            f"the weights alone take {size(used)}, more than --memory-limit {size(limit)} allows."
        )
    return limit - used


def available() -> int:
    """Bytes that this process could still get: the machine's, or its control group's if less."""
    free: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        current = int((group / "memory.current").read_text(encoding="ascii"))
        return free if most == "max" else min(free, int(most) - current)
    except (OSError, ValueError):
        return free
