"""A file opened by FFmpeg: which formats are let in, which stream is the video, its frames.

Promises. Only a regular file is opened, and FFmpeg opens no other file or address on its behalf:
the only protocol is ``file``, and the only demuxers are those of ``FORMATS``, so playlists,
scripts, text and still pictures are refused, whatever their names; a picture that moves (GIF,
APNG) is a video. Whatever is wrong with a file is one ``VideoError``; nothing is written to stderr.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vidcap_cli.addresses import NOT_READ, is_remote
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video.clip import VideoError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

NO_FRAME = "the video stream holds no frame that can be decoded"
_NO_FORMAT = "its header does not say what the pixels are, and no frame can be decoded: damaged"
# Demuxers, by FFmpeg's names: containers of one file, and bare streams. Left out on purpose:
# those that open other files (hls, dash, concat, image2, imf, webvtt ...), that draw text (tty,
# bintext, xbin, idf, adf), single pictures (png_pipe, jpeg_pipe ...), devices, and raw pixels that
# any file can pass for.
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "asf", "flv", "ogg", "mxf", "gxf", "nut", "wtv"),
    *("rm", "nsv", "dv", "ivf", "gif", "apng", "yuv4mpegpipe", "roq", "smk", "bink", "swf", "flic"),
    *("av1", "obu", "h261", "h263", "h264", "hevc", "vvc", "evc", "m4v", "mpegvideo", "mjpeg"),
    *("dirac", "dnxhd", "vc1", "vc1test", "avs", "avs2", "avs3", "cavsvideo", "ty", "pva", "amv"),
)
# Pictures that are no video, by their first bytes.
_PICTURES = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP", "JPEG 2000"),
    (b"v/1\x01", "OpenEXR"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
)
# Formats that hold still pictures and moving ones: of one frame, it is a still.
_MAY_BE_STILL = ("gif", "apng", "mjpeg")
_PICTURE_BRANDS = ("avif", "avis", "heic", "heix", "hevc", "mif1", "msf1")  # of ISO 23008-12
# How the plan of a folder writes the bytes of a name that is not UTF-8.
_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """A file and its video stream; an error of FFmpeg inside the block becomes a VideoError."""
    import av  # noqa: PLC0415 - loads FFmpeg: only where a video is read

    check_file(Path(path))
    try:
        # With its protocol, or a name such as "concat:a.mp4" would be taken for an address.
        address = f"file:{os.fspath(path)}"
        with av.open(address, options=_OPTIONS, metadata_errors="replace") as container:
            yield container, video_stream(container)
    except av.error.MemoryError:  # says nothing about the file
        raise
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise VideoError(Status.DECODE_ERROR, _guess(Path(path), reason)) from error


def _absent(path: Path) -> str:
    if is_remote(path):
        return NOT_READ
    if _ESCAPED.search(str(path)):
        return "there is no such file; if its name is not UTF-8, shown here as \\x.., rename it"
    return "there is no such file"


def check_file(path: Path) -> None:
    """Raise VideoError unless ``path`` is a regular file that holds something."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise VideoError(Status.MISSING_FILE, _absent(path)) from error
        raise VideoError(Status.DECODE_ERROR, f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise VideoError(Status.MISSING_FILE, "no file can have this name") from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(Status.DECODE_ERROR, "this is a folder, not a video file")
    if not stat.S_ISREG(found.st_mode):
        kind = "pipe" if stat.S_ISFIFO(found.st_mode) else "device or a socket"
        message = f"this is a {kind}, not a file: save the video to a file first"
        raise VideoError(Status.DECODE_ERROR, message)
    if not found.st_size:
        raise VideoError(Status.DECODE_ERROR, "the file is empty")


def _guess(path: Path, reason: str) -> str:
    """What is probably wrong with a file that FFmpeg refuses for ``reason``."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head[4:8] == b"ftyp":
        return f"cannot be decoded: an MP4 file that is damaged or was cut short ({reason})"
    if kind := _picture(head):
        return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"#EXT")):
        return "a playlist, not a video file: name the videos that it lists"
    if b"\0" not in head:
        return "text, not a video file"
    return f"cannot be decoded: damaged, or not a video file ({reason})"


def _picture(head: bytes) -> str | None:
    """What is said of a file that begins as a picture does."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        if b"ANIM" in head[:64]:
            return "an animated WebP picture, which FFmpeg cannot decode: convert it to mp4"
        return still_picture("WebP")
    kinds = (kind for start, kind in _PICTURES if head.startswith(start) and b"\0" in head)
    return next(map(still_picture, kinds), None)


def still_picture(kind: str) -> str:
    """What is said of a picture that does not move."""
    return f"a still picture ({kind}), not a video: leave it out"


def check_moves(container: "InputContainer", frames: int) -> None:
    """Raise VideoError when a file of so many ``frames`` is a still picture."""
    brand = container.metadata.get("major_brand", "").strip()
    kind = brand if brand in _PICTURE_BRANDS else container.format.name
    if frames == 1 and kind in (*_MAY_BE_STILL, *_PICTURE_BRANDS):
        raise VideoError(
            Status.DECODE_ERROR, still_picture("JPEG" if kind == "mjpeg" else kind.upper())
        )


def video_stream(container: "InputContainer") -> "VideoStream":
    """The stream that ffmpeg chooses by default: the largest picture, a default stream first.

    Cover pictures are never chosen. It is set to decode on one thread. Source: ``map_auto_video``
    in ffmpeg's fftools/ffmpeg_mux_init.c.
    """
    from av.stream import Disposition  # noqa: PLC0415 - loads FFmpeg

    best, best_score = None, -1
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue
        codec = stream.codec_context
        area = codec.width * codec.height if codec is not None else 0
        score = area + (5_000_000 if stream.disposition & Disposition.default else 0)
        if score > best_score:
            best, best_score = stream, score
    if best is None:
        raise VideoError(Status.DECODE_ERROR, "the file has no video stream")
    if best.codec_context is None:
        raise VideoError(Status.DECODE_ERROR, "the video's codec is unknown to this FFmpeg")
    # One thread: several decoders run beside each other and beside the model.
    best.codec_context.thread_count = 1
    return best


def no_frame(stream: "VideoStream") -> VideoError:
    """The error of a video without a single frame that decodes.

    An unknown pixel format shows as no format at all. To ask PyAV for ``pix_fmt`` would then
    kill the process (measured on 17.1).
    """
    known = stream.codec_context.format is not None
    return VideoError(Status.DECODE_ERROR, NO_FRAME if known else _NO_FORMAT)


def decode(
    container: "InputContainer",
    stream: "VideoStream",
    damage: set[Flag],
    *,
    since: int | None = None,
) -> Iterator["VideoFrame"]:
    """Decode on from where the container stands, in order of display.

    With ``since``, the time of a key frame sought: nothing unless a key frame comes first, and
    without frames shown before it, which need what was skipped. A packet that the decoder refuses
    is passed over, as players do, and noted in ``damage``; so are frames with concealed errors.
    """
    from av.error import InvalidDataError  # noqa: PLC0415 - loads FFmpeg

    first = True
    for packet in container.demux(stream):
        if since is not None and first and not packet.is_keyframe:
            return
        first = False
        try:
            frames = packet.decode()
        except InvalidDataError:
            damage.add(Flag.DAMAGED)
            continue
        for frame in frames:
            if since is not None and frame.pts is not None and frame.pts < since:
                continue
            if frame.is_corrupt:
                damage.add(Flag.DAMAGED)
            yield frame
