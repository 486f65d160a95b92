"""Everything that depends on the device: choosing it, its dtypes, its error texts."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import mindspore as ms
import psutil

from vidcap_cli.ascend import visible_devices
from vidcap_cli.errors import OutOfMemoryError
from vidcap_cli.host_memory import local_ranks
from vidcap_cli.native import library, round_rows, set_threads

# What MindSpore says when memory is short, on CPU and on Ascend, in graphs and between them; and
# CANN's own codes for it.
_NO_MEMORY = re.compile(
    r"out of memory|memory.* (not|isn.t) enough|bad_alloc|(m|re)?alloc\w* .*fail|MemoryError|"
    r"EL0004|207001",
    re.IGNORECASE,
)
_GIB = 1 << 30


def select_device(target: str, memory: int | None = None, *, compiled: bool) -> str:
    """Bind this process to its device and return the device's name, "Ascend" or "CPU".

    msrun numbers the devices of a machine in ``DEVICE_ID``. On Ascend MindSpore takes at most
    ``memory`` bytes of it, if that is given. ``compiled`` says that what runs is compiled, but for
    single operators between graphs.
    """
    if target == "auto":
        target = "Ascend" if visible_devices() else "CPU"
    if target == "Ascend":
        ms.set_device(target, int(os.environ.get("DEVICE_ID", "0")))
        if memory is not None:
            _limit_memory(memory)
    else:
        ms.set_device(target)
        _keep_to_own_cores()
        # Dispatching operators to another thread costs twenty times what they take on few cores.
        ms.runtime.launch_blocking()
        if compiled and library() is not None:
            set_threads(len(os.sched_getaffinity(0)))
        if compiled:
            # Or a third thread starts the graphs, and two spin until they end: on two cores small
            # graphs then often wait for the scheduler, 4 ms at a time.
            ms.set_context(mode=ms.GRAPH_MODE)
    return target


def current_device() -> str:
    """The device that was selected."""
    return str(ms.get_context("device_target"))


@contextmanager
def eagerly() -> Iterator[None]:
    """Run single operators here, no graphs: in graph mode MindSpore takes three times as long to
    write into a cache, and a view becomes a copy.
    """
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=mode)


def _keep_to_own_cores() -> None:
    """Give the model its share of the cores when other ranks run here, too.

    MindSpore's threads spin while they wait, so those of several ranks hinder each other. Threads
    that are there already, such as the decoders', stay free to run anywhere.
    """
    ranks, cores = local_ranks(), sorted(os.sched_getaffinity(0))
    share = len(cores) // ranks
    if ranks > 1 and share:
        first = int(os.environ["DEVICE_ID"]) * share
        os.sched_setaffinity(0, cores[first : first + share])


def _limit_memory(most: int) -> None:
    """Keep MindSpore's pool of the device's memory below ``most`` bytes."""
    ms.runtime.set_memory(max_size=f"{max(most / _GIB, 0.001):.3f}GB")  # its GB are these


def device_memory() -> tuple[int | None, int | None]:
    """Bytes of the Ascend device in all, and those that this process could still get.

    None where MindSpore does not tell: it says 0 before the device is in use, and later versions
    than 2.7 may not be asked like this.
    """
    ms.runtime.synchronize()
    properties = getattr(ms.hal, "get_device_properties", None)
    device = properties(0) if properties else None
    if device is None or not device.total_memory:
        return None, None
    pooled = ms.runtime.memory_reserved() - ms.runtime.memory_allocated()
    return int(device.total_memory), int(device.free_memory + pooled)


def memory_used(device: str) -> int:
    """Bytes that this process takes of the device's memory; on CPU, of the machine's."""
    if device == "CPU":
        return int(psutil.Process().memory_info().rss)
    return int(ms.runtime.memory_allocated())


def round_products(requested: str, device: str) -> None:
    """Compute products in bfloat16 on CPU, too, if that was asked for by name and is faster there.

    Otherwise rows are float32 whatever weights are kept in.
    """
    if device == "CPU" and library() is not None:
        round_rows(requested == "bfloat16")


def graphs_survive(device: str) -> bool:
    """Whether compiled graphs can be run again after memory ran out while one was run.

    Not on Ascend: that graph then fails for the rest of the process, however much memory is free
    (MindSpore 2.7.0, its Ascend backend without a device). Single operators go on.
    """
    return device == "CPU"


def as_out_of_memory(error: Exception) -> OutOfMemoryError | None:
    """``error`` as OutOfMemoryError when it is the device's way of saying so."""
    found = _NO_MEMORY.search(str(error))
    if found is None and not isinstance(error, MemoryError):
        return None
    # MindSpore puts headings and ruled lines around what happened, each with a dash first.
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in said if _NO_MEMORY.search(line) and not line.startswith("-")]
    return OutOfMemoryError((telling or said or ["no memory"])[0])
