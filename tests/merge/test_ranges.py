"""Rows that are ranges of videos are matched by path and range, whatever writes them."""

import csv
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError, TableError, UsageError
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")
META = "path,start,end\na.mp4,0,1\na.mp4,1,2\na.mp4,,\nb.mp4,1,2\n"
SCENES = 'id,path,timestamp\n1,a.mp4,"[(0, 1), (1, 2)]"\n2,b.mp4,[]\n'


def captioned(run, meta, *texts, config=CONFIG):
    """A run of ``meta`` with captions of its first rows; None leaves one out."""
    make_plan(meta, run, config)
    names = pq.read_table(run.rows)["path"].to_pylist()
    run.parts.mkdir()
    results = [Result(row, names[row], "ok", text=text) for row, text in enumerate(texts) if text]
    write_part(run.part(1, 0, 0, "parquet"), results)
    return run


def texts(path):
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.fixture
def meta(tmp_path):
    path = tmp_path / "meta.csv"
    path.write_text(META)
    return path


def test_a_run_and_its_parts_alone(tmp_path, meta):
    run = captioned(RunDir(tmp_path / "run"), meta, "A", "B", "C", "D")
    out = tmp_path / "out.csv"
    assert merge([run.path], out).complete
    assert out.read_text().splitlines()[1] == "a.mp4,0,1,A,ok,,"
    loose = tmp_path / "loose"
    loose.mkdir()
    for part in run.part_files():
        (loose / part.name).write_bytes(part.read_bytes())
    found = merge([loose], out, meta=meta)
    assert (found.complete, found.mismatched.count) == (True, 0)


def test_a_captioned_table_goes_by_path_and_range(tmp_path, meta):
    """The times of the one are written otherwise than those of the other, and its rows moved."""
    old = tmp_path / "old.csv"
    old.write_text(
        "start,end,path,text\n1.0,00:00:02,b.mp4,D\n,,a.mp4,C\n0:01,2.000,a.mp4,B\n"
        ",1,a.mp4,A\n5,6,a.mp4,E\n"
    )
    out = tmp_path / "out.csv"
    found = merge([old], out, meta=meta)
    assert texts(out) == ["A", "B", "C", "D"]
    assert found.unmatched.count == 1
    assert found.unmatched.examples[0].path == "a.mp4#t=5,6"


def test_captions_of_whole_videos_are_not_those_of_their_ranges(tmp_path, meta):
    old = tmp_path / "old.csv"
    old.write_text("path,text\na.mp4,whole\nb.mp4,whole\n")
    out = tmp_path / "out.csv"
    found = merge([old], out, meta=meta)
    assert texts(out) == ["", "", "whole", ""]
    assert found.unmatched.count == 1


def test_tables_with_other_columns_of_these_names(tmp_path):
    meta, old = tmp_path / "meta.csv", tmp_path / "old.csv"
    meta.write_text("path,start,end\na.mp4,Monday,Friday\n")
    old.write_text("path,start,end,text\na.mp4,Monday,Friday,A\n")
    with pytest.raises(TableError, match=r"row 0 \(from 0\), `start`, `end`: 'Monday' is no time"):
        merge([old], tmp_path / "out.csv", meta=meta)
    merge([old], tmp_path / "out.csv", meta=meta, ranges="none")
    assert texts(tmp_path / "out.csv") == ["A"]


def test_an_older_run_of_such_a_table(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text("path,start,end\na.mp4,Monday,Friday\n")
    run = captioned(RunDir(tmp_path / "run"), meta, "A", config=replace(CONFIG, ranges="none"))
    for where in ({}, {"meta": meta}):
        merge([run.path], tmp_path / "out.csv", **where)
        assert texts(tmp_path / "out.csv") == ["A"]


@pytest.mark.parametrize("where", ["beside", "named", "gone"])
def test_the_table_of_a_run_whose_videos_are_cut_is_its_own(tmp_path, where):
    meta = tmp_path / "meta.csv"
    meta.write_text(SCENES)
    run = captioned(RunDir(tmp_path / "run"), meta, "A", "B", None)
    named = meta if where == "named" else None
    if where == "gone":
        meta.unlink()
    out, left = tmp_path / "out.csv", tmp_path / "left.csv"
    found = merge([run.path], out, meta=named, missing=left)
    assert out.read_text().splitlines() == [
        "id,path,start,end,text,caption_status,caption_error,caption_flags",
        "1,a.mp4,0.0,1.0,A,ok,,",
        "1,a.mp4,1.0,2.0,B,ok,,",
        "2,b.mp4,,,,missing,,",
    ]
    assert found.missing.examples[0].path == "b.mp4"
    # What is left is a table to caption.
    again = captioned(RunDir(tmp_path / "again"), left, "C")
    assert merge([run.path, again.path, out], tmp_path / "all.csv", meta=out,
                 overwrite_column=True).complete  # fmt: skip
    assert texts(tmp_path / "all.csv") == ["A", "B", "C"]


def test_shards_of_a_cut_table(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text(SCENES)
    first = captioned(RunDir(tmp_path / "1"), meta, "A", None, "C")
    second = captioned(RunDir(tmp_path / "2"), meta, None, "B")
    assert merge([first.path, second.path], tmp_path / "out.csv", meta=meta).complete


def test_shards_that_cut_otherwise_go_by_range(clips, tmp_path):
    """One machine could not read a video when it planned: its rows have other numbers."""
    meta = tmp_path / "meta.csv"
    meta.write_text("path\nx.mp4\ny.mp4\n")
    config = replace(CONFIG, clip_length=1.0)
    (tmp_path / "y.mp4").write_bytes(clips["h264"].read_bytes())
    first = captioned(RunDir(tmp_path / "1"), meta, None, "y1", config=config)
    (tmp_path / "x.mp4").write_bytes(clips["h264"].read_bytes())
    second = captioned(RunDir(tmp_path / "2"), meta, "x1", "x2", None, "y2", config=config)
    out = tmp_path / "out.csv"
    merge([second.path, first.path], out)
    assert texts(out) == ["x1", "x2", "y1", "y2"]


def test_a_table_of_clips_that_is_another_is_not_believed(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text(SCENES)
    run = captioned(RunDir(tmp_path / "run"), meta, "A")
    table = pq.read_table(run.clips)
    pq.write_table(table.take([1, 0, 2]), run.clips)
    with pytest.raises(RunError, match=r"clips\.parquet: damaged"):
        merge([run.path], tmp_path / "out.csv")


def test_a_column_of_ranges_is_not_overwritten(tmp_path, meta):
    run = captioned(RunDir(tmp_path / "run"), meta, "A")
    with pytest.raises(UsageError, match="`start` holds the ranges"):
        merge([run.path], tmp_path / "out.csv", caption_column="start", overwrite_column=True)
