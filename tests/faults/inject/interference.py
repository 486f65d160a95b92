"""What a campaign does inside the processes of a run, from the JSON in ``VIDCAP_FAULTS``.

The package has no hooks for this. A process knows its role by its command line:

* ranks get the fake model (``fake.py``) in place of captioner and engine;
* with ``standin`` msrun is replaced by a program that starts the ranks in the same way (the
  scheduler first, each worker in a session of its own, then it leaves) without importing MindSpore;
* with ``lockless`` the file system refuses locks, as Lustre does without its option ``flock``;
* a process whose role is in ``at`` sends itself a signal before its n-th file operation in the
  folder of the run. Python's audit hooks see every file opened, renamed, made or removed, so this
  reaches the instants between two of them, which no signal from outside can aim at.

Each entry of ``at`` strikes once, whatever the number of processes in the role: it leaves a record
beside the run. A process that is not struck leaves the number of its operations there.
"""

import atexit
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

_OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
_MSRUN = "mindspore.parallel.cluster.run"


def role() -> str | None:
    """What this process is in a run."""
    words = sys.orig_argv
    if "vidcap_cli.rank.worker" in words and _MSRUN not in words:
        return "scheduler" if os.environ.get("MS_ROLE") == "MS_SCHED" else "rank"
    if _MSRUN in words:
        return "msrun"
    if "vidcap_cli" in words:
        return "parent"
    return "decoder" if any("video.decoder" in word for word in words) else None


def begin() -> None:
    """Interfere with this process as the campaign wants it."""
    wanted = json.loads(os.environ["VIDCAP_FAULTS"])
    mine = role()
    if wanted["lockless"] and mine in ("parent", "rank"):
        fcntl.flock = _no_lock
    if mine in ("parent", "rank"):
        _Deaths(mine, wanted).watch()
    if mine == "msrun" and wanted["standin"]:
        _start_ranks(sys.orig_argv[sys.orig_argv.index(_MSRUN) + 1 :])
        os._exit(0)
    if mine == "rank" and wanted["fake"]:
        import fake

        fake.install(wanted)


def _no_lock(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


class _Deaths:
    def __init__(self, mine: str, wanted: dict) -> None:
        self._role = mine
        self._root = wanted["root"]
        self._records = Path(wanted["records"])
        self._at = [entry for entry in wanted["at"] if entry["role"] == mine]
        self._count = 0
        self._busy = threading.local()

    def watch(self) -> None:
        sys.addaudithook(self._hook)
        atexit.register(self._leave_count)

    def _hook(self, event: str, arguments: tuple) -> None:
        if event == "subprocess.Popen":
            path = "starting " + str(arguments[0])
        elif event in _OPERATIONS or (event == "open" and _writes(arguments)):
            path = _path(arguments[0])
            within = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # of a tree
            if not path.startswith(self._root) and not within:
                return
        else:
            return
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            self._count += 1
            for entry in self._at:
                if entry["count"] == self._count:
                    self._strike(entry, event, path)
        finally:
            self._busy.now = False

    def _strike(self, entry: dict, event: str, path: str) -> None:
        record = {**entry, "event": event, "path": path, "pid": os.getpid(), "time": time.time()}
        name = self._records / f"struck-{entry['id']}.json"
        try:
            file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        os.write(file, json.dumps(record).encode())
        os.close(file)
        os.kill(os.getpid(), entry["signal"])

    def _leave_count(self) -> None:
        self._busy.now = True
        name = f"count-{self._role}-{os.getpid()}"
        (self._records / name).write_text(str(self._count), encoding="ascii")


def _writes(arguments: tuple) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _path(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes, os.PathLike)) else ""


def _start_ranks(words: list[str]) -> None:
    """As msrun of MindSpore 2.7.0 with --join=False: the same environment, sessions and logs."""
    given = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    script = next(i for i, word in enumerate(words) if not word.startswith("--"))
    command = words[script:]
    local, first = int(given["local_worker_num"]), 0
    if local < int(given["worker_num"]):
        first = int(given["node_rank"]) * local
    logs = Path(given["log_dir"])
    logs.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "RANK_SIZE": given["worker_num"],
        "MS_WORKER_NUM": given["worker_num"],
        "MS_SCHED_HOST": given["master_addr"],
        "MS_SCHED_PORT": given["master_port"],
        "MS_NODE_RANK": given["node_rank"],
    }
    with (logs / "scheduler.log").open("w") as log:
        subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, "RANK_ID": "0", "MS_ROLE": "MS_SCHED"},
        )
    for index in range(local):
        number = str(first + index)
        rank = {"RANK_ID": number, "MS_NODE_ID": number, "DEVICE_ID": str(index)}
        with (logs / f"worker_{number}.log").open("w") as log:
            subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **rank, "MS_ROLE": "MS_WORKER"},
                start_new_session=True,
            )
