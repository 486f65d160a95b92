"""Tables, folders and videos, with real files."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcap_cli.errors import TableError
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect.meta import LOOKED_FOR, _spread
from vidcap_cli.processors.qwen2vl import FrameRule


def facts(report, section):
    return report.as_dict()["facts"][section]


def write_table(file: Path, paths: list[object]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "path"])
        writer.writerows(enumerate(paths))
    return file


def test_a_table(clips, tmp_path):
    good = [clips[name] for name in ("h264", "vp9", "hevc", "sound")]
    table = write_table(tmp_path / "meta.csv", [*good, clips["text"], "gone.mp4", clips["h264"]])
    report = inspect(table)
    assert report.ok
    rows = facts(report, "rows")
    assert (rows["rows"], rows["looked_for"], rows["missing"]) == (7, 7, 1)
    assert rows["file_types"] == {".mp4": 5, ".webm": 1, ".mkv": 1}
    assert rows["repeated_paths"] == 1
    assert facts(report, "columns") == {"id": "string", "path": "string"}
    videos = facts(report, "videos_opened")
    assert videos["opened"] == 4
    assert videos["codec"] == {"h264": 2, "vp9": 1, "hevc": 1}
    # 48 frames at 25 a second; the one with sound has 8.
    assert videos["duration"] == {"min": 0.32, "median": 1.92, "max": 1.92}
    assert videos["qwen2vl_frames"]["max"] == 6
    texts = " | ".join(problem.text for problem in report.problems)
    assert "1 of the 7 files looked for do not exist: gone.mp4" in texts
    assert "text.mp4 · decode_error" in texts
    json.dumps(report.as_dict())


def test_column_types_of_parquet(clips, tmp_path):
    table = pa.table({"path": [str(clips["h264"])], "score": [0.5], "tags": [["a"]]})
    pq.write_table(table, tmp_path / "meta.parquet")
    columns = facts(inspect(tmp_path / "meta.parquet"), "columns")
    assert columns["score"] == "double"
    assert columns["tags"].startswith("list<")


def test_a_table_whose_files_are_all_gone(tmp_path):
    report = inspect(write_table(tmp_path / "meta.csv", ["a.mp4", "b.mp4"]))
    assert not report.ok
    assert str(tmp_path) in (report.problems[0].remedy or "")
    assert facts(report, "rows")["missing"] == 2


def test_a_table_of_something_else(tmp_path):
    (tmp_path / "t.csv").write_text("video,score\na.mp4,1\n")
    report = inspect(tmp_path / "t.csv")
    assert not report.ok
    assert "no column is called `path`" in report.problems[0].text
    assert facts(report, "rows")["rows"] == 1


def test_a_table_with_captions(tmp_path):
    (tmp_path / "t.csv").write_text(
        "path,text,caption_status\na.mp4,A red circle.,ok\nb.mp4,,missing_file\n"
    )
    report = inspect(tmp_path / "t.csv")
    assert report.ok
    assert report.verdict == "1 row of 2 has a flag"
    captions = facts(report, "captions")
    assert (captions["rows"], captions["with_a_caption"]) == (2, 1)
    assert captions["status"] == {"ok": 1, "missing_file": 1}


def test_results_without_captions_are_no_table_to_caption(tmp_path):
    (tmp_path / "t.csv").write_text("path,caption_status\na.mp4,ok\nb.mp4,missing_file\n")
    report = inspect(tmp_path / "t.csv")
    assert not report.ok
    assert facts(report, "rows") == {"rows": 2, "status_ok": 1, "status_missing_file": 1}


def test_a_damaged_table_is_an_error(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(TableError, match=r"t\.parquet"):
        inspect(tmp_path / "t.parquet")


def test_a_folder(clips, tmp_path):
    for name in ("h264", "vp9"):
        (tmp_path / clips[name].name).symlink_to(clips[name])
    report = inspect(tmp_path)
    assert (report.kind, report.ok) == ("folder", True)
    assert facts(report, "rows")["rows"] == 2
    assert facts(report, "videos_opened")["opened"] == 2


def test_the_sample_of_a_large_table():
    sample = _spread(1_000_000)
    assert sample[:LOOKED_FOR] == list(range(LOOKED_FOR))
    assert sample[-1] == 999_999
    assert len(set(sample)) == len(sample) <= 2 * LOOKED_FOR
    assert _spread(5) == [0, 1, 2, 3, 4]
    assert sorted(_spread(1001)) == list(range(1001))


def test_a_video(clips):
    report = inspect(clips["sound"])
    assert report.ok
    file = facts(report, "file")
    assert (file["frames"], file["frame_rate"], file["codec"]) == (8, 25.0, "h264")
    assert file["sound"] is True
    assert file["size"] == clips["sound"].stat().st_size
    seen = facts(report, "seen_by_qwen2vl")
    width, height = file["frame_size"]
    rule = FrameRule()
    assert seen["reader"] == "pyav"
    assert seen["frames_sampled"] == 4
    assert seen["visual_tokens"] == rule.tokens(4, height, width)
    assert seen["resized_to"] == list(rule.size(height, width))[::-1]


def test_a_turned_video(clips):
    upright = facts(inspect(clips["turned180"]), "file")["frame_size"]
    turned = facts(inspect(clips["turned90"]), "file")
    assert turned["frame_size"] == upright[::-1]
    assert turned["rotation"] in (90, -270)


@pytest.mark.parametrize("name", ["text", "empty", "audio_only"])
def test_a_video_without_frames(clips, name):
    report = inspect(clips[name])
    assert not report.ok
    assert "decode_error" in report.verdict


def test_a_wrong_frame_rate_is_told(clips):
    report = inspect(clips["rate1000"])
    assert report.ok
    assert "frame rate" in report.problems[0].text
