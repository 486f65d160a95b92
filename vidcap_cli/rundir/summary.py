"""``summary.json``: how the last command of a run ended, for programs that read it afterwards.

The README tells its format. It is written when a command ends, also one that was stopped or
failed, and removed when the next one begins.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vidcap_cli.atomic import atomic_write
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.standing import Standing

VERSION = 1
Ended = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class RankWork:
    """What a rank did in this command; its tokens and seconds are those of its last launch.

    ``memory`` is the most of the host's that it took, in bytes, 0 where it is not known.
    """

    ok: int
    failed: int
    launches: int
    new_tokens: int
    busy_s: float
    wait_s: float
    memory: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a command ended: ``rows`` are those it was about, ``captions`` those that it made in
    ``seconds``.
    """

    ended: Ended
    rows: int
    captions: int
    seconds: float
    standing: Standing
    ranks: dict[int, RankWork] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON data."""
        hours = self.seconds / 3600
        return {
            "version": VERSION,
            "ended": self.ended,
            "time": round(time.time(), 3),
            "rows": self.rows,
            "statuses": dict(self.standing.statuses.most_common()),
            "left": max(0, self.rows - self.standing.statuses.total()),
            "captions": self.captions,
            "seconds": round(self.seconds, 3),
            "captions_per_hour": round(self.captions / hours, 1) if hours > 0 else None,
            "ranks": {str(number): asdict(rank) for number, rank in sorted(self.ranks.items())},
            "failures": [cause.as_dict() for cause in self.standing.causes],
            "slowest": [slow.as_dict() for slow in self.standing.slowest],
        }

    def write(self, run: RunDir) -> None:
        """Leave it in the run directory."""
        text = json.dumps(self.as_dict(), ensure_ascii=False, indent=1)
        atomic_write(run.summary, (text + "\n").encode("utf-8", "backslashreplace"))
