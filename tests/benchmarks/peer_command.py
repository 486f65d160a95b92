"""The peer ``command``: ``vidcap`` as a user runs it, with msrun, decoder processes and part files.

A clip's seconds are those from the caption with which the warm-up ended to the last, by their
number: by then the command has started, loaded and compiled what most clips need, and its slots
are as full as they are at the end of the clips that count.
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
    """Nano clips in a table, as ``vidcap FAMILY table.csv --model nano --bs N`` captions them."""
    warm = len(job["warm"])
    with tempfile.TemporaryDirectory() as place:
        table, output = Path(place, "clips.csv"), Path(place, "captioned.csv")
        table.write_text("\n".join(["path", *job["warm"], *job["clips"], ""]), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "vidcap_cli", job["family"], str(table)),
            *("--model", "nano", "--bs", str(job["batch"]), "-o", str(output)),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (attempt,) = RunDir(output.with_suffix(".vidcap")).attempts()
        done = [e for e in EventReader(attempt.events(0)).read() if isinstance(e, Done)]
        with output.open(newline="", encoding="utf-8") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
    seconds = (done[-1].time - done[warm - 1].time) / (len(done) - warm)
    waiting = done[-1].wait_s / (done[-1].wait_s + done[-1].busy_s)
    return {"seconds": {"clip": seconds}, "texts": texts[warm:], "waiting": waiting}


if __name__ == "__main__":
    answer({"nano": nano})
