"""``vidcap merge`` against bare DuckDB and bare Polars, doing the same join in the same run.

``python tests/benchmarks/merge.py --rows 1000000 --cases tables-parquet parts-csv-1000``

A case is ``tables`` or ``parts``, the format, and for parts their number; by default all of them at
1 million rows. ``tables``: two tables with captions of some 170 bytes, the second in no order.
``parts``: the part files of a run by eight ranks. In both 1 % of the rows have two results and
1 % none. What is measured: the rows of the planned table in its order, each with its newest
caption, from closed files to a closed file of the same format (Parquet: zstd). Peers choose among
results and write nothing else; vidcap also verifies and reports, and its table has the columns
with the status.

Peers take turns, a process for every measurement; figures are the minimum of ``--rounds``. Data is
the same in every run. All outputs are compared: the rows, their order, and every caption.
``--limits 1GB`` adds DuckDB held to that; the ratio is to the first DuckDB there is. Peers'
packages are installed in the cache folder.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.benchmarks.environments import environment
from vidcap_cli.config import CaptionConfig
from vidcap_cli.rundir.parts import SCHEMA, part_bytes
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.tables import open_table, regroup

PEERS = ["duckdb==2.0.0", "polars==2.1.0", "pyarrow==21.0.0"]
CASES = [
    *(f"tables-{form}" for form in ("parquet", "csv")),
    *(f"parts-{form}-{count}" for form in ("parquet", "csv") for count in (1000, 5000)),
]
BLOCK = 1 << 16
RANKS = 8
TWICE, NONE = 0.01, 0.01  # of the rows
CPU_TARGET, PEAK_TARGET = 1.5, 1200  # times DuckDB's seconds; megabytes
WORDS = 30


def spread(rows: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for every row, which decides what results it has."""
    mixed = (rows.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed ^ (mixed >> np.uint64(29))) % np.uint64(1_000_003) / 1_000_003


def paths_of(rows: np.ndarray) -> pa.Array:
    """The video of every row."""
    folder = pc.utf8_lpad(pa.array(rows % 1000).cast(pa.string()), 3, "0")
    name = pc.utf8_lpad(pa.array(rows).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise("videos/", folder, "/clip-", name, ".mp4", "")


def captions(count: int, seed: list[int]) -> pa.Array:
    """``count`` sentences of some 170 bytes."""
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, (4000, 9), np.uint8).view("S9").ravel().astype(str)
    words = pa.array([word[: 3 + number % 6] for number, word in enumerate(letters)])
    # Common words are common.
    drawn = (4000 * np.random.default_rng(seed).random(count * WORDS) ** 3).astype(np.int32)
    offsets = np.arange(0, count * WORDS + 1, WORDS, dtype=np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, words.take(pa.array(drawn))), " ")


class Output:
    """A table that is written block by block."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = (
            pq.ParquetWriter(path, schema, compression="zstd")
            if path.suffix == ".parquet"
            else pacsv.CSVWriter(path, schema)
        )

    def __enter__(self) -> Any:
        return self._writer.write_table

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def planned(rows: np.ndarray) -> pa.Table:
    """Columns of the planned table."""
    return pa.table(
        {
            "id": pa.array(rows, pa.int64()),
            "path": paths_of(rows),
            "seconds": pa.array(np.round(spread(rows) * 60, 2)),
            "title": pc.binary_join_element_wise("title of ", pa.array(rows).cast("string"), ""),
        }
    )


def write_blocks(path: Path, rows: np.ndarray, seed: int | None = None) -> None:
    """The planned table's columns of ``rows``, and captions if there is a seed."""
    schema = planned(rows[:1]).schema
    if seed is not None:
        schema = schema.append(pa.field("text", pa.string()))
    with Output(path, schema) as write:
        for start in range(0, len(rows), BLOCK):
            table = planned(rows[start : start + BLOCK])
            if seed is not None:
                table = table.append_column("text", captions(table.num_rows, [seed, start]))
            write(table)


def make_tables(place: Path, form: str, rows: int) -> dict[str, Any]:
    """Two tables with captions: one in the order of META, the other in none."""
    share = spread(np.arange(rows))
    first = np.flatnonzero(share < 0.5)
    second = np.flatnonzero((share >= 0.5 - TWICE) & (share < 1 - NONE))
    np.random.default_rng(1).shuffle(second)
    names = [place / f"{name}.{form}" for name in ("older", "newer")]
    for number, (name, chosen) in enumerate(zip(names, (first, second), strict=True), 1):
        write_blocks(name, chosen, number)
        os.utime(name, (1_700_000_000 + number,) * 2)
    return {"inputs": [str(name) for name in names]}


def make_parts(place: Path, form: str, rows: int, count: int) -> dict[str, Any]:
    """A run of eight ranks that left ``count`` parts, a tenth of them from a second attempt."""
    run = RunDir(place / "run")
    make_plan(place / f"meta.{form}", run, CaptionConfig("qwen2vl", "/models/qwen"))
    run.parts.mkdir()
    share = spread(np.arange(rows))
    again = np.flatnonzero(share < TWICE)
    later = max(RANKS, count // 10 // RANKS * RANKS)
    waves = max(1, (count - later) // RANKS)
    for attempt, all_rows, sequences in (
        (1, np.flatnonzero(share < 1 - NONE), waves),
        (2, again, later // RANKS),
    ):
        for sequence, wave in enumerate(np.array_split(all_rows, sequences)):
            for rank in range(RANKS):
                mine = wave[np.arange(len(wave)) // 16 % RANKS == rank]
                failed = np.isin(mine, again) if attempt == 1 else np.zeros(len(mine), np.bool_)
                table = results(mine, failed, rank, attempt, sequence)
                part = run.part(attempt, rank, sequence, form)
                part.write_bytes(part_bytes(table, form))
    return {"inputs": [str(run.path)], "parts": str(run.parts / f"*.{form}")}


def results(
    rows: np.ndarray, failed: np.ndarray, rank: int, attempt: int, sequence: int
) -> pa.Table:
    """What a rank writes of ``rows``; those ``failed`` ran out of memory."""
    count = len(rows)
    text = captions(count, [attempt, rank, sequence])
    bad = pa.array(failed)
    known = {
        "row_id": pa.array(rows, pa.int64()),
        "path": paths_of(rows),
        "text": pc.if_else(bad, pa.scalar(None, pa.string()), text),
        "status": pc.if_else(bad, "oom", "ok"),
        "error": pc.if_else(bad, "out of memory", pa.scalar(None, pa.string())),
        "finish_reason": pa.array(["stop"] * count, pa.string()),
        "prompt_tokens": pa.array(3000 + rows % 700, pa.int32()),
        "new_tokens": pa.array(30 + rows % 60, pa.int32()),
        "frames": pa.array([8] * count, pa.int32()),
        "height": pa.array([336] * count, pa.int32()),
        "width": pa.array([336] * count, pa.int32()),
        "decode_s": pa.array(rows % 97 / 97, pa.float32()),
        "infer_s": pa.array(rows % 89 / 8, pa.float32()),
        "attempts": pa.array([attempt] * count, pa.int32()),
        "rank": pa.array([rank] * count, pa.int32()),
        "reader": pa.array(["pyav"] * count, pa.string()),
    }
    columns = [known.get(name, pa.nulls(count, SCHEMA.field(name).type)) for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def make(case: str, rows: int, place: Path) -> dict[str, Any]:
    """The data of a case in the folder ``place``, as a job; made once."""
    kind, form, *count = case.split("-")
    described = place / "job.json"
    if not described.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        write_blocks(place / f"meta.{form}", np.arange(rows))
        more = (
            make_tables(place, form, rows)
            if kind == "tables"
            else make_parts(place, form, rows, int(count[0]))
        )
        job = {"form": form, "meta": str(place / f"meta.{form}"), **more}
        described.write_text(json.dumps(job), encoding="utf-8")
    return dict(json.loads(described.read_text(encoding="utf-8")))


def digest(path: Path) -> list[int]:
    """Rows, whether they are in order, captions, and a number that all of these make up."""
    rows = captioned = total = 0
    ordered = True
    for block in regroup(open_table(path).batches(["id", "text"]), BLOCK):
        ids = block["id"].cast(pa.int64()).to_numpy()
        ordered &= bool((ids == np.arange(rows, rows + len(ids))).all())
        rows += len(ids)
        text = pc.fill_null(block["text"], "").cast(pa.large_string())
        captioned += pc.sum(pc.not_equal(text, "")).as_py() or 0
        lines = "\n".join(text.to_pylist()[::7]).encode()
        total = zlib.crc32(lines, total + pc.sum(pc.binary_length(text)).as_py())
    return [rows, int(ordered), captioned, total]


def measure(peer: str, job: dict[str, Any], python: Path) -> dict[str, Any] | None:
    """CPU and wall seconds and the peak in MB of one process; None when it fails."""
    out = Path(job["out"])
    out.unlink(missing_ok=True)
    os.sync()
    done = subprocess.run(
        [str(python), str(HERE / "peer_merge.py"), json.dumps({**job, "peer": peer})],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not out.exists():
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        print(f"{peer} failed: {lines[-1]}", flush=True)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_case(case: str, rows: int, place: Path, options: argparse.Namespace) -> bool:
    """Measure one case and print its lines; whether the targets were met."""
    folder = place / f"{case}-{rows}"
    job = make(case, rows, folder)
    job["out"] = str(folder / f"out.{job['form']}")
    theirs = environment("merge-peers", PEERS, {})
    names = ["duckdb", *(f"duckdb {limit}" for limit in options.limits), "polars"]
    peers = {"ours": Path(sys.executable), **dict.fromkeys(names, theirs)}
    best: dict[str, dict[str, Any]] = {}
    found: dict[str, list[int]] = {}
    for turn in range(options.rounds):
        turns = [name for name in peers if name not in options.without]
        for peer in turns if turn % 2 == 0 else reversed(turns):
            figures = measure(peer, job, peers[peer])
            if figures:
                found[peer] = found.get(peer) or digest(Path(job["out"]))
                known = best.get(peer, figures)
                best[peer] = {name: min(value, known[name]) for name, value in figures.items()}
    if options.keep:
        Path(job["out"]).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)
    base = next((best[name]["cpu"] for name in peers if name in best and "duck" in name), math.nan)
    for peer, figures in sorted(best.items(), key=lambda one: [*peers].index(one[0])):
        cpu, wall, peak = (figures[name] for name in ("cpu", "wall", "peak"))
        print(
            f"{case:19}{rows / 1e6:5.1f}M  {peer:13}{cpu:8.1f}{cpu / base:6.2f}{wall:8.1f}"
            f"{peak:8.0f}",
            flush=True,
        )
    same = len({tuple(one) for one in found.values()}) == 1 and all(
        one[1] for one in found.values()
    )
    if not same:
        print(f"the results differ (rows, ordered, captions, digest): {found}", flush=True)
    ours = best.get("ours")
    return same and bool(ours) and ours["peak"] <= PEAK_TARGET and ours["cpu"] <= CPU_TARGET * base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--cases", nargs="+", default=CASES, help="such as parts-csv-1000")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each measurement")
    parser.add_argument("--without", nargs="+", default=[], help="peers to leave out")
    parser.add_argument("--limits", nargs="+", default=[], help="DuckDB held to 1GB, for one")
    parser.add_argument("--folder", type=Path, help="for data and outputs (default: temporary)")
    parser.add_argument("--keep", action="store_true", help="keep the data in --folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (options.folder or Path(temporary)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        print(f"{'':19}{'rows':>6}  {'':13}{'cpu s':>8}{'ratio':>6}{'wall s':>8}{'peak MB':>8}")
        met = [
            run_case(case, rows, place, options) for rows in options.rows for case in options.cases
        ]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
