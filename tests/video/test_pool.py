import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest

from tests import faults
from tests.helpers.clips import Exactly, endless
from vidcap_cli import host_memory
from vidcap_cli.errors import RunError
from vidcap_cli.processors.qwen2vl import FrameRule
from vidcap_cli.video import Rule, read_frames
from vidcap_cli.video import pool as decode
from vidcap_cli.video.pool import Decoded, DecodePool, memory_share

LONG = 60.0
TESTS = Path(__file__).parents[1]


def pool(
    *,
    workers: int = 2,
    timeout: float = LONG,
    memory: int | None = None,
    read: Callable = faults.read,
    rule: Rule | None = None,
) -> DecodePool:
    rule = rule or FrameRule()
    return DecodePool(rule, workers=workers, timeout=timeout, memory=memory, read=read)


def run(pool: DecodePool, paths: list[str]) -> list[Decoded]:
    """Submit all and return what comes, in row order; every row exactly once."""
    for row_id, path in enumerate(paths):
        pool.submit(row_id, path)
    finished = []
    while pool.pending:
        decoded = pool.next(LONG)
        assert decoded is not None
        finished.append(decoded)
    finished.sort(key=lambda decoded: decoded.row_id)
    assert [(d.row_id, d.path) for d in finished] == [*enumerate(paths)]
    return finished


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_real_videos_come_back_as_read_here(clips):
    names = ["h264", "portrait144", "hevc_open_gop", "turned90", "text", "folder"]
    # At their own size: resizing adds up in another order with other threads of BLAS.
    rule = Exactly([0, 3, 7])
    with pool(read=read_frames, rule=rule) as decoders:
        finished = run(decoders, [str(clips[name]) for name in names])
    for decoded, name in zip(finished[:4], names, strict=False):
        here = read_frames(clips[name], rule)
        assert (decoded.status, decoded.error) == ("ok", None)
        assert decoded.clip is not None
        np.testing.assert_array_equal(decoded.clip.frames, here.frames)
        np.testing.assert_array_equal(decoded.clip.indices, here.indices)
        assert decoded.clip.source_height == here.source_height
        assert decoded.clip.flags == here.flags
    assert [decoded.status for decoded in finished[4:]] == ["decode_error"] * 2
    assert finished[5].error == "this is a folder, not a video file"


def test_odd_names_cost_their_rows_alone(clips, tmp_path):
    chinese, bytes_ = tmp_path / "视频.mp4", Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    shutil.copy(clips["h264"], chinese)
    names = [str(chinese), "x" * 300, "y" * 300_000, "a\0b"]
    try:
        shutil.copy(clips["h264"], bytes_)
        names.append(str(bytes_))
    except OSError:
        pass  # this file system takes only UTF-8 names
    with pool(read=read_frames) as decoders:
        finished = run(decoders, names)
    good = ["ok" for _ in names[4:]]
    wanted = ["ok", "decode_error", "missing_file", "missing_file", *good]
    assert [decoded.status for decoded in finished] == wanted
    assert all(decoded.error for decoded in finished[1:4])


def test_rows_come_in_order_of_completion():
    with pool() as decoders:
        for row_id, path in enumerate(["slow:1.5", "quick", "quick", "quick"]):
            decoders.submit(row_id, path)
        order = [decoders.next(LONG).row_id for _ in range(4)]
        assert order == [1, 2, 3, 0]
        assert decoders.pending == 0
        assert decoders.next() is None


def test_next_gives_up_after_its_timeout():
    with pool() as decoders:
        decoders.submit(0, "slow:0.5")
        assert decoders.next(0.05) is None
        assert decoders.pending == 1
        assert decoders.next(LONG).status == "ok"


def test_a_hanging_decoder_costs_one_row_and_is_gone():
    with pool(timeout=1.0) as decoders:
        finished = run(decoders, ["a", "hang", "b", "hang", "c", "d"])
        assert [d.status for d in finished] == [
            "ok", "decode_timeout", "ok", "decode_timeout", "ok", "ok",
        ]  # fmt: skip
        assert finished[1].error == "decoding took longer than 1 seconds and was stopped"
        assert finished[1].clip is None
        wait_until(lambda: len(children()) == 2)


def test_a_file_that_cannot_be_read_in_time_hangs_only_its_own_row(clips, tmp_path):
    endless(clips["mpeg2"], tmp_path / "endless.mpg")
    with pool(timeout=4.0, read=read_frames) as decoders:
        finished = run(decoders, [str(tmp_path / "endless.mpg"), str(clips["h264"])])
    assert [d.status for d in finished] == ["decode_timeout", "ok"]


def test_a_pipe_in_place_of_a_file_is_refused_at_once(clips, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pool(read=read_frames) as decoders:
        finished = run(decoders, [str(tmp_path / "pipe.mp4"), str(clips["h264"])])
    assert [d.status for d in finished] == ["decode_error", "ok"]
    assert "this is a pipe" in finished[0].error


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("abort", "the decoder process crashed on it (SIGABRT)"),
        (f"signal:{signal.SIGSEGV}", "the decoder process crashed on it (SIGSEGV)"),
        (f"signal:{signal.SIGRTMIN + 3}", "the decoder process crashed on it (signal 37)"),
        (f"signal:{signal.SIGKILL}", "the decoder process was killed (SIGKILL), perhaps for lack"),
        ("exit:3", "the decoder process left with exit code 3"),
        ("exit:0", "the decoder process left with exit code 0"),
        ("bug:here", "KeyError: 'here'"),
    ],
)
def test_a_crash_costs_one_row(path, error, capfd):
    with pool() as decoders:
        finished = run(decoders, ["a", path, "b", "c"])
    assert [d.status for d in finished] == ["ok", "decode_error", "ok", "ok"]
    assert finished[1].error.startswith(error)


def test_a_crash_after_every_row_is_still_one_row_each():
    with pool() as decoders:
        finished = run(decoders, ["abort", "ok"] * 6)
    assert [d.status for d in finished] == ["decode_error", "ok"] * 6


def test_decoders_killed_while_idle_cost_nothing():
    with pool() as decoders:
        run(decoders, ["a", "b"])
        for process in children():
            process.kill()
        assert {d.status for d in run(decoders, ["c", "d", "e"])} == {"ok"}


def test_a_decoder_that_dies_before_it_takes_up_its_row_is_not_charged_with_it():
    with pool(workers=1) as decoders:
        run(decoders, ["a"])
        (process,) = children()
        process.suspend()
        decoders.submit(0, "abort")
        decoders.submit(1, "b")
        assert decoders.next(0.5) is None
        assert not decoders.working
        process.kill()
        assert {decoders.next(LONG).status for _ in range(2)} == {"decode_error", "ok"}
        (other,) = children()
        assert other.pid != process.pid


def test_the_timeout_does_not_count_the_time_in_the_queue():
    with pool(workers=1, timeout=3.0) as decoders:
        finished = run(decoders, ["slow:0.9"] * 4)
    assert {d.status for d in finished} == {"ok"}
    assert max(d.seconds for d in finished) < 3.0


def test_large_clips_arrive_whole_and_need_no_caller_to_make_room():
    with pool() as decoders:
        for row_id in range(3):
            decoders.submit(row_id, "large")
        wait_until(lambda: decoders._finished.qsize() == 3)  # nobody has called next() so far
        for _ in range(3):
            clip = decoders.next(LONG).clip
            assert clip.frames.shape == (240, 392, 728, 3)
            assert clip.frames.min() == clip.frames.max() == 7


def test_closing_leaves_no_process_even_when_decoders_hang():
    with pool() as decoders:
        for row_id in range(5):
            decoders.submit(row_id, "hang")
        wait_until(lambda: len(children()) == 2)
        processes = children()
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    assert not any(process.is_running() for process in processes)
    decoders.close()
    with pytest.raises(ValueError, match="closed"):
        decoders.submit(9, "late")


def test_decoders_die_with_a_rank_that_is_killed(tmp_path):
    program = (
        "import os, psutil, time, faults\n"
        "from vidcap_cli.video.pool import DecodePool\n"
        "decoders = DecodePool(None, workers=2, timeout=900, read=faults.read)\n"
        "decoders.submit(0, 'ok'); decoders.submit(1, 'hang'); decoders.next()\n"
        "print(*[p.pid for p in psutil.Process().children()], flush=True)\n"
        "time.sleep(900)\n"
    )
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as rank:
        pids = [int(pid) for pid in rank.stdout.readline().split()]
        assert len(pids) == 2
        rank.kill()
    wait_until(
        lambda: (
            not any(
                psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE
                for p in pids
            )
        )
    )


def test_interrupts_do_not_reach_a_decoder():
    with pool(read=faults.ignores_interrupt) as decoders:
        assert run(decoders, ["any"])[0].status == "ok"
        assert all(os.getpgid(process.pid) != os.getpgid(0) for process in children())


def test_a_decoder_loads_neither_the_model_nor_the_tables():
    with pool() as decoders:
        loaded = run(decoders, ["loaded:mindspore mindnlp torch pyarrow pandas typer rich numpy"])
    assert loaded[0].error == "numpy"


def test_what_a_library_prints_stays_out_of_the_ranks_output(capfd):
    with pool() as decoders:
        run(decoders, ["print"])
    assert capfd.readouterr().out == ""


def test_the_kernel_kills_a_decoder_before_the_rank():
    with pool(workers=1) as decoders:
        run(decoders, ["any"])
        for process in children():
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"


def test_decoders_that_cannot_start_end_the_pool():
    with pool(read=faults.Unloadable()) as decoders:
        decoders.submit(0, "any")
        for _ in range(2):
            with pytest.raises(RunError, match="do not start"):
                decoders.next(LONG)


def test_decoders_killed_while_they_start_are_started_again(monkeypatch, tmp_path):
    monkeypatch.setattr(decode, "_LONGEST_PAUSE", 0.01)
    killed = faults.KilledWhileStarting(str(tmp_path / "starts"), decode._STARTS + 3)
    with pool(read=killed) as decoders:
        assert {d.status for d in run(decoders, ["a", "b", "c"])} == {"ok"}
    assert (tmp_path / "starts").stat().st_size >= decode._STARTS + 4


def test_a_process_that_cannot_be_made_is_tried_again(monkeypatch, capfd):
    monkeypatch.setattr(decode, "_LONGEST_PAUSE", 0.01)
    popen, refusals = subprocess.Popen, iter(range(5))

    def refuse(*arguments: object, **options: object) -> subprocess.Popen:
        if next(refusals, None) is not None:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return popen(*arguments, **options)

    monkeypatch.setattr(decode.subprocess, "Popen", refuse)
    with pool(workers=1) as decoders:
        assert run(decoders, ["a"])[0].status == "ok"
    assert next(refusals, None) is None


def test_a_frame_too_large_for_a_decoder_costs_its_row(clips, tmp_path):
    """One frame of 12000 by 11000 pixels: 2 MB of file that take 2.8 GB to read."""
    huge = tmp_path / "huge.mp4"
    write_huge(huge)
    assert huge.stat().st_size < 3_000_000
    with pool(workers=1, memory=512_000_000, read=read_frames) as decoders:
        before, large, after = run(decoders, [str(clips["h264"]), str(huge), str(clips["h264"])])
    assert (before.status, after.status) == ("ok", "ok")
    assert large.status == "decode_error"
    assert large.error == (
        "its frames need more memory than a decoder may take (512.0 MB): "
        "give more with --decode-memory"
    )


def write_huge(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 12000, 11000, "yuvj420p"
        frame = av.VideoFrame(12000, 11000, "yuvj420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(
    ("group", "ranks", "decoders", "share"),
    [
        ("max\n", "1", 1, 20_480_000_000),  # half the machine
        ("max\n", "2", 4, 2_560_000_000),  # for all decoders of all ranks on it
        ("8000000000\n", "1", 2, 2_000_000_000),  # or half of what its control group may take
        (None, "1", 1, 20_480_000_000),
        ("max\n", "1000", 2, 1_000_000_000),  # enough for a video of 3840 by 2160 pixels
    ],
)
def test_a_decoder_may_take_its_share_of_the_machine(
    group, ranks, decoders, share, monkeypatch, tmp_path
):
    if group:
        (tmp_path / "memory.max").write_text(group)
    monkeypatch.setattr(host_memory, "_GROUP", tmp_path)
    machine = SimpleNamespace(total=40_960_000_000)
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setenv("VIDCAP_LOCAL_RANKS", ranks)
    assert memory_share(decoders) == share


@pytest.mark.parametrize("memory", [None, 3_000_000_000])
def test_a_decoder_is_held_to_its_share_or_to_what_is_asked_for(memory):
    with pool(workers=1, memory=memory) as decoders:
        run(decoders, ["any"])
        (process,) = children()
        assert process.rlimit(psutil.RLIMIT_DATA)[0] == (memory or memory_share(1))


def test_decoders_import_nothing_of_the_users_and_read_paths_as_bytes(tmp_path, monkeypatch):
    """Whatever the working directory, PYTHONPATH and the locale of their rank are."""
    (tmp_path / "random.py").write_text("raise SystemExit('imported a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    with pool(workers=1) as decoders:
        (row,) = run(decoders, ["started:"])
    assert row.error == f"{random.__file__} utf-8"
