"""Environments of peers: packages that vidcap does not need, each set in a place of its own."""

import os
import subprocess
from pathlib import Path


def environment(name: str, packages: list[str], settings: dict[str, str]) -> Path:
    """The interpreter of an environment with ``packages``, made in the cache folder when missing.

    ``settings`` are variables of the installation.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "vidcap-benchmarks" / name
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    install = ["uv", "pip", "install", "--python", str(python), *packages]
    for command in (["uv", "venv", "--clear", "--python", "3.11", str(folder)], install):
        # Elsewhere than in the repository, whose uv settings keep PyTorch out.
        done = subprocess.run(
            command, env={**os.environ, **settings}, cwd=folder.parent, check=False
        )
        if done.returncode:
            raise SystemExit(f"cannot install {packages[0]}; name an interpreter that has it")
    (folder / "complete").touch()
    return python
