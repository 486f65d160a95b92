"""How many ranks there are to be: as asked, as srun or mpirun say, or one for each device here."""

import os

from vidcap_cli.ascend import VISIBLE, device_nodes, visible_devices
from vidcap_cli.errors import UsageError
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.launch.surroundings import look_around
from vidcap_cli.options import LaunchOptions
from vidcap_cli.view.words import count


def cluster_for(launch: LaunchOptions, target: str, group: int) -> Cluster:
    """The ranks that are meant, in groups of ``group`` that share a model, on devices ``target``.

    Raises UsageError for numbers that do not go together, or with the devices that there are.
    """
    found = device_count(target)
    whole = max(found - found % group, group)  # ranks that groups can be made of
    around = look_around(os.environ)
    nodes = around.nodes if around else 1
    share = launch.worker_num // nodes if launch.worker_num else whole
    local = launch.local_worker_num or max(share, 1)
    workers = launch.worker_num or (local * nodes if around else whole)
    if local > workers:
        raise UsageError(f"--local-worker-num {local} is more than --worker-num {workers}.")
    if not around:
        _check_node(launch.node_rank or 0, workers, local)
    elif workers > local * nodes:
        raise UsageError(
            f"--worker-num {workers} is more than {count(local * nodes, 'rank')}, {local} on each "
            f"of {count(nodes, 'node')} that {around.starter} started; give a multiple of {nodes}."
        )
    for flag, ranks in (("--worker-num", workers), ("--local-worker-num", local)):
        if ranks % group:
            raise UsageError(
                f"{flag} {ranks} is no multiple of --tensor-parallel {group}: the ranks that share "
                "a model are on one machine."
            )
    if local > found and devices(target):
        raise UsageError(
            f"{local} ranks were asked for on this machine, which has {found} Ascend devices "
            f"({_whence()}), one for each; lower --worker-num, or give --local-worker-num where "
            "other nodes take part."
        )
    return Cluster(workers, local, launch)


def _check_node(node: int, workers: int, local: int) -> None:
    """Refuse a node that has none of the ranks."""
    if node * local < workers:
        return
    last = (workers - 1) // local
    ranks = f"{count(workers, 'rank')}, {local} on a node, make {count(last + 1, 'node')}"
    highest = f"whose numbers are 0 to {last}" if last else "whose number is 0"
    raise UsageError(
        f"--node-rank {node}: {ranks}, {highest}; give the same --worker-num and "
        "--local-worker-num as on the others."
    )


def device_count(target: str) -> int:
    """Ascend devices that ranks here may use, or 1 for the CPU."""
    found = devices(target)
    if target == "Ascend" and not found:
        raise UsageError(f"no Ascend device was found ({_whence()}); try --device-target CPU.")
    return found or 1


def devices(target: str) -> int:
    """Ascend devices that ``target`` and the environment allow to be used."""
    return 0 if target == "CPU" else len(visible_devices())


def _whence() -> str:
    """What says which devices there are."""
    named = os.environ.get(VISIBLE)
    return f"{VISIBLE}={named}" if named and device_nodes() else "/dev/davinci0"
