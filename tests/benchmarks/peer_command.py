"""The peer ``command``: ``vidcap`` as a user runs it, with msrun, decoder processes and part files.

A clip's seconds are those from the caption with which the warm-up ended to the last, by their
number: by then the command has started, loaded and compiled what most clips need, and the slots of
its ranks are as full as they are at the end of the clips that count.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from trial import Job, answer

from vidcap_cli.events import Done, EventReader
from vidcap_cli.rundir import RunDir


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
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (attempt,) = RunDir(output.with_suffix(".vidcap")).attempts()
        ranks = [
            [event for event in EventReader(attempt.events(rank)).read() if isinstance(event, Done)]
            for rank in range(job["ranks"])
        ]
        with output.open(newline="", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
    times = sorted(event.time for events in ranks for event in events)
    seconds = (times[-1] - times[warm - 1]) / (len(times) - warm)
    last = [events[-1] for events in ranks if events]
    waited, busy = (sum(getattr(event, name) for event in last) for name in ("wait_s", "busy_s"))
    waiting = waited / (waited + busy)
    return {"seconds": {"clip": seconds}, "texts": texts[warm:], "waiting": waiting}


if __name__ == "__main__":
    answer({"nano": nano})
