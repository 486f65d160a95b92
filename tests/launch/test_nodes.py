"""Two nodes share a run through a folder alone: each is a command of its own with its own ranks."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.scene import Scene, _draw_table
from tests.helpers.commands import Command, committed, events, rows_of, write_nano_table
from tests.launch.runs import caption_rows
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.launch import follower as join_module
from vidcap_cli.launch import leader as leader_module
from vidcap_cli.launch.leader import Job, leading
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.places import Places
from vidcap_cli.rundir.records import RankExit

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
    for command in nodes:
        command.assert_gone()
    rows = rows_of(tmp_path / "meta_caption_llava.csv")
    assert [row["caption_status"] for row in rows] == ["ok"] * ROWS
    run = tmp_path / "meta_caption_llava.vidcap"
    assert sorted(row for row, _ in committed(run)) == list(range(ROWS))
    assert {event["rank"] for event in events(run) if event["kind"] == "started"} == {0, 1}
    assert list((run / "attempts").iterdir()) == [run / "attempts" / "0001"]


def test_a_node_leaves_the_launch_of_a_leader_that_died(tmp_path):
    """Else it would caption the rows that the next launch captions, too."""
    _draw_table(tmp_path / "scene", 24, seed=31)
    scene = Scene(tmp_path / "scene", seed=31, rows=24, slowness=1.5)
    work = scene.copy(tmp_path / "run")
    run = work / "meta_caption_qwen2vl.vidcap"

    def start(number: int) -> Command:
        more = ["--local-worker-num", "1", "--node-rank", str(number)]
        return scene.command(work, *more, workers=2, node=number)

    def ranks(kind: str) -> set[int]:
        return {e["rank"] for e in events(run) if (e["kind"], e["attempt"]) == (kind, 1)}

    leader, other = start(0), start(1)
    other.wait_until(lambda: ranks("began") == {0, 1})
    leader.process.kill()
    leader.finish()
    again = start(0)
    other.wait_until(lambda: ranks("ended") == {1})
    ends = [e["reason"] for e in events(run) if (e["kind"], e["attempt"]) == ("ended", 1)]
    for command in (again, other):
        command.process.send_signal(signal.SIGINT)
        command.finish()
        command.assert_gone()
    assert ends == ["stopped"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    return Job(tmp_path / "meta.csv", tmp_path / "run", CaptionConfig("qwen2vl", "/models/some"))


def test_a_node_serves_no_run_that_is_not_of_its_place(job, monkeypatch):
    with leading(job):
        pass
    monkeypatch.setattr(join_module, "_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(join_module, "_launch", lambda *_: pytest.fail("it served another run"))
    with leading(replace(job, run_dir=Path(f"{job.run_dir}.next"))) as leader:
        leader._prepare(1, 1)
        with pytest.raises(RunError, match="node 0 has not started a run"):
            join_module.join(job.run_dir, Cluster(), None)


def test_a_node_serves_a_run_that_replaces_the_one_of_its_place(job):
    with leading(job) as leader:
        write_part(leader.run.part(1, 0, 0, "parquet"), [Result(0, "a.mp4", "ok", "words")])
    places = Places.of(job.run_dir)
    with leading(replace(job, fresh=True)) as leader:
        assert places.to_join() == [RunDir(Path(f"{job.run_dir}.next")), RunDir(job.run_dir)]
        places.settled.path.rename(places.replaced_run.path)  # between the two renames
        assert places.to_join() == [leader.run]


def test_only_nodes_whose_ranks_are_there_are_waited_for(job, monkeypatch):
    monkeypatch.setattr(leader_module, "_OTHER_NODES_SECONDS", 0)
    with leading(replace(job, cluster=Cluster(worker_num=3, local_worker_num=1))) as leader:
        folder = leader._prepare(1, 1)
        assert leader._over(folder)  # nobody came
        folder.events(1).touch()
        assert not leader._over(folder)
        RankExit(1, -9).write(folder)
        assert leader._over(folder)
        folder.events(2).touch()
        assert not leader._over(folder)
        caption_rows(leader.run, 0)
        assert leader._over(folder)
