"""Damage to a run between two commands: flipped bits, vanished files, a full disk.

The same command is given again after each. It may do rows again, or refuse with a sentence; what it
must never do is write a caption that is not the row's.
"""

import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vidcap_cli.rundir.paths import part_files

from . import moments
from .scene import FINISHED, OUTPUT, PATIENCE, RUN, Scene

TRACEBACK = "Traceback (most recent call last)"
_PLANNED = (0, 1, 2, 3)


@dataclass(slots=True)
class Damages:
    """How damaged runs ended: by what was done to them, and what came of it."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{what:24}{end:40}{count:6}" for (what, end), count in sorted(self.ends.items())]
        return "\n".join([*lines, f"wrong: {len(self.wrong)}", *self.wrong])


def half_done(scene: Scene, place: Path) -> Path:
    """A run that was stopped when about half of its rows were committed."""
    work = scene.copy(place)
    command = scene.command(work)
    enough = scene.rows // 2
    command.wait_until(lambda: len(moments.committed(work / RUN)) >= enough, PATIENCE)
    command.process.send_signal(signal.SIGTERM)
    command.finish(PATIENCE)
    return work


def flip_bit(path: Path, chance: random.Random) -> str:
    """Flip one bit of a file; where."""
    data = bytearray(path.read_bytes())
    if not data:
        return f"{path.name} is empty"
    place, bit = chance.randrange(len(data)), chance.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}: byte {place}, bit {bit}"


def bits(scene: Scene, place: Path, seed: int, count: int) -> Damages:
    """Resume ``count`` half-done runs after a bit flipped in any file of their run directory."""
    found = Damages()
    whole = half_done(scene, place / "half")
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        work = _again(scene, whole, place / f"bit-{number:04d}")
        kinds: dict[str, list[Path]] = {}
        for path in sorted((work / RUN).rglob("*")):
            if path.is_file() and path.stat().st_size:
                kinds.setdefault(_kind(path), []).append(path)
        kind = chance.choice(sorted(kinds))
        words = flip_bit(chance.choice(kinds[kind]), chance)
        _judge(scene, work, kind, f"{words} [seed {seed}-{number}, kept in {work}]", found)
    return found


def _kind(path: Path) -> str:
    if path.parent.name == "parts":
        return "part"
    return path.name.split("-")[0].split("_")[0] + path.suffix


def _again(scene: Scene, whole: Path, place: Path) -> Path:
    """A copy of a half-done run. Its plan names META by its path, so it is moved there."""
    work = scene.copy(place)
    shutil.copytree(whole / RUN, work / RUN)
    plan = work / RUN / "plan.json"
    plan.write_text(plan.read_text(encoding="utf-8").replace(str(whole), str(work)), "utf-8")
    return work


def _judge(scene: Scene, work: Path, kind: str, words: str, found: Damages) -> None:
    command = scene.command(work)
    code, _, err = command.finish(PATIENCE)
    table = (work / OUTPUT).read_bytes() if (work / OUTPUT).exists() else None
    before = len(found.wrong)
    if TRACEBACK in err or code not in _PLANNED:
        found.wrong.append(f"exit code {code}, {err.strip()[-800:]}: {words}")
    if code in FINISHED and table != scene.expected:
        found.wrong.append(f"the table is another: {words}")
    end = "the right table" if code in FINISHED else f"refused ({code})"
    if code in FINISHED and "damaged" in err:
        end = "the right table, damage told"
    found.ends[kind, end] += 1
    if len(found.wrong) == before:
        shutil.rmtree(work.parent)


def vanish(scene: Scene, place: Path, seed: int, count: int) -> Damages:
    """Take away a folder, file or video while a command works, then give it again."""
    found = Damages()
    takers: dict[str, Callable[[Path, random.Random], Path]] = {
        "run directory": lambda work, _: work / RUN,
        "parts": lambda work, _: work / RUN / "parts",
        "attempts": lambda work, _: work / RUN / "attempts",
        "a part": lambda work, chance: chance.choice(
            part_files(work / RUN / "parts") or [work / RUN / "parts"]
        ),
        "videos": lambda work, _: work / "videos",
        "table": lambda work, _: work / "meta.csv",
    }
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        kind = list(takers)[number % len(takers)]
        work = scene.copy(place / f"vanish-{number:04d}")
        command = scene.command(work)
        enough = chance.randrange(scene.rows // 2)
        words = f"{kind} vanished [seed {seed}-{number}, kept in {work}]"
        command.wait_until(
            lambda work=work, enough=enough: len(moments.committed(work / RUN)) > enough, PATIENCE
        )
        path = takers[kind](work, chance)
        aside = work.parent / "vanished"
        path.rename(aside)
        code, _, err = command.finish(PATIENCE)
        command.assert_gone(20)
        if TRACEBACK in err or code not in _PLANNED:
            found.wrong.append(f"exit code {code}, {err.strip()[-800:]}: {words}")
        if kind in ("videos", "table"):  # they come back, as a network disk does
            aside.rename(path)
        _judge(scene, work, kind, words, found)
    return found


def small_files(scene: Scene, place: Path, limit: int) -> tuple[int, str]:
    """Caption while no file may grow beyond ``limit`` bytes (RLIMIT_FSIZE)."""
    work = scene.copy(place)
    done = subprocess.run(
        [sys.executable, "-m", "vidcap_cli", *scene.words()],
        capture_output=True,
        text=True,
        cwd=work,
        env=scene.environment(work),
        timeout=PATIENCE,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return done.returncode, done.stderr
