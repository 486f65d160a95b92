"""What commits leave that were cut off goes, and nothing that somebody still writes."""

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from vidcap_cli.atomic import committing, replace_file, sweep


def leave(folder: Path, age: float) -> Path:
    """What a process left that was killed in the middle of a commit, ``age`` seconds ago."""
    left = folder / f".name.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - age,) * 2)
    return left


def refuse(code: int) -> object:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return flock


@pytest.mark.parametrize(
    ("answer", "age", "goes"),
    [
        (None, 0, True),
        (errno.EAGAIN, 1e6, False),
        (errno.ENOSYS, 3600, False),
        (errno.ENOSYS, 90_000, True),
        (errno.EIO, 90_000, False),
    ],
    ids=["locks", "still written", "no locks", "no locks, and old", "a bad disk"],
)
def test_what_was_cut_off_goes_when_nobody_writes_it(tmp_path, monkeypatch, answer, age, goes):
    left = leave(tmp_path, age)
    if answer:
        monkeypatch.setattr(fcntl, "flock", refuse(answer))
    sweep(tmp_path, "another")
    assert left.exists()
    sweep(tmp_path)
    assert left.exists() != goes


@pytest.mark.parametrize(
    "name", ["n" * 255, "é" * 127, b"\xff" * 255], ids=["ascii", "utf-8", "raw"]
)
def test_names_as_long_as_the_system_allows(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    with committing(path) as temporary:
        temporary.write_bytes(b"half")
        assert len(os.fsencode(temporary.name)) < 143
    replace_file(path, b"whole")
    assert [(file, file.read_bytes()) for file in tmp_path.iterdir()] == [(path, b"whole")]
    temporary.write_bytes(b"half")
    sweep(tmp_path, path.name)
    assert not temporary.exists()


def test_what_is_still_written_stays(tmp_path, monkeypatch):
    with committing(tmp_path / "name") as temporary:
        temporary.write_bytes(b"half")
        sweep(tmp_path)
    assert (tmp_path / "name").read_bytes() == b"half"

    def rename(temporary: Path, path: Path) -> None:
        sweep(tmp_path)
        os.replace(temporary, path)

    monkeypatch.setattr(Path, "replace", rename)
    replace_file(tmp_path / "name", b"other")
    assert (tmp_path / "name").read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["name"]
