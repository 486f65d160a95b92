"""What a run reports, made up, and what the live region then shows."""

import io

from rich.console import Console

from vidcap_cli.rundir.events import Done, Event
from vidcap_cli.view.live import draw
from vidcap_cli.view.tally import RunState

CAPTION = "A red circle moves slowly from left to right across a black background."


def done(row, *, status="ok", tokens=50, busy=10.0, wait=2.0, time=100.0, text=CAPTION):
    error = None if status == "ok" else "moov atom not found"
    text = text if status == "ok" else None
    return Done(row, f"{row}.mp4", status, text, error, tokens, busy, wait, time=time)


def folded(*events: tuple[int | None, Event], total=10, finished=0):
    state = RunState(total=total, finished=finished)
    for rank, event in events:
        state.take(rank, event)
    return state


def shown(state, width=100, height=24):
    console = Console(file=io.StringIO(), width=width, height=height)
    options = {"title": "vidcap qwen2vl meta.csv", "now": 200.0, "elapsed": 75.0}
    console.print(draw(state, width=width, height=height, **options))
    return console.file.getvalue()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now
