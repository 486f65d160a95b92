"""Ranks that share a machine: which of its cores the model of each keeps to."""

import os
import subprocess
import sys

import pytest

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
        env={**os.environ, "RANK_ID": str(rank), "VIDCAP_LOCAL_RANKS": str(ranks)},
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
