"""What a gallery is made of: its pictures, its rows, and where it is put."""

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.captioned import write_captioned
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect.gallery import make, pictures
from vidcap_cli.inspect.gallery.strips import HEIGHT, WIDTH, Spread, Strip, read_strip
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.options import InspectOptions
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.statuses import Flag
from vidcap_cli.video import VideoError


def gallery(target: Path, page: Path, **wanted: Any) -> str:
    """Make a gallery; what the report says of it."""
    return inspect(target, InspectOptions(html=page, **wanted)).verdict


def data(page: Path, place: str) -> Any:
    text = page.read_text(encoding="utf-8")
    return json.loads(
        re.search(rf'<script type="application/json" {place}>(.*?)</script>', text)[1]
    )


def about(page: Path) -> Any:
    return data(page, 'id="about"')


def rows(page: Path) -> Any:
    """The first piece of rows of a page that carries them."""
    return data(page, 'class="piece"')


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    return file


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 100, 12_345])
@pytest.mark.parametrize("number", [1, 4, 12])
def test_frames_of_a_strip_are_spread_over_the_video(total, number):
    found = Spread(number).indices(total, 25.0)
    assert len(found) == min(total, number)
    assert (np.diff(found) > 0).all()
    # Each in the middle of its part.
    part = total / len(found)
    assert np.abs(found + 0.5 - part * (np.arange(len(found)) + 0.5)).max() <= 0.5


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (100, 100), (2, 4000), (4000, 2)])
def test_pictures_have_a_bound_and_keep_their_shape(size):
    frames = np.zeros((2, *size, 3), np.uint8)
    made = Spread(2).prepare(frames, 2)
    _, height, width, _ = made.shape
    assert 1 <= height <= HEIGHT
    assert 1 <= width <= WIDTH
    assert height * size[1] == pytest.approx(width * size[0], rel=0.02, abs=max(size))


def test_a_strip_shows_its_frames_side_by_side(clips):
    strip = read_strip(str(clips["h264"]), Spread(3))
    assert isinstance(strip, Strip)
    picture = np.asarray(Image.open(io.BytesIO(strip.picture)).convert("RGB"), np.float64)
    assert picture.shape == (strip.height, 3 * strip.width, 3)
    assert strip.source_frames / strip.source_fps == pytest.approx(48 / 25)
    alone = [read_strip(str(clips["h264"]), Only(place)) for place in strip.indices]
    for place, one in enumerate(alone):
        inside = picture[:, place * strip.width : (place + 1) * strip.width]
        other = np.asarray(Image.open(io.BytesIO(one.picture)).convert("RGB"), np.float64)
        assert np.abs(inside - other).mean() < 4


class Only(Spread):
    """One frame of all."""

    def indices(self, total, fps):
        return np.array([self.number])


def test_what_is_no_video_has_no_strip(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError):
        read_strip(str(tmp_path / "x.mp4"), Spread(4))


def test_a_bad_video_costs_its_own_strip(tmp_path, clips):
    files = [clips["h264"], tmp_path / "not there.mp4", clips["cut_tail"], clips["audio_only"]]
    table = write(tmp_path / "t.csv", [{"path": str(f), "text": "A caption."} for f in files])
    gallery(table, tmp_path / "g.html", thumbnails=2)
    found = rows(tmp_path / "g.html")
    assert list(found["strips"]) == ["0", "2"]
    assert found["strips"]["0"][0] == 2
    assert list(data(tmp_path / "g.html", 'id="pictures"')) == list(found["strips"])
    assert found["numbers"]["duration"][0] == pytest.approx(1.92)
    assert found["numbers"]["duration"][1] is None
    assert found["link"][1] == ""


def test_links_lead_from_the_page_to_the_video(tmp_path, clips):
    (tmp_path / "data" / "a b").mkdir(parents=True)
    (tmp_path / "pages").mkdir()
    names = ["a b/50% #1?.mp4", "javascript:alert(1).mp4", "ü.mp4"]
    for name in names:
        (tmp_path / "data" / name).write_bytes(clips["h264"].read_bytes())
    table = write(tmp_path / "data/t.csv", [{"path": n, "text": "A caption."} for n in names])
    gallery(table, tmp_path / "pages" / "g.html", thumbnails=0)
    assert rows(tmp_path / "pages" / "g.html")["link"] == [
        "../data/a%20b/50%25%20%231%3F.mp4",
        "../data/javascript%3Aalert%281%29.mp4",
        "../data/%C3%BC.mp4",
    ]


def test_a_table_of_the_original_scripts_has_its_statuses_told(tmp_path):
    table = write(
        tmp_path / "t.csv",
        [
            {"path": f"{fps}.mp4", "text": text, "num_frames": 50, "fps": fps}
            for text, fps in [(" ", 25), ("A circle.", 20), ("A circle.", 0), ("A circle.", "none")]
        ],
    )
    assert f"4 rows shown in {tmp_path / 'g.html'}" in gallery(table, tmp_path / "g.html")
    found = about(tmp_path / "g.html")
    assert found["statuses"] == [{"name": "empty", "rows": 1}, {"name": "ok", "rows": 3}]
    flags = {flag["name"]: flag["rows"] for flag in found["flags"]}
    assert flags == {"empty": 1, "duplicate": 3}
    assert rows(tmp_path / "g.html")["numbers"]["duration"] == [2, 2.5, None, None]
    assert found["summary"] == "4 rows · 3 captioned · 4 flagged"


def test_what_is_no_number_is_none(tmp_path):
    tokens = ["7", "", "many", "inf", "1e300", "nan", "-0.5"]
    rows_ = [{"path": f"{n}.mp4", "text": "A circle.", "caption_new_tokens": value}
             for n, value in enumerate(tokens)]  # fmt: skip
    gallery(write(tmp_path / "t.csv", rows_), tmp_path / "g.html")
    assert rows(tmp_path / "g.html")["numbers"]["tokens"] == [7, *[None] * 5, -0.5]


def test_files_elsewhere_are_not_downloaded(tmp_path):
    row = {"path": "https://localhost:1/x.mp4", "text": "A circle."}
    gallery(write(tmp_path / "t.csv", [row]), tmp_path / "g.html")
    assert about(tmp_path / "g.html")["strips"] == 0
    assert rows(tmp_path / "g.html")["link"] == [""]


@pytest.mark.parametrize("now", [1, 3])
def test_a_table_that_is_replaced_meanwhile_is_named(tmp_path, monkeypatch, now):
    lines = [{"path": f"{row}.mp4", "text": f"caption {row}"} for row in range(3)]
    table = write(tmp_path / "m.csv", lines[:2])

    def replaced(*_: Any, **__: Any) -> dict[str, Any]:
        write(table, lines[:now])
        return {}

    monkeypatch.setattr(make, "videos_to_show", replaced)
    with pytest.raises(TableError, match=r"m\.csv: it changed while it was read: repeat"):
        gallery(table, tmp_path / "g.html")
    assert not (tmp_path / "g.html").exists()


def test_flags_of_captioning_and_of_inspect_stand_together(tmp_path):
    row = {"path": "x.mp4", "text": "It goes on and", "caption_status": "ok"}
    row |= {"caption_error": "", "caption_flags": "hdr,cut, news"}
    table = write(tmp_path / "t.csv", [row])
    gallery(table, tmp_path / "g.html")
    names = [flag["name"] for flag in about(tmp_path / "g.html")["flags"]]
    assert [names[flag] for flag in rows(tmp_path / "g.html")["flags"][0]] == ["cut", "hdr", "news"]


def test_flags_are_counted_as_inspect_counts_them(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(
        "path,text,caption_status,caption_error,caption_flags\n"
        "a.mp4,A circle moves.,ok,,hdr\nb.mp4,,oom,,\nc.mp4,A square rests.,ok,,\n"
    )
    report = inspect(table, InspectOptions(html=tmp_path / "g.html"))
    assert report.verdict.startswith("1 row of 3 has a flag")
    found = about(tmp_path / "g.html")
    assert found["summary"] == "3 rows · 2 captioned · 1 flagged"
    assert {flag["name"]: flag["rows"] for flag in found["flags"]} == {"hdr": 1, "failed": 1}
    assert report.as_dict()["facts"]["captions"]["noted_by_captioning"] == {"hdr": 1}


def test_every_flag_has_a_meaning():
    assert make._MEANS.keys() == {*Flag, *Fault}


def test_of_many_videos_flagged_ones_come_first(tmp_path, monkeypatch):
    table = write_captioned(tmp_path, 60, clips=2)
    monkeypatch.setattr(pictures, "STRIPS", 10)
    gallery(table, tmp_path / "g.html", thumbnails=1)
    found = rows(tmp_path / "g.html")
    shown = [int(row) for row in found["strips"]]
    assert 5 <= len(shown) <= 10
    assert sum(bool(found["flags"][row]) for row in shown) >= 5
    gallery(table, tmp_path / "g.html", thumbnails=1, all_videos=True)
    frames = {"missing_file", "decode_error"}
    found, words = rows(tmp_path / "g.html"), about(tmp_path / "g.html")["statuses"]
    there = [words[status]["name"] not in frames for status in found["status"]]
    assert len(found["strips"]) == sum(there)


def test_a_gallery_of_a_folder_takes_the_place_of_its_own_alone(tmp_path, monkeypatch):
    table = write_captioned(tmp_path, 3, clips=1)
    page, folder = tmp_path / "g.html", tmp_path / "g_files"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="g_files is in the way, and no gallery made it"):
        gallery(table, page)
    assert (folder / "mine.txt").read_text() == "keep"
    assert not page.exists()
    (folder / "mine.txt").unlink()
    folder.rmdir()
    monkeypatch.setattr(make, "ONE_FILE", 0)
    assert gallery(table, page).endswith(f"shown in {page}, which belongs to {folder}")
    assert sorted(file.name for file in folder.rglob("*")) == [
        "0.webp", "1.webp", "2.webp", "rows-0.js", "strips-0", "vidcap-gallery",
    ]  # fmt: skip
    assert about(page)["folder"] == "g_files"
    before = page.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(make, "page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gallery(table, page)
    assert page.read_bytes() == before
    assert not (tmp_path / "g_files.next").exists()
    monkeypatch.undo()
    gallery(table, page)
    assert not folder.exists()
    assert len(data(page, 'id="pictures"')) == 3


def test_a_run_is_shown_as_it_stands(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text("path,other\n" + "".join(f"{n}.mp4,x\n" for n in range(4)))
    run = RunDir(tmp_path / "m.vidcap")
    options = {"caption_column": "caption"}  # of the table, not of what the model wrote
    make_plan(meta, run, CaptionConfig(family="qwen2vl", model="/m"), options)
    run.parts.mkdir()
    results = [
        Result(0, "0.mp4", "ok", "A red circle.", new_tokens=5, frames=8, infer_s=1.5),
        Result(1, "1.mp4", "decode_error", error="no!"),
        Result(3, "3.mp4", "ok", "A blue circle.", new_tokens=6, frames=9, infer_s=2.5),
    ]
    write_part(run.part(1, 0, 0, "parquet"), results)
    meta.write_text("path\nchanged.mp4\n")  # what is captioned is what was planned
    verdict = gallery(run.path, tmp_path / "g.html")
    words = f"not finished: 1 row left, 1 failed; 4 rows shown in {tmp_path / 'g.html'}; none of "
    assert verdict.startswith(words)
    found, words = rows(tmp_path / "g.html"), about(tmp_path / "g.html")["statuses"]
    statuses = [words[status]["name"] for status in found["status"]]
    assert statuses == ["ok", "decode_error", "missing", "ok"]
    assert found["text"] == ["A red circle.", "", "", "A blue circle."]
    assert found["error"] == ["", "no!", "", ""]
    assert found["numbers"]["tokens"] == [5, None, None, 6]
    assert found["numbers"]["seconds"] == [1.5, None, None, 2.5]
    assert about(tmp_path / "g.html")["title"] == "m.vidcap"


def test_of_several_questions_one_is_shown(tmp_path):
    meta = write(tmp_path / "t.csv", [{"path": "x.mp4"}])
    run = RunDir(tmp_path / "t.vidcap")
    asked = {"long": "Describe it", "short": "What?"}
    make_plan(meta, run, CaptionConfig(family="qwen2vl", model="/m", question=asked))
    run.parts.mkdir()
    said = {"long": "A red circle moves.", "short": "A circle."}
    answers = {name: {"text": text} for name, text in said.items()}
    result = Result(0, "x.mp4", "ok", said["long"], answers=json.dumps(answers))
    write_part(run.part(1, 0, 0, "parquet"), [result])
    for column, text in ((None, said["long"]), ("short", said["short"])):
        gallery(run.path, tmp_path / "g.html", caption_column=column)
        assert rows(tmp_path / "g.html")["text"] == [text]
    with pytest.raises(UsageError, match="captions called long, short; name one"):
        gallery(run.path, tmp_path / "g.html", caption_column="text")


@pytest.mark.parametrize("of_run", [False, True], ids=["table", "run"])
def test_a_range_of_a_video_is_shown_as_one(tmp_path, clips, of_run):
    table = tmp_path / "t.csv"
    video = clips["h264"]
    ranges = [("0:00:00.4", "0.8"), ("", "")]
    rows_ = [{"path": str(video), "start": start, "end": end} for start, end in ranges]
    if of_run:
        run = RunDir(tmp_path / "t.vidcap")
        make_plan(write(table, rows_), run, CaptionConfig(family="qwen2vl", model="/m"))
        run.parts.mkdir()
        names = [f"{video}#t=0.4,0.8", str(video)]
        results = [Result(n, name, "ok", "A bicycle.") for n, name in enumerate(names)]
        write_part(run.part(1, 0, 0, "parquet"), results)
    else:
        write(table, [{**row, "text": "A bicycle."} for row in rows_])
    gallery(tmp_path / "t.vidcap" if of_run else table, tmp_path / "g.html", thumbnails=1)
    found = rows(tmp_path / "g.html")
    assert found["text"] == ["A bicycle."] * 2
    assert found["path"] == [f"{video}#t=0.4,0.8", str(video)]
    assert found["numbers"]["duration"] == pytest.approx([0.4, 1.92])
    address, fragment = found["link"][0].split("#")
    assert (address, fragment) == (found["link"][1], "t=0.4,0.8")
    assert (tmp_path / address).samefile(video)


def test_columns_that_hold_no_times_are_no_ranges(tmp_path):
    row = {"path": "x.mp4", "text": "A circle.", "start": "soon", "end": "later"}
    gallery(write(tmp_path / "t.csv", [row]), tmp_path / "g.html")
    assert rows(tmp_path / "g.html")["path"] == ["x.mp4"]


def test_what_cannot_be_is_told_before_anything_is_read(tmp_path, clips):
    table = write(tmp_path / "t.csv", [{"path": "x.mp4", "text": "A caption."}])
    videos = write(tmp_path / "v.csv", [{"path": "x.mp4"}])
    for target, page, words in (
        (table, tmp_path / "g.txt", "a page is called .html"),
        (table, tmp_path / "none" / "g.html", "does not exist"),
        (clips["h264"], tmp_path / "g.html", "--html says nothing about a video"),
        (videos, tmp_path / "g.html", "--html says nothing about the videos of a table"),
    ):
        with pytest.raises(UsageError, match=words):
            gallery(target, page)
    with pytest.raises(UsageError, match="--thumbnails says nothing about"):
        inspect(table, InspectOptions(thumbnails=2))
    (tmp_path / "empty.csv").write_text("path,text\n")
    with pytest.raises(TableError, match="no rows"):
        gallery(tmp_path / "empty.csv", tmp_path / "g.html")
    assert not (tmp_path / "g.html").exists()


def test_a_gallery_whose_videos_are_elsewhere_says_so(tmp_path):
    table = write(tmp_path / "t.csv", [{"path": "a.mp4", "text": "A cat.", "caption_status": "ok"}])
    words = "none of the videos could be read: relative paths start from "
    assert f"{words}{tmp_path} or " in gallery(table, tmp_path / "g.html")
    assert words not in gallery(table, tmp_path / "g.html", thumbnails=0)


def test_the_run_beside_a_table_knows_where_its_videos_are(tmp_path, clips):
    (tmp_path / "data").mkdir()
    shutil.copy(clips["h264"], tmp_path / "data" / "a.mp4")
    (tmp_path / "data" / "meta.csv").write_text("path\na.mp4\n")
    table = write(tmp_path / "t.csv", [{"path": "a.mp4", "text": "A cat.", "caption_status": "ok"}])
    config = CaptionConfig("qwen2vl", "/models/qwen")
    make_plan(tmp_path / "data" / "meta.csv", RunDir(tmp_path / "t.vidcap"), config)
    assert "none of the videos" not in gallery(table, tmp_path / "g.html")
