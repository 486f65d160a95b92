"""The scheduler of a group's cluster: it introduces the ranks to each other, and computes nothing.

Run as ``python -m vidcap_cli.processes vidcap_cli.engine.scheduler``, with the environment of the
cluster; it returns when all ranks have left.
"""

import mindspore as ms
from mindspore.communication import init

if __name__ == "__main__":
    ms.set_device("CPU")  # no device is taken from a rank
    init()
