"""Rows that are clips of videos: each gets the caption of its own frames, whatever happens."""

import signal
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.faults.scene import FINISHED, OUTPUT, RUN, Scene, make_scene
from tests.helpers.commands import committed, rows_of
from tests.video.corpus import RULES
from vidcap_cli.video import VideoError, read_frames

ROWS = 8
LENGTH = 0.25  # two of the six frames of a video, at 8 a second


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("clips"), seed=67, rows=ROWS)


def expected(work: Path, table: Path) -> list[tuple[str, str, str]]:
    """Path, start and caption of each clip, from the frames of the whole videos."""
    found: list[tuple[str, str, str]] = []
    for path in dict.fromkeys(row["path"] for row in rows_of(table)):
        try:
            frames = read_frames(work / path, RULES["every frame"]).frames
        except VideoError:
            found.append((path, "", ""))
            continue
        for number, clip in enumerate(np.split(frames, 3)):
            seen = (zlib.crc32(clip[frame].tobytes()) for frame in (0, 1, 1))
            words = " ".join(f"{each:08x}" for each in seen)
            found.append((path, str(number * LENGTH), f"row {len(found)} shows {words}"))
    # The fake model fails at every seventeenth row.
    return [(path, start, "" if row % 17 == 16 else text)
            for row, (path, start, text) in enumerate(found)]  # fmt: skip


def written(table: Path) -> list[tuple[str, str, str]]:
    return [(row["path"], row["start"], row["text"]) for row in rows_of(table)]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_of_clips_that_is_stopped_goes_on(scene, tmp_path, how):
    work = scene.copy(tmp_path / "run")
    words = ("--clip-length", str(LENGTH))
    command = scene.command(work, *words)
    command.wait_until(lambda: len(committed(work / RUN)) >= 4)
    command.process.send_signal(how)
    command.finish()
    command.assert_gone()
    done = {row for row, status in committed(work / RUN) if status == "ok"}
    assert done
    code, _, err = scene.command(work, workers=2).finish()
    assert code == 2
    assert "--clip-length: 0.25 -> not given" in err
    code, _, err = scene.command(work, *words, workers=2).finish()
    assert code in FINISHED, err
    assert written(work / OUTPUT) == expected(work, work / "meta.csv")
    counts = [row for row, status in committed(work / RUN) if status == "ok"]
    assert len(counts) == len(set(counts))


def test_a_run_of_clips_is_extended(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    words = ("--clip-length", str(LENGTH))
    lines = (work / "meta.csv").read_text().split('\nline"\n')
    (work / "meta.csv").write_text('\nline"\n'.join([*lines[:4], ""]))
    scene.command(work, *words).finish()
    before = {row[:2]: row[2] for row in written(work / OUTPUT)}
    (work / "meta.csv").write_text('\nline"\n'.join([lines[0], *lines[2:6], ""]))
    code, _, err = scene.command(work, *words, "--extend").finish()
    assert code in FINISHED, err
    now = written(work / OUTPUT)
    kept = [row for row in now if before.get(row[:2])]
    assert kept
    # Captions of clips that were there are those made before, by the numbers in them.
    assert all(row[2] == before[row[:2]] for row in kept)
    assert [row[:2] for row in now] == [row[:2] for row in expected(work, work / "meta.csv")]
