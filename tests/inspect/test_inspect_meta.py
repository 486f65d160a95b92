"""Tables, folders and videos, with real files."""

import csv
import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import vidcap
from tests.helpers.servers import Files
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.inspect import inspect, meta
from vidcap_cli.inspect.meta import LOOKED_FOR, _spread
from vidcap_cli.options import InspectOptions
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.video import probe


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
    assert (videos["opened"], videos["readable"]) == (5, 4)
    assert videos["codec"] == {"h264": 2, "vp9": 1, "hevc": 1}
    # 48 frames at 25 a second; the one with sound has 8.
    duration = videos["duration"]
    assert (duration["min"], duration["median"], duration["max"]) == (0.32, 1.92, 1.92)
    assert sum(duration["counts"]) == 4
    assert videos["qwen2vl_frames"]["max"] == 6
    texts = " | ".join(problem.text for problem in report.problems)
    assert "1 of the 7 files looked for does not exist: gone.mp4" in texts
    assert "text.mp4 · decode_error" in texts
    json.dumps(report.as_dict())


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_a_video_is_judged_as_a_run_judges_it(clips, tmp_path, monkeypatch, seconds):
    """While there is time for it; then a frame is all that is looked at, and that is told."""
    monkeypatch.setattr("vidcap_cli.inspect.videos._WHOLE_SECONDS", seconds)
    damaged = Path(__file__).parents[1] / "data" / "media" / "damaged" / "0193-be32-b.mp4"
    for file in (damaged, clips["h264"]):
        (tmp_path / file.name).symlink_to(file)
    alone = inspect(damaged)
    why = "decode_error: damaged: only 2 of 50 frames can be decoded"
    assert [problem.text for problem in alone.problems] == [why]
    report = inspect(tmp_path, InspectOptions(all_videos=True))
    texts = " | ".join(problem.text for problem in report.problems)
    opened = facts(report, "videos_opened")
    if seconds:
        assert report.verdict == "1 of 2 videos opened can be captioned"
        assert f"0193-be32-b.mp4 · {why}" in texts
        assert "by_one_frame" not in opened
    else:
        assert (opened["readable"], opened["by_one_frame"]) == (2, 2)


def test_column_types_of_parquet(clips, tmp_path):
    table = pa.table({"path": [str(clips["h264"])], "score": [0.5], "tags": [["a"]]})
    pq.write_table(table, tmp_path / "meta.parquet")
    columns = facts(inspect(tmp_path / "meta.parquet"), "columns")
    assert columns["score"] == "double"
    assert columns["tags"].startswith("list<")


def test_a_table_whose_files_are_all_gone(tmp_path):
    report = inspect(write_table(tmp_path / "meta.csv", ["a.mp4", "b.mp4"]))
    assert not report.ok
    assert f"relative paths start from {tmp_path}" in report.problems[0].text
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
    rows = 1_000_000
    sample = _spread(rows)
    assert [row * LOOKED_FOR // rows for row in sample] == list(range(LOOKED_FOR))
    assert sample == _spread(rows)
    odd = sum(row % 2 for row in sample) / LOOKED_FOR
    assert 0.4 < odd < 0.6  # not of a kind, as every 500th would be
    assert _spread(5) == [0, 1, 2, 3, 4]
    assert 1990 < len(set(_spread(2001))) <= LOOKED_FOR


@pytest.mark.parametrize("there", [slice(0, 500), slice(9500, None), slice(0, None, 20)])
def test_totals_of_a_sample_are_those_of_the_table(clips, tmp_path, there):
    """Wherever in the table the files are that exist."""
    names = [f"{row}.mp4" for row in range(10_000)]
    for name in names[there]:
        (tmp_path / name).symlink_to(clips["h264"])
    meta = tmp_path / "meta.csv"
    meta.write_text("\n".join(["path", *names]) + "\n")
    found = facts(inspect(meta), "rows")
    assert found["looked_for"] == LOOKED_FOR
    assert abs(found["missing"] / LOOKED_FOR - 0.95) < 0.02
    assert abs(found["size_of_all"] / (500 * clips["h264"].stat().st_size) - 1) < 0.4


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


def test_videos_turned_or_hdr_are_counted(clips, tmp_path):
    names = ("h264", "turned90", "turned180")
    table = write_table(tmp_path / "meta.csv", [clips[name] for name in names])
    videos = facts(inspect(table), "videos_opened")
    assert (videos["rotated"], videos["hdr"]) == (2, 0)


def test_why_videos_cannot_be_read_is_grouped(clips, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(clips["text"].read_bytes())
    paths = [f"{number}.mp4" for number in range(3)]
    report = inspect(write_table(tmp_path / "meta.csv", [*paths, clips["empty"], clips["h264"]]))
    why = facts(report, "details")["unreadable"]
    assert [(one["status"], one["videos"]) for one in why] == [
        ("decode_error", 3),
        ("decode_error", 1),
    ]
    texts = [problem.text for problem in report.problems]
    assert sum("text, not a video file (and 2 more)" in text for text in texts) == 1


def test_a_sample_or_all(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(meta, "OPENED", 2)
    for number in range(6):
        (tmp_path / f"{number}.mp4").symlink_to(clips["h264"])
    table = write_table(tmp_path / "meta.csv", [f"{number}.mp4" for number in range(6)])
    assert facts(inspect(table), "videos_opened")["opened"] == 2
    videos = facts(inspect(table, InspectOptions(all_videos=True)), "videos_opened")
    assert videos["opened"] == 6
    assert videos["duration_of_all"] == round(6 * 1.92)


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ("score", ""),
        ("text", "--caption-column caption"),
        ("text,caption", "--overwrite-column"),
        ("caption_status", "--overwrite-column"),
    ],
)
def test_the_command_that_captions_a_table_is_taken(clips, tmp_path, columns, options):
    """As it is told, with what the table needs; only the model is not here."""
    table = tmp_path / "meta.csv"
    ones = ",".join("1" for _ in columns.split(","))
    table.write_text(f"path,{columns}\n{clips['h264']},{ones}\n")
    command = inspect(table, InspectOptions(all_videos=True)).steps[0].command
    assert command == f"vidcap qwen2vl {table} --model Qwen/Qwen2-VL-2B-Instruct {options}".strip()
    words = shlex.split(command.replace("Qwen/Qwen2-VL-2B-Instruct", "nano"))
    code, _, err = vidcap(*words[1:], "--dry-run", cwd=tmp_path)
    assert code == 0, err


def test_files_and_spellings_add_up(clips, tmp_path):
    (tmp_path / "x.mp4").mkdir()
    (tmp_path / "a.mp4").symlink_to(clips["h264"])
    names = ["a.mp4", "./a.mp4", "x.mp4", "gone.mp4", "./../gone.mp4", "a.mp4"]
    report = inspect(write_table(tmp_path / "meta.csv", names), InspectOptions(all_videos=True))
    rows = facts(report, "rows")
    assert (rows["looked_for"], rows["missing"], rows["no_file"]) == (5, 2, 1)
    assert (rows["repeated_paths"], rows["other_spellings"]) == (1, 1)
    opened = facts(report, "videos_opened")["opened"]
    assert opened == 5 - 2 - 1 - 1
    texts = "\n".join(problem.text for problem in report.problems)
    assert "1 of the 5 files looked for is a folder or the like: x.mp4" in texts
    assert "-o FILE writes a table with what the videos hold, in the same pass" in texts


PROBED = ["num_frames", "height", "width", "aspect_ratio", "fps", "resolution"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_with_what_its_videos_hold(clips, tmp_path, form):
    """Every row in META's order and types; a column that is there already is replaced."""
    rows = {
        "path": [str(clips["h264"]), "gone.mp4", str(clips["text"]), str(clips["turned90"]),
                 str(clips["h264"])],
        "fps": [1.0] * 5,
        "score": [0.5, 0.25, 1.0, 2.0, 3.0],
        "text": ["a"] * 5,
    }  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "meta.parquet")
    out = tmp_path / f"out.{form}"
    report = inspect(tmp_path / "meta.parquet", InspectOptions(output=out))
    assert report.verdict == f"5 rows written to {out}"
    found = pq.read_table(out) if form == "parquet" else pacsv.read_csv(out)
    assert found.column_names == ["path", "score", "text", *PROBED]
    assert found["score"].to_pylist() == rows["score"]
    good, gone, text, turned, again = found.select(PROBED).to_pylist()
    info, other = probe(clips["h264"]), probe(clips["turned90"])
    assert good == again == {
        "num_frames": 48, "height": info.height, "width": info.width,
        "aspect_ratio": info.height / info.width, "fps": 25.0,
        "resolution": info.height * info.width,
    }  # fmt: skip
    assert (turned["height"], turned["width"]) == (other.height, other.width)
    unread = {**dict.fromkeys(PROBED), "num_frames": 0, "height": 0, "width": 0}
    assert gone == text == unread


def test_unreadable_rows_can_be_left_out(clips, tmp_path):
    paths = [clips["text"], clips["h264"], "gone.mp4", clips["vp9"]]
    table = write_table(tmp_path / "meta.csv", paths)
    report = inspect(table, InspectOptions(output=tmp_path / "out.csv", drop_unreadable=True))
    assert report.verdict.startswith("2 rows written to")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == ",".join(["id", "path", *PROBED])
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "3"]


def test_a_folder_becomes_a_table_that_can_be_captioned_anywhere(clips, tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").symlink_to(clips["h264"])
    inspect(tmp_path / "v", InspectOptions(output=tmp_path / "out.csv"))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1].startswith(f"{tmp_path / 'v' / 'a.mp4'},48,")


def test_probing_that_makes_no_sense_is_refused(clips, tmp_path):
    table = write_table(tmp_path / "meta.csv", [clips["h264"]])
    with pytest.raises(UsageError, match="is the table of videos itself"):
        inspect(table, InspectOptions(output=table))
    with pytest.raises(UsageError, match="--drop-unreadable is about the table of -o"):
        inspect(table, InspectOptions(drop_unreadable=True))
    with pytest.raises(UsageError, match="--all says nothing about a video"):
        inspect(clips["h264"], InspectOptions(all_videos=True))
    (tmp_path / "t.csv").write_text("video\na.mp4\n")
    with pytest.raises(TableError, match="no column is called `path`"):
        inspect(tmp_path / "t.csv", InspectOptions(output=tmp_path / "out.csv"))


def test_ranges_of_videos(clips, tmp_path):
    """Each counts by itself, in the table that is written too; a file is one however often."""
    table = tmp_path / "meta.csv"
    video = clips["h264"]
    table.write_text(
        f"path,start,end\n{video},0,1\n{video},1,\n{video},1,\n{video},7,8\n{video},,\n"
    )
    report = inspect(table, InspectOptions(output=tmp_path / "out.csv"))
    rows, videos = facts(report, "rows"), facts(report, "videos_opened")
    assert (rows["rows"], rows["repeated_paths"], rows["file_types"]) == (5, 1, {".mp4": 5})
    assert (videos["opened"], videos["readable"]) == (4, 3)
    assert (videos["frames"]["min"], videos["frames"]["max"]) == (23, 48)
    assert "no frame is shown from 7 to 8 s" in report.problems[0].text
    with (tmp_path / "out.csv").open() as file:
        found = [(row["start"], row["num_frames"]) for row in csv.DictReader(file)]
    assert found == [("0", "25"), ("1", "23"), ("1", "23"), ("7", "0"), ("", "48")]


def test_scenes_of_videos(clips, tmp_path):
    table = tmp_path / "meta.csv"
    table.write_text(f'path,timestamp\n{clips["h264"]},"[(0, 1), (1, 1.5)]"\n')
    report = inspect(table)
    assert (facts(report, "rows")["rows"], facts(report, "videos_opened")["opened"]) == (2, 2)
    inspect(table, InspectOptions(output=tmp_path / "out.csv"))
    with (tmp_path / "out.csv").open() as file:
        assert [row["num_frames"] for row in csv.DictReader(file)] == ["48"]


def test_columns_that_are_called_like_ranges_and_are_none(clips, tmp_path):
    table = tmp_path / "meta.csv"
    table.write_text(f"path,start,end\n{clips['h264']},Monday,Friday\n")
    report = inspect(table)
    assert report.ok
    assert report.verdict == "1 of 1 video opened can be captioned"
    model = "--model Qwen/Qwen2-VL-2B-Instruct"  # which is not where it is by default
    assert report.steps[0].command == f"vidcap qwen2vl {table} {model} --ranges none"
    assert report.problems[0].text.startswith("row 0 (from 0), `start`, `end`: 'Monday' is no time")


def test_videos_elsewhere_are_opened(clips, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "v.mp4").write_bytes(clips["h264"].read_bytes())
    files = Files(folder)
    table = write_table(
        tmp_path / "meta.csv", [files.address("v.mp4"), files.address("none.mp4"), clips["h264"]]
    )
    report = inspect(table)
    files.shutdown()
    files.server_close()
    rows, videos = facts(report, "rows"), facts(report, "videos_opened")
    assert (rows["missing"], rows["elsewhere"]) == (0, 2)
    assert (videos["opened"], videos["readable"]) == (3, 2)
    assert "missing_file: there is no such file at this address" in report.problems[0].text
