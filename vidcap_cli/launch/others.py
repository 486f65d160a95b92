"""The other nodes of a run, as the one that leads it sees them: who is at work, who is lost."""

import time
from collections.abc import Callable
from itertools import chain

from vidcap_cli.rundir.nodes import Nodes
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.view.follower import View

# How often to look: whether rows are left is told by every part file.
_LOOK_SECONDS = 2.0


class OtherNodes:
    """The nodes that serve ``run`` besides node ``own``."""

    def __init__(self, run: RunDir, own: int) -> None:
        self._nodes = Nodes(run)
        self._own = own
        self._told: dict[str, set[str]] = {}  # of nodes, by what was said of them
        self._next_look = 0.0

    def are_at_work(self, attempt: int, left: Callable[[], int], view: View) -> bool:
        """Whether any has something to do in a launch, of which so many rows are ``left()``.

        One that never comes, or comes late, is not waited for; nor one that is not heard of any
        more. ``view`` is told of whom that is so, and who is waited for.
        """
        if time.monotonic() < self._next_look:
            return True
        there, lost = (
            {node.name for node in nodes if node.number != self._own and node.attempt == attempt}
            for nodes in self._nodes.look()
        )
        self._tell(lost, "not heard of any more, what they had taken goes to others", view)
        if not there or not left():
            return False
        self._tell(there, "still at work, which is waited for", view)
        self._next_look = time.monotonic() + _LOOK_SECONDS
        return True

    def launches(self) -> set[int | None]:
        """The launches that any said last to be at work in, whether it is lost or not."""
        return {node.attempt for node in chain(*self._nodes.look()) if node.number != self._own}

    def _tell(self, nodes: set[str], what: str, view: View) -> None:
        """Say something of nodes, if it has not been said of just these."""
        if nodes != self._told.get(what, set()):
            self._told[what] = nodes
            if nodes:
                view.notice(f"{', '.join(sorted(nodes))}: {what}")
