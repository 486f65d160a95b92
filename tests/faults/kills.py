"""Runs that are killed at random until they finish, each compared with an undisturbed one.

A life is one table from its first command to its table. Faults are drawn for every command of it;
after a command has ended unfinished the same command is given again, often with another number of
ranks. Processes die from outside (a signal at a moment of the run) and from inside (a signal
before a chosen file operation). Then nothing may be missing, wrong, done twice or left behind.
"""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.helpers.commands import Command
from vidcap_cli.atomic import is_temporary

from . import moments
from .account import Account
from .moments import MOMENTS, Committed
from .scene import FAKE, FINISHED, OUTPUT, PATIENCE, RUN, Death, Scene

_MOST_COMMANDS = 25
_GONE_SECONDS = 15.0
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
_SHARES = (60, 13, 12, 15)
_DEADLY = {"parent": {signal.SIGKILL, signal.SIGTERM, signal.SIGINT}}
_POLL_SECONDS = 0.03
_NODES_SECONDS = 20.0
_LONGEST_STOP = 1.5
# A node is cut off or frozen for up to so long; the others take it for lost before.
_LONGEST_ABSENCE = 12.0
_LOST_SECONDS = 6
# What a row may say that lost its decoder or was in a model at two deaths: it is tried again.
_RETRIED = ("crashed", "decode_timeout", "decode_error")


@dataclass(slots=True)
class Fault:
    """A signal to a process in ``role`` of ``node``, ``delay`` seconds into ``moment``.

    In the role ``node`` are all processes of it at once, as when a machine is lost or cut off.
    """

    role: str
    number: int
    moment: str
    delay: float
    node: int = 0
    reached: float | None = None
    sent: bool = False
    continued: float | None = None
    targets: list[psutil.Process] = field(default_factory=list)

    @property
    def kills(self) -> bool:
        """Whether a process in this role ends at that signal."""
        return self.number in _DEADLY.get(self.role, {signal.SIGKILL, signal.SIGTERM})


class Life:
    """One table from the first command to the last."""

    def __init__(
        self, scene: Scene, place: Path, seed: str, account: Account, nodes: int | None = None
    ) -> None:
        self._place = place
        self._seed = seed
        self._chance = random.Random(seed)
        self._account = account
        if nodes:
            scene = replace(scene, lockless=self._chance.random() < 0.5)
        self._scene = scene
        self._work = scene.copy(place)
        self._kept: list[tuple[int, Committed]] = []
        self._deaths = 0
        self._others: list[Command] = []
        self._started: list[Command] = []
        self._standin = scene.model == FAKE and self._chance.random() >= scene.real_msrun
        self._nodes = nodes or (2 if self._chance.random() < 0.12 else 1)
        self._apart = nodes is not None  # each node with a host's name and network of its own
        self._before = sum(account.wrong.values())

    def live(self, kills: int) -> None:
        """Command after command until the table is there; at most ``kills`` deaths on the way."""
        account, since = self._account, self._account.kills
        account.lives += 1
        for number in range(_MOST_COMMANDS):
            wild = account.kills - since < kills and number < _MOST_COMMANDS - 8
            if self._command(wild=wild):
                break
        else:
            self._wrong("runs that did not finish", f"after {_MOST_COMMANDS} commands")
            for other in self._others:
                self._kill(other)
        self._check_table()
        self._check_twice()
        self._check_files()
        if sum(account.wrong.values()) == self._before:
            shutil.rmtree(self._place)

    def give_up(self) -> None:
        """End what this life has started."""
        for command in self._started:
            self._kill(command)

    def _wrong(self, kind: str, words: str) -> None:
        self._account.fault(kind, f"{words} [seed {self._seed}, kept in {self._place}]")

    def _start(self, node: int, deaths: list[Death], workers: int) -> Command:
        self._account.commands += 1
        more: list[str] = []
        if self._nodes > 1:
            workers = self._nodes
            more = ["--local-worker-num", "1", "--node-rank", str(node)]
        command = self._scene.command(
            self._work,
            *more,
            workers=workers,
            standin=self._standin,
            deaths=deaths,
            node=node,
            before=_host(node) if self._apart else (),
        )
        self._started.append(command)
        return command

    def _command(self, *, wild: bool) -> bool:
        """One command of the first node to its end; whether the run has finished.

        The other nodes' commands go on over several of them; one that has ended is given again.
        """
        faults, deaths = self._draw() if wild else ([], [])
        workers = self._chance.choice((1, 2, 2, 3))
        began, deadline = time.time(), time.monotonic() + PATIENCE
        first = self._start(0, deaths, workers)
        while first.process.poll() is None and time.monotonic() < deadline:
            self._keep_others(deaths, workers, faults)
            for fault in faults:
                self._consider(fault, [first, *self._others], began)
            time.sleep(_POLL_SECONDS)
        for fault in faults:
            self._resume(fault)
        finished = first.process.poll() in FINISHED
        self._end_others(finished=finished)
        self._note_struck(deaths)
        self._check_end(first)
        self._snapshot()
        return finished

    def _keep_others(self, deaths: list[Death], workers: int, faults: list[Fault]) -> None:
        for node in range(1, self._nodes):
            if len(self._others) < node:
                self._others.append(self._start(node, deaths, workers))
            elif self._others[node - 1].process.poll() not in (None, *FINISHED):
                for fault in faults:
                    if fault.node == node:  # a process that is stopped cannot leave
                        self._resume(fault)
                self._check_end(self._others[node - 1])
                self._others[node - 1] = self._start(node, [], workers)

    def _end_others(self, *, finished: bool) -> None:
        """Once the run has finished the other nodes leave by themselves.

        One that was started when it had just finished waits for a run to come: Ctrl-C ends it.
        """
        others = self._others if finished else []
        deadline = time.monotonic() + _NODES_SECONDS
        while any(other.process.poll() is None for other in others):
            if time.monotonic() > deadline:
                for other in others:
                    other.process.send_signal(signal.SIGINT)
                deadline = time.monotonic() + PATIENCE
            time.sleep(_POLL_SECONDS)
        for other in others:
            self._check_end(other)
        self._others = [one for one in self._others if one.process.poll() is None]

    def _draw(self) -> tuple[list[Fault], list[Death]]:
        """Faults for one command."""
        chance = self._chance
        if chance.random() < 0.25:
            return [], [self._draw_death()]
        faults = []
        for _ in range(chance.choice((5, 10, 15))):
            role = chance.choices(("decoder", "rank", "parent", "msrun"), (45, 35, 12, 8))[0]
            number = chance.choices(_SIGNALS, _SHARES)[0]
            if self._apart and chance.random() < 0.4:
                role, number = "node", chance.choice((signal.SIGKILL, signal.SIGSTOP))
            if role == "msrun":
                when = "starting"
            elif role in ("parent", "node"):
                when = chance.choice(MOMENTS)
            else:
                when = chance.choice(("loading", "captioning", "captioning"))
            # Long enough to reach into later launches of the same command.
            length = 2.5 if when == "captioning" else 0.4
            node = chance.randrange(self._nodes)
            faults.append(Fault(role, number, when, chance.random() * length, node))
        return faults, []

    def _draw_death(self) -> Death:
        chance = self._chance
        role = chance.choice(("parent", "parent", "rank"))
        most = self._scene.operations.get(role, 20)
        self._deaths += 1
        number = chance.choices(_SIGNALS[:3], (70, 15, 15))[0]
        node = chance.randrange(self._nodes)
        return Death(self._deaths, role, chance.randint(1, most), number, node)

    def _consider(self, fault: Fault, commands: list[Command], began: float) -> None:
        """Send the signal of ``fault`` if its moment has come, and continue what it stopped."""
        now = time.monotonic()
        if fault.sent:
            if fault.continued is not None and now > fault.continued:
                self._resume(fault)
            return
        when = moments.moment(self._work, began)
        if fault.reached is None:
            if MOMENTS.index(when) < MOMENTS.index(fault.moment):
                return
            fault.reached = now
        if now < fault.reached + fault.delay:
            return
        if fault.node >= len(commands) or commands[fault.node].process.poll() is not None:
            return
        command = commands[fault.node]
        players = moments.players(command, fault.role)
        if not players:
            return
        self._send(fault, players if fault.role == "node" else [self._chance.choice(players)])
        if fault.targets:
            self._account.note(
                fault.role, fault.number, when, kills=fault.kills, real=not self._standin
            )

    def _send(self, fault: Fault, targets: list[psutil.Process]) -> None:
        for target in targets:
            with suppress(psutil.NoSuchProcess):
                target.send_signal(fault.number)
                fault.targets.append(target)
        fault.sent = bool(fault.targets)
        if fault.sent and fault.number == signal.SIGSTOP:
            longest = _LONGEST_ABSENCE if fault.role == "node" else _LONGEST_STOP
            fault.continued = time.monotonic() + self._chance.random() * longest

    @staticmethod
    def _resume(fault: Fault) -> None:
        if fault.continued is not None:
            fault.continued = None
            for target in fault.targets:
                with suppress(psutil.NoSuchProcess):
                    target.send_signal(signal.SIGCONT)

    def _note_struck(self, deaths: list[Death]) -> None:
        for death in deaths:
            record = self._place / "records" / f"struck-{death.id}.json"
            if record.exists():
                kills = death.role == "parent" or death.signal != signal.SIGINT
                where = _place_of(record.read_text(encoding="utf-8"))
                self._account.note(
                    death.role, death.signal, where, kills=kills, real=not self._standin
                )

    def _check_end(self, command: Command) -> None:
        if command.process.poll() is None:
            self._wrong("runs that did not finish", f"a command took {PATIENCE:g} s")
            self._kill(command)
            return
        code, out, err = command.finish(30)
        try:
            command.assert_gone(_GONE_SECONDS)
        except AssertionError as error:
            self._wrong("processes left", str(error))
            self._kill(command)
        # Before the first line of ours Python itself answers a Ctrl-C.
        early = err.startswith("Fatal Python error: init_import_site")
        if "Traceback (most recent call last)" in err and not early:
            self._wrong("tracebacks", err.strip()[-1500:])
        allowed = (0, 1, 3, 130, *([code] if early else []), *(-number for number in _SIGNALS[:3]))
        if code not in allowed or out:
            self._wrong("other exit codes", f"{code} {out!r} {err[-500:]}")

    @staticmethod
    def _kill(command: Command) -> None:
        for process in command.processes():
            process.kill()

    def _snapshot(self) -> None:
        """Remember what is committed now: it must be there, the same, at the end."""
        run = moments.run_folder(self._work)
        if (run / "plan.json").exists():
            plan = (run / "plan.json").stat().st_ino
            self._kept += [(plan, result) for result in moments.committed(run)]

    def _check_table(self) -> None:
        output = self._work / OUTPUT
        for _ in range(3):
            if not output.exists() or output.read_bytes() == self._scene.expected:
                break
            if not self._only_retried(output.read_bytes()):
                break
            self._account.tried_again += 1
            self._command(wild=False)
        if not output.exists():
            self._wrong("rows lost", f"no table, {self._scene.rows} rows")
        elif output.read_bytes() != self._scene.expected:
            self._wrong("different tables", _difference(output.read_bytes(), self._scene.expected))
        run = self._work / RUN
        if not (run / "plan.json").exists():
            return
        plan = (run / "plan.json").stat().st_ino
        now = {(one.row, one.status, one.text) for one in moments.committed(run)}
        for when, one in self._kept:
            if when == plan and (one.row, one.status, one.text) not in now:
                self._wrong("rows lost", f"row {one.row} was committed, and is gone")
        missing = set(range(self._scene.rows)) - {row for row, _, _ in now}
        if missing:
            self._wrong("rows lost", f"rows {sorted(missing)} have no result")

    def _only_retried(self, table: bytes) -> bool:
        """Whether all rows that differ from what they should be have failed by our own doing."""
        rows, wanted = table.split(b"\n"), self._scene.expected.split(b"\n")
        if len(rows) != len(wanted):
            return False
        different = [row for row, other in zip(rows, wanted, strict=True) if row != other]
        return all(any(status.encode() in row for status in _RETRIED) for row in different)

    def _check_twice(self) -> None:
        run = moments.run_folder(self._work)
        if not run.exists():
            return
        first: dict[int, float] = {}
        for one in moments.committed(run):
            if one.status == "ok":
                if one.row in first:
                    self._wrong("committed twice", f"row {one.row}")
                first[one.row] = min(one.time, first.get(one.row, one.time))
        again = set()
        for one in moments.begun(self._work):
            # A node that has lost the first one may still commit what it has when the next launch
            # is planned, so there what counts is what that plan could know.
            start = one.time if self._nodes == 1 else one.planned
            if start > first.get(one.row, start):
                again.add(one.row)
        for row in sorted(again):
            self._wrong("captioned twice after commit", f"row {row}")

    def _check_files(self) -> None:
        known = {OUTPUT, RUN, *(path.name for path in self._scene.folder.iterdir())}
        left = [str(path) for path in self._work.iterdir() if path.name not in known]
        left += [str(path) for path in self._place.joinpath("temporary").iterdir()]
        left += [str(path) for path in (self._work / RUN).rglob("*.tmp*")]
        if self._scene.lockless:  # there these go when they are a day old
            left = [path for path in left if not is_temporary(Path(path))]
        if left:
            self._wrong("files left", ", ".join(sorted(left)))


def _host(node: int) -> list[str]:
    """What runs a command on a host of its own, as far as name and network go."""
    # msrun wants an address to listen on, though nobody calls there.
    named = f'hostname node-{node}; ip link set lo up; exec "$@"'
    return ["unshare", "--uts", "--net", "sh", "-c", named, "sh"]


def _place_of(record: str) -> str:
    """The moment at which a process struck itself, by the file it was about to touch."""
    for word, name in (
        ("/parts", "committing"),
        (OUTPUT, "merging"),
        ("finished.json", "settling"),
        ("plan.json", "planning"),
        ("rows.parquet", "planning"),
        ("/claims", "captioning"),
        ("/events-", "loading"),
        ("/attempts", "starting"),
        ("msrun", "starting"),
    ):
        if word in record:
            return name
    return "planning"


def _difference(found: bytes, expected: bytes) -> str:
    rows, wanted = found.split(b"\n"), expected.split(b"\n")
    pairs = [(row, other) for row, other in zip(rows, wanted, strict=False) if row != other]
    return f"{len(rows)} lines for {len(wanted)}; {pairs[:3]}"


def campaign(
    scene: Scene, place: Path, seed: int, kills: int, most: int = 25, *, nodes: bool = False
) -> Account:
    """Live lives until ``kills`` processes have been killed, or Ctrl-C ends it early.

    ``nodes``: every run has two or three nodes, which are lost, cut off, frozen and given again;
    half of the runs know no locks.
    """
    account = Account()
    if nodes:
        os.environ["VIDCAP_NODE_SECONDS"] = str(_LOST_SECONDS)
    while account.kills < kills:
        number = account.lives
        life = Life(
            scene,
            place / f"life-{number:04d}",
            f"{seed}-{number}",
            account,
            number % 2 + 2 if nodes else None,
        )
        try:
            life.live(min(most, kills - account.kills))
        except KeyboardInterrupt:
            life.give_up()
            break
        print(
            f"run {number}: {account.kills} kills, {account.commands} commands, "
            f"wrong: {dict(account.wrong)}",
            flush=True,
        )
    return account
