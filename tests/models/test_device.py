"""Ranks that share a machine: which of its cores the model of each keeps to."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("mindspore")

from vidcap_cli.models.device import as_out_of_memory

_PROGRAM = """
import os
from vidcap_cli.models.device import select_device
os.sched_setaffinity(0, map(int, {cores!r}))
select_device("CPU", compiled=True)
print(*sorted(os.sched_getaffinity(0)))
"""


def _kept(rank: int, ranks: int, cores: list[int]) -> list[int]:
    """The cores of a rank that finds ``cores``."""
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(cores=cores)],
        env={**os.environ, "DEVICE_ID": str(rank % ranks), "VIDCAP_LOCAL_RANKS": str(ranks)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return list(map(int, found.stdout.split()))


def test_ranks_of_a_machine_keep_to_cores_of_their_own() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    # Ranks 2 and 3 are those of a second node.
    assert [_kept(rank, 2, cores) for rank in (2, 3)] == [cores[:1], cores[1:]]


def test_a_rank_alone_and_ranks_in_excess_run_anywhere() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    assert _kept(0, 1, cores) == cores
    assert _kept(1, 3, cores) == cores


# What MindSpore 2.7.0 says with a device of 2 GB, its own backend on a CANN that is not real.
_EAGER = """Allocate memory failed

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
mindspore/ccsrc/runtime/device/device_address_utils.cc:1301 MallocForOutputs
"""
_GRAPH = """
----------------------------------------------------
- Memory not enough:
----------------------------------------------------
Device(id:0) memory isn't enough and alloc failed, kernel name: Tile-op0, alloc size: 655360000B.
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(_EAGER), "Allocate memory failed"),
        (RuntimeError(_GRAPH), "Device(id:0) memory isn't enough and alloc failed, kernel name"),
        (RuntimeError("Out of Memory!!! Request size: 3"), "Out of Memory!!! Request size: 3"),
        (RuntimeError("Malloc device memory failed, size[7], ret[207001]"), "Malloc device memory"),
        (RuntimeError("EL0004: Failed to allocate memory."), "EL0004: Failed to allocate"),
        (RuntimeError("std::bad_alloc"), "std::bad_alloc"),
        (MemoryError(), "no memory"),
    ],
)
def test_short_memory_is_recognised_in_all_its_forms(error, words):
    assert str(as_out_of_memory(error)).startswith(words)


@pytest.mark.parametrize(
    "words",
    ["not enough values to unpack (expected 2, got 1)", "The memory format is not supported", ""],
)
def test_other_errors_are_not_taken_for_short_memory(words):
    assert as_out_of_memory(ValueError(words)) is None
