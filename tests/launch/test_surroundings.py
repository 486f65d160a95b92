"""What srun, mpirun or msrun say of nodes and ranks, and what is made of it."""

import pytest

from tests.faults.scene import FINISHED
from tests.launch.test_nodes import Pair
from vidcap_cli.errors import UsageError
from vidcap_cli.launch.ranks import cluster_for
from vidcap_cli.launch.surroundings import Surroundings, look_around, placed
from vidcap_cli.options import LaunchOptions


def srun(node: int, nodes: int, local: int = 0, per_node: int = 1) -> dict[str, str]:
    each = f"{per_node}(x{nodes})" if nodes > 1 else str(per_node)
    return {
        "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": str(nodes * per_node), "SLURM_LOCALID": str(local),
        "SLURM_STEP_TASKS_PER_NODE": each,
    }  # fmt: skip


def mpirun(rank: int, size: int, per_node: int) -> dict[str, str]:
    values = {"RANK": rank, "SIZE": size, "LOCAL_RANK": rank % per_node, "LOCAL_SIZE": per_node}
    return {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in values.items()}


def msrun(role: str = "MS_WORKER", device: int = 0, node: int = -1) -> dict[str, str]:
    return {
        "MS_ROLE": role, "MS_WORKER_NUM": "4", "DEVICE_ID": str(device), "MS_NODE_RANK": str(node),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (srun(1, 2), Surroundings("srun", 1, 2, 0, 1)),
        (srun(0, 1, local=3, per_node=8), Surroundings("srun", 0, 1, 3, 8)),
        # A batch script has the allocation's variables, and no step's.
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_NODEID": "0"}, None),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "x", "SLURM_STEP_NUM_NODES": "2"}, None),
        (mpirun(5, 8, 4), Surroundings("mpirun", 1, 2, 1, 4)),
        (mpirun(1, 2, 1), Surroundings("mpirun", 1, 2, 0, 1)),
        (msrun(), Surroundings("msrun", 0, 1, 0, 4)),
        (msrun(device=2), Surroundings("msrun", 0, 1, 2, 4)),
        (msrun("MS_SCHED"), Surroundings("msrun", 0, 1, 4, 4)),
    ],
)
def test_what_is_found(environment, expected):
    assert look_around(environment) == expected
    assert expected is None or expected.idle == (expected.local > 0)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {**srun(0, 3), "SLURM_STEP_TASKS_PER_NODE": "2(x2),1"},
            r"2\(x2\),1 tasks .* --ntasks-per",
        ),
        ({**mpirun(5, 8, 4), "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "same number .* ppr:1:node"),
        (msrun(node=0), "without msrun"),
        (msrun(node=3), "own --node-rank, which is 3 here"),
    ],
)
def test_what_cannot_be_used_is_said(environment, words):
    with pytest.raises(UsageError, match=words):
        look_around(environment)


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, (1, 1, 0)),
        ({}, {"worker_num": 4, "local_worker_num": 2, "node_rank": 1}, (4, 2, 1)),
        (srun(1, 2), {}, (2, 1, 1)),
        (srun(1, 2, per_node=4), {}, (8, 4, 1)),
        (srun(1, 2), {"worker_num": 6}, (6, 3, 1)),
        (srun(1, 2), {"node_rank": 0, "local_worker_num": 2}, (4, 2, 0)),
        (mpirun(0, 4, 2), {}, (4, 2, 0)),
        (srun(1, 2, per_node=4), {"worker_num": 4}, (4, 2, 1)),
        (msrun(), {}, (4, 4, 0)),
        (msrun(), {"worker_num": 6}, (6, 6, 0)),
        (msrun(), {"worker_num": 1}, (1, 1, 0)),
    ],
)
def test_what_is_given_goes_before_what_is_found(monkeypatch, environment, given, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launch = placed(LaunchOptions(**given), look_around(environment))
    cluster = cluster_for(launch, "CPU", 1)
    assert (cluster.worker_num, cluster.local_worker_num, cluster.node) == expected


def test_ranks_that_nodes_cannot_share_are_refused(monkeypatch):
    for name, value in srun(0, 2).items():
        monkeypatch.setenv(name, value)
    launch = placed(LaunchOptions(worker_num=3), look_around(srun(0, 2)))
    words = "--worker-num 3 is more than 2 ranks, 1 on each of 2 nodes that srun started"
    with pytest.raises(UsageError, match=words):
        cluster_for(launch, "CPU", 1)


def test_a_command_that_srun_starts_on_two_nodes(tmp_path, monkeypatch):
    """Two tasks on each: the second has nothing to do."""
    pair = Pair(tmp_path, rows=8, slowness=0.2)
    commands = []
    for node in (0, 1):
        for local in (0, 1):
            for name, value in srun(node, 2, local, per_node=2).items():
                monkeypatch.setenv(name, value)
            words = [*pair.scene.words("--flush-seconds", "0.2")]
            del words[words.index("--worker-num") : words.index("--worker-num") + 2]
            commands.append(pair.command(words, node))
    ends = [command.finish() for command in commands]
    assert {ends[0][0], ends[2][0]} <= set(FINISHED), ends
    assert ends[1] == ends[3] == (0, "", "")
    assert set(pair.ranks("started")) <= {0, 1, 2, 3}
    assert set(pair.ranks("started")) >= {0, 1}
    pair.check()
