"""Two nodes share a run through a folder alone: each is a command of its own with its own ranks."""

import re
import signal
import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.faults.scene import FINISHED, Scene, _draw_table
from tests.helpers.commands import Command, committed, events, rows_of, write_nano_table
from tests.launch.runs import Notices, caption_rows, finished_run
from vidcap_cli.atomic import atomic_write, committing
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.launch import follower as join_module
from vidcap_cli.launch import leader as leader_module
from vidcap_cli.launch import others as others_module
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import leading
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.rank.intake import Claims
from vidcap_cli.rundir.leases import grant, revoke
from vidcap_cli.rundir.nodes import Heartbeat
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.records import Attempt, RankExit, read_exits

ROWS = 10


def node(folder: Path, rank: int) -> Command:
    arguments = [
        *("llava", "meta.csv", "--model", "nano", "--worker-num", "2"),
        *("--local-worker-num", "1", "--node-rank", str(rank), "--flush-seconds", "0.2"),
    ]
    return Command(arguments, folder)


def test_two_nodes_caption_one_table(tmp_path):
    write_nano_table(tmp_path, ROWS, seed=21)
    nodes = [node(tmp_path, 1), node(tmp_path, 0)]
    (second, _, err1), (first, _, err0) = [command.finish() for command in nodes]
    assert (first, second) == (0, 0), (err0, err1)
    assert f"finished: {ROWS} of {ROWS} videos of all nodes have a caption" in err1
    for command in nodes:
        command.assert_gone()
    rows = rows_of(tmp_path / "meta_caption_llava.csv")
    assert [row["caption_status"] for row in rows] == ["ok"] * ROWS
    run = tmp_path / "meta_caption_llava.vidcap"
    assert sorted(row for row, _ in committed(run)) == list(range(ROWS))
    assert {event["rank"] for event in events(run) if event["kind"] == "started"} == {0, 1}
    assert list((run / "attempts").iterdir()) == [run / "attempts" / "0001"]


class Pair:
    """Two nodes with a rank each, over the same fake videos and the same folder."""

    def __init__(self, place: Path, *, rows: int = 16, slowness: float = 0.5) -> None:
        _draw_table(place / "scene", rows, seed=31)
        self.scene = Scene(place / "scene", seed=31, rows=rows, slowness=slowness)
        self.work = self.scene.copy(place / "run")
        self.run = self.work / "meta_caption_qwen2vl.vidcap"
        self.rows = rows

    def start(self, number: int) -> Command:
        more = ["--local-worker-num", "1", "--node-rank", str(number), "--flush-seconds", "0.2"]
        return self.command(self.scene.words(*more, workers=2), number)

    def command(self, words: list[str], node: int) -> Command:
        return Command(words, self.work, self.scene.environment(self.work, node=node))

    def ranks(self, kind: str, attempt: int = 1) -> list[int]:
        wanted = (kind, attempt)
        return [e["rank"] for e in events(self.run) if (e["kind"], e["attempt"]) == wanted]

    def begun(self) -> bool:
        return set(self.ranks("began")) == {0, 1}

    def rank_of(self, node: int) -> psutil.Process:
        found = [e["pid"] for e in events(self.run) if (e["kind"], e["rank"]) == ("started", node)]
        return psutil.Process(found[-1])

    def check(self) -> None:
        """Every row has a result, and no caption was committed twice."""
        found = committed(self.run)
        captions = [row for row, status in found if status == "ok"]
        assert {row for row, _ in found} == set(range(self.rows))
        assert len(captions) == len(set(captions))
        assert len(rows_of(self.work / "meta_caption_qwen2vl.csv")) == self.rows


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_node_leaves_the_launch_of_a_leader_that_died(tmp_path):
    """Else it would caption the rows that the next launch captions, too."""
    pair = Pair(tmp_path, slowness=1.5)
    leader, other = pair.start(0), pair.start(1)
    other.wait_until(pair.begun)
    leader.process.kill()
    leader.finish()
    again = pair.start(0)
    other.wait_until(lambda: set(pair.ranks("ended")) == {1})
    ends = [e["reason"] for e in events(pair.run) if (e["kind"], e["attempt"]) == ("ended", 1)]
    for command in (again, other):
        command.process.send_signal(signal.SIGINT)
        command.finish()
        command.assert_gone()
    assert ends == ["stopped"]


def test_a_node_waits_for_a_leader_that_died_and_goes_on_with_the_next(pair):
    leader, other = pair.start(0), pair.start(1)
    other.wait_until(pair.begun)
    leader.process.kill()
    leader.finish()
    other.wait_until(lambda: pair.ranks("ended"))
    time.sleep(2)  # nothing but its screen tells that it waits by now
    again = pair.start(0)
    assert again.finish()[0] in FINISHED
    code, _, err = other.finish()
    assert code in FINISHED
    assert "node 0 has left before the end; waiting for it to come back" in err
    pair.check()


@pytest.mark.parametrize("node", [0, 1])
def test_a_rank_that_dies_is_started_again_in_the_launch_that_goes_on(pair, node):
    commands = pair.start(0), pair.start(1)
    commands[1 - node].wait_until(pair.begun)
    pair.rank_of(node).kill()
    ends = [command.finish() for command in commands]
    assert {code for code, _, _ in ends} <= set(FINISHED)
    assert "starting the ranks of this node again" in ends[node][2]
    assert "starting the ranks of this node again" not in ends[1 - node][2]
    assert pair.ranks("started").count(node) == 2
    codes = [end.code for end in read_exits(RunDir(pair.run).attempt(1)) if end.rank == node]
    assert codes[0] == -signal.SIGKILL
    pair.check()


def test_a_node_that_is_killed_is_not_waited_for(pair, monkeypatch):
    """Its rows are done by the others, in the next launch."""
    monkeypatch.setenv("VIDCAP_NODE_SECONDS", "3")
    leader, other = pair.start(0), pair.start(1)
    other.wait_until(pair.begun)
    other.process.kill()
    other.finish()
    code, _, err = leader.finish()
    assert code in FINISHED
    assert re.search(r"node 1 \(.+\): not heard of any more", err)
    pair.check()


def test_a_node_that_was_frozen_commits_nothing_that_others_have_done(pair, monkeypatch):
    monkeypatch.setenv("VIDCAP_NODE_SECONDS", "3")
    leader, other = pair.start(0), pair.start(1)
    other.wait_until(pair.begun)
    frozen = other.processes()
    for process in frozen:
        process.suspend()
    leader.wait_until(RunDir(pair.run).attempt(2).config.exists)
    for process in frozen:
        process.resume()
    ends = [command.finish() for command in (leader, other)]
    assert {code for code, _, _ in ends} <= set(FINISHED)
    assert "node 1" in ends[0][2]
    pair.check()


def test_rows_that_were_claimed_by_nobody_who_lives_are_done_in_another_launch(pair):
    """When the ranks of all nodes have ended nobody waits for anybody."""
    commands = pair.start(0), pair.start(1)
    launch = RunDir(pair.run).attempt(1)
    commands[0].wait_until(launch.config.exists)
    launch.claim(Attempt.read(launch).chunks - 1).touch()  # its owner died at this moment
    ends = [command.finish() for command in commands]
    assert {code for code, _, _ in ends} <= set(FINISHED)
    assert len(RunDir(pair.run).attempts()) == 2
    pair.check()


def test_a_node_says_that_it_waits_for_a_leader_that_is_frozen(pair, monkeypatch):
    monkeypatch.setenv("VIDCAP_NODE_SECONDS", "2")
    leader, other = pair.start(0), pair.start(1)
    other.wait_until(pair.begun)
    frozen = leader.processes()
    for process in frozen:
        process.suspend()
    other.wait_until(lambda: pair.ranks("ended") == [1])
    time.sleep(6)  # longer than it takes to be missed; only a screen tells that it is
    for process in frozen:
        process.resume()
    ends = [command.finish() for command in (leader, other)]
    assert {code for code, _, _ in ends} <= set(FINISHED)
    assert re.search(r"node 0 \(.+\) is not heard of, though it holds the run", ends[1][2])
    pair.check()


def test_a_row_that_kills_its_rank_twice_is_left_out_by_that_rank(tmp_path):
    """In one launch, when other nodes go on with it."""
    folder = RunDir(tmp_path / "run").attempt(1)
    folder.claims.mkdir(parents=True)
    for start in range(2):
        RankExit(1, -9, (4,)).write(folder, start)
    RankExit(0, -9, (5,)).write(folder)
    claims = Claims(RunDir(tmp_path / "run"), folder, attempt_of_rows(8, alone=(6,)), 1)
    assert claims._deaths() == {4: 2, 6: 1}


def attempt_of_rows(rows: int, *, alone: tuple[int, ...]) -> Attempt:
    config = CaptionConfig("qwen2vl", "/models/some")
    return Attempt(config, rows=rows, chunk=1, ranks=2, bases=(), alone=alone)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    return Job(tmp_path / "meta.csv", tmp_path / "run", CaptionConfig("qwen2vl", "/models/some"))


def test_a_node_serves_no_run_that_is_not_of_its_place(job, monkeypatch):
    with leading(job):
        pass
    monkeypatch.setattr(join_module, "_WAIT_SECONDS", 0.1)
    follow = join_module._Follower
    monkeypatch.setattr(follow, "_follow", lambda *_: pytest.fail("it served another run"))
    with leading(replace(job, run_dir=Path(f"{job.run_dir}.next"))) as leader:
        leader._prepare(1, 1)
        with pytest.raises(RunError, match="node 0 has led no run"):
            join_module.join(job.run_dir, Cluster(), None)


def test_a_node_that_comes_when_all_is_done_believes_it(job, monkeypatch):
    finished_run(replace(job, meta=three_rows(job.meta)))
    monkeypatch.setattr(join_module, "_FINISHED_SECONDS", 0.1)
    said: list[str] = []
    assert join_module.join(job.run_dir, Cluster(), None, said.append) == 0
    assert "has finished" in said[-1]


def three_rows(meta: Path) -> Path:
    meta.write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    return meta


def test_a_node_serves_a_run_that_replaces_the_one_of_its_place(job):
    with leading(job) as leader:
        write_part(leader.run.part(1, 0, 0, "parquet"), [Result(0, "a.mp4", "ok", "words")])
    places = Places.of(job.run_dir)
    with leading(replace(job, fresh=True)) as leader:
        assert places.to_join() == [RunDir(Path(f"{job.run_dir}.next")), RunDir(job.run_dir)]
        places.settled.path.rename(places.replaced_run.path)  # between the two renames
        assert places.to_join() == [leader.run]


def test_only_nodes_that_work_in_the_launch_are_waited_for(job, monkeypatch):
    monkeypatch.setattr(others_module, "_LOOK_SECONDS", 0)
    view = Notices()
    with leading(replace(job, cluster=Cluster(worker_num=3, local_worker_num=1))) as leader:
        folder = leader._prepare(1, 1)
        goes_on = partial(leader._goes_on_elsewhere, folder, view)
        assert not goes_on()  # nobody came
        with Heartbeat(leader.run, 1) as other:
            assert not goes_on()  # it waits for the next launch
            other.works_in(1)
            assert goes_on()
            assert view.told == [
                f"node 1 ({socket.gethostname()}): still at work, which is waited for"
            ]
            assert goes_on()
            assert len(view.told) == 1
            caption_rows(leader.run, 0)
            assert not goes_on()
        assert not goes_on()


def test_a_lease_that_is_revoked_lets_nothing_pass(job):
    with leading(job) as leader:
        folder = leader._prepare(1, 1)
        lease = folder.lease(1, grant(folder, [1]))
        begun = committing(leader.run.part(1, 1, 0, "csv"), replace=False, by_way_of=lease)
        with pytest.raises(FileNotFoundError), begun as temporary:
            temporary.write_bytes(b"of a rank that is frozen here")
            revoke(folder)
        with pytest.raises(FileNotFoundError):
            atomic_write(leader.run.part(1, 1, 1, "csv"), b"and wakes up", by_way_of=lease)
        assert leader.run.part_files() == []
        # Another start has another lease; there is none in a launch that is over.
        assert folder.lease(1, grant(folder, [1])) != lease
        folder.over.touch()
        assert grant(folder, [1]) is None
        assert folder.leases() == []


def test_what_a_launch_had_to_do_goes_when_it_is_over_and_nobody_reads_it(job, monkeypatch):
    def work(run: RunDir, folder: AttemptDir, *_: object, **__: object) -> None:
        assert folder.todo.exists()
        caption_rows(run, folder.number - 2, attempt=folder.number)

    monkeypatch.setattr(leader_module, "supervise", work)
    with leading(replace(job, meta=three_rows(job.meta))) as leader:
        leader._prepare(1, 3)
    run, view = leader.run, Notices()
    with Heartbeat(run, 1) as frozen:
        frozen.works_in(1)
        with leading(job) as leader:
            leader.work(view)
        assert [launch.number for launch in run.attempts()] == [1, 2, 3, 4]
        assert [launch.number for launch in run.attempts() if launch.todo.exists()] == [1]
        frozen.works_in(None)
        with leading(job) as leader:
            assert leader.finished_before == 3
    assert not any(launch.todo.exists() for launch in run.attempts())
