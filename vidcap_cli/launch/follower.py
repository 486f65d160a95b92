"""The other nodes of a run: they launch their ranks whenever node 0 starts an attempt.

Node 0 plans, decides about launches and merges; the nodes share nothing but the run directory,
on a folder that all of them see. Whether node 0 is there is told by its lock.
"""

import time
from pathlib import Path

from vidcap_cli.errors import INCOMPLETE, OK, RunError, StoppedError
from vidcap_cli.launch.msrun import Cluster, LaunchFailedError
from vidcap_cli.launch.supervise import Interrupts, supervise
from vidcap_cli.rundir.lock import is_led
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.records import Attempt, Finished
from vidcap_cli.view.live import make_view

_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.5


def join(run_dir: Path, cluster: Cluster, log_dir: Path | None) -> int:
    """Serve node 0's run until it has finished; the exit code is that of the run.

    Raises RunError when node 0 does not appear within ten minutes or leaves before the end.
    """
    places = Places.of(run_dir)
    launched: set[Path] = set()
    deadline = time.monotonic() + _WAIT_SECONDS
    led: RunDir | None = None
    with Interrupts() as interrupts:
        while not interrupts.count:
            now = next((run for run in places.to_join() if is_led(run)), None)
            if now is None and led is not None:
                return _verdict(places.settled)
            if now is None and time.monotonic() > deadline:
                raise RunError(f"node 0 has not started a run in {run_dir} for ten minutes.")
            led = now or led
            attempt = _open_attempt(now, launched) if now else None
            if now is None or attempt is None:
                time.sleep(_POLL_SECONDS)
                continue
            launched.add(attempt.path)
            _launch(now, attempt, cluster, log_dir, interrupts)
    raise StoppedError("stopped; every finished row is on disk")


def _launch(
    run: RunDir, attempt: AttemptDir, cluster: Cluster, log_dir: Path | None, stop: Interrupts
) -> None:
    logs = run.launch_logs(attempt.number, log_dir)
    rows = Attempt.read(attempt).rows
    title = f"vidcap node {cluster.launch.node_rank}"
    with make_view(title=title, total=rows) as view:
        try:
            supervise(run, attempt, cluster, logs=logs, view=view, interrupts=stop)
        except LaunchFailedError as error:
            view.notice(f"{error}; this node waits for the next launch")


def _open_attempt(run: RunDir, launched: set[Path]) -> AttemptDir | None:
    """The newest attempt, if it goes on and this node has not served it yet."""
    newest = next(reversed(run.attempts()), None)
    if newest is None or newest.path in launched or newest.over.exists():
        return None
    return newest


def _verdict(run: RunDir) -> int:
    done = Finished.read(run)
    if done is None:
        raise RunError("node 0 has left; start the same commands again to continue the run.")
    return INCOMPLETE if done.failed else OK
