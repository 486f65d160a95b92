"""A run watched from another terminal: the view that its own command has, drawn from its files."""

import time
from pathlib import Path

from vidcap_cli.rundir.events import EventReader
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.view.live import make_view

_POLL_SECONDS = 0.2
_EVENT_BYTES = 1 << 20  # of a rank's that are read row by row
_LOOK_SECONDS = 1.0  # after how long it is looked again whether the run goes on


def watch(run_dir: Path) -> None:
    """Draw the run of ``run_dir``, or the one that is to replace it, as long as it is led."""
    shown: Path | None = None
    while run := _led(run_dir):
        newest = next(reversed(run.attempts()), None)
        if newest is None or newest.path == shown:
            time.sleep(_POLL_SECONDS)  # it is planned, or its table is written
            continue
        shown = newest.path
        _draw(run, newest)


def _led(run_dir: Path) -> RunDir | None:
    return next((run for run in Places.of(run_dir).to_join() if is_led(run)), None)


def _draw(run: RunDir, launch: AttemptDir) -> None:
    """Draw a launch until it is over or the run is not led any more."""
    attempt = Attempt.read(launch)
    readers = {rank: EventReader(launch.events(rank)) for rank in range(attempt.ranks)}
    title = f"{run.path.name} · launch {launch.number}"
    total = attempt.captioned + attempt.rows
    began = launch.config.stat().st_mtime
    with make_view(title=title, total=total, finished=attempt.captioned, began=began) as view:
        goes_on, next_look = True, 0.0
        while goes_on:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _LOOK_SECONDS
                goes_on = is_led(run) and not launch.over.exists()
            for rank, reader in readers.items():
                for event in reader.read(_EVENT_BYTES):
                    view.event(rank, event)
                view.tick()
            time.sleep(_POLL_SECONDS)
