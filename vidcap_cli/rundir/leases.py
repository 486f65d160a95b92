"""Leases: a rank commits by way of a folder of its own, and that can be taken away from it.

A rank of a launch that is over, on a node that was cut off or frozen, wakes up with rows that
others have done meanwhile. A commit gives a second name, among the parts, to a file in the lease:
once the folder is gone with all that was in it, the system itself refuses, on shared folders too.
Each start of a rank has a lease of its own.
"""

import errno
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from vidcap_cli.rundir.paths import AttemptDir

_TRIES = 100
_PAUSE_SECONDS = 0.05


def grant(folder: AttemptDir, ranks: Iterable[int]) -> str | None:
    """Leases for the ranks that are about to be started, in place of those that they had.

    What tells them from others, for ``AttemptDir.lease``; None when the launch is over.
    """
    name = uuid4().hex[:8]
    for rank in ranks:
        revoke(folder, rank)
        folder.lease(rank, name).mkdir()
    # See ``end``: one of the two sees what the other did.
    if folder.over.exists():
        for rank in ranks:
            revoke(folder, rank)
        return None
    return name


def end(folder: AttemptDir) -> None:
    """Have the ranks of a launch leave, wherever they are, and commit nothing from now on."""
    folder.over.touch()  # first, or leases could be granted after they were revoked
    revoke(folder)


def revoke(folder: AttemptDir, rank: int | None = None) -> None:
    """Nothing is committed by the ranks of a launch, or by one of them, when this returns.

    Raises OSError when a lease cannot be removed.
    """
    for lease in folder.leases(rank):
        for left in reversed(range(_TRIES)):
            try:
                for file in lease.iterdir():
                    file.unlink(missing_ok=True)
                lease.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError as error:
                # A file that a rank has begun since, or one that is open on a network folder.
                if error.errno not in (errno.ENOTEMPTY, errno.EBUSY) or not left:
                    raise
                time.sleep(_PAUSE_SECONDS)


def is_revoked(folder: AttemptDir, lease: Path) -> bool:
    """Whether nothing can be committed by way of ``lease`` any more, though its run is there."""
    return folder.config.exists() and not lease.exists()
