"""The ledger counts a result only where its part is whole and its path is the row's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rundir import ledger
from vidcap_cli.rundir import plan as plan_module
from vidcap_cli.rundir.ledger import Ledger, done_mask
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan, make_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")
FORMS = pytest.mark.parametrize("form", ["parquet", "csv"])


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.parts.mkdir(parents=True)
    return run


@pytest.fixture
def plan(tmp_path: Path, run: RunDir) -> Plan:
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(5)))
    return make_plan(meta, run, CONFIG)


def ok(row: int, text: str = "words") -> Result:
    return Result(row, f"{row}.mp4", "ok", text)


def put(run: RunDir, attempt: int, sequence: int, results: list[Result], form: str) -> Path:
    part = run.part(attempt, 0, sequence, form)
    write_part(part, results)
    return part


@FORMS
def test_done_mask(run, plan, form):
    assert not done_mask(run, plan).any.any()
    put(run, 1, 0, [ok(0), Result(2, "2.mp4", "oom", attempts=1)], form)
    put(run, 1, 1, [Result(1, "1.mp4", "empty")], form)
    put(run, 2, 0, [Result(1, "1.mp4", "ok", "b", attempts=2)], form)
    put(run, 3, 0, [Result(2, "2.mp4", "oom", attempts=3)], form)
    (run.parts / ".part-0003-0000-00001.parquet.abc.tmp").write_bytes(b"half")
    done = done_mask(run, plan)
    assert done.ok.tolist() == [True, True, False, False, False]
    assert done.any.tolist() == [True, True, True, False, False]
    assert done.attempts.tolist() == [1, 2, 3, 0, 0]
    assert done_mask(run, plan, since=2).any.tolist() == [False, True, True, False, False]
    assert done.damaged == ()


@FORMS
def test_a_damaged_part_counts_in_no_row(run, plan, form):
    part = put(run, 1, 0, [ok(0), ok(1)], form)
    put(run, 1, 1, [ok(2)], form)
    data = bytearray(part.read_bytes())
    data[100] ^= 1
    part.write_bytes(data)
    done = done_mask(run, plan)
    assert done.any.tolist() == [False, False, True, False, False]
    assert [error.part for error in done.damaged] == [part]


@FORMS
@pytest.mark.parametrize(
    ("result", "words"),
    [
        (Result(5, "5.mp4", "ok", "a"), "rows outside the plan; it is another run's"),
        (Result(-1, "4.mp4", "ok", "a"), "rows outside the plan; it is another run's"),
        (Result(3, "4.mp4", "ok", "a"), "'4.mp4' for row 3, where the plan has another path"),
        (Result(3, "", "oom"), "'' for row 3"),
    ],
)
def test_a_part_of_another_run_counts_in_no_row(run, plan, form, result, words):
    put(run, 1, 0, [ok(0), result], form)
    done = done_mask(run, plan)
    assert not done.any.any()
    assert words in str(done.damaged[0])


def test_parts_that_swapped_names_keep_their_rows(run, plan):
    first = put(run, 1, 0, [ok(0)], "parquet")
    second = put(run, 1, 1, [ok(1), ok(2)], "parquet")
    aside = first.rename(first.with_suffix(".swap"))
    second.rename(first)
    aside.rename(second)
    assert done_mask(run, plan).ok.tolist() == [True, True, True, False, False]


@FORMS
def test_columns_that_lack_or_are_new(run, plan, form):
    """A part of another version counts; what it does not say is taken as one launch."""
    table = pa.Table.from_pylist([{"row_id": 3, "status": "ok", "text": "a", "new": 1}])
    part = run.part(1, 0, 0, form)
    if form == "csv":
        part.write_text('"new","text","status","row_id"\n1,"a","ok",3\n')
    else:
        pq.write_table(table, part)
    done = done_mask(run, plan)
    assert done.ok.tolist() == [False, False, False, True, False]
    assert done.attempts.tolist() == [0, 0, 0, 1, 0]


def test_each_part_is_read_once(run, plan):
    ledger = Ledger(run, plan)
    part = put(run, 1, 0, [ok(0)], "parquet")
    assert ledger.read().ok.tolist() == [True] + [False] * 4
    part.write_bytes(b"")  # found by merge, which reads all parts again
    put(run, 2, 0, [ok(1)], "csv")
    done = ledger.read(since=2)
    assert done.ok.tolist() == [True, True, False, False, False]
    assert done.any.tolist() == [False, True, False, False, False]
    assert done.damaged == ()


def test_a_part_that_the_disk_does_not_give_is_no_damage(run, plan):
    (run.parts / "part-0001-0000-00000.csv").mkdir()
    with pytest.raises(RunError, match=r"part-0001-0000-00000\.csv: this part cannot be read"):
        done_mask(run, plan)


@pytest.mark.parametrize("size", [1, 2, 9])
def test_rows_are_compared_whatever_is_kept_of_the_plan(tmp_path, run, monkeypatch, size):
    """Row groups of any size, of which one at a time is in memory."""
    monkeypatch.setattr(plan_module, "GROUP", size)
    monkeypatch.setattr(ledger, "_GROUPS", 1)
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(7)))
    plan = make_plan(meta, run, CONFIG)
    assert pq.read_metadata(run.rows).num_row_groups == -(-7 // size)
    put(run, 1, 0, [ok(6), ok(0), ok(3), ok(1)], "parquet")
    put(run, 1, 1, [ok(2), Result(5, "4.mp4", "ok", "of another")], "parquet")
    put(run, 1, 2, [Result(4, "4.mp4", "ok", "4")], "csv")
    done = done_mask(run, plan)
    assert np.flatnonzero(done.ok).tolist() == [0, 1, 3, 4, 6]
    assert "'4.mp4' for row 5" in str(done.damaged[0])
