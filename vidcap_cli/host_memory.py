"""The memory of this machine, or of the control group (cgroup v2) that this process is held to."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

_GROUP = Path("/sys/fs/cgroup")
_TUNABLES, _LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def local_ranks() -> int:
    """Ranks that share this machine, this one included."""
    return int(os.environ.get("VIDCAP_LOCAL_RANKS", "1"))


def large_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the ``environment`` of a process for its memory to lie on large pages, where
    the system gives them: what a tower works on is read and written some per cent faster then.

    glibc before 2.35 knows nothing of it. What the user says there stays.
    """
    said = environment.get(_TUNABLES, "")
    if _LARGE_PAGES in said:
        return {}
    return {_TUNABLES: ":".join(filter(None, (said, f"{_LARGE_PAGES}=1")))}


def total() -> int:
    """Bytes in all."""
    machine: int = psutil.virtual_memory().total
    return min(machine, _group_limit() or machine)


def available() -> int:
    """Bytes that this process could still get."""
    free: int = psutil.virtual_memory().available
    most = _group_limit()
    if most is None:
        return free
    try:
        current = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        held = {name: int(number) for name, number in map(str.split, lines)}
        # Files that were read count as taken, but make way: such as those of the weights.
        return max(0, min(free, most - current + held["inactive_file"] + held["active_file"]))
    except (OSError, ValueError, KeyError):
        return free


def _group_limit() -> int | None:
    """What the control group allows; None where there is none or it sets no limit."""
    try:
        most = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        return None if most == "max" else int(most)
    except (OSError, ValueError):
        return None
