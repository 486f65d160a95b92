import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame

from tests.helpers.clips import FPS, FRAMES, Exactly, decode_all, encode, source
from vidcap_cli import video
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.video import VideoError, probe, read_frames
from vidcap_cli.video.index import Index, _check_length, index_video

# Every container and codec, with open and closed groups of pictures, odd shapes and time stamps.
READABLE = [
    "h264", "h264_mkv", "h264_ts", "h264_avi", "h264_open_gop", "h264_bare", "hevc",
    "hevc_open_gop", "vp8", "vp9", "av1", "mpeg4", "mpeg4_avi", "mpeg2", "wmv", "gif",
    "portrait144", "odd", "ten_bit", "uneven", "uneven_mkv", "late", "rate1000", "rate3300",
]  # fmt: skip
SPARSE = ([0], [47], [23], [19, 20, 21], [3, 17, 30, 46], [40, 5, 5, 41, 0])


@pytest.mark.parametrize("name", READABLE)
def test_every_frame_is_the_one_asked_for(clips, name):
    truth = decode_all(clips[name])
    for wanted in ([*range(len(truth))], *SPARSE):
        clip = read_frames(clips[name], Exactly(wanted))
        assert clip.source_frames == len(truth)
        np.testing.assert_array_equal(clip.indices, wanted)
        np.testing.assert_array_equal(clip.frames, truth[wanted])
        assert clip.reader == "pyav"
        assert set(clip.flags) <= {"frame_rate"}


def test_seeking_far_ahead_gives_the_same_frames_as_reading_through(monkeypatch):
    bikes = source("bikes")  # 250 frames with six key frames
    wanted = [10, 90, 91, 130, 249]
    decoded: list[int | None] = []
    decode = video.decode

    def counting(*args: Any, **options: Any) -> Iterator[VideoFrame]:
        for frame in decode(*args, **options):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "decode", counting)
    clip = read_frames(bikes, Exactly(wanted))
    np.testing.assert_array_equal(clip.frames, decode_all(bikes)[wanted])
    assert len(decoded) < 150  # it did seek


def test_a_seek_that_lands_on_another_key_frame_is_noticed(monkeypatch):
    bikes = source("bikes")
    another = int(index_video(bikes).keys[3, 2])
    landed: list[int] = []
    decode = video.decode

    def astray(file: Any, stream: Any, *rest: Any, since: int | None = None) -> Any:
        if since is not None:
            file.seek(another, stream=stream)
            landed.append(since)
        return decode(file, stream, *rest, since=since)

    monkeypatch.setattr(video, "decode", astray)
    wanted = [10, 80, 90]
    clip = read_frames(bikes, Exactly(wanted))
    np.testing.assert_array_equal(clip.frames, decode_all(bikes)[wanted])
    assert landed
    assert clip.source_frames == 250


def test_neighbouring_frames_of_the_test_clip_differ(clips):
    # Without this the comparisons above could pass on the wrong frames.
    truth = decode_all(clips["h264"]).astype(int)
    assert np.abs(np.diff(truth, axis=0)).mean(axis=(1, 2, 3)).min() > 0.5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_files_are_read(clips, count):
    clip = read_frames(clips[f"frames{count}"], FrameRule())
    assert clip.source_frames == count
    assert len(clip.frames) == 2
    assert clip.indices.tolist() == [0, count - 1]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(clips, degrees):
    upright = np.rot90(decode_all(clips[f"turned{degrees}"]), degrees // 90, (1, 2))
    clip = read_frames(clips[f"turned{degrees}"], Exactly([0, 3, 7]))
    np.testing.assert_array_equal(clip.frames, upright[[0, 3, 7]])
    assert (clip.source_height, clip.source_width) == upright.shape[1:3]
    info = probe(clips[f"turned{degrees}"])
    assert (info.height, info.width) == upright.shape[1:3]
    assert info.rotation % 360 == degrees


@pytest.mark.parametrize(
    ("name", "fps", "flags"),
    [
        ("h264", FPS, ()),
        ("gif", FPS, ()),
        ("uneven", 15.6, ()),  # a variable rate has an average
        ("uneven_mkv", 15.5, ("frame_rate",)),  # the header says 25, the time stamps do not
        ("rate1000", FPS, ("frame_rate",)),  # the header says 1000, the time stamps do not
        ("rate3300", 24, ("frame_rate",)),  # both are wrong: nothing to go by
    ],
)
def test_the_frame_rate_is_checked(clips, name, fps, flags):
    info = probe(clips[name])
    clip = read_frames(clips[name], Exactly([0]))
    assert info.fps == clip.source_fps == pytest.approx(fps, rel=0.01)
    assert info.flags == clip.flags == flags
    assert info.duration == pytest.approx(FRAMES / fps, rel=0.01)


def test_probe_tells_what_a_file_holds(clips):
    info = probe(clips["sound"])
    assert (info.frames, info.height, info.width) == (8, 136, 320)
    assert (info.codec, info.rotation, info.has_audio) == ("h264", 0, True)
    assert "mp4" in info.container
    assert not probe(clips["h264"]).has_audio


def test_frames_arrive_resized_in_batches_as_if_at_once(clips, monkeypatch):
    rule = FrameRule(fps=10.0)
    whole = read_frames(clips["h264"], rule)
    frames = decode_all(clips["h264"])
    np.testing.assert_array_equal(
        whole.frames, rule.prepare(frames[whole.indices], len(whole.indices))
    )
    monkeypatch.setattr("vidcap_cli.video._BATCH_BYTES", 1)
    np.testing.assert_array_equal(read_frames(clips["h264"], rule).frames, whole.frames)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("empty", "empty"),
        ("folder", "folder"),
        ("text", "not a video file"),
        ("audio_only", "no video stream"),
        ("codec", "codec is unknown"),
        ("cut_no_index", "cut short"),
        ("cut_most", "1.6 of 4.0 seconds are there, less than half"),
    ],
)
@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, Exactly([0]))])
def test_a_file_without_video_says_what_it_is(clips, name, part, read, capfd):
    with pytest.raises(VideoError, match=part) as caught:
        read(clips[name])
    assert caught.value.status == "decode_error"
    assert str(clips[name]) not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there_is_missing(tmp_path):
    for path in (tmp_path / "none.mp4", tmp_path / "no" / "folder.mp4"):
        with pytest.raises(VideoError) as caught:
            read_frames(path, Exactly([0]))
        assert caught.value.status == "missing_file"


@pytest.mark.parametrize(
    ("shown", "announced", "flags"),
    [(50, 2.0, ()), (43, 2.0, ()), (42, 2.0, ("truncated",)), (25, 2.0, ("truncated",)),
     (225, 10.0, ()), (224, 10.0, ("truncated",)), (224, 0.0, ())],
)  # fmt: skip
def test_a_file_is_truncated_when_more_than_a_tenth_of_what_is_there_is_missing(
    shown, announced, flags
):
    """And more than three frames; what announces nothing cannot lack anything."""
    index = Index(shown, None, np.zeros((0, 3), np.int64), 25.0, ())
    assert _check_length(index, shown, shown, announced).flags == flags


@pytest.mark.parametrize("name", ["cut_tail", "cut_mkv"])
def test_a_file_cut_short_gives_what_it_has(clips, name):
    clip = read_frames(clips[name], FrameRule())
    whole = decode_all(clips[{"cut_tail": "whole", "cut_mkv": "h264_mkv"}[name]])
    assert 0.5 * len(whole) < clip.source_frames < len(whole)
    # Up to the last second every frame is as in the whole file.
    early = [index for index in clip.indices.tolist() if index < clip.source_frames - 12]
    early_clip = read_frames(clips[name], Exactly(early))
    np.testing.assert_array_equal(early_clip.frames, whole[early])
    assert "truncated" in clip.flags


@pytest.mark.parametrize("name", ["hole", "flipped"])
def test_damage_in_the_middle_is_flagged_and_stays_there(clips, name, capfd):
    whole = decode_all(clips["whole"])
    clip = read_frames(clips[name], Exactly([*range(100)]))
    assert clip.flags == ("damaged",)
    assert 50 <= clip.source_frames <= 100
    # The 40 frames before the damage are untouched, and reading only them finds no fault.
    early = read_frames(clips[name], Exactly([0, 20, 39]))
    np.testing.assert_array_equal(early.frames, whole[[0, 20, 39]])
    assert early.flags == ()
    assert capfd.readouterr() == ("", "")


def test_a_size_that_the_rule_refuses_is_rejected(tmp_path):
    encode(tmp_path / "line.mp4", np.zeros((4, 2, 602, 3), np.uint8), "libx264")
    with pytest.raises(VideoError, match="more than 200:1 narrow") as caught:
        read_frames(tmp_path / "line.mp4", FrameRule())
    assert caught.value.status == "rejected"


def test_importing_the_module_loads_no_reader():
    loaded = "import sys, vidcap_cli.video; print({'av', 'decord', 'pyarrow'} & set(sys.modules))"
    command = [sys.executable, "-c", loaded]
    folder = Path(__file__).parents[2]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout
    assert output == "set()\n"
