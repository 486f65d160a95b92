"""Disks that are full or read-only on cue, for a command and for nobody else.

They are mounted in a namespace of their own. A process that holds it lets commands in and tests
look in from outside.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_SIZE, _ROOM = "size=4m", "remount,size=64m"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk mounted at ``place`` in the mount namespace of the process ``holder``."""

    place: Path
    holder: int

    @property
    def seen(self) -> Path:
        """The disk as this process sees it."""
        return Path(f"/proc/{self.holder}/root{self.place}")

    @property
    def enter(self) -> Sequence[str]:
        """What comes before a command that is to run on the disk."""
        into = ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt"]
        return [*into, "sh", "-c", 'cd "$0" && exec "$@"', str(self.place)]

    def fill(self, *, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        with (self.seen / "filler").open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
            file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        """Let the disk be written to again."""
        self._mount("-o", _ROOM)
        (self.seen / "filler").unlink(missing_ok=True)

    def protect(self) -> None:
        """Make the disk read-only."""
        self._mount("-o", "remount,ro")

    def open_up(self) -> None:
        """Undo ``protect``."""
        self._mount("-o", "remount,rw")

    def _mount(self, *words: str) -> None:
        subprocess.run([*self.enter, "mount", *words, str(self.place)], check=True)


@contextmanager
def disk(place: Path) -> Iterator[Disk]:
    """A disk of its own at the folder ``place``, empty.

    Raises PermissionError where nothing can be mounted.
    """
    mount = 'mount -t tmpfs -o "$0" tmpfs "$1" && echo mounted && exec sleep infinity'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount]
    try:
        holder = subprocess.Popen(
            [*command, _SIZE, str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except FileNotFoundError as error:
        raise PermissionError("there is no unshare") from error
    with holder:
        try:
            if not holder.stdout or holder.stdout.readline() != "mounted\n":
                raise PermissionError("mounting in a namespace of its own is not permitted")
            yield Disk(place, holder.pid)
        finally:
            holder.kill()
