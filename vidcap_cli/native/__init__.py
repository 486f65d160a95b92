"""Kernels in C for the processors of this machine, built with the package (``build.py``).

MindSpore on CPU multiplies no bfloat16 matrices, float16 ones slowly, and single rows at half the
speed of the memory. These kernels keep weights in their 16 bits and compute in float32.
"""

import ctypes
import math
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidcap_cli.errors import UsageError
from vidcap_cli.native.sources import digest

_HERE = Path(__file__).parent
# The variants that ``build.py`` builds, the best first, and what a processor has for each.
_NEEDS = {
    "amx": {"amx_tile", "amx_bf16", "avx512f", "avx512_bf16", "avx2", "fma", "f16c"},
    "avx512bf16": {"avx512f", "avx512_bf16", "avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx2", "fma", "f16c"},
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"asimd"},
}
# In C's numbers. numpy knows no bfloat16: its bits are uint16.
_KINDS = {"float32": (0, np.float32), "float16": (1, np.float16), "bfloat16": (2, np.uint16)}

_LINE, _LARGE_PAGE = 64, 2 << 20  # bytes, of a cache and of memory


def library() -> Path | None:
    """The kernels that this processor runs, None if there are none: they were not built, or it is
    too old.

    ``VIDCAP_NATIVE`` names the variant to use, or ``none``; UsageError for another name, and for
    kernels that were built of other sources than those beside them.
    """
    wanted = os.environ.get("VIDCAP_NATIVE")
    if wanted not in {None, "none", *_NEEDS}:
        raise UsageError(f"VIDCAP_NATIVE={wanted}: {', '.join(_NEEDS)} or none")
    flags = _processor_flags()
    for variant, needs in _NEEDS.items():
        path = _HERE / f"{variant}.so"
        if wanted in {None, variant} and needs <= flags and path.exists():
            _check_sources(path)
            return path
    return None


def set_threads(count: int) -> None:
    """Have at least ``count`` threads for kernels, the one that calls them among these."""
    _function("set_threads")(ctypes.c_int(count))


def round_rows(wanted: bool) -> None:  # noqa: FBT001 - of the whole process, from now on
    """Have products round their rows to bfloat16 where the processor is faster with it."""
    _function("round_rows")(ctypes.c_int(wanted))


def rounds_rows() -> bool:
    """Whether it was called with True last."""
    return bool(_function("rounds_rows", ctypes.c_int)())


def round_into(numbers: NDArray[np.float32], to: NDArray[np.uint16]) -> None:
    """Write ``numbers`` ``[n, ...]`` as the nearest bfloat16 to an array, or a part of one, of the
    same shape whose n parts are each in one piece.
    """
    numbers = np.ascontiguousarray(numbers)
    rows, next_row = len(numbers), to.strides[0] // to.itemsize
    sizes = map(ctypes.c_int64, (rows, numbers.size // rows, next_row))
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (numbers, to))
    _function("round_to")(*pointers, *sizes)


def widened(numbers: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def packed(weight: NDArray[np.float32], dtype: str) -> NDArray[np.generic]:
    """``weight`` ``[n, k]`` as the kernels take it, in ``dtype``; k is made even for bfloat16.

    The numbers are in another order than the shape says (``product.c``).
    """
    kind, numbers = _KINDS[dtype]
    rows, columns = weight.shape
    depth = columns + columns % 2 if dtype == "bfloat16" else columns
    kept = _empty((rows, depth), np.dtype(numbers))
    weight = np.ascontiguousarray(weight, np.float32)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (weight, kept))
    _function("pack")(*pointers, *map(ctypes.c_int64, (rows, columns, depth)), ctypes.c_int(kind))
    return kept


def zeros(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[np.generic]:
    """As numpy's, on whole large pages."""
    array = _empty(shape, np.dtype(dtype))
    array.fill(0)
    return array


def _empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """An array on whole large pages if it fills one: memory is read a quarter faster then."""
    size = math.prod(shape) * dtype.itemsize
    page = _LARGE_PAGE if size >= _LARGE_PAGE else _LINE
    memory = np.empty(size + page, np.uint8)
    start = -memory.ctypes.data % page
    return memory[start : start + size].view(dtype).reshape(shape)


@cache
def _check_sources(path: Path) -> None:
    """Kernels that take numbers in other places than they are given compute wrong captions."""
    try:
        sources = ctypes.CDLL(str(path)).sources
        sources.restype = ctypes.c_char_p
        built_of = sources().decode()
    except AttributeError:  # built before libraries told
        built_of = ""
    if built_of != digest(path.parent):
        raise UsageError(
            f"{path}: these kernels are compiled, but of other sources than those beside them, as "
            "after git pull. Build them anew: uv sync --reinstall-package vidcap (or pip install "
            "--force-reinstall --no-deps -e . in the clone)."
        )


@cache
def _processor_flags() -> frozenset[str]:
    """What the processor can do, as Linux names it; nothing elsewhere."""
    if platform.system() != "Linux":
        return frozenset()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return frozenset(
        flag
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for flag in line.split(":")[1].split()
    )


@cache
def _function(name: str, result: Any = None) -> Callable[..., Any]:
    path = library()
    assert path is not None
    function = getattr(ctypes.CDLL(str(path)), name)
    function.restype = result
    return function  # type: ignore[no-any-return]
