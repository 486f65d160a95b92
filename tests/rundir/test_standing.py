"""What the parts of a run say of its rows: failures by cause, and the rows that took longest."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rundir import standing as module
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan, make_plan
from vidcap_cli.rundir.standing import FAILED, cause, failed_rows, read_standing

ROWS = 12


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.parts.mkdir(parents=True)
    return run


@pytest.fixture
def plan(tmp_path: Path, run: RunDir) -> Plan:
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"{row}.mp4\n" for row in range(ROWS)))
    return make_plan(meta, run, CaptionConfig("qwen2vl", "/models/qwen"))


def put(run: RunDir, attempt: int, *results: Result) -> None:
    write_part(run.part(attempt, 0, 0, "parquet"), list(results))


def ok(row: int, **more: object) -> Result:
    return Result(row, f"{row}.mp4", "ok", "words", **more)


def bad(row: int, error: str, status: str = "decode_error", **more: object) -> Result:
    return Result(row, f"{row}.mp4", status, error=error, **more)


def test_failures_are_grouped_by_cause(run, plan):
    put(
        run, 1,
        bad(3, "3.mp4: no stream 7 in 3.mp4"),
        bad(1, "1.mp4: no stream 12 in 1.mp4"),
        bad(2, "out of memory", "oom"),
        bad(4, "4.mp4: no stream 1 in 4.mp4", "model_error"),
        ok(0),
    )  # fmt: skip
    standing = read_standing(run, plan)
    assert (standing.ok, standing.failed) == (1, 4)
    assert standing.statuses == {"ok": 1, "decode_error": 2, "oom": 1, "model_error": 1}
    causes = [(one.status, one.words, one.rows) for one in standing.causes]
    assert causes == [
        ("decode_error", "…: no stream … in …", 2),
        ("oom", "out of memory", 1),
        ("model_error", "…: no stream … in …", 1),
    ]
    assert (standing.causes[1].row, standing.causes[1].path) == (2, "2.mp4")


def test_the_latest_failure_counts_and_no_failure_after_a_caption(run, plan):
    put(run, 1, bad(0, "first"), ok(1), bad(2, "first"))
    put(run, 2, bad(0, "second", attempts=2), bad(1, "late"), ok(2, attempts=2))
    assert [one.error for one in read_standing(run, plan).causes] == ["second"]
    rows = [row for table in failed_rows(run, plan) for row in table.to_pylist()]
    assert rows == [
        {"row_id": 0, "path": "0.mp4", "status": "decode_error", "error": "second",
         "attempts": 2, "rank": None},
    ]  # fmt: skip
    assert tuple(rows[0]) == FAILED


def test_of_two_results_in_a_part_the_later_counts(run, plan):
    put(run, 1, bad(0, "first"), bad(0, "second"), bad(5, "third"))
    assert sorted(one.error for one in read_standing(run, plan).causes) == ["second", "third"]


def test_the_rows_that_took_longest(run, plan):
    put(run, 1, *[ok(row, infer_s=float(row), decode_s=0.5, frames=row) for row in range(1, 9)])
    put(run, 2, ok(0, infer_s=5.0, decode_s=90.0), bad(9, "x"), ok(10))
    slowest = read_standing(run, plan).slowest
    assert [slow.row for slow in slowest] == [0, 8, 7, 6, 5]
    assert (slowest[0].infer_s, slowest[0].decode_s, slowest[0].frames) == (5.0, 90.0, None)
    assert (slowest[1].path, slowest[1].frames) == ("8.mp4", 8)


def test_causes_without_end_are_counted_by_status(run, plan, monkeypatch):
    monkeypatch.setattr(module, "_CAUSES", 2)
    put(run, 1, *[bad(row, "abcdefghijkl"[row]) for row in range(6)])
    causes = read_standing(run, plan).causes
    assert [(one.words, one.rows) for one in causes] == [("others", 4), ("a", 1), ("b", 1)]


def test_parts_that_are_joined_meanwhile_are_read_again(run, plan, monkeypatch):
    put(run, 1, ok(0), bad(1, "x"))
    listed = RunDir.part_files
    gone = [run.part(1, 0, 7, "parquet")]
    monkeypatch.setattr(RunDir, "part_files", lambda self: [*gone, *listed(self)])
    read = module.RunParts.read

    def vanish(self, part, columns) -> pa.Table:
        if part in gone:
            gone.clear()
        return read(self, part, columns)

    monkeypatch.setattr(module.RunParts, "read", vanish)
    assert read_standing(run, plan).statuses == {"ok": 1, "decode_error": 1}
    gone.append(run.part(1, 0, 7, "parquet"))
    with pytest.raises(RunError, match="repeat the command"):
        list(failed_rows(run, plan))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("a/b c.mp4: moov atom not found", "…: moov atom not found"),
        ("/data/x/y.mp4: I/O error at 1,024", "…: I/O error at …"),
        ("[Errno 5] bad and/or worse\nsecond line", "[Errno …] bad and/or worse"),
        ("", ""),
        ("word " * 20 + "ends", "word " * 19 + "…"),
        ("word " * 19 + "ends", "word " * 19 + "ends"),
    ],
)
def test_what_errors_have_in_common(error, words):
    assert cause(error, "a/b c.mp4") == words


@given(st.text(max_size=300), st.text(max_size=20))
def test_any_error_has_a_short_cause_on_one_line(error, path):
    words = cause(error, path)
    assert len(words) <= 100
    assert "\n" not in words
