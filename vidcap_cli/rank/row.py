"""A row on its way through a rank: from its claim to its result one object carries it."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.processors import Prompt
from vidcap_cli.rank.said import Said
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video import Clip


@dataclass(slots=True)
class Row:
    """A row that this rank has claimed; ``path`` is what META calls it, with its
    range if it has one.

    ``attempts`` counts the launches that took it up, this one too. ``alone``: it is to be in the
    model with no other; ``smaller``: with a clip smaller than the one that memory ran out with.
    ``question`` is its own, asked instead of that of all rows.
    The decoders give it its ``clip``, or ``status`` and ``error``, and the seconds ``decode_s``;
    the model takes ``infer_s`` for its ``prompts``, one for each question. By their numbers
    ``said`` has the answers, or why there is none, and ``first`` those that repeat themselves,
    while the model tries once more.
    """

    row_id: int
    path: str
    attempts: int
    alone: bool = False
    smaller: bool = False
    question: str | None = None
    clip: Clip | None = None
    status: Status = Status.OK
    error: str | None = None
    decode_s: float | None = None
    infer_s: float = 0.0
    prompts: list[Prompt] = field(default_factory=list)
    said: dict[int, Said | Exception] = field(default_factory=dict)
    first: dict[int, Said] = field(default_factory=dict)

    def shrink(self, frames: NDArray[np.uint8]) -> None:
        """Go on with ``frames``, which are smaller or fewer than those of the clip."""
        assert self.clip
        flags = tuple(dict.fromkeys((*self.clip.flags, Flag.SHRUNK)))
        self.clip = replace(self.clip, frames=frames, flags=flags)
