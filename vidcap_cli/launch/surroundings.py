"""Surroundings: what Slurm, Open MPI or msrun, having started this command, say of ranks and nodes.

``srun vidcap ...`` starts the same command once on every node, or several times. One command on
each node leads the ranks there; the others have nothing to do. What the user gives goes before
what is found here. Nothing is read of a batch script's environment: only who starts processes on
nodes says which of them this is.

Sources: srun(1), output environment variables; mpirun(1); mindspore/parallel/cluster (2.7.0).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from vidcap_cli.errors import UsageError
from vidcap_cli.options import LaunchOptions


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found: this is process ``local`` of ``per_node`` on node ``node`` of ``nodes``.

    ``starter`` is who says so.
    """

    starter: str
    node: int
    nodes: int
    local: int
    per_node: int

    @property
    def idle(self) -> bool:
        """Whether another process of this node leads its ranks."""
        return self.local > 0


def look_around(environment: Mapping[str, str]) -> Surroundings | None:
    """What the environment says, None when nobody who starts processes on nodes started this one.

    Raises UsageError when it is not the same number of processes on every node, or when many
    nodes' msrun started this one.
    """
    try:
        return _slurm(environment) or _open_mpi(environment) or _msrun(environment)
    except (KeyError, ValueError):
        return None  # not as documented: the user has options to say it


def placed(launch: LaunchOptions, found: Surroundings | None) -> LaunchOptions:
    """``launch`` with what was found in place of what was not given.

    The ranks in all stay open where each node has one process: they are as many as devices.
    """
    node = launch.node_rank
    if found is None:
        return replace(launch, node_rank=node or 0)
    local = launch.local_worker_num
    if found.per_node > 1 and not launch.worker_num:
        local = local or found.per_node
    return replace(launch, node_rank=found.node if node is None else node, local_worker_num=local)


def _slurm(environment: Mapping[str, str]) -> Surroundings | None:
    # Set by srun for the tasks of a step alone, not in a batch script.
    if "SLURM_STEP_ID" not in environment or "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    nodes = int(environment["SLURM_STEP_NUM_NODES"])
    per_node = _equal(environment["SLURM_STEP_TASKS_PER_NODE"])
    return Surroundings(
        "srun",
        int(environment["SLURM_NODEID"]),
        nodes,
        int(environment["SLURM_LOCALID"]),
        per_node,
    )


def _equal(tasks_per_node: str) -> int:
    """The tasks on each node, written like 2(x3),1."""
    counts = {int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", tasks_per_node)}
    if len(counts) != 1:
        raise UsageError(
            f"srun starts {tasks_per_node} tasks on the nodes; vidcap wants as many on each, "
            "such as one: srun --ntasks-per-node=1."
        )
    return counts.pop()


def _open_mpi(environment: Mapping[str, str]) -> Surroundings | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    rank, size, local, per_node = (
        int(environment[f"OMPI_COMM_WORLD_{name}"])
        for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    )
    # Open MPI does not tell the node's number. By slot, its usual way, ranks fill node after node.
    if size % per_node or rank % per_node != local:
        raise UsageError(
            "mpirun has not put the same number of processes on each node, one node after the "
            "other; start one on each (--map-by ppr:1:node)."
        )
    return Surroundings("mpirun", rank // per_node, size // per_node, local, per_node)


def _msrun(environment: Mapping[str, str]) -> Surroundings | None:
    role = environment.get("MS_ROLE")
    if role not in ("MS_WORKER", "MS_SCHED"):
        return None
    node = int(environment.get("MS_NODE_RANK", "-1"))
    if node > -1:
        raise UsageError(
            "msrun started this command on several nodes, where vidcap starts msrun itself: give "
            "it without msrun, with the same --worker-num and --local-worker-num on every node, "
            f"and with the node's own --node-rank, which is {node} here."
        )
    workers = int(environment["MS_WORKER_NUM"])
    # The scheduler, which runs the same program, has nothing to do here either.
    local = int(environment["DEVICE_ID"]) if role == "MS_WORKER" else workers
    return Surroundings("msrun", 0, 1, local, workers)
