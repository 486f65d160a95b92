"""The kernels that the models are made of: one seam, one flavour for each device.

The models above know no device. Everything here runs inside compiled graphs, or operator by
operator between them; what says "host" prepares their inputs.
"""

from vidcap_cli.models.kernels.ascend import AscendKernels
from vidcap_cli.models.kernels.cpu import CpuKernels
from vidcap_cli.models.kernels.seam import Cache, GroupedQueryAttention, Kernels

__all__ = ["Cache", "GroupedQueryAttention", "Kernels", "kernels_for"]


def kernels_for(device: str) -> Kernels:
    """The flavour for "CPU" or "Ascend"."""
    return CpuKernels() if device == "CPU" else AscendKernels()
