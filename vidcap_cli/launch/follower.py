"""The other nodes of a run: they launch their ranks whenever node 0 starts an attempt.

Node 0 plans, decides about launches and merges; the nodes share nothing but the run directory,
on a folder that all of them see. Whether node 0 is there is told by its lock, and whether it gets
on by its heartbeat.
"""

import time
from collections.abc import Callable
from pathlib import Path

from vidcap_cli.errors import INCOMPLETE, OK, RunError, StoppedError
from vidcap_cli.launch.msrun import Cluster, LaunchFailedError
from vidcap_cli.launch.supervise import Interrupts, supervise
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.nodes import Heartbeat, Nodes
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.records import Attempt, Finished
from vidcap_cli.view.live import make_view
from vidcap_cli.view.words import count

_WAIT_SECONDS = 600.0
# A run that has finished is taken for the one that is meant when nobody begins another so long.
_FINISHED_SECONDS = 60.0
_POLL_SECONDS = 0.5
_LEADING_NODE = 0


def join(
    run_dir: Path,
    cluster: Cluster,
    log_dir: Path | None,
    say: Callable[[str], None] = print,
    **view: bool,
) -> int:
    """Serve node 0's run until it has finished; the exit code is that of the run.

    ``say`` tells the user for whom this node waits; ``view`` is what ``make_view`` takes besides.
    Raises RunError when node 0 does not appear within ten minutes, or was stopped before the end.
    """
    with Interrupts() as interrupts:
        return _Follower(run_dir, cluster, log_dir, say, interrupts, view=view).serve()


class _Follower:
    """Serves the runs of one place; see ``join``."""

    def __init__(
        self,
        run_dir: Path,
        cluster: Cluster,
        log_dir: Path | None,
        say: Callable[[str], None],
        interrupts: Interrupts,
        *,
        view: dict[str, bool],
    ) -> None:
        self._places = Places.of(run_dir)
        self._cluster = cluster
        self._log_dir = log_dir
        self._say = say
        self._interrupts = interrupts
        self._view = view
        self._launched: set[Path] = set()
        self._said = ""

    def serve(self) -> int:
        """Until node 0 has finished."""
        served: RunDir | None = None  # the run that node 0 was last seen to lead
        since = time.monotonic()
        while not self._interrupts.count:
            now = next((run for run in self._places.to_join() if is_led(run)), None)
            if now:
                served, since = now, time.monotonic()
                self._follow(now)
            elif (code := self._verdict(served, time.monotonic() - since)) is not None:
                return code
            time.sleep(_POLL_SECONDS)
        raise StoppedError("stopped; every finished row is on disk")

    def _follow(self, run: RunDir) -> None:
        """Take part in the newest launch, if this node has not yet and it goes on."""
        attempt = next(reversed(run.attempts()), None)
        if attempt is None or attempt.path in self._launched or attempt.over.exists():
            self._tell(f"waiting for node 0 to go on with {run.path}")
            return
        self._launched.add(attempt.path)
        self._said = ""
        node = self._cluster.node
        logs = run.launch_logs(attempt.number, node, self._log_dir)
        title = f"vidcap node {node}"
        rows = Attempt.read(attempt).rows
        with (
            Heartbeat(run, node) as heartbeat,
            make_view(title=title, total=rows, **self._view) as view,
        ):
            leader = _Leader(run, attempt, view.notice)
            try:
                supervise(
                    run,
                    attempt,
                    self._cluster,
                    logs=logs,
                    view=view,
                    interrupts=self._interrupts,
                    heartbeat=heartbeat,
                    elsewhere=leader.goes_on,
                )
            except LaunchFailedError as error:
                view.notice(f"{error}; this node waits for the next launch")

    def _verdict(self, served: RunDir | None, waited: float) -> int | None:
        """The exit code when nobody leads the run any more, None to go on waiting."""
        settled = self._places.settled
        # One that is to replace the run here is at another place until it has finished.
        replacing = served and served.path != settled.path and served.path.exists()
        done = None if replacing else Finished.read(settled)
        if done and (served or waited > _FINISHED_SECONDS):
            if not served:
                self._say(f"the run in {settled.path} has finished; there was nothing left to do.")
            else:
                captioned = f"{done.rows - done.failed:,} of {count(done.rows, 'video')}"
                self._say(
                    f"finished: {captioned} of all nodes have a caption; node 0 has the table"
                )
            return INCOMPLETE if done.failed else OK
        last = next(reversed(served.attempts()), None) if served else None
        if last and last.stop.exists():
            raise RunError("node 0 was stopped; start the same commands again to continue the run.")
        if waited > _WAIT_SECONDS:
            raise RunError(f"node 0 has led no run in {settled.path} for ten minutes.")
        gone = "has left before the end; waiting for it to come back to" if served else "to start"
        self._tell(f"{'node 0' if served else 'waiting for node 0'} {gone} {settled.path}")
        return None

    def _tell(self, words: str) -> None:
        """Say for whom this node waits, once."""
        if words != self._said:
            self._said = words
            self._say(f"{words} (Ctrl-C leaves)")


class _Leader:
    """Node 0 while the ranks of this node rest, seen from there."""

    def __init__(self, run: RunDir, attempt: AttemptDir, say: Callable[[str], None]) -> None:
        self._run = run
        self._attempt = attempt
        self._say = say
        self._nodes = Nodes(run)
        self._silent = False
        self._next_look = 0.0

    def goes_on(self) -> bool:
        """Whether node 0 leads this launch still; says when it is not heard of."""
        if self._attempt.over.exists() or self._attempt.stop.exists():
            return False
        if time.monotonic() < self._next_look:
            return True
        self._next_look = time.monotonic() + 2 * _POLL_SECONDS
        if not is_led(self._run):
            return False
        _, lost = self._nodes.look()
        silent = next((node for node in lost if node.number == _LEADING_NODE), None)
        if silent and not self._silent:
            self._say(
                f"{silent.name} is not heard of, though it holds the run (process {silent.pid}); "
                "waiting for it (Ctrl-C leaves)"
            )
        self._silent = silent is not None
        return True
