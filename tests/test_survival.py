"""Deaths of every kind in the middle of a run: nothing committed is lost or done twice.

Real msrun, real ranks, real signals. After each death the same command finishes the run, and the
table equals that of an undisturbed run byte for byte.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import Command, committed, events, rows_of, vidcap, write_nano_table

# All of one size: graphs are compiled once, and rows then take a tenth of a second each.
ROWS = 50
RUN = "meta_caption_llava.vidcap"
OUTPUT = "meta_caption_llava.csv"


def caption(workers: int) -> list[str]:
    return [
        *("llava", "meta.csv", "--model", "nano", "--flush-seconds", "0.2"),
        *("--worker-num", str(workers)),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_nano_table(folder, ROWS, seed=11, clips=13)
    code, out, err = vidcap(*caption(2), cwd=folder)
    assert code == 0, err
    assert out == ""
    rows = rows_of(folder / OUTPUT)
    assert [row["id"] for row in rows] == [f"{index:04d}" for index in range(ROWS)]
    assert [row["note"] for row in rows] == [f'ünï "q", {i}\nline' for i in range(ROWS)]
    assert all(row["text"] and row["caption_status"] == "ok" for row in rows)
    return folder


@pytest.fixture
def folder(undisturbed: Path, tmp_path: Path) -> Path:
    """The same table and clips, nothing captioned yet."""
    copy = tmp_path / "work"
    shutil.copytree(undisturbed, copy, ignore=shutil.ignore_patterns("meta_caption*"))
    return copy


def pids(folder: Path, kind: str = "started") -> dict[int, int]:
    return {
        int(event["rank"]): int(event["pid"])
        for event in events(folder / RUN)
        if event["kind"] == kind
    }


def start_and_wait_for_parts(folder: Path, workers: int = 2) -> Command:
    command = Command(caption(workers), folder)
    command.wait_until(lambda: len(committed(folder / RUN)) >= 3)
    return command


def assert_equal_and_nothing_twice(folder: Path, undisturbed: Path) -> None:
    assert (folder / OUTPUT).read_bytes() == (undisturbed / OUTPUT).read_bytes()
    done = [row for row, _ in committed(folder / RUN)]
    assert sorted(done) == list(range(ROWS))


def test_one_rank_is_killed(folder, undisturbed):
    command = start_and_wait_for_parts(folder)
    os.kill(pids(folder)[1], signal.SIGKILL)
    code, _, err = command.finish()
    assert code == 0, err
    assert "rank 1 was killed by SIGKILL" in err
    command.assert_gone()
    assert_equal_and_nothing_twice(folder, undisturbed)


def test_all_ranks_are_killed(folder, undisturbed):
    command = start_and_wait_for_parts(folder)
    for pid in pids(folder).values():
        os.kill(pid, signal.SIGKILL)
    code, _, err = command.finish()
    assert code == 0, err
    command.assert_gone()
    assert_equal_and_nothing_twice(folder, undisturbed)


SLOW_MSRUN = """
import os, pathlib, sys, time
said = pathlib.Path(__file__).with_name("pid")
if "vidcap_cli.launch.bare_msrun" in sys.orig_argv and not said.exists():
    said.write_text(str(os.getpid()))
    time.sleep(60)
"""


def pid_of_msrun(folder):
    """What tells the process number of the first msrun once there is one."""
    said = folder / "slow" / "pid"
    return lambda: said.exists() and said.read_text()


def test_msrun_is_killed_while_it_starts_the_ranks(folder, undisturbed):
    # The first msrun takes a while, so that it can be met.
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW_MSRUN)
    command = Command(caption(2), folder, {"PYTHONPATH": str(folder / "slow")})
    os.kill(int(command.wait_until(pid_of_msrun(folder))), signal.SIGKILL)
    code, _, err = command.finish()
    assert code == 0, err  # a launch that failed; the next one did not
    assert "msrun ended with -9" in err
    command.assert_gone()
    assert_equal_and_nothing_twice(folder, undisturbed)


def test_the_parent_is_killed(folder, undisturbed):
    command = start_and_wait_for_parts(folder)
    command.process.kill()
    command.process.communicate()
    command.assert_gone()
    before = committed(folder / RUN)
    code, _, err = vidcap(*caption(1), cwd=folder)
    assert code == 0, err
    assert set(before) <= set(committed(folder / RUN))
    assert_equal_and_nothing_twice(folder, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_user_stops_the_run(folder, undisturbed, number):
    command = start_and_wait_for_parts(folder)
    command.process.send_signal(number)
    code, _, err = command.finish(timeout=60)
    assert code == 130, err
    assert "on disk" in err
    command.assert_gone()
    # What was reported as done is on the disk: leaving in order loses nothing.
    reported = {event["row"] for event in events(folder / RUN) if event["kind"] == "done"}
    assert reported == {row for row, _ in committed(folder / RUN)}
    assert not (folder / OUTPUT).exists()
    code, _, err = vidcap(*caption(1), cwd=folder)
    assert code == 0, err
    assert_equal_and_nothing_twice(folder, undisturbed)


def test_a_row_in_the_model_at_two_deaths_is_left_out(folder, undisturbed):
    slots = [*caption(1), "--bs", "4"]
    command = Command(slots, folder)
    suspects = kill_with_rows_in_model(command, folder, 1, lambda rows: len(rows) > 1)
    # At the second death one of them is in the model, and nothing beside it.
    lone = kill_with_rows_in_model(command, folder, 2, lambda rows: rows & suspects)
    assert len(lone) == 1
    (row,) = lone
    code, _, err = command.finish()
    assert code == 3, err
    rows = rows_of(folder / OUTPUT)
    crashed = {index for index, r in enumerate(rows) if r["caption_status"] == "crashed"}
    assert crashed == lone
    assert rows[row]["text"] == ""
    assert sum(r["caption_status"] == "ok" for r in rows) == ROWS - 1
    # The same command tries it again, and only it.
    code, _, err = vidcap(*slots, cwd=folder)
    assert code == 0, err
    assert (folder / OUTPUT).read_bytes() == (undisturbed / OUTPUT).read_bytes()
    again = [event["row"] for event in events(folder / RUN) if event["kind"] == "done"]
    assert again.count(row) == 1


def kill_with_rows_in_model(
    command: Command, folder: Path, attempt: int, wanted: Callable[[set[int]], object]
) -> set[int]:
    """Kill the rank while the rows in its model are as ``wanted``; which they were."""

    def killed() -> set[int] | None:
        if not wanted(in_model(folder, attempt)):
            return None
        pid = pids(folder)[0]
        os.kill(pid, signal.SIGSTOP)  # else the rows could be done before the signal comes
        rows = in_model(folder, attempt)
        os.kill(pid, signal.SIGKILL if wanted(rows) else signal.SIGCONT)
        return rows if wanted(rows) else None

    rows = command.wait_until(killed)
    assert isinstance(rows, set)
    return rows


def in_model(folder: Path, attempt: int) -> set[int]:
    mine = [event for event in events(folder / RUN) if event["attempt"] == attempt]
    began = {row for event in mine if event["kind"] == "began" for row in event["rows"]}
    return began - {event["row"] for event in mine if event["kind"] == "done"}
