"""Ranges of videos: their frames are those that ffmpeg's ``trim`` shows."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.clips import Exactly, encode
from tests.video import corpus
from vidcap_cli import video
from vidcap_cli.processors.llava import FrameRule as Middle
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.spans import Span
from vidcap_cli.video import VideoError, probe, read_frames
from vidcap_cli.video.clip import Clip
from vidcap_cli.video.pool import DecodePool

MEDIA = Path(__file__).parents[1] / "data" / "media"
ALL = corpus.RULES["every frame"]
SPANS = [Span(0, 1.2), Span(0.41, 1.0), Span(0.96, 1.441), Span(1.5), Span(1.04, 1.08)]
# Frames of these have no times of their own: there a range goes by their numbers.
COUNTED = (".avi", ".h264", ".hevc", ".y4m")
WITHOUT_FFMPEG = (".ts",)  # the bundled ffmpeg 7.0.2 crashes on MPEG-TS
SOME = [
    case
    for case in corpus.cases()[3::9]
    if not case.name.endswith(COUNTED + WITHOUT_FFMPEG) and case.group != "rotation"
]


def trimmed(path: Path, span: Span, shape: tuple[int, ...]) -> list[int]:
    """The numbers in the frames that ffmpeg shows in a range."""
    end = "" if span.end is None else f":end={span.end}"
    data = corpus._ffmpeg(
        *("-i", str(path), "-vf", f"trim=start={span.start}{end}", "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    )
    return [corpus.number_of(frame) for frame in np.frombuffer(data, np.uint8).reshape(-1, *shape)]


def shown(path: Path, span: Span | None) -> list[int]:
    try:
        return [corpus.number_of(frame) for frame in read_frames(path, ALL, span).frames]
    except VideoError as error:
        assert "no frame is shown" in error.message, error  # noqa: PT017
        return []


@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
def test_the_frames_of_a_range_are_those_that_ffmpeg_shows_in_it(case, tmp_path):
    """B-frames, open groups of pictures, edit lists, variable rates, times that begin anywhere."""
    path = corpus.make(case, tmp_path)
    shape = read_frames(path, Exactly([0])).frames.shape[1:]
    for span in SPANS:
        assert shown(path, span) == trimmed(path, span, shape), span


@pytest.mark.parametrize("name", ["h264-g12-b3.ts", "offset7.ts", "open2.ts"])
def test_the_frames_of_a_range_of_a_transport_stream(name, tmp_path):
    """25 a second, counted from the first one whatever time it has in the stream."""
    path = corpus.make(next(case for case in corpus.cases() if case.name == name), tmp_path)
    all_numbers = shown(path, None)
    for span in SPANS:
        end = np.inf if span.end is None else span.end
        times = enumerate(all_numbers)
        assert shown(path, span) == [n for i, n in times if span.start <= i / 25 < end], span


@pytest.mark.parametrize("name", ["h264-g12-b0.avi", "mpeg4-b.avi", "h264-bare.h264"])
def test_where_frames_have_no_times_they_go_by_their_numbers(name, tmp_path):
    path = corpus.make(next(case for case in corpus.cases() if case.name == name), tmp_path)
    assert shown(path, Span(0.4, 1)) == list(range(10, 25))
    # An AVI counts time in frames, so start and end are rounded to the next one.
    expected = range(10, 25) if path.suffix == ".avi" else range(11, 26)
    assert shown(path, Span(0.41, 1.01)) == list(expected)
    assert shown(path, Span(2.5)) == list(range(63, 72))


@pytest.mark.parametrize(
    "rule", [FrameRule(), FrameRule(fps=1.0), Middle(None, 1, 1), Middle(None, 3, 1)]
)  # type: ignore[arg-type]
def test_a_rule_chooses_from_a_range_as_from_a_video_of_its_frames(rule, tmp_path):
    frames = corpus.frames_with_numbers(100)
    encode(tmp_path / "whole.mp4", frames, "libx264", options={"bf": "2", "g": "30"})
    encode(tmp_path / "cut.mp4", frames[33:72], "libx264")
    rule = corpus.Unresized(rule.indices)
    whole = read_frames(tmp_path / "whole.mp4", rule, Span(33 / 25, 72 / 25))
    cut = read_frames(tmp_path / "cut.mp4", rule)
    assert (whole.source_frames, whole.source_fps) == (39, 25.0)
    assert (whole.indices - 33).tolist() == cut.indices.tolist()
    assert [corpus.number_of(f) for f in whole.frames] == [corpus.number_of(f) for f in cut.frames]


def test_the_rate_of_a_range_is_its_own_where_it_varies(tmp_path):
    """20 frames a second, then 5: a rule that takes four a second needs to know."""
    times = [50 * i for i in range(40)] + [2000 + 200 * i for i in range(20)]
    encode(tmp_path / "v.mp4", corpus.frames_with_numbers(60), "libx264", times=times)
    fast, slow = (probe(tmp_path / "v.mp4", Span(*pair)) for pair in [(0, 2), (2, 6)])
    assert (fast.frames, round(fast.fps, 3)) == (40, 20)
    assert (slow.frames, round(slow.fps, 3)) == (20, 5)
    # A rule of the file as a whole would take four frames of the last four seconds twice over.
    assert read_frames(tmp_path / "v.mp4", FrameRule(fps=2.0), Span(2, 6)).indices.tolist() == [
        *(40, 43, 45, 48, 51, 54, 56, 59),
    ]


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (Span(9, 12), r"^no frame is shown from 9 to 12 s: the video ends at 1\.92 s$"),
        (Span(5), r"^no frame is shown from 5 s on"),
        (Span(0.5, 0.51), "^no frame is shown from 0.5 to 0.51 s"),
        (Span(1, 1), "^the range from 1 to 1 s ends before it begins$"),
    ],
)
def test_a_range_without_frames_says_so(clips, span, words):
    with pytest.raises(VideoError, match=words) as caught:
        read_frames(clips["h264"], ALL, span)
    assert caught.value.status == "decode_error"


def test_a_range_that_goes_beyond_the_end_ends_there(clips):
    assert read_frames(clips["h264"], ALL, Span(1.8, 99)).indices.tolist() == [45, 46, 47]


def test_the_packets_of_a_file_are_read_once_for_its_ranges(clips, tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    shutil.copy(clips["h264"], path)
    reads = []
    known = video.index_video
    monkeypatch.setattr(video, "index_video", lambda path: reads.append(path) or known(path))
    for number in range(5):
        read_frames(path, ALL, Span(number / 5, 1))
    assert len(reads) == 1
    shutil.copy(clips["uneven"], path)
    os.utime(path, (0, 0))
    assert read_frames(path, ALL, Span(0, 1)).source_frames == 15
    assert len(reads) == 2


def test_decoder_processes_read_ranges(clips):
    with DecodePool(Exactly([0]), workers=2, timeout=60.0) as pool:
        for row in range(6):
            pool.submit(row, str(clips["h264"]), Span(row * 0.2, row * 0.2 + 0.1))
        pool.submit(6, str(clips["h264"]))
        found: dict[int, Clip] = {}
        while (decoded := pool.next()) is not None:
            assert decoded.clip is not None
            found[decoded.row_id] = decoded.clip
    assert [int(found[row].indices[0]) for row in range(7)] == [0, 5, 10, 15, 20, 25, 0]


def test_decord_reads_no_ranges(clips):
    with pytest.raises(VideoError, match="decord reads no ranges"):
        read_frames(clips["h264"], ALL, Span(0, 1), reader="decord")
