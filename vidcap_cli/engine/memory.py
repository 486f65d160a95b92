"""The memory guard: which checkpoints there is memory for, and how much a prompt may take.

On Linux a process that takes more than there is gets killed, not told, and on Ascend no graph in
which memory ran out runs again. So what weights and prompts will need is held against what there is
before they are loaded or run. What is left for prompts is measured once, when the weights are
loaded; what the engine keeps afterwards (its caches) counts as part of each prompt's need. So
whether a clip fits does not depend on the clips before it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vidcap_cli.errors import ModelError
from vidcap_cli.host_memory import available, local_ranks, total
from vidcap_cli.models.device import as_out_of_memory, device_memory, memory_used
from vidcap_cli.native import library
from vidcap_cli.view.words import size

# What is available now is shared with whatever else runs here, and estimates are estimates.
_SHARE = 0.8
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def room(limit: int | None, device: str) -> int | None:
    """Bytes that prompts may take in this rank, its weights being loaded; None if nobody knows.

    ``limit`` is the user's, for the whole rank, weights included. Without it a rank takes most of
    what is left: on CPU its share of what is available on the machine, on Ascend of its device.
    """
    free = available() / local_ranks() if device == "CPU" else device_memory()[1]
    if limit is None:
        return None if free is None else int(free * _SHARE)
    used = memory_used(device)
    if used >= limit:
        raise ModelError(
            f"a rank takes {size(used)} with its weights, before any video, more than "
            f"--memory-limit {size(limit)} allows; leave it out, or let it be larger."
        )
    left = limit - used
    return left if free is None or device == "CPU" else min(left, int(free))


def check_weights(
    parameters: int,
    dtype: str,
    limit: int | None,
    device: str,
    divided: Mapping[int, int] | None = None,
) -> None:
    """Raise ModelError when weights of so many numbers cannot fit, however small the videos are.

    ``divided`` says how many they would be in a rank if more of them shared the model.

    ``limit`` as in ``room``; on CPU it may go beyond what is there, as a machine may swap.
    """
    there = _capacity() if device == "CPU" else device_memory()[0]
    bounds = [limit] if device == "CPU" and limit else [limit, there]
    most = min((bound for bound in bounds if bound is not None), default=None)
    weights = parameters * _ITEM_BYTES[dtype]
    if most is None or weights <= most:
        return
    remedies = ["a smaller model"]
    if dtype == "float32" and weights // 2 <= most:
        only_half = device == "CPU" and library() is None
        remedies.append("--dtype float16" if only_half else "--dtype float16 or bfloat16")
    shares = {ranks: each * _ITEM_BYTES[dtype] for ranks, each in (divided or {}).items()}
    enough = [ranks for ranks, each in shares.items() if each <= most]
    if enough and device != "CPU":
        share = size(shares[enough[0]])
        remedies.append(f"--tensor-parallel {enough[0]}, which puts {share} on each device")
    if most == limit:
        whose = f"--memory-limit {size(most)} allows"
        remedies += ["a larger --memory-limit"] * (there is None or weights <= there)
    else:
        whose = f"the {size(most)} that there are for a rank"
        if device == "CPU" and local_ranks() > 1 and weights <= min(available(), total()):
            remedies.append("fewer ranks on this machine (--worker-num)")
    raise ModelError(
        f"the weights take {size(weights)} in {dtype}, more than {whose}; use "
        f"{', or '.join(remedies)}."
    )


@contextmanager
def loading_weights() -> Iterator[None]:
    """Memory that runs out in here is the checkpoint's fault: ModelError."""
    try:
        yield
    except Exception as error:
        short = as_out_of_memory(error)
        if short is None:
            raise
        raise ModelError(
            f"memory ran out while the weights were loaded ({short}); use a smaller model, or free "
            "memory that other programs hold."
        ) from error


def _capacity() -> int:
    """Bytes that weights may take in this rank on CPU, however much of them is loaded already.

    Ranks load at the same time, so what is available now may be what others are about to take or
    have taken: a share of it would be too little.
    """
    return min(available(), total() // local_ranks())
