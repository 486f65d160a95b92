"""A video looked into: what it holds, and what a model would get of it.

PyAV looks and reads here, whichever reader a run is told to use: ``--reader decord`` may count
and choose other frames.

Files are opened in decoder processes, so one that hangs or crashes its decoder is a fact about
that file and not the end of the command.
"""

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from vidcap_cli.families import FAMILIES, RECOMMENDED, part
from vidcap_cli.inspect.command import caption_step
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.processors import FrameRule
from vidcap_cli.spans import Span
from vidcap_cli.statuses import Flag
from vidcap_cli.video import Clip, Rule, VideoInfo, probe, read_frames
from vidcap_cli.video.pool import DecodePool
from vidcap_cli.view.words import count, duration, size

# What each command would sample with its default options and usual checkpoints.
RULES: dict[str, FrameRule] = {name: part(row.frame_rule)() for name, row in FAMILIES.items()}
RULE = RULES[RECOMMENDED.command]

_READ_SECONDS = 60.0
_LONG_SECONDS = 120.0  # a video that lasts longer takes its time to be read


@dataclass(frozen=True, slots=True)
class Probed(Clip):
    """A clip and what its file holds.

    ``whole``: all frames were read that a run would read, so a run would get them.
    """

    info: VideoInfo
    whole: bool = True


def probe_only(path: str, rule: Rule, span: Span | None = None) -> Clip:
    """In a decoder process: what the file holds; the clip has one black pixel.

    A frame of it is decoded: damage further on shows where a run reads it.
    """
    return _bare(probe(path, span), rule, whole=False)


def probe_while_time(path: str, rule: Rule, span: Span | None = None, *, until: float) -> Clip:
    """In a decoder process: ``probe_only``, and of a video that is not long whether a run gets
    its frames, as long as the monotonic clock is not beyond ``until``.
    """
    info = probe(path, span)
    whole = info.duration <= _LONG_SECONDS and time.monotonic() < until
    if whole:
        info = _as_read(info, read_frames(path, rule, span))
    return _bare(info, rule, whole=whole)


def _bare(info: VideoInfo, rule: Rule, *, whole: bool) -> Probed:
    return Probed(
        frames=np.zeros((1, 1, 1, 3), np.uint8),
        indices=rule.indices(info.frames, info.fps),
        reader=info.reader,
        source_frames=info.frames,
        source_fps=info.fps,
        source_height=info.height,
        source_width=info.width,
        flags=info.flags,
        info=info,
        whole=whole,
    )


def probe_and_read(path: str, rule: Rule) -> Clip:
    """In a decoder process: what the file holds, and the frames as a rank would read them."""
    info = probe(path)
    clip = read_frames(path, rule)
    known = {field.name: getattr(clip, field.name) for field in fields(Clip)}
    return Probed(**known, info=_as_read(info, clip))


def _as_read(info: VideoInfo, clip: Clip) -> VideoInfo:
    """What a file holds, with what came out when its frames were read."""
    frames, fps = clip.source_frames, clip.source_fps
    return replace(info, frames=frames, fps=fps, duration=frames / fps, flags=clip.flags)


def video_report(path: Path) -> Report:
    """The report on one video file."""
    with DecodePool(RULE, workers=1, timeout=_READ_SECONDS, read=probe_and_read) as pool:
        pool.submit(0, str(path))
        decoded = pool.next()
    assert decoded is not None
    size_fact = Fact("size", size(path.stat().st_size), path.stat().st_size)
    clip = decoded.clip
    if not isinstance(clip, Probed):
        return Report(
            "video",
            str(path),
            f"cannot be captioned; a run would note it as {decoded.status}",
            (Section("file", (size_fact,)),),
            (Problem(f"{decoded.status}: {decoded.error}", "check or re-encode the file"),),
        )
    sections = [Section("file", (size_fact, *_file_facts(clip.info)))]
    for family, frame_rule in RULES.items():
        sections.append(Section(f"seen by {family}", _seen(clip, frame_rule)))
    problems = [Problem(_FLAGS.get(flag, flag), serious=False) for flag in clip.flags]
    return Report(
        "video",
        str(path),
        "can be captioned",
        tuple(sections),
        tuple(problems),
        (caption_step(path),),
    )


_FLAGS = {
    Flag.FRAME_RATE: "the frame rate in the file is wrong and was replaced (flag frame_rate)",
    Flag.DAMAGED: "some of it does not decode cleanly (flag damaged)",
    Flag.HDR: "it is HDR (PQ or HLG); its colours look pale to a model (flag hdr)",
    Flag.ANAMORPHIC: "its pixels are not square; frames keep the stored shape (flag anamorphic)",
    Flag.TRUNCATED: "it announces more than it holds; what is there is used (flag truncated)",
}


def _file_facts(info: VideoInfo) -> tuple[Fact, ...]:
    facts = [
        Fact("duration", _seconds(info.duration), info.duration),
        Fact("frames", f"{info.frames:,}", info.frames),
        Fact("frame rate", f"{info.fps:.3f}".rstrip("0").rstrip(".") + " a second", info.fps),
        Fact("frame size", f"{info.width} x {info.height}", [info.width, info.height]),
        Fact("codec", info.codec),
        Fact("container", info.container),
        Fact("sound", "yes" if info.has_audio else "no", info.has_audio),
    ]
    if info.rotation:
        facts.append(Fact("rotation", f"{info.rotation}° (applied)", info.rotation))
    return tuple(facts)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else duration(seconds)


def _seen(clip: Probed, rule: FrameRule) -> tuple[Fact, ...]:
    indices = rule.indices(clip.source_frames, clip.source_fps)
    tokens = rule.tokens(len(indices), clip.source_height, clip.source_width)
    # Of the frames that were read for one rule the first tells the size for another.
    frames = clip.frames if rule is RULE else rule.prepare(clip.frames[:1], 1)
    _, tall, wide, _ = frames.shape
    return (
        Fact("reader", clip.reader),
        Fact("frames sampled", count(len(indices), "frame"), len(indices)),
        Fact("resized to", f"{wide} x {tall}", [wide, tall]),
        Fact("visual tokens", f"{tokens:,}", tokens),
    )
