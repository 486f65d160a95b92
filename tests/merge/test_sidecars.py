"""Captions in files beside the videos, and paths relative to a folder."""

import json
import os
import re
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import vidcap
from vidcap_cli.caption import caption
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import UsageError
from vidcap_cli.merge.merge import merge
from vidcap_cli.options import RunOptions, TableOptions
from vidcap_cli.request import Request
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")


@pytest.fixture
def run(tmp_path):
    """A run of three videos, of which the last has no caption."""
    (tmp_path / "videos").mkdir()
    meta = tmp_path / "meta.csv"
    meta.write_text("path,id\nvideos/a.mp4,1\nvideos/b.tar.mp4,2\nvideos/c.mp4,3\n")
    run = RunDir(tmp_path / "run")
    make_plan(meta, run, CONFIG)
    run.parts.mkdir()
    results = [
        Result(0, "videos/a.mp4", "ok", text="An A.", flags="cut", frames=4),
        Result(1, "videos/b.tar.mp4", "ok", text="A “B”."),
        Result(2, "videos/c.mp4", "oom"),
    ]
    write_part(run.part(1, 0, 0, "parquet"), results)
    return run


def beside(tmp_path):
    return {path.name: path.read_text() for path in (tmp_path / "videos").iterdir()}


def test_text_beside_the_videos(tmp_path, run):
    found = merge([run.path], tmp_path / "out.csv", sidecar="txt", prefix="ohwx, ")
    assert beside(tmp_path) == {"a.txt": "ohwx, An A.\n", "b.tar.txt": "ohwx, A “B”.\n"}
    assert found.notes == ("2 captions are in the sidecar files of their videos",)


def test_json_beside_the_videos_keeps_other_keys(tmp_path, run):
    file = tmp_path / "videos" / "a.json"
    file.write_text('{"url": "https://x/ü", "caption_status": "old", "n": 1.50}')
    merge([run.path], tmp_path / "out.csv", sidecar="json", all_columns=True)
    found = json.loads(file.read_text())
    assert list(found)[:4] == ["url", "caption_status", "n", "text"]
    assert found["url"] == "https://x/ü"
    assert found["text"] == "An A."
    assert (found["caption_status"], found["caption_flags"], found["caption_frames"]) == (
        *("ok", "cut", 4),
    )
    assert set(beside(tmp_path)) == {"a.json", "b.tar.json"}


def test_rows_of_one_video_share_its_files(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "meta.csv").write_text("path\na.mp4\na.mp4\n")
    run = RunDir(tmp_path / "run")
    make_plan(tmp_path / "meta.csv", run, CONFIG)
    run.parts.mkdir()
    results = [Result(row, "a.mp4", "ok", text="An A.") for row in range(2)]
    write_part(run.part(1, 0, 0, "parquet"), results)
    notes = merge([run.path], tmp_path / "out.csv", sidecar="both").notes
    assert notes == ("2 captions are in the sidecar files of their videos",)


def test_relative_paths_in_a_table_that_lies_elsewhere_are_told(tmp_path, run):
    (tmp_path / "hub").mkdir()
    out = tmp_path / "hub" / "out.csv"
    (note,) = merge([run.path], out).notes
    assert note.startswith(f"relative paths in {out} start from {tmp_path}, not from where it lies")
    assert f"--relative-to {out.parent} writes them" in note
    assert not merge([run.path], out, relative_to=out.parent).notes
    assert not merge([run.path], tmp_path / "out.csv").notes


def test_both_make_samples_of_webdataset(tmp_path, run):
    """A sample is the files with one key; the key ends at the first dot."""
    merge([run.path], tmp_path / "out.csv", sidecar="both", caption_column="caption")
    assert json.loads(beside(tmp_path)["a.json"])["caption"] == "An A."
    assert beside(tmp_path)["a.txt"] == "An A.\n"


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_another_caption_that_is_there_stays_unless_it_is_to_go(tmp_path, run, kind):
    file = tmp_path / "videos" / f"a.{kind}"
    theirs = "by hand" if kind == "txt" else '{"text": "by hand", "more": [1]}'
    file.write_text(theirs)
    found = merge([run.path], tmp_path / "out.csv", sidecar=kind)
    assert file.read_text() == theirs
    assert found.notes[1].startswith(
        f"1 sidecar file was there with another caption and stays: {file}"
    )
    merge([run.path], tmp_path / "out.csv", sidecar=kind, overwrite_sidecars=True)
    ours = file.read_text()
    assert (
        ours == "An A.\n" if kind == "txt" else json.loads(ours) | {"more": [1]} == json.loads(ours)
    )
    # The same again touches nothing.
    os.utime(file, (0, 0))
    found = merge([run.path], tmp_path / "out.csv", sidecar=kind)
    assert (file.stat().st_mtime, len(found.notes)) == (0, 1)


@pytest.mark.parametrize("theirs", ["[1, 2]", "{", "", "[" * 100_000])
def test_what_is_no_json_object_is_left_alone(tmp_path, run, theirs):
    file = tmp_path / "videos" / "a.json"
    file.write_text(theirs)
    found = merge([run.path], tmp_path / "out.csv", sidecar="json", overwrite_sidecars=True)
    assert file.read_text() == theirs
    assert "a.json, which is no JSON object" in found.notes[1]


def test_a_folder_that_cannot_be_written_is_told_when_the_table_is_there(tmp_path, run):
    (tmp_path / "videos").rename(tmp_path / "moved")
    out = tmp_path / "out.csv"
    told = merge([run.path], out, sidecar="txt").failure
    assert re.match(r"2 sidecar files cannot be written, such as .*a\.txt: No such", told)
    assert out.read_text().count("ok") == 2
    (tmp_path / "moved").rename(tmp_path / "videos")
    (tmp_path / "videos" / "a.txt").mkdir()
    words = ("merge", run.path, "-o", out, "--sidecar", "txt", "--allow-missing")
    code, _, err = vidcap(*words, cwd=tmp_path)
    assert code == 1
    assert "2 of 3 rows have a caption" in err
    assert re.search(r"1 sidecar file cannot be written, such as .*a\.txt: Is a directory", err)
    assert set(os.listdir(tmp_path / "videos")) == {"a.txt", "b.tar.txt"}


def test_ranges_have_no_file_of_their_own(tmp_path, run):
    meta = tmp_path / "ranges.csv"
    meta.write_text("path,start,end\nvideos/a.mp4,0,1\n")
    with pytest.raises(UsageError, match="ranges of one have no file of their own"):
        merge([run.path], tmp_path / "out.csv", meta=meta, sidecar="txt")
    for config in (CONFIG, replace(CONFIG, clip_length=1.0, ranges="none")):
        request = Request(meta, config, TableOptions(sidecar="txt"), RunOptions(dry_run=True))
        with pytest.raises(UsageError, match="ranges of one have no file of their own"):
            caption(request)


def test_paths_relative_to_a_folder(tmp_path, run, monkeypatch):
    merge(
        [run.path],
        tmp_path / "out.csv",
        relative_to=tmp_path / "videos",
        missing=tmp_path / "m.csv",
    )
    assert pd.read_csv(tmp_path / "out.csv")["path"].tolist() == ["a.mp4", "b.tar.mp4", "c.mp4"]
    assert (tmp_path / "m.csv").read_text() == "path,id\nvideos/c.mp4,3\n"
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    merge([run.path], tmp_path / "out.csv", relative_to=tmp_path / "x")
    assert pd.read_csv(tmp_path / "out.csv")["path"][0] == "../videos/a.mp4"


def test_paths_keep_their_type_and_addresses_stay(tmp_path):
    names = pa.array(["s3://b/a.mp4", "file:///v/b.mp4", "/v/c.mp4"]).dictionary_encode()
    pq.write_table(pa.table({"path": names}), tmp_path / "m.parquet")
    run = RunDir(tmp_path / "run")
    make_plan(tmp_path / "m.parquet", run, CONFIG)
    merge([run.path], tmp_path / "out.parquet", relative_to=tmp_path.__class__("/v"))
    found = pq.read_table(tmp_path / "out.parquet")["path"]
    assert found.to_pylist() == ["s3://b/a.mp4", "b.mp4", "c.mp4"]
    assert pa.types.is_dictionary(found.type)


def test_videos_elsewhere_have_no_sidecars(tmp_path):
    meta = tmp_path / "m.csv"
    meta.write_text("path\nhttps://h/a.mp4\n")
    run = RunDir(tmp_path / "run")
    make_plan(meta, run, CONFIG)
    run.parts.mkdir()
    write_part(run.part(1, 0, 0, "parquet"), [Result(0, "https://h/a.mp4", "ok", text="A")])
    found = merge([run.path], tmp_path / "out.csv", sidecar="both")
    assert found.notes[1] == "1 video is elsewhere and has no sidecar files"
