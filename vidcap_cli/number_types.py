"""In which numbers a device keeps and computes; known without MindSpore."""

from vidcap_cli.errors import RunError
from vidcap_cli.native import library


def dtype_for(requested: str, stored: str, device: str, *, compiled: bool) -> str:
    """The dtype to keep weights in: as asked, or the checkpoint's own.

    MindSpore multiplies no bfloat16 matrices on CPU, and float16 ones several times slower: without
    kernels of our own, which only what is ``compiled`` has, ``auto`` is float32 there. Raises
    RunError where the device does not compute in what was asked for.
    """
    if device != "CPU" or (compiled and library() is not None):
        return stored if requested == "auto" else requested
    if requested == "bfloat16":
        raise RunError(
            "--dtype bfloat16 needs an Ascend device, or the compiled engine on a processor with "
            "AVX2 or of the ARM 64-bit kind; here use float32 or float16."
        )
    return "float32" if requested == "auto" else requested
