"""Files elsewhere (``https://``, ``s3://``, ``hf://``), brought to a folder of bounded size.

Promises. A file is there whole or not at all: it is downloaded under another name and gets its own
when all bytes are there. A download that breaks off goes on where it ended, in this process or in
another one, as long as the file is still the same there. Several processes of a machine share the
folder: of a file that several want one downloads it, and none is removed while it is read. What was
not used for longest goes when the room is needed.
"""

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vidcap_cli.addresses import address_of, is_remote
from vidcap_cli.remote.access import check, failure, is_final, look
from vidcap_cli.statuses import Status
from vidcap_cli.video import Clip, Rule, VideoError
from vidcap_cli.video.decoder import Read, downloaded, downloading

CACHE_BYTES = 10_000_000_000
_BLOCK = 8 << 20  # bytes asked for at a time
_TRIES = 4  # in a row that bring nothing
_FIRST_PAUSE = 1.0  # seconds before the second of them
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Cache:
    """Files from elsewhere in ``folder``, of ``limit`` bytes in all."""

    folder: Path
    limit: int

    @classmethod
    def of(cls, run: Path, limit: int | None) -> "Cache":
        """That of the run in the directory ``run``, on this machine; it is this user's alone."""
        base = os.environ.get("VIDCAP_CACHE") or tempfile.gettempdir()
        name = hashlib.sha256(os.fsencode(os.path.abspath(run))).hexdigest()[:16]  # noqa: PTH100
        folder = Path(base) / f"vidcap-cache-{os.getuid()}-{name}"
        return cls(folder, limit or CACHE_BYTES)

    def forget(self) -> None:
        """Remove what nobody reads, and the folder if that is all."""
        with suppress(OSError):
            for name in {path.name.partition(".")[0] for path in self.folder.iterdir()}:
                self._remove(name)
            self.folder.rmdir()

    @contextmanager
    def held(self, address: str) -> Iterator[Path]:
        """The file at ``address``, here, and not removed until the block ends.

        Raises VideoError: ``missing_file``, ``download_error``, or ``decode_error`` of a folder.
        """
        check(address)
        make_private(self.folder)
        name = _name_of(address)
        file = self.folder / name
        while True:
            with _locked(file.with_suffix(".lock"), fcntl.LOCK_EX):
                if not file.exists():
                    self._download(address, file)
                # Used now, but as old as it was: indexes of its frames are kept by that.
                os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))
            with _locked(file.with_suffix(".lock"), fcntl.LOCK_SH):
                if file.exists():  # or it was removed between the two locks
                    yield file
                    return

    def _download(self, address: str, file: Path) -> None:
        silent, pause = 0, _FIRST_PAUSE
        downloading()
        while True:
            before = _held_bytes(file)
            try:
                self._go_on(address, file)
            except VideoError:
                raise
            except Exception as error:
                failed = failure(error)
                if failed.status == Status.MISSING_FILE or is_final(error):
                    raise failed from error
                silent = 0 if _held_bytes(file) > before else silent + 1
                if silent == _TRIES:
                    raise failed from error
                time.sleep(pause * 2 ** max(silent - 1, 0))
            else:
                return

    def _go_on(self, address: str, file: Path) -> None:
        """Download what is left of a file, and give it its name."""
        system, path, remote = look(address)
        part = file.with_name(f"{file.name}.{remote.version}.part")
        for other in file.parent.glob(f"{file.name}.*.part"):
            if other != part:  # of what the file was before
                other.unlink(missing_ok=True)
        if remote.size is not None and remote.size > self.limit:
            raise VideoError(
                Status.DOWNLOAD_ERROR,
                f"the file has {remote.size:,} bytes, and --cache-size is {self.limit:,}",
            )
        self._make_room(file.name, remote.size or 0)
        with part.open("ab") as out:
            if remote.version is None or out.tell() > (remote.size or 0):
                _empty(out)  # nothing tells that it is of the same file
            at_once = not out.tell() and remote.size is not None and remote.size <= _BLOCK
            try:
                self._copy(system, path, out, remote.size, block=_BLOCK)
            except ValueError:  # a server that gives no parts of files
                _empty(out)
                self._copy(system, path, out, remote.size, block=0)
            if remote.size not in (None, out.tell()):
                raise ConnectionError(f"{out.tell():,} of {remote.size:,} bytes came")
        if not at_once and look(address)[2] != remote:
            part.unlink()
            raise ConnectionError("it changed while it was downloaded")
        part.rename(file)

    def _copy(self, system: Any, path: str, out: BinaryIO, size: int | None, *, block: int) -> None:
        options = {"cache_type": "none"} if block else {}
        with system.open(path, "rb", block_size=block, **options) as source:
            if out.tell():
                source.seek(out.tell())
            while size is None or out.tell() < size:
                data = source.read(_BLOCK if size is None else min(_BLOCK, size - out.tell()))
                if not data:
                    return
                out.write(data)
                out.flush()
                downloading()
                if out.tell() > self.limit:
                    _empty(out)
                    words = f"the file has more than the {self.limit:,} bytes of --cache-size"
                    raise VideoError(Status.DOWNLOAD_ERROR, words)

    def _make_room(self, name: str, size: int) -> None:
        """Wait until ``size`` bytes more are within the limit, and take them for file ``name``.

        Files that nobody reads are removed, those first that were not used for longest.
        """
        wanted = self.folder / f"{name}.size"
        while True:
            with _locked(self.folder / "room.lock", fcntl.LOCK_EX):
                if self._freed(size, besides=name):
                    wanted.write_text(str(size), encoding="ascii")
                    return
            downloading()
            time.sleep(_POLL_SECONDS)

    def _freed(self, size: int, besides: str) -> bool:
        """Whether there is room for ``size`` bytes, after removing what may be removed."""
        sizes: dict[str, int] = {}
        used: dict[str, float] = {}
        for path in self.folder.iterdir():
            with suppress(OSError, ValueError):
                name, kind = path.name.partition(".")[0], path.suffix
                found = path.stat()
                taken = int(path.read_text("ascii")) if kind == ".size" else found.st_size
                sizes[name] = max(sizes.get(name, 0), taken)
                used[name] = max(used.get(name, 0), found.st_atime)
        sizes.pop("room", None)
        sizes.pop(besides, None)
        left = sum(sizes.values()) + size - self.limit
        for name in sorted(sizes, key=lambda name: used[name]):
            if left <= 0:
                break
            if self._remove(name):
                left -= sizes[name]
        return left <= 0

    def _remove(self, name: str) -> bool:
        """Remove what is there of a file, unless a process has it."""
        file = self.folder / name
        try:
            with _locked(file.with_suffix(".lock"), fcntl.LOCK_EX | fcntl.LOCK_NB):
                for path in [file, *self.folder.glob(f"{name}.*")]:
                    path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Anywhere:
    """A function for decoder processes that reads files here: with it, files elsewhere too."""

    read: Read
    cache: Cache

    def __call__(self, path: str, rule: Rule, *span: Any) -> Clip:
        """Read the file at ``path``, which may be an address."""
        if not is_remote(path) or Path(path).exists():
            return _called(self.read, path, rule, *span)
        with self.cache.held(address_of(path)) as file:
            downloaded()
            return _called(self.read, str(file), rule, *span)


def _called(read: Read, *arguments: Any) -> Clip:
    clip: Clip = read(*arguments)
    return clip


def make_private(folder: Path) -> None:
    """Make a folder that only this user can read; raises VideoError when it is somebody else's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        words = f"{folder}: the folder for downloads cannot be made: {error.strerror}"
        raise VideoError(Status.DOWNLOAD_ERROR, words) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        words = f"{folder}: the folder for downloads is another user's; set VIDCAP_CACHE"
        raise VideoError(Status.DOWNLOAD_ERROR, words)


@contextmanager
def caching(run: Path, limit: int | None = None) -> Iterator[Cache]:
    """The cache of a run for a command that leads it, or of one that only looks at files."""
    cache = Cache.of(run, limit)
    try:
        yield cache
    finally:
        cache.forget()


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Hold a lock on the file ``path``, which who has it may remove.

    Tells the pool meanwhile that the row gets on; with LOCK_NB raises BlockingIOError instead.
    """
    while True:
        with path.open("wb") as lock:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if kind & fcntl.LOCK_NB:
                    raise
                downloading()
                time.sleep(_POLL_SECONDS)
                continue
            if _is_at(path, lock):
                yield
                return


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)


def _name_of(address: str) -> str:
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _held_bytes(file: Path) -> int:
    return sum(part.stat().st_size for part in file.parent.glob(f"{file.name}.*.part"))
