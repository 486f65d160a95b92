"""Draws .github/live-view.svg, the picture of the live view in the README.

Run it after a change to the view: ``python tests/view/make_live_view_svg.py``.
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from vidcap_cli.rundir.events import Began, Done, Started, State
from vidcap_cli.view.live import LiveView, draw

PICTURE = Path(__file__).resolve().parents[2] / ".github" / "live-view.svg"
TITLE = "vidcap qwen2vl meta.csv → meta_caption_qwen2vl.csv"
WIDTH, HEIGHT = 104, 30
CAPTIONS = (
    "A red circle moves slowly from left to right across a black background.",
    "An orange square stays still at the top left of a gray background.",
    "A cyan triangle moves quickly upward across a navy background.",
    "A purple circle moves quickly from right to left across a teal background.",
)


class Clock:
    """A clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def busy_run(view: LiveView, clock: Clock, ranks: int = 4) -> None:
    """Feed ``view`` about ten minutes of a run with two bad videos and one killed rank."""
    for rank in range(ranks):
        view.event(rank, Started(4000 + rank, "ascend-01", time=0.0))
        view.event(rank, State("captioning", time=20.0))
        view.event(rank, Began([rank], time=20.0 + rank))
    bad = {
        37: ("clips/0037.mp4", "decode_error", "moov atom not found"),
        90: ("clips/harbour/0090.avi", "missing_file", "no such file"),
    }
    for row in range(264):
        rank = row % ranks
        clock.now = 22.0 + row * 2.2
        turn = row // ranks + 1
        path, status, error = bad.get(row, (f"clips/{row:04}.mp4", "ok", None))
        caption = CAPTIONS[(turn + rank) % len(CAPTIONS)] if error is None else None
        since = turn - (45 if rank == 1 and row > 180 else 0)  # rank 1 begins again at row 181
        busy, wait = since * 8.1, since * (0.06, 0.42, 0.11, 1.9)[rank % 4]
        tokens = 0 if error else 220 + 10 * (row % 7)
        done = Done(row, path, status, caption, error, tokens, busy, wait, time=clock.now)
        view.event(rank, done)
        if row == 180:
            view.notice("rank 1 was killed by SIGKILL; restarting")
            view.event(1, Started(4011, "ascend-01", time=clock.now))
            view.event(1, State("captioning", time=clock.now))
    view.event(3, State("waiting for frames", time=clock.now))


def main(target: Path = PICTURE) -> None:
    """Write the picture to ``target``."""
    clock = Clock()
    console = Console(
        record=True,
        width=WIDTH,
        height=HEIGHT,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        _environ={},
    )
    view = LiveView(console, title=TITLE, total=2000, finished=812, now=clock)
    console.print(Text("$ vidcap qwen2vl meta.csv --bs 4 --worker-num 4", style="bold"))
    busy_run(view, clock)
    clock.now += 1.0
    console.print()
    picture = draw(
        view.state, title=TITLE, now=clock.now, elapsed=clock.now, width=WIDTH, height=HEIGHT
    )
    console.print(picture)
    svg = console.export_svg(title="vidcap", unique_id="vidcap")
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
