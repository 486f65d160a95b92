"""Records are read as they were written, in the form of every version, and damage is told."""

import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.records import (
    Attempt,
    Finished,
    RankError,
    RankExit,
    ShortRows,
    read_errors,
    read_exits,
)


def test_a_damaged_record_is_passed_over_or_told(tmp_path):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    RankExit(0, -9, (3, 4)).write(folder)
    for rank, data in enumerate([b"", b"[]", b'{"rank": 1, "code": 0, "rows": ["x"]}', b"\xff"], 1):
        folder.exit(rank).write_bytes(data)
        folder.error(rank).write_bytes(data)
    assert read_exits(folder) == [RankExit(0, -9, (3, 4))]
    RankError(0, 5.0, "disk is full", "RunError", expected=True, traceback="").write(folder)
    errors = read_errors(folder)
    assert [error.rank for error in errors if error.time] == [0]
    assert all("damaged" in error.message for error in errors[:-1])
    assert len(errors) == 5


def test_the_files_are_those_of_every_version(tmp_path):
    run = RunDir(tmp_path)
    folder = run.attempt(3)
    folder.path.mkdir(parents=True)
    RankExit(1, -9, (3, 4)).write(folder)
    RankError(0, 5.0, "no", "RunError", expected=True, traceback="T").write(folder)
    Finished(planned=9, rows=8, failed=2).write(run)
    assert (tmp_path / "attempts/0003/exit-0001.json").read_text() == (
        '{"rank": 1, "code": -9, "rows": [3, 4]}'
    )
    assert (tmp_path / "attempts/0003/error-0000.json").read_text() == (
        '{"rank": 0, "time": 5.0, "message": "no", "type": "RunError", "expected": true, '
        '"traceback": "T"}'
    )
    assert (tmp_path / "finished.json").read_text() == '{"planned": 9, "rows": 8, "failed": 2}'
    assert Finished.read(run) == Finished(9, 8, 2)


def test_an_attempt_comes_back_and_one_without_rows_to_be_alone_is_read(tmp_path):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    attempt = Attempt(CaptionConfig("llava", "/m"), 70, 8, 2, bases=("/a", "/b"), alone=(4, 6))
    attempt.write(folder)
    assert Attempt.read(folder) == attempt
    assert attempt.chunks == 9
    folder.config.write_text(folder.config.read_text().replace(', "alone": [4, 6]', ""))
    assert Attempt.read(folder).alone == ()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"planned": 1, "rows": 1}', b"\xff"])
def test_the_end_of_a_run_that_cannot_be_read_is_told(tmp_path, data):
    run = RunDir(tmp_path)
    assert Finished.read(run) is None
    run.finished.write_bytes(data)
    with pytest.raises(RunError, match=r"finished\.json: damaged .* vidcap inspect"):
        Finished.read(run)


def test_rows_that_memory_ran_out_with_add_up(tmp_path):
    folder = RunDir(tmp_path).attempt(1)
    folder.path.mkdir(parents=True)
    ShortRows(alone=frozenset({7, 3})).add(folder, 2)
    ShortRows(smaller=frozenset({3})).add(folder, 2)
    assert folder.memory(2).read_text() == '{"alone": [3, 7], "smaller": [3]}'
    assert ShortRows.read(folder, 2) == ShortRows(frozenset({3, 7}), frozenset({3}))
    assert ShortRows.read(folder, 0) == ShortRows()
    for damaged in (b"", b"[]", b'{"alone": [[3]], "smaller": []}', b'{"alone": ["3"]}', b"\xff"):
        folder.memory(2).write_bytes(damaged)
        assert ShortRows.read(folder, 2) == ShortRows()
