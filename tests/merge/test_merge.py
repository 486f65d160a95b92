"""Merging gives every row its best result, says what it did, and leaves its inputs alone."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.commands import vidcap
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, RunError, TableError, UsageError
from vidcap_cli.merge import merge as merge_module
from vidcap_cli.merge.account import Example
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.ledger import done_mask
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan, read_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")
META = 'id,path,note\n001,a.mp4,"x, ""y"""\n002,b.mp4,\n003,c.mp4,"l1\nl2"\n004,d.mp4,ü\n'
HEAD = "id,path,note,text,caption_status,caption_error,caption_flags\n"


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    path = tmp_path / "meta.csv"
    path.write_text(META)
    return path


@pytest.fixture
def run(tmp_path: Path, meta: Path) -> RunDir:
    return new_run(tmp_path / "run", meta)


def new_run(path: Path, meta: Path, config: CaptionConfig = CONFIG) -> RunDir:
    run = RunDir(path)
    make_plan(meta, run, config)
    run.parts.mkdir()
    return run


def ok(row: int, text: str, **more: object) -> Result:
    return Result(row, f"{'abcd'[row]}.mp4", "ok", text, **more)  # type: ignore[arg-type]


def bad(row: int, status: str = "oom", error: str | None = None) -> Result:
    return Result(row, f"{'abcd'[row]}.mp4", status, error=error)


def put(
    run: RunDir, results: Sequence[Result], *, attempt: int = 1, sequence: int = 0,
    rank: int | None = 0, form: str = "parquet",
) -> Path:  # fmt: skip
    path = run.part(attempt, rank, sequence, form)
    write_part(path, results)
    return path


def age(path: Path, seconds: int) -> None:
    """Make everything at ``path`` as old as 2020 plus ``seconds``."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, (1_577_836_800 + seconds,) * 2)


def digest(*folders: Path) -> dict[Path, str]:
    files = [f for folder in folders for f in ([folder] if folder.is_file() else folder.rglob("*"))]
    return {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


def texts(out: Path) -> list[str]:
    return pd.read_csv(out, dtype=str, keep_default_na=False)["text"].tolist()


def captions(path: Path, rows: Sequence[tuple[str, str]], extra: str = "") -> Path:
    """A table as the original scripts wrote it."""
    pd.DataFrame([{"path": p, "text": t, "score": extra} for p, t in rows]).to_csv(
        path, index=False
    )
    return path


def test_exact_bytes_and_the_account(tmp_path, meta, run):
    put(run, [ok(2, 'A "red", round\nball'), bad(1, "decode_error", "no frames, none")])
    put(run, [ok(0, "two\r\nlines", flags="shrunk")], rank=1, form="csv")
    before = digest(meta, run.path)
    account = merge([run.path], tmp_path / "out.csv", missing=tmp_path / "missing.csv")
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        HEAD
        + '001,a.mp4,"x, ""y""","two\r\nlines",ok,,shrunk\n'
        + '002,b.mp4,,,decode_error,"no frames, none",\n'
        + '003,c.mp4,"l1\nl2","A ""red"", round\nball",ok,,\n'
        + "004,d.mp4,ü,,missing,,\n"
    )
    assert (tmp_path / "missing.csv").read_text() == "id,path,note\n004,d.mp4,ü\n002,b.mp4,\n"
    assert digest(meta, run.path) == before
    assert (account.rows, account.ok, account.complete) == (4, 2, False)
    assert account.failed["decode_error"].count == 1
    assert account.failed["decode_error"].examples == (Example(1, "b.mp4", "no frames, none"),)
    assert account.missing.examples == (Example(3, "d.mp4"),)
    assert account.duplicates.count == account.conflicts.count == account.unmatched.count == 0
    plain = json.loads(json.dumps(account.as_dict()))
    assert plain["missing"] == {
        "count": 1,
        "examples": [{"row": 3, "path": "d.mp4", "detail": None}],
    }
    assert plain["complete"] is False
    assert plain["missing_table"] == str(tmp_path / "missing.csv")


def test_flags_of_captions_are_counted(tmp_path, run):
    flags = ["cut,repetitive", "", "cut", "hdr"]
    put(run, [ok(row, "t", flags=given) for row, given in enumerate(flags[:3])])
    put(run, [Result(3, "d.mp4", "oom", flags="hdr")], rank=1)
    account = merge([run.path], tmp_path / "out.csv")
    assert account.flagged == 2
    assert account.flags == {"cut": 2, "repetitive": 1}


def test_all_ok(tmp_path, run):
    put(run, [ok(i, f"t{i}") for i in range(4)])
    account = merge([run.path], tmp_path / "out.csv", missing=tmp_path / "left.csv")
    assert account.complete
    assert account.failed == {}
    assert (tmp_path / "left.csv").read_text() == "id,path,note\n"


def test_a_run_without_results(tmp_path, run, meta):
    assert merge([run.path], tmp_path / "out.csv").missing.count == 4
    assert merge([run.path], tmp_path / "out.csv", meta=meta).missing.count == 4
    assert texts(tmp_path / "out.csv") == [""] * 4


def test_ok_beats_failed_and_newer_beats_older_within_a_run(tmp_path, run):
    put(run, [ok(0, "old"), ok(1, "good"), bad(2, "oom", "first")], attempt=2)
    put(run, [bad(1), bad(2, "crashed", "second")], attempt=10, rank=None)
    put(run, [ok(0, "new")], attempt=10, sequence=1)
    age(run.part(2, 0, 0, "parquet"), 99)  # attempts count, not the clock
    age(run.part(10, 0, 1, "parquet"), 0)
    account = merge([run.path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["new", "good", "", ""]
    assert account.failed["crashed"].examples[0].detail == "second"
    assert account.duplicates.count == 0  # its own retries are none
    assert account.conflicts.count == 1
    assert account.conflicts.examples == (Example(0, "a.mp4", "taken: new | not: old"),)


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("newest", ["b", "bb", "a", "c"]),
        ("oldest", ["c", "ccc", "a", "c"]),
        ("first", ["a", "a", "a", "c"]),
        ("longest", ["b", "ccc", "a", "c"]),
    ],
)
def test_prefer(tmp_path, meta, prefer, expected):
    runs = {name: new_run(tmp_path / name, meta) for name in "abc"}
    put(runs["a"], [ok(0, "a"), ok(1, "a"), ok(2, "a"), bad(3)])
    put(runs["b"], [ok(0, "b"), ok(1, "bb"), bad(2)])
    put(runs["c"], [ok(0, "c"), ok(1, "ccc"), ok(3, "c")])
    for seconds, name in enumerate("cab"):
        age(runs[name].path, seconds)
    merge([run.path for run in runs.values()], tmp_path / "out.csv", prefer=prefer)
    assert texts(tmp_path / "out.csv") == expected


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("newest", ["A2", "B1 longer", "C2", ""]),
        ("oldest", ["A longest", "B1 longer", "C1", ""]),
        ("first", ["A longest", "B1 longer", "C1", ""]),
        ("longest", ["A longest", "B1 longer", "C2", ""]),
    ],
)
@pytest.mark.parametrize("named_first", [True, False])
def test_prefer_within_a_table_and_across(tmp_path, meta, prefer, expected, named_first):
    """The older table has each path twice; the newer one is named before it, or after it."""
    (tmp_path / "1.csv").write_text(
        "path,text\na.mp4,A longest\na.mp4,A1\nb.mp4,\nb.mp4,B1 longer\nc.mp4,C1\nc.mp4,C2\n"
    )
    (tmp_path / "2.csv").write_text("path,text\na.mp4,A2\nb.mp4,\n")
    age(tmp_path / "1.csv", 0)
    age(tmp_path / "2.csv", 1)
    inputs = [tmp_path / "1.csv", tmp_path / "2.csv"]
    if not named_first:
        inputs.reverse()
        expected = ["A2", *expected[1:]] if prefer == "first" else expected
    merge(inputs, tmp_path / "out.csv", meta=meta, prefer=prefer)
    assert texts(tmp_path / "out.csv") == expected


def test_of_inputs_equally_old_the_later_named_is_newer(tmp_path, meta):
    inputs = [new_run(tmp_path / name, meta) for name in "ab"]
    for name, run in zip("ab", inputs, strict=True):
        put(run, [ok(0, name)])
        age(run.path, 0)
    merge([inputs[0].path, inputs[1].path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv")[0] == "b"
    merge([inputs[1].path, inputs[0].path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv")[0] == "a"


def test_parquet_keeps_the_types_of_meta(tmp_path):
    columns = {
        "path": pa.array(["a.mp4", "b.mp4", "c.mp4"]).dictionary_encode(),
        "timestamp": pa.array([1, None, 3], pa.timestamp("us", tz="UTC")),
        "scores": pa.array([[1.0], None, []], pa.list_(pa.float32())),
        "id": pa.array([1, 2, 3], pa.uint16()),
    }
    meta = tmp_path / "m.parquet"
    pq.write_table(pa.table(columns), meta)
    run = new_run(tmp_path / "run", meta)
    put(run, [ok(2, "see"), bad(0, "empty")])
    merge([run.path], tmp_path / "out.parquet", missing=tmp_path / "left.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    original = pq.read_table(meta)
    assert out.select(original.schema.names).equals(original)
    assert out.schema.names[4:] == ["text", "caption_status", "caption_error", "caption_flags"]
    assert out["text"].to_pylist() == [None, None, "see"]
    assert out["caption_status"].to_pylist() == ["empty", "missing", "ok"]
    assert out["text"].type == pa.string()
    assert pq.read_table(tmp_path / "left.parquet").equals(original.take([1, 0]))
    merge([run.path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["", "", "see"]


def test_pandas_reads_what_it_wrote(tmp_path):
    frame = pd.DataFrame(
        {"path": ["a.mp4", "b.mp4"], "k": pd.Categorical(["u", "v"])}, index=[7, 9]
    )
    meta = tmp_path / "m.parquet"
    frame.to_parquet(meta)
    run = new_run(tmp_path / "run", meta)
    put(run, [ok(1, "see")])
    merge([run.path], tmp_path / "o.parquet", missing=tmp_path / "left.parquet")
    again = pd.read_parquet(tmp_path / "o.parquet")
    pd.testing.assert_frame_equal(again[["path", "k"]], frame)
    assert again["text"].tolist() == [None, "see"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "left.parquet"), frame.iloc[:1])


def test_all_columns(tmp_path, run):
    put(run, [ok(0, "t", prompt_tokens=3640, decode_s=0.5, rank=1, prompt="Why?")])
    merge([run.path], tmp_path / "out.parquet", all_columns=True)
    out = pq.read_table(tmp_path / "out.parquet")
    # fmt: off
    names = [
        "finish_reason", "prompt_tokens", "new_tokens", "frames", "height", "width",
        "decode_s", "infer_s", "attempts", "rank", "reader", "model", "prompt",
        "logprob", "others",
    ]
    # fmt: on
    assert out.schema.names[7:] == [f"caption_{name}" for name in names]
    assert out.schema.field("caption_prompt_tokens").type == pa.int32()
    assert out["caption_prompt_tokens"].to_pylist() == [3640, None, None, None]
    # And back again, from CSV and Parquet, with all that is known.
    merge([run.path], tmp_path / "out.csv", all_columns=True)
    for name in ("out.csv", "out.parquet"):
        again = tmp_path / f"again-{name}"
        merge([tmp_path / name], again, meta=tmp_path / "meta.csv", all_columns=True)
        assert again.read_bytes() == (tmp_path / name).read_bytes()


def test_all_columns_that_meta_has_already(tmp_path):
    meta = tmp_path / "m.csv"
    meta.write_text("path,caption_rank\na.mp4,1\n")
    run = new_run(tmp_path / "run", meta)
    merge([run.path], tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"m\.csv: the column `caption_rank` is already there"):
        merge([run.path], tmp_path / "o2.csv", all_columns=True)
    assert not (tmp_path / "o2.csv").exists()


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 9])
def test_limit(tmp_path, run, limit, monkeypatch):
    monkeypatch.setattr(merge_module, "ROWS", 2)
    put(run, [ok(0, "t0"), bad(1), ok(3, "t3")])
    put(run, [ok(3, "other")], attempt=2)
    account = merge([run.path], tmp_path / "out.csv", limit=limit, missing=tmp_path / "m.csv")
    rows = min(limit, 4)
    assert texts(tmp_path / "out.csv") == ["t0", "", "", "other"][:rows]
    assert account.rows == rows
    assert account.conflicts.count == (rows == 4)
    assert account.unmatched.count == 0
    assert (
        account.ok + account.missing.count + sum(t.count for t in account.failed.values()) == rows
    )


def test_tables_of_the_original_scripts(tmp_path, meta):
    table = captions(
        tmp_path / "old.csv", [("a.mp4", "A, a"), ("c.mp4", ""), ("z.mp4", "Z"), ("d.mp4", " ")]
    )
    account = merge([table], tmp_path / "out.csv", meta=meta)
    assert texts(tmp_path / "out.csv") == ["A, a", "", "", ""]
    assert account.failed["empty"].count == 2
    assert account.missing.count == 1
    assert account.unmatched.examples == (Example(None, "z.mp4", f"in {table}"),)


def test_old_captions_fill_the_gaps_of_a_run(tmp_path, run):
    put(run, [ok(0, "new"), bad(1)])
    table = captions(tmp_path / "old.csv", [("a.mp4", "old"), ("b.mp4", "old"), ("c.mp4", "old")])
    age(table, 0)
    account = merge([table, run.path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["new", "old", "old", ""]
    assert account.duplicates.count == 2
    assert account.conflicts.count == 1


def test_a_caption_by_path_is_for_every_row_with_that_path(tmp_path):
    meta = tmp_path / "m.csv"
    meta.write_text("path,clip\na.mp4,1\nb.mp4,1\na.mp4,2\n")
    table = captions(tmp_path / "old.csv", [("a.mp4", "A"), ("b.mp4", "B")])
    account = merge([table], tmp_path / "out.csv", meta=meta)
    assert texts(tmp_path / "out.csv") == ["A", "B", "A"]
    assert account.duplicates.count == 0
    run = new_run(tmp_path / "run", meta)  # by row, equal paths stay apart
    write_part(run.part(1, 0, 0, "parquet"), [Result(2, "a.mp4", "ok", "only row 2")])
    merge([run.path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["", "", "only row 2"]


def test_what_vidcap_wrote_can_be_merged(tmp_path, meta, run):
    put(run, [ok(0, "A"), bad(1, "oom", "too big")])
    for form in ("csv", "parquet"):
        first, again = tmp_path / f"first.{form}", tmp_path / f"again.{form}"
        merge([run.path], first)
        account = merge([first], again, meta=meta)
        assert again.read_bytes() == first.read_bytes()
        assert account.failed["oom"].examples[0].detail == "too big"
        assert account.missing.count == 2


def test_missing_rows_go_round(tmp_path, meta, run):
    put(run, [ok(0, "A"), bad(1), ok(2, "C")])
    left = tmp_path / "left.csv"
    merge([run.path], tmp_path / "out.csv", missing=left)
    second = new_run(tmp_path / "second", left)
    put(second, [Result(0, "b.mp4", "ok", "B"), Result(1, "d.mp4", "ok", "D")])
    account = merge([run.path, second.path], tmp_path / "out.csv", meta=meta)
    assert texts(tmp_path / "out.csv") == ["A", "B", "C", "D"]
    assert account.complete


def test_rows_to_do_begin_with_those_that_another_try_may_help(tmp_path, meta, run, monkeypatch):
    """So that rounds with --limit come to all of them."""
    monkeypatch.setattr(merge_module, "ROWS", 2)
    put(run, [bad(0, "missing_file"), ok(1, "B"), bad(2, "empty"), bad(3, "oom")])
    merge([run.path], tmp_path / "out.csv", missing=tmp_path / "left.csv")
    assert pd.read_csv(tmp_path / "left.csv")["path"].tolist() == ["d.mp4", "a.mp4", "c.mp4"]
    merge(
        [new_run(tmp_path / "none", meta).path], tmp_path / "out.csv", missing=tmp_path / "all.csv"
    )
    assert (tmp_path / "all.csv").read_text() == META


def test_runs_of_different_tables_need_meta(tmp_path, meta, run):
    other = tmp_path / "other.csv"
    other.write_text("path\nx.mp4\n")
    with pytest.raises(UsageError, match=r"made from different tables; say with --meta"):
        merge([run.path, new_run(tmp_path / "r2", other).path], tmp_path / "out.csv")


@pytest.mark.parametrize("as_folder", [True, False])
def test_parts_without_their_run(tmp_path, meta, run, as_folder):
    put(run, [ok(0, "old"), bad(1)], form="csv")
    put(run, [ok(0, "new"), Result(3, "x.mp4", "ok", "whose?"), ok(2, "C")], attempt=2)
    write_part(run.part(2, 1, 0, "parquet"), [Result(8, "z.mp4", "ok", "Z")])
    loose = tmp_path / "loose"
    shutil.copytree(run.parts, loose)
    for seconds, part in enumerate(sorted(loose.iterdir(), reverse=True)):
        age(part, seconds)  # as copying may leave them
    (loose / ".part-0003-0000-00000.parquet.0.tmp").write_bytes(b"half a part")
    inputs = [loose] if as_folder else sorted(loose.glob("part-*"))
    with pytest.raises(UsageError, match="name the table of videos with --meta"):
        merge(inputs, tmp_path / "out.csv")
    before = digest(loose)
    account = merge(inputs, tmp_path / "out.csv", meta=meta)
    assert digest(loose) == before
    assert texts(tmp_path / "out.csv") == ["new", "", "C", ""]
    assert account.mismatched.count == 1
    assert account.mismatched.examples == (Example(3, "d.mp4", f"'x.mp4' in {loose}"),)
    assert account.unmatched.examples == (Example(None, "z.mp4", f"in {loose}"),)


def test_parts_inside_their_run_know_it(tmp_path, run):
    path = put(run, [ok(0, "A")])
    put(run, [ok(1, "B")], attempt=2)
    merge([run.parts], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["A", "B", "", ""]
    merge([path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["A", "", "", ""]


def test_a_renamed_part_is_known_by_its_columns(tmp_path, meta, run):
    for form in ("csv", "parquet"):
        part = put(run, [ok(0, "A"), bad(1)], form=form)
        renamed = tmp_path / f"rank0.{form}"
        part.rename(renamed)
        account = merge([renamed], tmp_path / "out.csv", meta=meta)
        assert texts(tmp_path / "out.csv") == ["A", "", "", ""]
        assert account.failed["oom"].count == 1


def test_the_same_input_twice_counts_once(tmp_path, run):
    put(run, [ok(0, "A")])
    account = merge([run.path, run.path / ".." / "run"], tmp_path / "out.csv")
    assert account.duplicates.count == 0


def test_meta_has_moved(tmp_path, meta, run):
    put(run, [ok(0, "A")])
    moved = meta.rename(tmp_path / "moved.csv")
    account = merge([run.path], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("path,text,caption_status")
    assert "meta.csv is gone: the result has its column `path` only" in account.notes[0]
    assert "--meta" in account.notes[0]
    account = merge([run.path], tmp_path / "out.csv", meta=moved)
    assert (tmp_path / "out.csv").read_text().startswith(HEAD)
    assert account.notes == ()


def test_meta_changes_while_it_is_read(tmp_path, run, monkeypatch):
    put(run, [ok(0, "A")])
    whole = merge_module.regroup
    monkeypatch.setattr(merge_module, "regroup", lambda *of: (t.slice(0, 3) for t in whole(*of)))
    with pytest.raises(TableError, match=r"has 3 rows where 4 were planned; it changed while"):
        merge([run.path], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_meta_has_changed(tmp_path, meta, run):
    put(run, [ok(0, "A"), ok(3, "D")])
    lines = META.splitlines(keepends=True)
    meta.write_text(lines[0] + "".join(reversed(lines[1:3])) + "005,a.mp4,\n")
    with pytest.raises(RunChangedError, match=r"meta\.csv: the table has changed since .*--meta"):
        merge([run.path], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    account = merge([run.path], tmp_path / "out.csv", meta=meta)
    assert texts(tmp_path / "out.csv") == ["", "A", "A"]
    assert account.unmatched.count == 1


def test_runs_on_two_machines(tmp_path, meta, run):
    there = new_run(tmp_path / "there", meta)
    put(run, [ok(0, "A")])
    put(there, [ok(1, "B")])
    there.plan.write_text(there.plan.read_text().replace(str(tmp_path), "/mnt/elsewhere"))
    merge([there.path, run.path], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith(HEAD)
    assert texts(tmp_path / "out.csv") == ["A", "B", "", ""]


def test_runs_with_other_options_are_noted(tmp_path, meta, run):
    other = new_run(tmp_path / "other", meta, CaptionConfig("llava", "/models/llava"))
    account = merge([run.path, other.path], tmp_path / "out.csv")
    # `num_frames` is an option of one of them alone, and files of other models are others.
    models = "the command: llava, qwen2vl; --model: /models/llava, /models/qwen"
    assert f"different options ({models}): their captions are mixed" in account.notes[0]
    made = replace(CONFIG, model_fingerprint="other", retry_repetitive=True)
    other = new_run(tmp_path / "again", meta, made)
    account = merge([run.path, other.path], tmp_path / "out.csv")
    assert "(the files of the model; --retry-repetitive: off, on)" in account.notes[0]


@pytest.mark.parametrize("prefer", ["newest", "first"])
def test_it_is_said_which_of_different_captions_is_taken(tmp_path, meta, prefer):
    paths = dict.fromkeys(re.findall(r"\w+\.mp4", META))
    for name in "ab":
        rows = "".join(f"{path},{name}\n" for path in paths)
        (tmp_path / f"{name}.csv").write_text(f"path,text\n{rows}")
    words = ["a.csv", "b.csv", "--meta", meta.name, "-o", "out.csv", "--missing", "todo.csv"]
    code, _, err = vidcap("merge", *words, "--prefer", prefer, cwd=tmp_path)
    assert code == 0
    which = {"newest": "the newest", "first": "that of the first input"}[prefer]
    assert (
        f"with different captions: {which} is taken (--prefer), --all-columns adds the others"
        in err
    )
    assert "still to do: nothing, and todo.csv has no rows" in err


def test_all_captions_that_were_not_taken_can_be_had(tmp_path, run, meta):
    """Each with the input that has it; retries of a run count as one result of it."""
    put(run, [ok(0, "old"), bad(1), ok(2, "same")])
    put(run, [ok(0, "new"), ok(1, "mine"), ok(2, "same")], attempt=2)
    table = captions(tmp_path / "old.csv", [(f"{name}.mp4", "same") for name in "ac"])
    out = tmp_path / "out.csv"
    account = merge([table, run.path], out, prefer="first", all_columns=True)
    assert account.duplicates.examples == (
        Example(0, "a.mp4", "2 results"), Example(2, "c.mp4", "2 results"),
    )  # fmt: skip
    frame = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert [bool(cell) for cell in frame["caption_others"]] == [True, False, False, False]
    assert json.loads(frame["caption_others"][0]) == [
        {"input": str(run.path), "text": "old"}, {"input": str(run.path), "text": "new"},
    ]  # fmt: skip
    words = [str(table), str(run.path), "-o", str(out), "--all-columns"]
    _, _, err = vidcap("merge", *words, cwd=tmp_path)
    assert "the others are in caption_others" in err
    assert "kept as" not in err


def test_run_of_a_folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").touch()
    run = new_run(tmp_path / "run", clips)
    write_part(run.part(1, 0, 0, "parquet"), [Result(0, str(clips / "a.mp4"), "ok", "A")])
    account = merge([run.path], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == (
        f"path,text,caption_status,caption_error,caption_flags\n{clips}/a.mp4,A,ok,,\n"
    )
    assert account.notes == ()


def test_outputs_never_replace_inputs(tmp_path, meta, run):
    part = put(run, [ok(0, "A")])
    table = captions(tmp_path / "old.csv", [("a.mp4", "A")])
    before = digest(tmp_path)
    refused = [meta, table, part, run.parts / "out.csv", run.rows, run.path / "attempts" / "x.csv"]
    (run.path / "attempts").mkdir()
    (tmp_path / "link.csv").symlink_to(table)
    for out in [*refused, tmp_path / "link.csv"]:
        for name in ("out", "missing"):
            outputs = {"out": tmp_path / "good.csv", "missing": tmp_path / "left.csv", name: out}
            with pytest.raises(UsageError, match=f"{out.name}: "):
                merge([run.path, table], **outputs)
    with pytest.raises(UsageError, match="cannot be the same file"):
        merge([run.path], tmp_path / "same.csv", missing=tmp_path / "." / "same.csv")
    with pytest.raises(UsageError, match="nowhere does not exist; create it"):
        merge([run.path], tmp_path / "nowhere" / "out.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        merge([run.path], tmp_path / "dir.csv")
    with pytest.raises(TableError, match=r"out\.txt: vidcap writes"):
        merge([run.path], tmp_path / "out.txt")
    copy = tmp_path / "copy.csv"
    shutil.copy(meta, copy)
    with pytest.raises(UsageError, match=r"meta\.csv: is the table that .* was planned from"):
        merge([run.path], meta, meta=copy)
    copy.unlink()
    (tmp_path / "link.csv").unlink()
    assert digest(tmp_path) == before


def test_a_run_that_goes_on_is_said_to(tmp_path, run):
    put(run, [ok(0, "A")])
    said = f"a command is at work on {run.path}: captions that"
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert merge([run.path], tmp_path / "out.csv").notes[0].startswith(said)
    assert not merge([run.path], tmp_path / "out.csv").notes


@pytest.mark.parametrize("name", ["nowhere/out.csv", "folder.csv", "/proc/out.csv"])
@pytest.mark.parametrize("which", ["out", "missing"])
def test_an_output_is_tried_before_anything_is_read(tmp_path, run, monkeypatch, name, which):
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(merge_module, "read_results", lambda *_: pytest.fail("it read the parts"))
    places = {"out": tmp_path / "out.csv", "missing": None, which: tmp_path / name}
    with pytest.raises(UsageError, match=f"{name}: (the folder|is a folder|nothing can be)"):
        merge([run.path], places["out"], missing=places["missing"])


def test_damaged_inputs_are_named_and_nothing_is_written(tmp_path, meta, run):
    out = tmp_path / "out.csv"
    out.write_bytes(b"an earlier result")
    results = [ok(i, f'text "{i}"\nwith two lines', prompt="Why,\nnow?\n") for i in range(4)]
    for form in ("parquet", "csv"):
        part = put(run, results, form=form)
        data = part.read_bytes()
        for length in [0, 1, 100, len(data) // 2, len(data) - 13, len(data) - 2, len(data) - 1]:
            part.write_bytes(data[:length])
            with pytest.raises(TableError, match=f"{part.name}: "):
                merge([run.path], out)
        part.unlink()
    whole = tmp_path / "whole.csv"
    put(run, results)
    merge([run.path], whole)
    half = tmp_path / "half.csv"
    data = whole.read_bytes()
    for length in [len(data) - 1, len(data) - 3, len(data) // 2, data.index(b"with") + 1]:
        half.write_bytes(data[:length])
        with pytest.raises(TableError, match=r"half\.csv: "):
            merge([half], out, meta=meta)
    temporary = tmp_path / ".out.csv.0.tmp"
    temporary.write_bytes(b"")
    with pytest.raises(UsageError, match=r"\.tmp: a temporary file that was never finished"):
        merge([run.path, temporary], out)
    run.plan.write_text("{")
    with pytest.raises(RunError, match=r"plan\.json: damaged"):
        merge([run.path], out)
    assert out.read_bytes() == b"an earlier result"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") and p != temporary]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_damaged_part_is_refused_with_two_remedies(tmp_path, meta, run, form):
    part = put(run, [ok(i, f"t{i}") for i in range(3)], form=form)
    put(run, [ok(3, "t3")], attempt=2)
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 16
    part.write_bytes(data)
    before = digest(run.path)
    remedies = "repeat the command of its run, which does its rows again, or leave it out: move it"
    with pytest.raises(TableError, match=f"{part}: this part is damaged .*{remedies}"):
        merge([run.path], tmp_path / "out.csv")
    shutil.copytree(run.parts, tmp_path / "loose")
    with pytest.raises(TableError, match=rf"{part.name}: this part is damaged .*; leave it out"):
        merge([tmp_path / "loose"], tmp_path / "out.csv", meta=meta)
    assert digest(run.path) == before
    assert not (tmp_path / "out.csv").exists()
    part.rename(tmp_path / "elsewhere")
    merge([run.path], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["", "", "", "t3"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_five_hundred_flipped_bits(tmp_path, form):
    """Merge gives the undisturbed table or names the part; resume counts none of its rows."""
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"clips/{row:04}.mp4\n" for row in range(120)))
    run = new_run(tmp_path / "run", meta)
    parts = []
    for sequence in range(3):
        rows = range(40 * sequence, 40 * sequence + 40)
        results = [
            Result(row, f"clips/{row:04}.mp4", "ok", f'A "{row}" that\nmoves, ü', new_tokens=row)
            for row in rows
        ]
        parts.append(put(run, results, sequence=sequence, form=form))
    merge([run.path], tmp_path / "calm.csv")
    plan = read_plan(run)
    rng = np.random.default_rng(12)
    for flip in range(500):
        number = flip % 3
        data = parts[number].read_bytes()
        flipped = bytearray(data)
        place = int(rng.integers(0, 8 * len(data)))
        flipped[place // 8] ^= 1 << place % 8
        parts[number].write_bytes(flipped)
        counted = done_mask(run, plan).any.reshape(3, 40)
        assert counted.any(axis=1).tolist() == [other != number for other in range(3)]
        with pytest.raises(TableError, match=parts[number].name):
            merge([run.path], tmp_path / "out.csv")
        parts[number].write_bytes(data)
    merge([run.path], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "calm.csv").read_bytes()


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_part_of_another_run_is_refused(tmp_path, run, form):
    put(run, [ok(0, "A")])
    write_part(run.part(2, 0, 0, form), [Result(1, "x.mp4", "ok", "of another video")])
    with pytest.raises(TableError, match=r"'x\.mp4' for row 1, where the plan has another path"):
        merge([run.path], tmp_path / "out.csv")


def test_parts_of_other_versions(tmp_path, run):
    """Columns that lack are null and new ones are left out, in both forms, loose or not."""
    put(run, [ok(0, "A")])
    run.part(2, 0, 0, "csv").write_text('"new","text","status","row_id"\n1,"B","ok",1\n')
    rows = pa.Table.from_pylist([{"row_id": 2, "status": "oom", "path": "c.mp4", "new": [1]}])
    pq.write_table(rows, run.part(3, 0, 0, "parquet"))
    account = merge([run.path], tmp_path / "out.csv", all_columns=True)
    assert texts(tmp_path / "out.csv") == ["A", "B", "", ""]
    assert list(account.failed) == ["oom"]
    shutil.copytree(run.parts, tmp_path / "loose")
    # Without a path a loose part cannot be told from another table's: it is not used.
    account = merge([tmp_path / "loose"], tmp_path / "o2.csv", meta=tmp_path / "meta.csv")
    assert texts(tmp_path / "o2.csv") == ["A", "", "", ""]
    assert account.mismatched.count == 1


def test_runs_of_one_folder_at_two_places(tmp_path):
    """Each run's results are compared with its own plan: the absolute paths may differ."""
    runs = []
    for place, text in (("here", "A"), ("there", "B")):
        clips = tmp_path / place
        clips.mkdir()
        for name in "ab":
            (clips / f"{name}.mp4").touch()
        runs.append(new_run(tmp_path / f"run-{place}", clips))
        row = len(runs) - 1
        part = runs[-1].part(1, 0, 0, "parquet")
        write_part(part, [Result(row, str(clips / f"{'ab'[row]}.mp4"), "ok", text)])
    merge([run.path for run in runs], tmp_path / "out.csv")
    assert texts(tmp_path / "out.csv") == ["A", "B"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "no such file or folder; check the spelling"),
        ("folder", "neither a run directory .* nor a folder of part files"),
        ("meta.csv", "neither a part file nor a table with captions.*`path` and `text`, found"),
        ("semicolons.csv", "its columns seem to be separated by ';': write it with commas"),
        ("torn.csv", "the last row is not finished, .* delete that row, or end its line if"),
    ],
)
def test_inputs_that_are_none(tmp_path, meta, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "semicolons.csv").write_text("path;text\na.mp4;words\n")
    (tmp_path / "torn.csv").write_text("path,text\na.mp4,words\nb.mp4,wor")
    with pytest.raises(UsageError, match=f"(?s){name}: .*{message}"):
        merge([tmp_path / name], tmp_path / "out.csv", meta=meta)


def test_options_that_are_none(tmp_path, run):
    with pytest.raises(UsageError, match="choose one of newest, oldest, first, longest"):
        merge([run.path], tmp_path / "out.csv", prefer="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--meta .*gone\.csv: there is no such table"):
        merge([run.path], tmp_path / "out.csv", meta=tmp_path / "gone.csv")


# However the results of a run come to lie, the table is that of an undisturbed run.

words = st.text('ab,"\n\rü ', max_size=6)
outcomes = st.one_of(
    st.tuples(st.just("ok"), words.map(lambda text: "t" + text)),
    st.tuples(st.sampled_from(["oom", "empty", "crashed"]), words),
    st.none(),
)


def result(row: int, path: str, outcome: tuple[str, str]) -> Result:
    status, words = outcome
    if status == "ok":
        return Result(row, path, status, words)
    return Result(row, path, status, error=words or None)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_scattering_of_results_gives_the_same_table(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("m")
    final = data.draw(st.lists(outcomes, min_size=1, max_size=12), "final")
    meta = folder / "meta.csv"
    meta.write_text("n,path\n" + "".join(f"{i},v/{i}.mp4\n" for i in range(len(final))))
    results = [result(i, f"v/{i}.mp4", o) for i, o in enumerate(final) if o]
    calm = new_run(folder / "calm", meta)
    put(calm, results)
    merge([calm.path], folder / "calm.csv", missing=folder / "calm-left.csv")

    # Each result in one place or several: run, attempt, rank, part. Before it, in earlier
    # attempts of the same run, failures; beside it, in whatever run, nothing better.
    runs = [new_run(folder / f"run{i}", meta) for i in range(data.draw(st.integers(1, 3)))]
    parts: dict[tuple[int, int, int, int], list[Result]] = {}
    place = st.tuples(
        st.integers(0, len(runs) - 1), st.integers(2, 4), st.integers(0, 2), st.integers(0, 2)
    )
    for one in results:
        for where in data.draw(st.lists(place, min_size=1, max_size=3, unique=True)):
            parts.setdefault(where, []).append(one)
            if data.draw(st.booleans()) and (len(runs) == 1 or one.status == "ok"):
                failure = Result(one.row_id, one.path, "decode_error", error="earlier")
                parts.setdefault((where[0], 1, 0, 0), []).append(failure)
    for (number, attempt, rank, sequence), rows in parts.items():
        shuffled = data.draw(st.permutations(rows))
        form = data.draw(st.sampled_from(["parquet", "csv"]))
        put(runs[number], shuffled, attempt=attempt, sequence=sequence, rank=rank, form=form)
    inputs = [run.path for run in runs]
    given_meta = None
    for i, run in enumerate(runs):
        if run.part_files() and data.draw(st.booleans(), "loose"):
            inputs[i] = folder / f"loose{i}"
            shutil.copytree(run.parts, inputs[i])
            given_meta = meta
    before = digest(meta, *inputs)
    account = merge(
        data.draw(st.permutations(inputs)), folder / "out.csv", meta=given_meta,
        missing=folder / "left.csv",
    )  # fmt: skip
    assert (folder / "out.csv").read_bytes() == (folder / "calm.csv").read_bytes()
    assert (folder / "left.csv").read_bytes() == (folder / "calm-left.csv").read_bytes()
    assert digest(meta, *inputs) == before
    assert account.conflicts.count == account.unmatched.count == account.mismatched.count == 0
    assert account.rows == len(final)
    failed = sum(tally.count for tally in account.failed.values())
    assert account.ok + failed + account.missing.count == account.rows


def test_json_lines_are_written_and_merged_again(tmp_path, meta, run):
    put(run, [ok(0, 'He says "ü".', flags="cut"), bad(1, error="too\nlarge"), ok(3, "t3")])
    merge([run.path], tmp_path / "out.jsonl", missing=tmp_path / "todo.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert list(rows[0]) == HEAD.strip().split(",")
    assert rows[0] == {
        "id": "001", "path": "a.mp4", "note": 'x, "y"', "text": 'He says "ü".',
        "caption_status": "ok", "caption_error": None, "caption_flags": "cut",
    }  # fmt: skip
    assert (rows[1]["text"], rows[1]["caption_error"]) == (None, "too\nlarge")
    assert [row["caption_status"] for row in rows] == ["ok", "oom", "missing", "ok"]
    todo = [json.loads(line) for line in (tmp_path / "todo.jsonl").read_text().splitlines()]
    assert [row["id"] for row in todo] == ["002", "003"]
    merge([run.path], tmp_path / "first.csv")
    merge([tmp_path / "out.jsonl"], tmp_path / "second.csv", meta=meta)
    assert (tmp_path / "second.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()


@pytest.mark.parametrize("name", ["meta.csv.gz", "meta.json"])
def test_tables_in_other_files_are_merged(tmp_path, name):
    """As the planned table, and with captions; the file need not end with a line."""
    rows = [{"path": f"{letter}.mp4", "n": str(n)} for n, letter in enumerate("abc")]
    meta = tmp_path / name
    if name.endswith(".gz"):
        lines = ["path,n", *(",".join(row.values()) for row in rows)]
        meta.write_bytes(gzip.compress("\n".join(lines).encode()))
        old = tmp_path / "old.csv.gz"
        old.write_bytes(gzip.compress(b"path,text\nb.mp4,B\nc.mp4,"))
    else:
        meta.write_text(json.dumps(rows))
        old = tmp_path / "old.json"
        old.write_text(json.dumps([{"path": "b.mp4", "text": "B"}, {"path": "c.mp4"}]))
    run = new_run(tmp_path / "run", meta)
    put(run, [ok(0, "A")])
    merge([run.path, old], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == (
        "path,n,text,caption_status,caption_error,caption_flags\n"
        "a.mp4,0,A,ok,,\nb.mp4,1,B,ok,,\nc.mp4,2,,empty,,\n"
    )
