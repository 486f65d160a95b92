"""The peer ``command``: ``vidcap`` as a user runs it, with msrun, decoder processes and part files.

A clip's seconds are those from the caption with which the warm-up ended to the last, by their
number: by then the command has started, loaded and compiled what most clips need, and the slots of
its ranks are as full as they are at the end of the clips that count.
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trial import Job, answer

from vidcap_cli.rundir.events import Done, Event, EventReader, Started, State
from vidcap_cli.rundir.paths import RunDir


def nano(job: Job) -> Job:
    """Nano clips in a table, as ``vidcap FAMILY table.csv --model nano --bs N --worker-num M``
    captions them.
    """
    warm = len(job["warm"])
    with tempfile.TemporaryDirectory() as place:
        table, output = Path(place, "clips.csv"), Path(place, "captioned.csv")
        table.write_text("\n".join(["path", *job["warm"], *job["clips"], ""]), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "vidcap_cli", job["family"], str(table)),
            *("--model", "nano", "--bs", str(job["batch"]), "-o", str(output)),
            *("--worker-num", str(job["ranks"])),
        ]
        began = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (attempt,) = RunDir(output.with_suffix(".vidcap")).attempts()
        planned = attempt.config.stat().st_mtime
        events = [list(EventReader(attempt.events(rank)).read()) for rank in range(job["ranks"])]
        with output.open(newline="", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
    done = [[event for event in rank if isinstance(event, Done)] for rank in events]
    times = sorted(event.time for rank in done for event in rank)
    seconds = (times[-1] - times[warm - 1]) / (len(times) - warm)
    last = [rank[-1] for rank in done if rank]
    waited, busy = (sum(getattr(event, name) for event in last) for name in ("wait_s", "busy_s"))
    return {
        "seconds": {"clip": seconds},
        "texts": texts[warm:],
        "waiting": waited / (waited + busy),
        "startup": startup(began, planned, events[0]),
    }


def startup(began: float, planned: float, events: list[Event]) -> dict[str, float]:
    """Seconds from the command, at ``began``, to the first caption of a rank, by what they went to.

    ``planned`` is when the attempt was written, which msrun then starts.
    """
    spent = {"planning": planned - began}
    doing, since = "msrun", planned
    for event in events:
        if isinstance(event, Started | State | Done):
            spent[doing] = spent.get(doing, 0.0) + event.time - since
            since = event.time
        if isinstance(event, Started):
            doing = "importing"
        elif isinstance(event, State):
            doing = event.state
        elif isinstance(event, Done):
            break
    return spent


if __name__ == "__main__":
    answer({"nano": nano})
