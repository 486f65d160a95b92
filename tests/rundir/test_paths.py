"""The run directory: the commit, and the names that decide what counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vidcap_cli.atomic import atomic_write, committing
from vidcap_cli.rundir.paths import RunDir, attempt_of, part_files


def test_a_commit_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "plan.json"
    atomic_write(file, b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_process_killed_while_it_commits_leaves_all_or_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path; from vidcap_cli.atomic import atomic_write\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    for letter in b'ab': atomic_write(Path(sys.argv[1]), bytes([letter]) * 200_000)\n"
    )
    file = tmp_path / "part-0001-0000-00000.parquet"
    seen = set()
    for _ in range(6):
        command = [sys.executable, "-c", program, str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            while not file.exists():
                pass
            for _ in range(20):
                seen.add(file.read_bytes())
            writer.kill()
    assert seen <= {b"a" * 200_000, b"b" * 200_000}
    assert file.read_bytes() in seen | {b"a" * 200_000, b"b" * 200_000}
    assert part_files(tmp_path) == [file]


def test_only_committed_parts_count_and_they_come_in_order(tmp_path):
    run = RunDir(tmp_path)
    run.parts.mkdir()
    names = [
        run.part(2, 0, 0, "parquet"),
        run.part(1, 10, 1, "parquet"),
        run.part(1, 2, 0, "csv"),
        run.part(1, None, 0, "parquet"),
        run.part(10_000, 0, 0, "parquet"),
    ]
    for name in names:
        name.touch()
    for other in (".part-0001-0000-00000.parquet.f00.tmp", "part-1-0-0.parquet", "notes.csv"):
        (run.parts / other).touch()
    assert [path.name for path in run.part_files()] == [
        "part-0001-0002-00000.csv",
        "part-0001-0010-00001.parquet",
        "part-0001-main-00000.parquet",
        "part-0002-0000-00000.parquet",
        "part-10000-0000-00000.parquet",
    ]
    assert attempt_of(names[4]) == 10_000
    assert attempt_of(Path("meta.csv")) is None


def test_an_attempt_is_real_once_it_is_described(tmp_path):
    run = RunDir(tmp_path)
    for number in (1, 2, 10_000):
        run.attempt(number).path.mkdir(parents=True)
        run.attempt(number).config.touch()
    run.attempt(3).path.mkdir()
    assert [attempt.number for attempt in run.attempts()] == [1, 2, 10_000]


def test_a_fresh_run_lies_beside_the_one_that_it_replaces(tmp_path):
    run = RunDir(tmp_path / "meta.vidcap")
    assert run.next.path == tmp_path / "meta.vidcap.next"
    assert run.old.path == tmp_path / "meta.vidcap.old"
    assert run.next.settled == run.settled == run


@pytest.mark.parametrize("links", [True, False])
def test_a_commit_that_must_not_replace_does_not(tmp_path, monkeypatch, links):
    """Also a file that comes while the other is written; with or without second names of files."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: exec("raise PermissionError"))
    file = tmp_path / "part"

    def commit_beside(other: bytes | None) -> None:
        with committing(file, replace=False) as temporary:
            temporary.write_bytes(b"mine")
            if other:
                file.write_bytes(other)

    with pytest.raises(FileExistsError) as caught:
        commit_beside(b"theirs")
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"theirs"
    file.unlink()
    commit_beside(None)
    assert file.read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["part"]
    assert file.stat().st_nlink == 1


def test_numbers_of_parts_go_on_after_all_that_a_rank_has_used(tmp_path):
    run = RunDir(tmp_path)
    run.parts.mkdir()
    assert run.next_sequence(1, 0) == 0
    mine = [run.part(1, 0, 0, "csv"), run.part(1, 0, 1, "parquet")]
    others = [run.part(1, 1, 7, "csv"), run.part(11, 0, 8, "csv"), run.part(1, None, 9, "csv")]
    for part in (*mine, *others):
        part.touch()
    aside = run.part(1, 0, 3, "csv")
    aside.with_name(f"{aside.name}.damaged").touch()
    assert run.parts_of(1, 0) == mine
    assert run.next_sequence(1, 0) == 4
