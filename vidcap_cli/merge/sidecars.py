"""Sidecars: the captions of videos in files beside them, as trainers and WebDataset read them.

``clip.txt`` holds the caption alone; ``clip.json`` an object with what the table says of it, under
the same names. A JSON file that is there keeps its other keys. Another caption that is there, in
either, stays unless it is to be overwritten: nobody knows who wrote it. Each file appears whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from vidcap_cli.addresses import is_remote, resolve
from vidcap_cli.atomic import replace_file
from vidcap_cli.options import Sidecar
from vidcap_cli.table_writer import jsonable
from vidcap_cli.view.words import count

FILES: Mapping[Sidecar | None, tuple[str, ...]] = {
    None: (),
    "txt": (".txt",),
    "json": (".json",),
    "both": (".txt", ".json"),
}
RANGES = (
    "--sidecar is about whole videos: rows that are ranges of one have no file of their own; leave "
    "it out"
)


class _KeptError(Exception):
    """A file that is there says something else."""


@dataclass(slots=True)
class Sidecars:
    """Writes those of a ``kind``, None for none; videos are looked for in ``bases``.

    ``written`` counts captions whose files say them now, ``kept`` files that say something else,
    ``elsewhere`` videos that are on another machine.
    ``first_kept`` and ``fault`` are sentences on the first of these and of those that failed.
    """

    kind: Sidecar | None
    bases: Sequence[str]
    overwrite: bool = False
    written: int = 0
    kept: int = 0
    elsewhere: int = 0
    failed: int = 0
    first_kept: str = ""
    fault: str = ""
    _suffixes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._suffixes = FILES[self.kind]

    def write(self, paths: pa.ChunkedArray, captions: pa.Table) -> None:
        """Write the captions of videos: the first column, null where there is none."""
        if not self._suffixes:
            return
        for path, row in zip(paths.to_pylist(), captions.to_pylist(), strict=True):
            caption = next(iter(row.values()))
            if caption is not None:
                video = resolve(path, self.bases)
                if is_remote(video):
                    self.elsewhere += 1
                    continue
                files = [video.with_suffix(suffix) for suffix in self._suffixes]
                said = [self._one(file, caption, row) for file in files]
                self.written += all(said)

    def failure(self, out: Path) -> str:
        """What is said of files that could not be written, though the table ``out`` is there."""
        if not self.failed:
            return ""
        return (
            f"{count(self.failed, 'sidecar file')} cannot be written, such as {self.fault}. "
            f"All captions are in {out}: put the place right and repeat the command."
        )

    def notes(self) -> tuple[str, ...]:
        """What was done, in sentences."""
        if not self._suffixes:
            return ()
        are = "is in the sidecar files of its video"
        if self.written != 1:
            are = "are in the sidecar files of their videos"
        found = [f"{count(self.written, 'caption')} {are}"]
        if not self.written:
            found = ["no sidecar file holds these captions"]
        if self.kept:
            one = self.kept == 1
            were, stay = ("file was", "stays") if one else ("files were", "stay")
            found.append(
                f"{self.kept:,} sidecar {were} there with another caption and {stay}: "
                f"{self.first_kept} (--overwrite-sidecars replaces {'it' if one else 'them'})"
            )
        if self.elsewhere:
            are = "is elsewhere and has" if self.elsewhere == 1 else "are elsewhere and have"
            found.append(f"{count(self.elsewhere, 'video')} {are} no sidecar files")
        return tuple(found)

    def _one(self, file: Path, caption: str, row: Mapping[str, Any]) -> bool:
        """Write a file; whether it says the caption now."""
        try:
            self._write(file, caption, row)
        except _KeptError as error:
            self.kept += 1
            self.first_kept = self.first_kept or f"{file}{error}"
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            self.failed += 1
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self.fault = self.fault or f"{file}: {reason}"
        else:
            return True
        return False

    def _write(self, file: Path, caption: str, row: Mapping[str, Any]) -> None:
        before = file.read_bytes() if file.exists() else None
        if file.suffix == ".txt":
            data = f"{caption}\n".encode()
            if before not in (None, data, caption.encode()) and not self.overwrite:
                raise _KeptError
        else:
            data = self._json(before, row)
        if data != before:
            replace_file(file, data)

    def _json(self, before: bytes | None, row: Mapping[str, Any]) -> bytes:
        """The object in ``before`` with what ``row`` says."""
        try:
            known = json.loads(before) if before is not None else {}
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict):
            raise _KeptError(", which is no JSON object")
        name, caption = next(iter(row.items()))
        if known.get(name, caption) not in (caption, None) and not self.overwrite:
            raise _KeptError
        whole = {**known, **jsonable(dict(row))}
        return (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode()
