"""How many ranks there are for the devices here, and what is refused."""

from pathlib import Path

import pytest

from vidcap_cli.errors import UsageError
from vidcap_cli.launch.ranks import cluster_for
from vidcap_cli.options import LaunchOptions


@pytest.fixture(autouse=True)
def two_of_three_devices(monkeypatch):
    nodes = [Path(f"/dev/davinci{number}") for number in range(3)]
    monkeypatch.setattr("vidcap_cli.ascend.device_nodes", lambda: nodes)
    monkeypatch.setattr("vidcap_cli.launch.ranks.device_nodes", lambda: nodes)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,2")


@pytest.mark.parametrize(
    ("launch", "ranks"),
    [
        (LaunchOptions(), (2, 2)),
        (LaunchOptions(worker_num=1), (1, 1)),
        (LaunchOptions(worker_num=16, local_worker_num=2), (16, 2)),
    ],
)
def test_as_many_as_devices_unless_asked_otherwise(launch, ranks):
    cluster = cluster_for(launch, "auto", 1)
    assert (cluster.worker_num, cluster.local_worker_num) == ranks


@pytest.mark.parametrize(
    "launch", [LaunchOptions(worker_num=3), LaunchOptions(worker_num=16, local_worker_num=8)]
)
def test_more_than_devices_are_refused(launch):
    few = "2 Ascend devices .ASCEND_RT_VISIBLE_DEVICES=0,2.*--local-worker-num"
    with pytest.raises(UsageError, match=few):
        cluster_for(launch, "auto", 1)


def test_the_cpu_needs_no_devices(monkeypatch):
    eight = LaunchOptions(worker_num=8)
    assert cluster_for(eight, "CPU", 1).worker_num == 8
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "-1")
    assert cluster_for(eight, "auto", 1).worker_num == 8
    with pytest.raises(UsageError, match=r"no Ascend device was found .ASCEND_RT_VISIBLE_DEV.*=-1"):
        cluster_for(eight, "Ascend", 1)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (2, "16 ranks, 8 on a node, make 2 nodes, whose numbers are 0 to 1;"),
        (9, "16"),
        (1, ""),
        (0, ""),
    ],
)
def test_a_node_without_ranks_is_refused(node, words):
    launch = LaunchOptions(worker_num=16, local_worker_num=8, node_rank=node)
    if words:
        with pytest.raises(UsageError, match=f"--node-rank {node}: {words}"):
            cluster_for(launch, "CPU", 1)
    else:
        assert cluster_for(launch, "CPU", 1).node == node
    with pytest.raises(UsageError, match="1 rank, 1 on a node, make 1 node, whose number is 0;"):
        cluster_for(LaunchOptions(node_rank=1), "CPU", 1)
