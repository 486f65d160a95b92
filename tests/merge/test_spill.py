"""What memory does not hold lies on the disk, bounded, and nothing is left of it."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcap_cli.atomic import is_temporary
from vidcap_cli.config import CaptionConfig
from vidcap_cli.merge import merge as merge_module
from vidcap_cli.merge import spill
from vidcap_cli.merge.account import Example, Strays
from vidcap_cli.merge.merge import merge
from vidcap_cli.merge.spill import Spill
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.large_string())])


def rows(*numbers: int) -> pa.Table:
    return pa.table([list(numbers), [f"text {n}" for n in numbers]], schema=SCHEMA)


@pytest.mark.parametrize("pending", [1, 100, 1 << 20])
def test_every_row_comes_back_from_its_bucket(tmp_path, monkeypatch, pending):
    monkeypatch.setattr(spill, "_PENDING", pending)
    numbers = np.random.default_rng(0).integers(0, 1000, 300)
    with Spill(tmp_path, SCHEMA) as spilled:
        for some in np.array_split(numbers, 40):
            spilled.add(rows(*some.tolist()), some // 100)
        spilled.add(rows(), np.empty(0, np.int64))
        assert spilled.buckets() == list(range(10))
        for bucket in (3, 3, 0, 9):
            found = pa.concat_tables(spilled.read(bucket))
            wanted = sorted(n for n in numbers.tolist() if n // 100 == bucket)
            assert sorted(found["row"].to_pylist()) == wanted
            assert found["text"].to_pylist() == [f"text {n}" for n in found["row"].to_pylist()]
            assert spilled.bytes_of(bucket) >= 8 * len(wanted)
        assert list(spilled.read(99)) == []
        assert spilled.bytes_of(99) == 0
        assert list(tmp_path.iterdir()) == []


def test_of_strays_the_oldest_are_shown():
    strays = Strays()
    for ages in ([7, 3, 9, 5, 4], [], [8, 1]):
        strays.add(
            np.array(ages, np.int64), lambda place, ages=ages: Example(None, str(ages[place]))
        )
    assert strays.tally.count == 7
    assert [example.path for example in strays.tally.examples] == ["1", "3", "4"]


@pytest.fixture
def run(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"{row}.mp4\n" for row in range(2000)))
    found = RunDir(tmp_path / "run")
    make_plan(meta, found, CaptionConfig("qwen2vl", "/models/qwen"))
    found.parts.mkdir()
    results = [Result(row, f"{row}.mp4", "ok", f"{row} " * 100) for row in range(2000)]
    write_part(found.part(1, 0, 0, "parquet"), results)
    return found


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, run):
    place = tmp_path / "place"
    place.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            merge([run.path], place / "out.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(place)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_it_nothing_is_left(tmp_path, run, monkeypatch, error):
    place = tmp_path / "place"
    place.mkdir()

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(merge_module, "choose", fail)
        with pytest.raises(error):
            merge([run.path], place / "out.csv", missing=place / "left.csv")
    assert list(place.iterdir()) == []
    pool = pa.default_memory_pool().backend_name
    merge([run.path], place / "out.csv", missing=place / "left.csv")
    assert pa.default_memory_pool().backend_name == pool
    assert sorted(path.name for path in place.iterdir()) == ["left.csv", "out.csv"]


def big_tables(folder: Path, count: int) -> list[Path]:
    """META, and captions of 170 bytes for every row: one table in order, the other in none."""
    order = np.random.default_rng(1).permutation(count)
    files = [folder / name for name in ("meta.parquet", "one.parquet", "two.parquet")]
    for file, ids in zip(files, (np.arange(count), np.arange(count), order), strict=True):
        columns = {"path": [f"videos/{i // 1000:05}/clip_{i:09}.mp4" for i in ids.tolist()]}
        if file != files[0]:
            columns["text"] = [f"{file.stem} {i} ".ljust(170, "x") for i in ids.tolist()]
        pq.write_table(pa.table(columns), file)
    return files


COMMAND = [sys.executable, "-m", "vidcap_cli", "merge"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path, number):
    meta, one, two = big_tables(tmp_path, 200_000)
    place = tmp_path / "place"
    place.mkdir()
    command = [*COMMAND, one, two, "--meta", meta, "-o", place / "out.parquet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end and not spilling(process.pid):
            time.sleep(0.005)
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else -number)
    # The kill may come when the output is being written: the next command removes what that left.
    assert all(number == signal.SIGKILL and is_temporary(path) for path in place.iterdir())


def spilling(process: int) -> bool:
    """Whether a process has files without a name open that have something in them."""
    with suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if "(deleted)" in os.readlink(file) and file.stat().st_size > 1 << 20:
                    return True
    return False


PEAK = """
import sys
from pathlib import Path
from vidcap_cli.merge.merge import merge

def peak():  # MB; not ru_maxrss, which a child inherits from the process that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3

meta, *tables, out = map(Path, sys.argv[1:])
start = peak()
account = merge(tables, out, meta=meta)
assert account.duplicates.count == account.conflicts.count == account.rows == account.ok
print(round(peak() - start))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_memory_is_bounded(tmp_path, form):
    """600,000 results of 300 bytes beside 300,000 rows, then four times as many of each."""
    peaks = []
    for count in (300_000, 1_200_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        files = [*big_tables(folder, count), folder / f"out.{form}"]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *files], check=True, capture_output=True, text=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 500
    assert peaks[1] - peaks[0] < 150
