"""The frames that ffmpeg shows, on small files that once gave others, and what is no video at all.

``data/media`` holds one file of each kind that went wrong.
"""

import csv
import importlib.util
import os
import shutil
import sys
import zlib
from base64 import b64encode
from pathlib import Path

import av
import numpy as np
import pytest

from tests.faults.scene import OUTPUT, Scene
from tests.helpers.clips import Exactly, decode_all, encode
from tests.video import corpus
from vidcap_cli.inspect.video import video_report
from vidcap_cli.video import VideoError, container, probe, read_frames

MEDIA = Path(__file__).parents[1] / "data" / "media"
ALSO = ("offset7.mkv", "twos.mkv", "twob.mp4", "cover.mp4")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
SOME = corpus.cases()[::14] + [case for case in corpus.cases() if case.name in ALSO]


def numbers(path: Path) -> tuple[list[int], tuple[str, ...], float]:
    clip = read_frames(path, corpus.RULES["every frame"])
    return clip.source_frames, clip.flags, clip.source_fps


@pytest.mark.parametrize("name", ["cut_g48", "cut_g48b", "trim_both"])
def test_what_an_edit_list_hides_is_decoded_and_not_shown(name):
    path = MEDIA / f"{name}.mp4"
    whole = read_frames(path, corpus.RULES["every frame"])
    truth = corpus.shown_by_ffmpeg(path)
    assert whole.source_frames == len(truth)
    assert np.abs(whole.frames.astype(int) - truth).max() <= corpus.LEVELS
    assert whole.flags == ()
    for rule in corpus.RULES.values():
        clip = read_frames(path, rule)
        np.testing.assert_array_equal(clip.frames, whole.frames[clip.indices])


@pytest.mark.parametrize("name", ["intra_refresh.mp4", "intra_refresh.mkv"])
def test_a_seek_into_an_intra_refresh_is_not_believed(name):
    truth = decode_all(MEDIA / name)
    for wanted in ([*range(6, 144, 6)], [50], [100, 143]):
        rule = corpus.Unresized(lambda _total, _fps, wanted=wanted: np.array(wanted))
        np.testing.assert_array_equal(read_frames(MEDIA / name, rule).frames, truth[wanted])


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "libx265", "libvpx-vp9"])
def test_a_table_of_key_frames_that_lies_is_not_believed(codec, clips, tmp_path):
    """Without the table (ISO 14496-12, 8.6.2) every frame counts as one to begin at."""
    frames = decode_all(clips["h264"])
    more = {"libx265": {"x265-params": "log-level=none"}, "libvpx-vp9": {"cpu-used": "8"}}
    encode(tmp_path / "a.mp4", frames, codec, options={"g": "48", **more.get(codec, {})})
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.count(b"stss") == 1
    (tmp_path / "b.mp4").write_bytes(data.replace(b"stss", b"free"))
    truth = decode_all(tmp_path / "a.mp4")
    for wanted in ([40], [3, 25, 47]):
        clip = read_frames(tmp_path / "b.mp4", Exactly(wanted))
        np.testing.assert_array_equal(clip.frames, truth[wanted])
        assert clip.flags == ()


@pytest.mark.parametrize(
    ("missing", "gop", "form", "flags"),
    [
        (5, 24, "mkv", ("truncated",)),
        (45, 24, "mkv", ()),
        (5, 60, "mkv", ("truncated",)),  # less than half can be shown, and all of it is there
        (5, 60, "ts", ("truncated",)),
    ],
)
def test_a_key_frame_that_comes_late_is_where_the_frames_begin(missing, gop, form, flags, tmp_path):
    options = (*X264, "-g", str(gop), "-x264-params", "scenecut=0")
    whole = corpus.make(corpus.Case("late key", f"whole.{form}", options), tmp_path)
    path = tmp_path / f"late.{form}"
    with av.open(str(whole)) as source, av.open(str(path), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[missing:-1]:
            packet.stream = stream
            sink.mux(packet)
    clip = read_frames(path, corpus.RULES["every frame"])
    shown = [*range((missing // gop + 1) * gop, 72)]
    assert [corpus.number_of(frame) for frame in clip.frames] == shown
    np.testing.assert_array_equal(clip.frames, corpus.shown_by_ffmpeg(path))
    assert clip.flags == flags


@pytest.mark.parametrize(("name", "frames"), [("ten_segments.ts", 240), ("jump.ts", 96)])
def test_joined_recordings_keep_their_rate(name, frames):
    assert numbers(MEDIA / name) == (frames, (), 24.0)
    truth = decode_all(MEDIA / name)
    clip = read_frames(MEDIA / name, corpus.RULES["qwen2vl 4 fps"])
    assert len(clip.indices) == frames // 24 * 4
    np.testing.assert_array_equal(clip.frames, truth[clip.indices])


def test_concealed_damage_is_flagged():
    assert "damaged" in numbers(MEDIA / "damaged" / "0187-flip1-l.mp4")[1]


def test_frames_that_a_decoder_leaves_out_without_a_word_are_missed():
    with pytest.raises(VideoError, match="only 2 of 50 frames can be decoded"):
        read_frames(MEDIA / "damaged" / "0193-be32-b.mp4", corpus.RULES["every frame"])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("segv/0048-atom-a.mp4", "header does not say what the pixels are"),
        ("segv/0075-trunc-l.mp4", "header does not say what the pixels are"),
        ("segv/0123-trunc-l.mp4", "header does not say what the pixels are"),
        ("webp.webp", "animated WebP"),
    ],
)
@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, corpus.RULES["the last"])])
def test_what_used_to_kill_the_decoder_is_named(name, part, read):
    with pytest.raises(VideoError, match=part) as caught:
        read(MEDIA / name)
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_frames_are_those_ffmpeg_shows(case, tmp_path):
    assert corpus.compare(case, corpus.make(case, tmp_path)).faults == []


@pytest.mark.slow
def test_frames_are_those_ffmpeg_shows_in_the_whole_corpus(capsys):
    assert len(corpus.cases()) >= 200
    assert corpus.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "second", "default"),
    [
        ("96x56", "192x112", ("0", "0")),  # the largest
        ("192x112", "96x56", ("0", "default")),  # the default one, whatever its size
        ("192x112", "192x112", ("0", "0")),  # the first of equals
    ],
)
@pytest.mark.parametrize("form", ["mkv", "mp4"])
def test_probe_inspect_and_reading_agree_with_ffmpeg_on_the_stream(
    first, second, default, form, tmp_path
):
    split = f"[0:v]split[a][b];[a]scale={first}[one];[b]negate,scale={second}[two]"
    options = (
        *("-filter_complex", split, "-map", "[one]", "-map", "[two]", *X264),
        *("-disposition:v:0", default[0], "-disposition:v:1", default[1]),
    )
    path = corpus.make(corpus.Case("two streams", f"two.{form}", options, count=12), tmp_path)
    truth = corpus.shown_by_ffmpeg(path)
    height, width = truth.shape[1:3]
    np.testing.assert_array_equal(read_frames(path, corpus.RULES["every frame"]).frames, truth)
    assert (probe(path).height, probe(path).width) == (height, width)
    file = {fact.label: fact.value for fact in video_report(path).sections[0].facts}
    assert file["frame size"] == [width, height]


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    corpus._ffmpeg(
        *("-f", "lavfi", "-i", "sine=d=1", "-f", "lavfi", "-i", "color=red:640x480:r=1:d=1"),
        *("-map", "0:a", "-map", "1:v", "-c:v", "mjpeg", "-frames:v", "1"),
        *("-disposition:v:0", "attached_pic", "-f", "mp4", str(path)),
    )
    with av.open(str(path)) as file:
        assert file.streams.video  # it is there, and not chosen
    with pytest.raises(VideoError, match="no video stream"):
        read_frames(path, corpus.RULES["the last"])


@pytest.mark.parametrize("form", ["png", "jpg", "bmp", "tiff", "webp", "gif", "avif", "jp2"])
@pytest.mark.parametrize("named", ["", "mp4"])
def test_a_still_picture_is_no_video(form, named, tmp_path):
    options = ("-frames:v", "1", "-update", "1") if form in ("png", "jpg", "bmp", "tiff") else ()
    made = corpus.make(corpus.Case("still", f"a.{form}", options, count=1), tmp_path)
    path = made.rename(tmp_path / f"b.{named or form}")
    for read in (probe, lambda path: read_frames(path, corpus.RULES["the last"])):
        with pytest.raises(VideoError, match=r"a still picture \(.*\), not a video") as caught:
            read(path)
        assert caught.value.status == "decode_error"


@pytest.mark.parametrize("form", ["gif", "apng", "mjpeg"])
def test_a_picture_that_moves_is_a_video(form, tmp_path):
    path = corpus.make(corpus.Case("moving", f"a.{form}", (), count=8), tmp_path)
    clip = read_frames(path.rename(tmp_path / "b.mp4"), corpus.RULES["every frame"])
    assert [corpus.number_of(frame) for frame in clip.frames] == [*range(8)]


@pytest.mark.parametrize("reader", ["auto", "decord"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{video}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{video}\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", "ffconcat version 1.0\nfile '{video}'\n"),
        ("words.mp4", "Some words.\n" * 40),
        ("words.txt", "Some words.\n" * 40),
        ("art.ans", "\x1b[31mSome words.\n" * 40),
    ],
)
def test_text_and_playlists_are_no_videos(name, text, reader, clips, tmp_path):
    shutil.copy(clips["h264"], tmp_path / "video.mp4")
    (tmp_path / name).write_text(text.format(video="video.mp4"))
    with pytest.raises(VideoError, match="not a video file"):
        read_frames(tmp_path / name, corpus.RULES["the last"], reader=reader)


@pytest.mark.parametrize("name", ["concat:a.mp4|b.mp4", "http:a.mp4", "a%02d.mp4", "-i.mp4"])
def test_a_file_name_is_never_an_address(name, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clips["h264"], tmp_path / name)
    assert probe(name).frames == 48
    for reader in ("auto", "decord"):
        clip = read_frames(name, corpus.RULES["the last"], reader=reader)
        assert clip.source_frames == 48


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_opened(kind, tmp_path):
    path = Path(os.devnull)
    if kind == "pipe":
        path = tmp_path / "pipe.mp4"
        os.mkfifo(path)
    with pytest.raises(VideoError, match=f"this is a {kind}") as caught:
        probe(path)
    assert caught.value.status == "decode_error"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (("-vf", "setsar=16/11"), ("anamorphic",)),
        (("-color_trc", "smpte2084"), ("hdr",)),
        (("-color_trc", "arib-std-b67"), ("hdr",)),
        (("-color_trc", "bt709"), ()),
    ],
)
def test_looks_that_pixels_do_not_show_are_flagged(options, flags, tmp_path):
    encoder = ("-c:v", "libx264", "-pix_fmt", "yuv420p10le", *options)
    path = corpus.make(corpus.Case("flags", "a.mp4", encoder, count=8), tmp_path)
    assert probe(path).flags == flags
    assert read_frames(path, corpus.RULES["the last"]).flags == flags
    assert (probe(path).height, probe(path).width) == (corpus.HEIGHT, corpus.WIDTH)


def test_an_address_in_a_file_is_not_opened(clips, monkeypatch, tmp_path):
    """Whatever format may name one some day: here lists are let in on purpose."""
    video = b64encode(clips["h264_ts"].read_bytes()).decode()
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile 'data:video/mp2t;base64,{video}'\n")
    lists = {"format_whitelist": "concat,mpegts", "safe": "0"}
    with monkeypatch.context() as patch:
        options = {**container._OPTIONS, **lists, "protocol_whitelist": "file,data"}
        patch.setattr(container, "_OPTIONS", options)
        assert probe(path).frames == 48
    monkeypatch.setattr(container, "_OPTIONS", {**container._OPTIONS, **lists})
    with pytest.raises(VideoError):
        probe(path)


def test_the_option_decides_who_reads(tmp_path):
    """The file is one that decord reads wrongly: the pixels tell who read it."""
    table = tmp_path / "table"
    table.mkdir()
    (table / "meta.csv").write_text("path\nvideo.mp4\n")
    shutil.copy(MEDIA / "intra_refresh.mp4", table / "video.mp4")
    scene = Scene(table, seed=0, rows=1, slowness=0.0)
    work = scene.copy(tmp_path / "run")
    code, _, err = scene.command(work, "--reader", "decord", "--all-columns").finish()
    assert code == 0, err
    with (work / OUTPUT).open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    rule = corpus.Unresized(lambda total, _: np.array([0, total // 2, total - 1]))
    texts = {}
    for reader in ("auto", "decord"):
        frames = read_frames(table / "video.mp4", rule, reader=reader).frames
        sums = " ".join(f"{zlib.crc32(frame.tobytes()):08x}" for frame in frames)
        texts[reader] = f"row 0 shows {sums}"
    assert (row["caption_reader"], row["text"]) == ("decord", texts["decord"])
    assert texts["auto"] != texts["decord"]


def test_decord_reads_when_it_is_asked_for(clips):
    clip = read_frames(clips["h264"], corpus.RULES["every frame"], reader="decord")
    assert clip.reader == "decord"
    np.testing.assert_array_equal(clip.frames, decode_all(clips["h264"]))


def test_what_decord_cannot_read_is_not_read_by_another(tmp_path):
    encode(tmp_path / "narrow.mp4", np.zeros((4, 64, 48, 3), np.uint8), "libx264")
    with pytest.raises(VideoError, match="run again without --reader decord") as caught:
        read_frames(tmp_path / "narrow.mp4", corpus.RULES["every frame"], reader="decord")
    assert caught.value.status == "decode_error"


def test_decord_need_not_be_installed(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert read_frames(clips["h264"], corpus.RULES["the last"]).reader == "pyav"
    with pytest.raises(VideoError, match="decord is not installed"):
        read_frames(clips["h264"], corpus.RULES["the last"], reader="decord")
    assert importlib.util.find_spec("av")
