"""The kernels that the models are made of: one seam, one flavour for each device.

The models above know no device. Everything here runs inside compiled graphs, or operator by
operator between them; what says "host" prepares their inputs.
"""

from vidcap_cli.models.kernels.ascend import AscendKernels
from vidcap_cli.models.kernels.cpu import CpuKernels
from vidcap_cli.models.kernels.native import NativeKernels, NativePieces
from vidcap_cli.models.kernels.seam import Cache, GroupedQueryAttention, Kernels, QkvSplit
from vidcap_cli.native import library

__all__ = ["Cache", "GroupedQueryAttention", "Kernels", "QkvSplit", "kernels_for"]


def kernels_for(device: str, *, shared: bool = False) -> Kernels:
    """The flavour for "CPU" or "Ascend"; ``shared`` says that ranks sum within each layer."""
    if device != "CPU":
        return AscendKernels()
    path = library()
    if path is None:
        return CpuKernels()
    return NativePieces(path) if shared else NativeKernels(path)
