"""One run over real videos in every codec and container, and over everything that is none.

Two ranks, the real command. A file without end hangs its decoder for real; a decoder that is
killed while it reads another stands for one that aborts.
"""

import os
import signal
import threading
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.helpers.clips import endless, source
from tests.helpers.commands import Command, rows_of
from vidcap_cli.tables import open_table

CAPTIONED = [
    "h264", "h264_mkv", "h264_ts", "h264_avi", "h264_open_gop", "hevc", "hevc_open_gop", "vp8",
    "vp9", "av1", "mpeg4", "mpeg4_avi", "mpeg2", "wmv", "portrait144", "odd", "ten_bit",
    "frames1", "frames2", "frames3", "turned90", "turned180", "sound", "uneven", "rate1000",
    "rate3300", "cut_tail", "flipped",
]  # fmt: skip
BROKEN = ["audio_only", "cut_most", "cut_no_index", "codec", "empty", "text", "folder"]
ORIGINALS = ["bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted"]
NOTES = ["plain", "with, comma", 'a "quoted" word', "two\nlines", "ünïcödé 影片", "", "007"]


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("real")
    paths = {name: str(clips[name]) for name in CAPTIONED + BROKEN}
    paths |= {name: str(source(name)) for name in ORIGINALS}
    paths |= {"missing": "nowhere/gone.mp4", "hang": "hang.mpg", "abort": "abort.mpg"}
    paths["pipe"] = "pipe.mp4"
    # Relative paths resolve against the table's folder.
    (folder / "here.mp4").write_bytes(clips["h264"].read_bytes())
    paths["relative"] = "here.mp4"
    for name in ("hang", "abort"):
        endless(clips["mpeg2"], folder / paths[name])
    os.mkfifo(folder / "pipe.mp4")
    names = list(paths)
    with (folder / "meta.csv").open("w", encoding="utf-8", newline="") as table:
        table.write("id,path,note\n")
        for index, name in enumerate(names):
            note = NOTES[index % len(NOTES)].replace('"', '""')
            quoted = f'"{note}"' if any(c in note for c in ',"\n') else note
            table.write(f"{index:03d},{paths[name]},{quoted}\n")
    arguments = [
        *("qwen2vl", "meta.csv", "--model", "nano", "--worker-num", "2", "--bs", "4"),
        *("--max-new-tokens", "24", "--decode-timeout", "12", "--all-columns"),
        *("--resize", "exact", "--height", "112", "--width", "140"),  # few graphs to compile
    ]
    command = Command(arguments, folder)
    killer = threading.Thread(target=kill_reader_of, args=(command, folder / "abort.mpg"))
    killer.start()
    code, out, err = command.finish(timeout=400)
    killer.join()
    rows = rows_of(folder / "meta_caption_qwen2vl.csv")
    return {"code": code, "out": out, "err": err, "names": names, "rows": rows, "folder": folder}


def kill_reader_of(command: Command, path: Path) -> None:
    """Abort the decoder process that has ``path`` open."""
    victims = []
    while not victims:
        victims = [process for process in command.processes() if has_open(process, path)]
    victims[0].send_signal(signal.SIGABRT)


def has_open(process: psutil.Process, path: Path) -> bool:
    folder = Path(f"/proc/{process.pid}/fd")
    try:
        return any(os.readlink(link) == str(path) for link in folder.iterdir())
    except OSError:  # the process or a descriptor went away meanwhile
        return False


def test_every_row_ends_with_the_right_status(finished):
    assert finished["code"] == 3, finished["err"]
    expected = dict.fromkeys([*CAPTIONED, *ORIGINALS, "relative"], "ok")
    expected |= dict.fromkeys([*BROKEN, "abort", "pipe"], "decode_error")
    expected |= {"missing": "missing_file", "hang": "decode_timeout"}
    statuses = {
        name: row["caption_status"]
        for name, row in zip(finished["names"], finished["rows"], strict=True)
    }
    assert statuses == expected


def test_failed_rows_have_no_text_and_a_reason(finished):
    rows = dict(zip(finished["names"], finished["rows"], strict=True))
    for row in rows.values():
        assert bool(row["text"]) == (row["caption_status"] == "ok")
        assert bool(row["caption_error"]) == (row["caption_status"] != "ok")
    assert "SIGABRT" in rows["abort"]["caption_error"]
    assert "12 seconds" in rows["hang"]["caption_error"]
    for name in [*BROKEN, "hang", "abort", "pipe", "missing"]:
        path, status = rows[name]["path"], rows[name]["caption_status"]
        lines = [line for line in finished["err"].splitlines() if path in line]
        assert any(f"{status}: {rows[name]['caption_error']}" in line for line in lines), name


def test_the_table_keeps_order_columns_and_values(finished):
    rows = finished["rows"]
    assert [row["id"] for row in rows] == [f"{index:03d}" for index in range(len(rows))]
    assert [row["note"] for row in rows] == [NOTES[i % len(NOTES)] for i in range(len(rows))]
    assert list(rows[0])[:7] == [
        "id", "path", "note", "text", "caption_status", "caption_error", "caption_flags",
    ]  # fmt: skip


def test_rows_tell_their_reader_and_what_was_done_to_them(finished):
    rows = dict(zip(finished["names"], finished["rows"], strict=True))
    readers = {name: rows[name]["caption_reader"] for name in ("h264", "portrait144", "h264_ts")}
    assert readers == dict.fromkeys(readers, "pyav")
    flags = {name: rows[name]["caption_flags"] for name in ("h264", "rate1000", "cut_tail")}
    assert flags == {"h264": "", "rate1000": "frame_rate", "cut_tail": "damaged,truncated"}
    assert rows["frames1"]["caption_frames"] == "2"
    assert {row["caption_rank"] for row in finished["rows"]} == {"0", "1"}


def test_nothing_but_progress_reaches_the_terminal(finished):
    assert finished["out"] == ""
    assert "\x1b" not in finished["err"]
    first = finished["err"].splitlines()[0]
    assert first.startswith("vidcap qwen2vl")


def test_parts_are_parquet_in_the_schema(finished):
    parts = sorted((finished["folder"] / "meta_caption_qwen2vl.vidcap" / "parts").iterdir())
    assert parts
    assert sum(pq.read_metadata(part).num_rows for part in parts) == len(finished["rows"])
    assert open_table(finished["folder"] / "meta_caption_qwen2vl.csv")
