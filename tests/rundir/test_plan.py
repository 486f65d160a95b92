"""Plans say what is to be captioned, todos what is left, and memory stays small."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcap_cli.addresses import resolve
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, RunError, TableError
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.rundir import plan as plan_module
from vidcap_cli.rundir import todo as todo_module
from vidcap_cli.rundir.changes import check_unchanged
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import (
    Plan,
    make_plan,
    read_plan,
)
from vidcap_cli.rundir.todo import Todo, write_todo
from vidcap_cli.video import VideoError, read_frames
from vidcap_cli.view.words import setting

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def table(folder: Path, rows: int = 5) -> Path:
    meta = folder / "meta.csv"
    meta.write_text("id,path\n" + "".join(f"{i:03},{i}.mp4\n" for i in range(rows)))
    return meta


def planned(run: RunDir) -> list[dict[str, object]]:
    return pq.read_table(run.rows).to_pylist()


def test_plan_of_a_table(tmp_path, run, monkeypatch):
    monkeypatch.chdir("/")
    plan = make_plan(table(tmp_path), run, CONFIG)
    assert plan.meta == str(tmp_path / "meta.csv")
    assert (plan.kind, plan.rows, plan.bases) == ("table", 5, (str(tmp_path), "/"))
    assert plan.options["question"] == CONFIG.question
    assert planned(run) == [{"row_id": i, "path": f"{i}.mp4"} for i in range(5)]
    assert read_plan(run) == plan
    assert Plan.from_json(plan.to_json()) == plan
    assert sorted(p.name for p in run.path.iterdir()) == ["plan.json", "rows.parquet"]
    check_unchanged(plan, tmp_path / "meta.csv", CONFIG)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "tsv"])
def test_plan_of_other_tables(tmp_path, run, suffix):
    meta = tmp_path / f"m.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"n": [1, 2], "path": ["a", "b"]}), meta)
    elif suffix == "jsonl":
        meta.write_text('{"n": 1, "path": "a"}\n{"n": 2, "path": "b"}\n')
    else:
        meta.write_text("n\tpath\n1\ta\n2\tb\n")
    make_plan(meta, run, CONFIG)
    assert planned(run) == [{"row_id": 0, "path": "a"}, {"row_id": 1, "path": "b"}]


def test_relative_meta_and_row_groups(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_module, "GROUP", 1000)
    monkeypatch.setattr(todo_module, "GROUP", 1000)
    plan = make_plan(Path(table(tmp_path, 3500).name), run, CONFIG)
    assert plan.meta == str(tmp_path / "meta.csv")
    file = pq.ParquetFile(run.rows)
    assert [file.metadata.row_group(i).num_rows for i in range(4)] == [1000, 1000, 1000, 500]


def test_plan_of_a_folder(tmp_path, run):
    clips = tmp_path / "clips"
    for name in ["b/2.MP4", "b/10.mkv", "a.webm", "z.txt", ".hidden.mp4", ".git/x.mp4", "é/ü.mov"]:
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        (clips / name).touch()
    (clips / "loop").symlink_to(clips)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "l.mp4").touch()
    (clips / "link").symlink_to(elsewhere)
    plan = make_plan(clips, run, CONFIG)
    names = ["a.webm", "b/10.mkv", "b/2.MP4", "link/l.mp4", "é/ü.mov"]
    assert [row["path"] for row in planned(run)] == [str(clips / name) for name in names]
    assert (plan.kind, plan.bases[0]) == ("folder", str(clips))
    check_unchanged(plan, clips, CONFIG)
    (clips / "new.mp4").touch()
    with pytest.raises(RunChangedError, match="contents of clips: 5 -> 6 rows"):
        check_unchanged(plan, clips, CONFIG)


def test_the_same_folder_elsewhere_has_the_same_fingerprint(tmp_path):
    plans = []
    for place in "ab":
        clips = tmp_path / place / "clips"
        clips.mkdir(parents=True)
        (clips / "x.mp4").touch()
        plans.append(make_plan(clips, RunDir(tmp_path / f"run{place}"), CONFIG))
    assert plans[0].fingerprint == plans[1].fingerprint


def test_plan_of_one_video(tmp_path, run):
    video = tmp_path / "v.MP4"
    video.touch()
    plan = make_plan(video, run, CONFIG)
    assert (plan.kind, plan.rows) == ("video", 1)
    assert planned(run) == [{"row_id": 0, "path": str(video)}]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.mp4", "there is no such file or folder; check the spelling"),
        ("gone.csv", "there is no such file or folder; check the spelling"),
        ("notes.docx", r"\.docx is neither a table \(.csv, .*\.json, .*\) nor a video"),
        ("Makefile", "a file without extension is neither a table"),
        ("empty", r"no videos in this folder or below; known are .*\.mp4"),
    ],
)
def test_metas_that_cannot_be_planned(tmp_path, run, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").touch()
    (tmp_path / "Makefile").touch()
    with pytest.raises(TableError, match=f"{name}: .*{message}"):
        make_plan(tmp_path / name, run, CONFIG)
    assert not run.is_run


def test_a_faulty_table_leaves_no_plan(tmp_path, run):
    meta = tmp_path / "meta.csv"
    meta.write_text("path,n\n" + "a,1\n" * 70_000 + "b\n")
    with pytest.raises(TableError, match=r"line 70002 \(row 70000\)"):
        make_plan(meta, run, CONFIG)
    assert list(run.path.iterdir()) == []
    # The fault is in a column that only the final table needs.
    meta.write_bytes(b"path,n\na,\xff\n")
    with pytest.raises(TableError, match="line 2 is not UTF-8"):
        make_plan(meta, run, CONFIG)


def test_a_file_name_that_is_not_utf8(tmp_path, run):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "clips") + b"/\xff.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    make_plan(tmp_path / "clips", run, CONFIG)
    written = tmp_path / "clips" / r"\xff.mp4"
    assert {row["path"] for row in planned(run)} == {str(tmp_path / "clips/a.mp4"), str(written)}
    with pytest.raises(VideoError, match=r"no such file; if its name is not UTF-8.*rename it"):
        read_frames(str(written), FrameRule(4.0, 448, 672, "area"))
    written.touch()  # the row of the one would get the caption of the other
    with pytest.raises(TableError, match=r"\\xff\.mp4: two files are written like this.*rename it"):
        make_plan(tmp_path / "clips", run, CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda _: "[]", "damaged"),
        (lambda _: '{"rows": 3}', "damaged"),
        (lambda text: text.replace('"rows": 5', '"rows": "5"'), "damaged .*--fresh"),
        (lambda _: "\udcff", "damaged"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "newer vidcap.*update vidcap"),
    ],
)
def test_plans_that_cannot_be_read(tmp_path, run, change, message):
    make_plan(table(tmp_path), run, CONFIG)
    text = change(run.plan.read_text())
    run.plan.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=rf"plan\.json: .*{message}"):
        read_plan(run)


def test_a_plan_of_the_future_with_more_fields(tmp_path, run):
    plan = make_plan(table(tmp_path), run, CONFIG)
    run.plan.write_text(json.dumps({**json.loads(run.plan.read_text()), "colour": "red"}))
    assert read_plan(run) == plan


def test_not_a_run_directory(run):
    with pytest.raises(RunError, match=r"run: not a run directory, it has no plan\.json"):
        read_plan(run)


def test_every_difference_is_listed(tmp_path, run):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CONFIG)
    check_unchanged(plan, meta, replace(CONFIG, slots=8, decoders=4))
    meta.write_text(meta.read_text() + "x,y.mp4\n")
    with pytest.raises(RunChangedError) as caught:
        check_unchanged(plan, meta, replace(CONFIG, fps=2.0, question="Why?"))
    message = str(caught.value)
    assert "the contents of meta.csv: 5 -> 6 rows" in message
    assert "--fps: 4 -> 2\n" in message
    assert "--question: 'Describe the video in detail' -> 'Why?'" in message
    assert message.startswith("the unfinished run was made with something else:\n")
    assert "Name another output with -o to keep both" in message
    assert "--fresh" in message


def test_a_table_that_changed_is_not_said_to_be_another_command(tmp_path, run):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CONFIG)
    meta.write_text(meta.read_text() + "x,y.mp4\n")
    with pytest.raises(RunChangedError, match="--extend keeps") as caught:
        check_unchanged(plan, meta, CONFIG, failed=2)
    assert "repeat the command" not in str(caught.value)


def test_a_run_that_is_finished_but_for_failed_rows_is_told_so(tmp_path, run):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CONFIG)
    with pytest.raises(RunChangedError, match=r"^the run there, finished but for 2 failed rows, "):
        check_unchanged(plan, meta, replace(CONFIG, fps=2.0), failed=2)


def test_another_command_is_a_change_told_by_options_that_exist(tmp_path, run):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CaptionConfig("llava", "/models/llava", "1", num_frames=1))
    with pytest.raises(RunChangedError) as caught:
        check_unchanged(plan, meta, replace(CONFIG, model_fingerprint="2"))
    told = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert told == ["the command", "the files of the model", "--model"]


def test_equal_row_count_with_other_contents_is_a_change(tmp_path, run):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CONFIG)
    meta.write_text(meta.read_text().replace("003", "333"))
    with pytest.raises(RunChangedError, match=r"meta\.csv: still 5 rows"):
        check_unchanged(plan, meta, CONFIG)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_have_questions_of_their_own(tmp_path, run, suffix):
    """A blank one is none; ranks are told, and another column is a change."""
    meta = tmp_path / f"meta.{suffix}"
    frame = pd.DataFrame({"path": [*"abcd"], "ask": [" Who? ", "", None, 'Say "x", y'], "n": 1})
    (frame.to_csv if suffix == "csv" else frame.to_parquet)(meta, index=False)
    asking = replace(CONFIG, question_column="ask")
    plan = make_plan(meta, run, asking)
    asked = ["Who?", None, None, 'Say "x", y']
    assert [row["question"] for row in planned(run)] == asked
    skip = np.array([False, True, False, False])
    write_todo(run, plan, run.attempt(1), skip=skip)
    found = Todo(run.attempt(1).todo).rows(0, 4)
    assert [(row, question) for row, _, _, question in found] == [
        (0, "Who?"), (2, None), (3, asked[3]),
    ]  # fmt: skip
    check_unchanged(plan, meta, asking)
    with pytest.raises(RunChangedError, match="--question-column: 'ask' -> not given"):
        check_unchanged(plan, meta, CONFIG)
    other = RunDir(tmp_path / "other")
    with pytest.raises(TableError, match=r"no column is called `who`.*found: `path`, `ask`, `n`"):
        make_plan(meta, other, replace(CONFIG, question_column="who"))
    if suffix == "parquet":
        with pytest.raises(TableError, match=r"`n` holds int64, not text"):
            make_plan(meta, other, replace(CONFIG, question_column="n"))


def test_a_plan_remembers_the_column_of_its_paths(tmp_path, run):
    meta = tmp_path / "meta.csv"
    meta.write_text("path,clip\n1,a.mp4\n2,b.mp4\n")
    by_clip = replace(CONFIG, path_column="clip")
    plan = make_plan(meta, run, by_clip)
    assert [row["path"] for row in planned(run)] == ["a.mp4", "b.mp4"]
    assert read_plan(run).path_column == "clip"
    check_unchanged(plan, meta, by_clip)
    with pytest.raises(RunChangedError, match="--path-column: 'clip' -> 'path'") as caught:
        check_unchanged(plan, meta, CONFIG)
    assert "contents" not in str(caught.value)
    # The rows of another column are others: results of one are not taken for the other's.
    assert make_plan(meta, RunDir(tmp_path / "other"), CONFIG).fingerprint != plan.fingerprint


@pytest.mark.parametrize(
    ("option", "other"),
    [("path_column", None), ("retry_repetitive", True), ("repetition_penalty", 1.1)],
)
def test_a_plan_of_before_there_was_an_option_goes_on_without_it(tmp_path, run, option, other):
    meta = table(tmp_path)
    plan = make_plan(meta, run, CONFIG)
    old = replace(plan, options={k: v for k, v in plan.options.items() if k != option})
    check_unchanged(old, meta, CONFIG)
    if other:
        with pytest.raises(
            RunChangedError, match=f"--{option.replace('_', '-')}: .* -> {setting(other)}"
        ):
            check_unchanged(old, meta, replace(CONFIG, **{option: other}))


def test_resolve(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        (folder / "both.mp4").touch()
    (second / "only.mp4").touch()
    bases = [str(first), str(second)]
    assert resolve("both.mp4", bases) == first / "both.mp4"
    assert resolve("only.mp4", bases) == second / "only.mp4"
    assert resolve("none.mp4", bases) == first / "none.mp4"
    assert resolve("/abs/x.mp4", bases) == Path("/abs/x.mp4")


def test_a_home_folder_and_a_file_address_are_read_as_what_they_mean(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    video = tmp_path / "a b%.mp4"
    bases = ["/somewhere"]
    assert resolve("~/a b%.mp4", bases) == video
    for start in ("file://", "file:", "FILE://localhost"):
        assert resolve(f"{start}{tmp_path}/a%20b%25.mp4", bases) == video
    assert resolve("~other.mp4", bases) == Path("/somewhere/~other.mp4")
    assert resolve("file.mp4", bases) == Path("/somewhere/file.mp4")


@pytest.mark.parametrize(
    "path", ["s3://b/x.mp4", "hf://b/x.mp4", "https://b/x.mp4?a=b", "HTTP://b/x", "file://host/x"]
)
def test_a_remote_file_costs_its_row_and_says_what_to_do(tmp_path, path):
    with pytest.raises(VideoError, match="remote files are not read; download") as caught:
        read_frames(resolve(path, [str(tmp_path)]), FrameRule())
    assert caught.value.status == "missing_file"
    # Such names can be those of files here, which are read.
    here = tmp_path / path
    here.parent.mkdir(parents=True)
    here.write_bytes(b"x")
    assert resolve(path, [str(tmp_path)]) == here


def test_a_drive_or_a_colon_is_no_address(tmp_path):
    for path in ("c:/x.mp4", "12:30/x.mp4", "a:b.mp4", "folder/s3://x.mp4"):
        with pytest.raises(VideoError, match=r"^there is no such file"):
            read_frames(resolve(path, [str(tmp_path)]), FrameRule())


@pytest.mark.parametrize("path", ["x" * 300 + ".mp4", "a\0b.mp4", "loop/a.mp4", "file.mp4/a.mp4"])
def test_a_name_that_nothing_can_have_costs_its_row_alone(tmp_path, path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file.mp4").write_bytes(b"x")
    (tmp_path / "second").mkdir()
    assert resolve(path, [str(tmp_path), str(tmp_path / "second")]) == tmp_path / path
    with pytest.raises(VideoError) as caught:
        read_frames(resolve(path, [str(tmp_path)]), FrameRule())
    assert caught.value.status in ("missing_file", "decode_error")
    assert caught.value.message


def test_a_file_that_may_be_there_is_not_looked_for_elsewhere(tmp_path):
    closed, second = tmp_path / "closed", tmp_path / "second"
    for folder in (closed, second):
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x")
    program = """
import os, sys
from vidcap_cli.addresses import resolve
if os.geteuid() == 0:
    os.seteuid(65534)
print(resolve("a.mp4", sys.argv[1:]))
"""
    closed.chmod(0)
    try:
        found = subprocess.run(
            [sys.executable, "-c", program, closed, second],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        closed.chmod(0o700)
    assert found.stdout.strip() == str(closed / "a.mp4"), found.stderr


def test_rows_belong_to_their_plan(tmp_path, run):
    plan = make_plan(table(tmp_path), run, CONFIG)
    data = run.rows.read_bytes()
    other = RunDir(tmp_path / "other")
    (tmp_path / "o").mkdir()
    make_plan(table(tmp_path / "o", 6), other, CONFIG)
    flipped = bytearray(data)
    flipped[60] ^= 1
    renamed = RunDir(tmp_path / "renamed")
    (tmp_path / "r.csv").write_text("path\n" + "".join(f"x{i}.mp4\n" for i in range(5)))
    make_plan(tmp_path / "r.csv", renamed, CONFIG)
    for wrong in (
        data[: len(data) // 2], b"", bytes(flipped), other.rows.read_bytes(),
        renamed.rows.read_bytes(),
    ):  # fmt: skip
        run.rows.write_bytes(wrong)
        with pytest.raises(RunError, match=r"rows\.parquet: damaged or another run's .*--fresh"):
            read_plan(run)
    run.rows.unlink()
    with pytest.raises(RunError, match=r"rows\.parquet: damaged or another run's .*--fresh"):
        read_plan(run)
    run.rows.write_bytes(data)
    assert read_plan(run) == plan


def test_plans_of_older_versions_have_no_digest(tmp_path, run):
    make_plan(table(tmp_path), run, CONFIG)
    plan = json.loads(run.plan.read_text())
    del plan["rows_digest"]
    run.plan.write_text(json.dumps(plan))
    assert read_plan(run).rows == 5
    run.plan.write_text(json.dumps({**plan, "rows": 6}))
    with pytest.raises(RunError, match=r"5 rows where plan\.json has 6"):
        read_plan(run)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_todo_holds_what_is_left(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("p")
    rows = data.draw(st.integers(1, 40))
    run = RunDir(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        group = data.draw(st.integers(1, 9))
        for module in (plan_module, todo_module):
            patch.setattr(module, "GROUP", group)
        plan = make_plan(table(folder, rows), run, CONFIG)
        skip = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
        before = np.array(
            data.draw(st.lists(st.integers(0, 5), min_size=rows, max_size=rows)), np.int32
        )
        limit = data.draw(st.none() | st.integers(0, rows + 3))
        attempt = run.attempt(1)
        count = write_todo(run, plan, attempt, skip=skip, limit=limit, attempts_before=before)
    expected = [
        (i, f"{i}.mp4", int(before[i]), None)
        for i in range(rows if limit is None else min(limit, rows))
        if not skip[i]
    ]
    todo = Todo(attempt.todo)
    assert count == len(todo) == len(expected)
    assert todo.rows(0, rows) == expected
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(0, rows + 5))
    assert todo.rows(start, stop) == expected[start:stop]


def test_todo_of_everything(tmp_path, run):
    plan = make_plan(table(tmp_path), run, CONFIG)
    assert write_todo(run, plan, run.attempt(1)) == 5
    assert Todo(run.attempt(1).todo).rows(3, 9) == [(3, "3.mp4", 0, None), (4, "4.mp4", 0, None)]


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
import pandas as pd
from vidcap_cli.addresses import resolve
from vidcap_cli.config import CaptionConfig
from vidcap_cli.rundir.ledger import done_mask
from vidcap_cli.rundir.changes import check_unchanged
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.rundir.todo import Todo, write_todo
from vidcap_cli.rundir.paths import RunDir

def peak():  # MB; not ru_maxrss, which a child inherits from the process that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e3

meta, run, config = Path(sys.argv[1]), RunDir(Path(sys.argv[2])), CaptionConfig("qwen2vl", "/m")
start = peak()
plan = make_plan(meta, run, config)
check_unchanged(plan, meta, config)
done = done_mask(run, plan)
count = write_todo(run, plan, run.attempt(1), skip=done.ok, attempts_before=done.attempts)
todo = Todo(run.attempt(1).todo)
assert len(todo) == count == plan.rows
assert todo.rows(count - 1, count)[0][0] == plan.rows - 1
print(round(peak() - start))
"""


def peak_megabytes(folder: Path, rows: int, suffix: str) -> int:
    """What planning a table takes at its peak, above the imports."""
    meta = folder / f"big.{suffix}"
    schema = pa.schema([("id", pa.int64()), ("path", pa.string()), ("note", pa.string())])
    with open_writer(meta, schema) as writer:
        for start in range(0, rows, 250_000):
            ids = range(start, min(start + 250_000, rows))
            paths = [f"videos/{i // 1000:05}/clip_{i:09}.mp4" for i in ids]
            columns = [pa.array(ids, pa.int64()), pa.array(paths), pa.array(paths)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, meta, folder / f"run-{suffix}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def open_writer(meta: Path, schema: pa.Schema):
    if meta.suffix == ".parquet":
        return pq.ParquetWriter(meta, schema)
    import pyarrow.csv as pacsv

    return pacsv.CSVWriter(meta, schema)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("suffix", "most"), [("csv", 450), ("parquet", 250)])
def test_memory_is_bounded(tmp_path, suffix, most):
    assert peak_megabytes(tmp_path, 1_000_000, suffix) < most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("suffix", "most"), [("csv", 1500), ("parquet", 500)])
def test_memory_is_bounded_for_ten_million_rows(tmp_path, suffix, most):
    assert peak_megabytes(tmp_path, 10_000_000, suffix) < most
