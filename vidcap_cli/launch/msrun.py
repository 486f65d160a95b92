"""Everything known about msrun: starting ranks with it, and learning how they ended.

msrun runs with ``--join=False``: it starts the ranks and leaves. Joining, it would burn a core,
kill all ranks when one fails and report success after an interrupt (MindSpore 2.7.0). Instead
this process adopts the ranks and reads their exit statuses itself. It assumes that it has no
other children meanwhile.
"""

import errno
import os
import secrets
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from vidcap_cli.errors import RunError
from vidcap_cli.host_memory import large_pages
from vidcap_cli.options import LaunchOptions
from vidcap_cli.processes import adopt_orphans, free_port
from vidcap_cli.rundir.paths import AttemptDir, RunDir

# What another msrun told this command, if it was the one to start it.
_OF_MSRUN = {"MS_ROLE", "MS_NODE_ID", "MS_NODE_RANK", "RANK_ID", "RANK_SIZE", "DEVICE_ID"}
# What keeps a process from being started for now.
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY)


@dataclass(frozen=True, slots=True)
class Cluster:
    """How many ranks there are (``worker_num``), how many of them here, and the rest as asked."""

    worker_num: int = 1
    local_worker_num: int = 1
    launch: LaunchOptions = field(default_factory=LaunchOptions)

    @property
    def node(self) -> int:
        """The number of this node."""
        return self.launch.node_rank or 0

    @property
    def local_ranks(self) -> range:
        """The numbers that msrun gives the ranks of this node."""
        first = self.node * self.local_worker_num
        return range(first, first + self.local_worker_num)


class LaunchFailedError(RunError):
    """The ranks did not start, for a reason that may pass.

    A signal ended msrun or one of them, or there was no process or memory left for it.
    """


class Ranks:
    """The ranks of one attempt on this node, started through msrun to commit by their ``lease``."""

    def __init__(
        self, run: RunDir, folder: AttemptDir, cluster: Cluster, logs: Path, lease: str
    ) -> None:
        self._cluster = cluster
        self._logs = logs
        self._numbers: dict[int, int] = {}
        self._unclaimed: list[tuple[int, int]] = []
        self._terminated: set[int] = set()
        self._stopping = False
        self._childless = False
        adopt_orphans()
        logs.mkdir(parents=True, exist_ok=True)
        command = _command(run, folder, cluster, logs)
        with (logs / "msrun.log").open("wb") as log:
            environment = {**_environment(folder, cluster), "VIDCAP_LEASE": lease}
            try:
                # A session of its own: Ctrl-C at the terminal is for this process to answer.
                self._msrun = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise _not_started(error) from error

    def announce(self, rank: int, pid: int) -> None:
        """Take note that process ``pid`` is ``rank``, and has just begun."""
        self._numbers[pid] = rank
        # Another program may have run in it before, and may have been the one to hear of the end.
        self._terminated.discard(pid)

    def poll(self) -> list[tuple[int, int]]:
        """The (rank, exit code or negative signal) of ranks that ended since the last call.

        Raises RunError when msrun itself failed, LaunchFailedError when another try may do.
        """
        code = self._msrun.poll()
        if code is None:
            return []
        if code != 0 and not self._stopping:
            self.kill()
            raise _failed(code, f"msrun ended with {code}", self._logs / "msrun.log")
        if self._stopping:
            self._terminate_children()
        self._reap()
        if self._childless and not self._stopping:
            self._check_all_announced()
        ended = [
            (self._numbers[pid], code) for pid, code in self._unclaimed if pid in self._numbers
        ]
        self._unclaimed = [pair for pair in self._unclaimed if pair[0] not in self._numbers]
        return ended

    @property
    def alive(self) -> bool:
        """Whether msrun or any process that it started is still there."""
        return self._msrun.poll() is None or not self._childless

    def kill_rank(self, rank: int) -> bool:
        """End one rank at once, also one that is stopped; ``poll`` tells its end.

        False when its process is not known, because it has not said so far which rank it is.
        """
        pids = [pid for pid, number in self._numbers.items() if number == rank]
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return bool(pids)

    def stop(self) -> None:
        """Ask the ranks to commit and leave; those that do not run yet will not start."""
        self._stopping = True
        if self._msrun.poll() is None:
            self._msrun.kill()
            self._msrun.wait()
        self._terminate_children()

    def kill(self) -> None:
        """End every process of this attempt at once."""
        self._stopping = True
        if self._msrun.poll() is None:
            self._msrun.kill()
            self._msrun.wait()
        while children := psutil.Process().children(recursive=True):
            for child in children:
                _signal(child.pid, signal.SIGKILL)
            psutil.wait_procs(children, timeout=0.2)

    def _check_all_announced(self) -> None:
        """A rank that failed before it could say which it is has no events: show its log."""
        if len(self._numbers) == self._cluster.local_worker_num:
            return  # the others were decoders, which die with their rank
        failed = [code for pid, code in self._unclaimed if code and pid not in self._numbers]
        if failed:
            logs = [log for log in sorted(self._logs.glob("worker_*.log")) if _last_line(log)]
            what = f"a rank ended with {failed[0]} while starting ({self._logs})"
            raise _failed(failed[0], what, logs[0] if logs else None)

    def _reap(self) -> None:
        """Collect the (pid, exit code or negative signal) of children that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            self._unclaimed.append((pid, os.waitstatus_to_exitcode(status)))

    def _terminate_children(self) -> None:
        for child in psutil.Process().children():
            if child.pid not in self._terminated:
                self._terminated.add(child.pid)
                _signal(child.pid, signal.SIGTERM)


def _command(run: RunDir, folder: AttemptDir, cluster: Cluster, logs: Path) -> list[str]:
    port = cluster.launch.master_port or free_port()
    options = {
        "worker_num": cluster.worker_num,
        "local_worker_num": cluster.local_worker_num,
        "master_addr": cluster.launch.master_addr,
        "master_port": port,
        "node_rank": cluster.node,
        "log_dir": logs,
        "join": False,
    }
    # It dies with this command: it may take seconds to start ranks, for a command that is gone.
    msrun = [sys.executable, "-m", "vidcap_cli.processes", "vidcap_cli.launch.bare_msrun"]
    flags = [f"--{name}={value}" for name, value in options.items()]
    worker = ["python", "-m", "vidcap_cli.rank.worker", str(run.path.absolute())]
    return [*msrun, *flags, *worker, str(folder.number)]


def _environment(folder: AttemptDir, cluster: Cluster) -> dict[str, str]:
    """The ranks' environment. msrun starts ``python`` from PATH: make that this interpreter.

    It starts it once more as its scheduler, which nothing here needs: that ends at once, before it
    can hold up the first rank.
    """
    programs = folder.programs(cluster.node)
    programs.mkdir(exist_ok=True)
    wrapper = programs / "python"
    script = f"""#!/bin/sh
[ "$MS_ROLE" = MS_SCHED ] || exec {shlex.quote(sys.executable)} "$@"
"""
    wrapper.write_bytes(os.fsencode(script))
    wrapper.chmod(0o755)
    path = f"{programs.absolute()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {
        **{name: value for name, value in os.environ.items() if name not in _OF_MSRUN},
        "PATH": path,
        "VIDCAP_PARENT": str(os.getpid()),
        "VIDCAP_GROUP_KEY": secrets.token_hex(16),
        "VIDCAP_LOCAL_RANKS": str(len(cluster.local_ranks)),
        "PYTHONUNBUFFERED": "1",
        # Paths are bytes on disk, whatever the locale; and a random.py of the user's in the
        # working directory, which an empty entry of PYTHONPATH is too, is not for import.
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join(_search_path()),
        **large_pages(os.environ),
        # The tokenizer's threads gain nothing on single prompts and warn when decoders start.
        "TOKENIZERS_PARALLELISM": "false",
    }


def _search_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, number)


def _not_started(error: OSError) -> RunError:
    """Too many processes may be fewer at the next launch; an interpreter that is gone is not."""
    if error.errno in _PASSING:
        return LaunchFailedError(f"msrun cannot be started: {error.strerror}")
    return RunError(
        f"{sys.executable}: msrun cannot be started with this Python ({error.strerror}); put it "
        "right and repeat the command, which continues."
    )


def _failed(code: int, what: str, log: Path | None) -> RunError:
    """A signal may have come from anywhere and another launch may do; an exit code says why."""
    words = (log and _last_line(log)) or "its log is empty"
    return LaunchFailedError(what) if code < 0 else RunError(f"{what}: {words}")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
