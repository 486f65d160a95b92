"""Running commands on the stand-in for CANN, in a mount namespace whose /dev holds devices."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

# /dev with some more files in it; "$@" is what then runs.
_DEVICES = """
mount -t tmpfs none "$OVER" && mkdir "$OVER/upper" "$OVER/work" &&
mount -t overlay overlay -o "lowerdir=/dev,upperdir=$OVER/upper,workdir=$OVER/work" /dev &&
for number in $(seq 0 $((STAND_IN_DEVICES - 1))); do touch "/dev/davinci$number"; done &&
touch /dev/davinci_manager && exec "$@"
"""


def _unshare() -> list[str]:
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *root, "--mount", "--propagation", "private"]


@cache
def obstacle() -> str:
    """Why the stand-in cannot be used here; empty if it can."""
    if os.uname().machine != "x86_64":
        return "its stubs are for x86-64"
    for tool in ("gcc", "g++", "nm", "readelf", "strings", "unshare"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    command = [*_unshare(), "bash", "-c", _DEVICES, "bash", "true"]
    with tempfile.TemporaryDirectory() as over:
        settings = {**os.environ, "OVER": over, "STAND_IN_DEVICES": "1"}
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    return f"no mount namespaces: {done.stderr.strip()}" if done.returncode else ""


@dataclass(frozen=True)
class StandIn:
    """A stand-in built by ``build`` into ``folder``."""

    folder: Path

    def run(
        self, *command: str | Path, devices: int = 1, megabytes: int = 16_384, limit: float = 600,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run ``command`` with so many devices of so much memory."""
        over, latest = self.folder / "over", self.folder / "latest"
        over.mkdir(exist_ok=True)
        settings = {
            "OVER": over,
            "STAND_IN_DEVICES": devices,
            "STAND_IN_MB": megabytes,
            "LD_LIBRARY_PATH": latest / "lib64",
            "ASCEND_OPP_PATH": latest / "opp",
            "ASCEND_HOME_PATH": latest,
            "PYTHONPATH": latest / "python" / "site-packages",
        }
        return subprocess.run(
            [*_unshare(), "bash", "-c", _DEVICES, "bash", *map(str, command)],
            env={**os.environ, **{name: str(text) for name, text in settings.items()}}
            | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )

    def vidcap(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command as users have it."""
        command = Path(sys.executable).parent / "vidcap"
        return self.run(command, *arguments, **options)


if __name__ == "__main__":  # python -m tests.ascend.harness FOLDER DEVICES COMMAND...
    found = StandIn(Path(sys.argv[1])).run(*sys.argv[3:], devices=int(sys.argv[2]))
    print(found.stdout, found.stderr, shlex.join(map(str, found.args)), sep="\n")
    sys.exit(found.returncode)
