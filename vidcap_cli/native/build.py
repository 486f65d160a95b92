"""Hatch's build hook: compiles the kernels in this folder for the processors they may run on.

The compiler is Zig's, a package that Python's index has for every platform, or what ``CC`` names.
Where it fails the package is built without kernels, and computes with MindSpore's own.
"""

import os
import platform
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_HERE = Path(__file__).parent
_VARIANTS = {
    "x86_64": {
        "avx2": ["-mavx2", "-mfma", "-mf16c", "-DVECTOR_BYTES=32"],
        "amx": [
            *("-mavx512f", "-mavx512bf16", "-mfma", "-mf16c", "-mamx-tile", "-mamx-bf16"),
            "-DVECTOR_BYTES=64",
        ],
        "avx512bf16": ["-mavx512f", "-mavx512bf16", "-mfma", "-mf16c", "-DVECTOR_BYTES=64"],
        "avx512": ["-mavx512f", "-mfma", "-mf16c", "-DVECTOR_BYTES=64"],
    },
    "aarch64": {"neon": ["-DVECTOR_BYTES=16"]},
}
_GLIBC = "2.28"  # MindSpore's wheels need no newer one
_FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden"]


class NativeKernels(BuildHookInterface):  # type: ignore[type-arg]
    """Makes ``<variant>.so`` beside the sources, and a wheel for this platform of them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected, for editable installations, too."""
        del version
        machine = platform.machine()
        if self.target_name != "wheel" or platform.system() != "Linux":
            return
        try:
            for variant, flags in _VARIANTS.get(machine, {}).items():
                compile_kernels(_HERE / f"{variant}.so", flags)
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", "") or ""
            self.app.display_warning(f"no compiled kernels: {error}\n{output}")
            return
        build_data["artifacts"].append("vidcap_cli/native/*.so")
        build_data["tag"] = f"py3-none-manylinux_{_GLIBC.replace('.', '_')}_{machine}"
        build_data["pure_python"] = False


def compile_kernels(target: Path, flags: list[str]) -> None:
    """Make the library ``target``; it takes its place when it is whole."""
    machine = platform.machine()
    own = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu.{_GLIBC}"]
    compiler = shlex.split(os.environ.get("CC", "")) or own
    sources = sorted(map(str, _HERE.glob("*.c")))
    digest = runpy.run_path(str(_HERE / "sources.py"))["digest"](_HERE)
    told = [f'-DSOURCES="{digest}"']  # vidcap_cli/native looks whether it fits
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / target.name
        subprocess.run(
            [*compiler, *_FLAGS, *flags, *told, "-o", str(made), *sources, "-lpthread", "-lm"],
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder},
            check=True,
            capture_output=True,
            text=True,
        )
        partial = target.with_suffix(".tmp")
        partial.write_bytes(made.read_bytes())
        partial.replace(target)
