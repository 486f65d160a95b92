"""Videos that are newer than their captions: exported anew, under the same name, since then.

A caption is as old as the part that it is in, which was written after its video was read. So a file
that was modified later is not the one that the caption is of, or may not be: a copy of the same
bytes is as new. That is told, and acted on where it is asked for. Files elsewhere are not asked.
"""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vidcap_cli.addresses import is_remote, locate
from vidcap_cli.rundir.ledger import Done
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import GROUP, Plan

_CLOCK_ROWS = 64  # looked at between two looks at the clock


def newer_videos(
    run: RunDir,
    plan: Plan,
    done: Done,
    wanted: npt.NDArray[np.bool_],
    seconds: float = float("inf"),
) -> npt.NDArray[np.bool_]:
    """Which of the ``wanted`` rows have a caption and a video that is newer, by row.

    After so many ``seconds`` the rest is not looked at.
    """
    found = np.zeros(plan.rows, np.bool_)
    until = time.monotonic() + seconds
    with pq.ParquetFile(run.rows) as file:
        for batch in file.iter_batches(batch_size=GROUP, columns=["row_id", "path"]):
            rows, paths = batch.column(0).to_numpy(), batch.column(1)
            for number, place in enumerate(np.flatnonzero((done.ok & wanted)[rows])):
                if not number % _CLOCK_ROWS and time.monotonic() > until:
                    return found
                row = rows[place]
                found[row] = _modified(paths[int(place)].as_py(), plan) > done.written[row]
    return found


def _modified(path: str | None, plan: Plan) -> int:
    """When the file of a row was modified, in nanoseconds since 1970; 0 where it is not known."""
    if path is None:
        return 0
    file, _ = locate(path, plan.bases)
    try:
        return 0 if is_remote(file) else Path(file).stat().st_mtime_ns
    except (OSError, ValueError):  # it has gone: who is to read it says so
        return 0
