"""The part writer commits in time, and says when it cannot."""

import time
from pathlib import Path

import pytest

from vidcap_cli.errors import RunError
from vidcap_cli.rank.writer import PartWriter
from vidcap_cli.rundir.parts import Result, read_part, write_part


def name_in(folder: Path):
    return lambda sequence: folder / f"part-0001-0000-{sequence:05d}.parquet"


def writes_in(folder: Path):
    name = name_in(folder)
    return lambda sequence, results: write_part(name(sequence), results)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_rows_are_committed_without_another_call(tmp_path):
    committed = []
    with PartWriter(writes_in(tmp_path), 0.05, committed.append) as writer:
        writer.add(Result(0, "a", "ok", text="one"))
        wait_for(tmp_path / "part-0001-0000-00000.parquet")
        writer.add(Result(1, "b", "ok", text="two"))
        wait_for(tmp_path / "part-0001-0000-00001.parquet")
    assert committed == [1, 1]


def test_closing_commits_what_waits_as_one_part(tmp_path):
    committed = []
    with PartWriter(writes_in(tmp_path), 1000, committed.append) as writer:
        for row in range(3):
            writer.add(Result(row, "a", "ok", text=str(row)))
    assert committed == [3]
    part = read_part(tmp_path / "part-0001-0000-00000.parquet")
    assert part["text"].to_pylist() == ["0", "1", "2"]


def test_what_waits_is_committed_when_the_rank_fails(tmp_path):
    with (
        pytest.raises(KeyError),
        PartWriter(writes_in(tmp_path), 1000, lambda _: None) as writer,
    ):
        writer.add(Result(0, "a", "ok", text="kept"))
        raise KeyError
    assert (tmp_path / "part-0001-0000-00000.parquet").exists()


def test_a_commit_that_fails_stops_the_rank(tmp_path):
    nowhere = tmp_path / "gone"
    with (
        pytest.raises(RunError, match="cannot write captions"),
        PartWriter(writes_in(nowhere), 1000, lambda _: None) as writer,
    ):
        writer.add(Result(0, "a", "ok", text="lost"))


def test_a_name_that_is_taken_is_passed_over(tmp_path):
    name = name_in(tmp_path)
    name(3).write_bytes(b"of another process")
    with PartWriter(writes_in(tmp_path), 1000, lambda _: None, first=3) as writer:
        writer.add(Result(0, "a", "ok", text="one"))
    assert name(3).read_bytes() == b"of another process"
    assert read_part(name(4))["text"].to_pylist() == ["one"]
