"""Where a gallery goes: a page, and for a large one a folder beside it, ``NAME_files``.

The folder is made under another name and takes its place in the end. Only a folder that carries
vidcap's mark is ever replaced or removed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vidcap_cli.disk import check_output
from vidcap_cli.errors import UsageError

_MARK = "vidcap-gallery"


@dataclass(frozen=True, slots=True)
class Place:
    """The page and its folder."""

    page: Path

    @property
    def folder(self) -> Path:
        """The rows and pictures of a large gallery."""
        return self.page.with_name(f"{self.page.stem}_files")

    @property
    def _next(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.next")

    def check(self, target: Path) -> None:
        """Raise UsageError when no gallery of ``target`` can be written here."""
        option = f"--html {self.page}"
        if self.page.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"{option}: a page is called .html; name it so.")
        if target.is_dir() and self.page.resolve().is_relative_to(target.resolve()):
            raise UsageError(f"{option}: lies in the run directory; name a file outside.")
        check_output(self.page)
        for folder in (self.folder, self._next):
            if folder.exists() and not (folder / _MARK).is_file():
                raise UsageError(
                    f"{option}: {folder} is in the way, and no gallery made it; move it, or name "
                    "another page."
                )

    @contextmanager
    def making(self) -> Iterator[Path]:
        """A new folder for what the gallery needs; what is still there in the end is removed."""
        shutil.rmtree(self._next, ignore_errors=True)
        self._next.mkdir()
        try:
            (self._next / _MARK).touch()
            yield self._next
        finally:
            shutil.rmtree(self._next, ignore_errors=True)

    def settle(self, *, with_folder: bool) -> None:
        """Let the new folder take the place of the old one, or remove that."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        if with_folder:
            self._next.rename(self.folder)
