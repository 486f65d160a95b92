"""Mutated videos and tables: any status and any sentence will do, but no dead rank, no traceback.

Mutations are drawn by a seed: flipped bits, bytes cut off, zeroed, doubled or exchanged, most of
them near the start and the end, where headers and indices lie.
"""

import contextlib
import csv
import io
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import VidcapError
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

from .damage import TRACEBACK, Damages
from .scene import FINISHED, OUTPUT, PATIENCE, Scene

_CODES = (0, 2, 3)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A mutation of ``data``."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = _place(len(changed), chance)
        length = min(chance.choice((1, 4, 16, 200)), max(1, len(changed) - place))
        kind = chance.choices(("bit", "byte", "cut", "zero", "double", "swap"), (8, 4, 1, 2, 1, 1))[
            0
        ]
        if kind == "bit":
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            changed[place] = chance.randrange(256)
        elif kind == "cut":
            del changed[place : place + length]
        elif kind == "zero":
            changed[place : place + length] = bytes(length)
        elif kind == "double":
            changed[place:place] = changed[place : place + length]
        else:
            other = _place(len(changed), chance)
            changed[place], changed[other] = changed[other], changed[place]
        if len(changed) < 2:
            break
    return bytes(changed)


def _place(size: int, chance: random.Random) -> int:
    where = chance.random()
    if where < 0.35:
        return chance.randrange(min(size, 400))
    if where < 0.6:
        return size - 1 - chance.randrange(min(size, 1500))
    return chance.randrange(size)


def media(scene: Scene, place: Path, seed: int, count: int) -> Damages:
    """Caption ``count`` mutated clips with the fake model: every row comes back with a status."""
    found = Damages()
    clips = [path for path in _bundled().iterdir() if path.suffix == ".mp4"]
    work = scene.copy(place / "media")
    (work / "videos").unlink()
    (work / "videos").mkdir()
    with (work / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path"])
        for number in range(count):
            chance = random.Random(f"{seed}-{number}")
            source = chance.choice(sorted(clips))
            path = work / "videos" / f"{number:04d}.mp4"
            path.write_bytes(mutate(source.read_bytes(), chance))
            table.writerow([f"videos/{path.name}"])
    patience = PATIENCE + 2 * count
    started = scene.command(work, "--decode-timeout", "10", workers=2)
    code, _, err = started.finish(patience)
    started.assert_gone(20)
    words = f"[seed {seed}, kept in {work}]"
    if code not in FINISHED or TRACEBACK in err or " was killed by " in err:
        found.wrong.append(f"exit code {code}, {err.strip()[-800:]} {words}")
        return found
    with (work / OUTPUT).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        found.ends["mutated clip", row["caption_status"]] += 1
    if len(rows) != count or any(row["caption_status"] in ("crashed", "missing") for row in rows):
        found.wrong.append(f"{Counter(row['caption_status'] for row in rows)} {words}")
    return found


def tables(place: Path, seed: int, count: int) -> Damages:
    """Plan ``count`` mutated tables; every 20th goes through the command line, too."""
    found = Damages()
    wholes = _tables(place / "whole")
    for number in range(count):
        chance = random.Random(f"{seed}-{number}")
        whole = wholes[number % len(wholes)]
        folder = place / f"table-{number % 8}"
        folder.mkdir(exist_ok=True)
        path = folder / whole.name
        path.write_bytes(mutate(whole.read_bytes(), chance))
        code, words = _plan(path, folder)
        if code in _CODES and number % 20 == 0:
            code, words = _call(["qwen2vl", str(path), "--model", "nano", "--dry-run"])
            if code == 1 and not words:  # it has said on stdout that no video can be read
                code = 0
        found.ends[f"mutated {whole.suffix}", "planned" if code == 0 else f"exit code {code}"] += 1
        if code not in _CODES or TRACEBACK in words or (code and not words.strip()):
            (place / f"wrong-{number}-{path.name}").write_bytes(path.read_bytes())
            found.wrong.append(f"exit code {code}, {words[-800:]}: {path.name} [{seed}-{number}]")
    return found


def _plan(path: Path, folder: Path) -> tuple[int, str]:
    """The exit code and words with which a table is planned."""
    try:
        make_plan(path, RunDir(folder / "run"), CaptionConfig("qwen2vl", "nano"))
    except VidcapError as error:
        return error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001 - what is looked for
        return 1, f"{TRACEBACK} {type(error).__name__}: {error}"
    return 0, ""


def _call(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of the command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["vidcap", *arguments]
    # The command answers Ctrl-C in its own way from its import on, and ignores it at its end.
    handler = signal.getsignal(signal.SIGINT)
    try:
        from vidcap_cli.__main__ import run as command

        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(bool(left.code)), err.getvalue()
    except BaseException as error:  # noqa: BLE001 - what is looked for
        return 1, f"{TRACEBACK} {type(error).__name__}: {error}"
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)
    return 0, err.getvalue()


def _tables(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    clips = sorted(str(path) for path in _bundled().iterdir() if path.suffix == ".mp4")
    rows = [
        {"id": number, "path": clip, "note": f'ünï "q", {number}\nline', "score": number / 3}
        for number, clip in enumerate(clips * 3)
    ]
    writers: dict[str, Callable[[Path], None]] = {
        "meta.csv": lambda path: _write_csv(path, rows, ","),
        "meta.tsv": lambda path: _write_csv(path, rows, "\t"),
        "meta.jsonl": lambda path: _write_jsonl(path, rows),
        "meta.parquet": lambda path: pq.write_table(pa.Table.from_pylist(rows), path),
    }
    for name, write in writers.items():
        write(folder / name)
    return [folder / name for name in writers]


def _write_csv(path: Path, rows: list[dict], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


def _write_jsonl(path: Path, rows: list[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _bundled() -> Path:
    return Path(str(resources.files("vidcap_cli"))) / "nano" / "clips"
