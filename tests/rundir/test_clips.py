"""Tables whose rows are ranges of videos, lists of these, or are cut into clips."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.clips import encode
from vidcap_cli.addresses import locate
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError, TableError, UsageError
from vidcap_cli.meta import open_meta
from vidcap_cli.rundir.changes import check_unchanged
from vidcap_cli.rundir.clips import Cutting
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan, read_plan
from vidcap_cli.spans import Span

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run.vidcap")


def planned(run):
    return pq.read_table(run.rows)["path"].to_pylist()


def put(tmp_path, text, name="meta.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_start_and_end_are_the_range_of_a_row(tmp_path, run):
    meta = put(tmp_path, "path,start,end\na.mp4,1.50,00:00:04\na.mp4,,2\nb.mp4,,\nb.mp4,3,\n")
    plan = make_plan(meta, run, CONFIG)
    assert planned(run) == ["a.mp4#t=1.5,4", "a.mp4#t=0,2", "b.mp4", "b.mp4#t=3"]
    assert plan.ranges == ("start", "end")
    assert not run.clips.exists()
    assert read_plan(run) == plan
    check_unchanged(plan, meta, CONFIG)


def test_numbers_of_parquet_and_json(tmp_path, run):
    table = pa.table({"path": ["a", "b"], "start": [0.5, None], "end": pa.array([2, 3], pa.int8())})
    pq.write_table(table, tmp_path / "m.parquet")
    make_plan(tmp_path / "m.parquet", run, CONFIG)
    assert planned(run) == ["a#t=0.5,2", "b#t=0,3"]
    meta = put(tmp_path, '{"path": "a", "start": 1, "end": 2.5}\n{"path": "b"}\n', "m.jsonl")
    make_plan(meta, run, CONFIG)
    assert planned(run) == ["a#t=1,2.5", "b"]


def test_other_columns_may_hold_them_or_none(tmp_path, run):
    meta = put(tmp_path, "path,start,end,from,to\na.mp4,x,y,1,2\n")
    with pytest.raises(
        TableError, match=r"row 0 \(from 0\), `start`, `end`: 'x' is no time; .*--ranges none"
    ):
        make_plan(meta, run, CONFIG)
    plan = make_plan(meta, run, replace(CONFIG, ranges="from,to"))
    assert planned(run) == ["a.mp4#t=1,2"]
    with pytest.raises(RunChangedError, match="--ranges: 'from,to' -> 'none'"):
        check_unchanged(plan, meta, replace(CONFIG, ranges="none"))
    make_plan(meta, run, replace(CONFIG, ranges="none"))
    assert planned(run) == ["a.mp4"]
    with pytest.raises(TableError, match="no column is called `begin`, as --ranges begin,to says"):
        make_plan(meta, run, replace(CONFIG, ranges="begin,to"))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            "4,2",
            r"row 2 \(from 0\), .*: the range from 4 to 2 s ends before it begins; mend",
        ),
        (
            "x,",
            r"row 2 \(from 0\), .*: 'x' is no time; write seconds, or HH:MM:SS.mmm; mend",
        ),
        ("-1,2", r"row 2 \(from 0\), `start`, `end`: '-1' is no time"),
        (
            "4,2\nb.mp4,1,2\nc.mp4,x,",
            r"ends before it begins; mend it and 1 faulty row after it, or",
        ),
    ],
)
def test_what_is_no_range_is_refused_with_its_row(tmp_path, run, cells, words):
    meta = put(tmp_path, f"path,start,end\na.mp4,1,2\na.mp4,,\na.mp4,{cells}\n")
    with pytest.raises(TableError, match=words):
        make_plan(meta, run, CONFIG)


def test_a_plan_of_before_there_were_ranges_goes_on_with_whole_videos(tmp_path, run):
    meta = put(tmp_path, "path,start,end\na.mp4,Monday,Friday\n")
    make_plan(meta, run, replace(CONFIG, ranges="none"))
    data = json.loads(run.plan.read_text())
    del data["ranges"], data["clips_digest"]
    for name in ("ranges", "clip_length", "stride"):
        del data["options"][name]
    run.plan.write_text(json.dumps(data))
    check_unchanged(read_plan(run), meta, CONFIG)


def test_the_scenes_of_a_video_become_rows(tmp_path, run):
    """As Open-Sora's scene detection writes them."""
    meta = put(
        tmp_path,
        "id,path,timestamp\n"
        "7,a.mp4,\"[('00:00:00.000', '00:00:02.002'), ('00:00:02.002', '00:00:05.000')]\"\n"
        "8,b.mp4,[]\n",
    )
    plan = make_plan(meta, run, CONFIG)
    assert planned(run) == ["a.mp4#t=0,2.002", "a.mp4#t=2.002,5", "b.mp4"]
    assert plan.ranges == ("timestamp",)
    clips = pq.read_table(run.clips)
    assert clips.column_names == ["id", "path", "start", "end"]
    assert clips["id"].to_pylist() == ["7", "7", "8"]
    assert clips["end"].to_pylist() == [2.002, 5.0, None]
    check_unchanged(plan, meta, CONFIG)
    with meta.open("a") as file:
        file.write("9,c.mp4,[]\n")
    with pytest.raises(RunChangedError, match=r"the contents of meta.csv: changed"):
        check_unchanged(plan, meta, CONFIG)


def test_a_timestamp_that_is_a_date_is_none(tmp_path, run):
    meta = put(tmp_path, "path,timestamp\na.mp4,2024-05-01 12:00:00\n")
    assert make_plan(meta, run, CONFIG).ranges == ()
    assert planned(run) == ["a.mp4"]


def test_scenes_that_cannot_be_read_are_refused_with_their_row(tmp_path, run):
    meta = put(tmp_path, 'path,timestamp\na.mp4,"[(0, 1)]"\nb.mp4,"[(0, \'x\')]"\n')
    with pytest.raises(TableError, match=r"row 1 \(from 0\), `timestamp`: 'x' is no time"):
        make_plan(meta, run, CONFIG)
    assert not run.plan.exists()
    assert not run.clips.exists()


@pytest.mark.parametrize(
    ("length", "stride", "whole", "end", "clips"),
    [
        (2, None, None, 6.0, [(0, 2), (2, 4), (4, 6)]),
        (2, None, None, 7.0, [(0, 2), (2, 4), (4, 6), (6, 7)]),
        (2, None, None, 6.9, [(0, 2), (2, 4), (4, 6.9)]),
        (2, None, None, 0.5, [(0, 0.5)]),
        (2, 1, None, 4.0, [(0, 2), (1, 3), (2, 4)]),
        (2, 1, None, 4.5, [(0, 2), (1, 3), (2, 4), (3, 4.5)]),
        (2, 5, None, 8.0, [(0, 2), (5, 7)]),
        (2, 5, None, 5.5, [(0, 2)]),
        (2, None, Span(1, 4), 10.0, [(1, 3), (3, 4)]),
        (2, None, Span(9), 10.0, [(9, 10)]),
        (2, None, Span(11, 12), 10.0, []),
        (0.1, None, None, 0.3, [(0, 0.1), (0.1, 0.2), (0.2, 0.3)]),
    ],
)
def test_cutting(length, stride, whole, end, clips):
    assert Cutting(length, stride).clips(whole, end) == [Span(*pair) for pair in clips]


def test_long_videos_are_cut_by_their_own_length(clips, tmp_path, run):
    """48 frames at 25 a second; a file that is none stays one row."""
    meta = put(tmp_path, f"path,note\n{clips['h264']},x\n{clips['text']},y\nnone.mp4,z\n")
    config = replace(CONFIG, clip_length=0.7)
    plan = make_plan(meta, run, config)
    names = [f"{clips['h264']}#t={span}" for span in ("0,0.7", "0.7,1.4", "1.4,1.92")]
    assert planned(run) == [*names, str(clips["text"]), "none.mp4"]
    assert pq.read_table(run.clips)["note"].to_pylist() == ["x", "x", "x", "y", "z"]
    check_unchanged(plan, meta, config)
    with pytest.raises(RunChangedError, match=r"--clip-length: 0\.7 -> 0\.5"):
        check_unchanged(plan, meta, replace(config, clip_length=0.5))


def test_ranges_and_scenes_are_cut_too(clips, tmp_path, run):
    meta = put(tmp_path, f"path,start,end\n{clips['h264']},0.2,1\n{clips['h264']},5,6\n")
    make_plan(meta, run, replace(CONFIG, clip_length=0.4))
    assert [name.partition("#t=")[2] for name in planned(run)] == ["0.2,0.6", "0.6,1", "5,6"]


def test_a_folder_and_a_video_are_cut(tmp_path, run):
    folder = tmp_path / "videos"
    folder.mkdir()
    frames = np.zeros((50, 32, 32, 3), np.uint8)
    for name in "ab":
        encode(folder / f"{name}.mp4", frames, "libx264")
    config = replace(CONFIG, clip_length=1.0)
    plan = make_plan(folder, run, config)
    assert [name.rpartition("/")[2] for name in planned(run)] == [
        *("a.mp4#t=0,1", "a.mp4#t=1,2", "b.mp4#t=0,1", "b.mp4#t=1,2")
    ]
    check_unchanged(plan, folder, config)
    make_plan(folder / "a.mp4", run, config)
    assert open_meta(run.clips, "path").ranges == ("start", "end")


def test_columns_in_the_way_of_the_clips_times_are_named(tmp_path, run):
    meta = put(tmp_path, "path,start\na.mp4,now\n")
    with pytest.raises(TableError, match="the column `start` is already there"):
        make_plan(meta, run, replace(CONFIG, clip_length=1.0))


def test_decord_reads_no_ranges(tmp_path, run):
    meta = put(tmp_path, "path,start,end\na.mp4,0,1\n")
    with pytest.raises(UsageError, match="--reader decord: decord reads no ranges"):
        make_plan(meta, run, replace(CONFIG, reader="decord"))


def test_a_file_that_is_called_like_a_range_is_that_file(tmp_path):
    bases = [str(tmp_path)]
    assert locate("a.mp4#t=1,2", bases) == (str(tmp_path / "a.mp4"), Span(1, 2))
    (tmp_path / "a.mp4#t=1,2").write_bytes(b"x")
    assert locate("a.mp4#t=1,2", bases) == (str(tmp_path / "a.mp4#t=1,2"), None)
    assert locate("s3://b/a.mp4#t=1,2", bases)[1] == Span(1, 2)
