"""Makes a gallery: pictures, rows and the page that shows them.

What comes to ``ONE_FILE`` bytes or less is one file; else the page loads pictures and rows from its
folder, as it shows them.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from vidcap_cli.atomic import atomic_write
from vidcap_cli.inspect.gallery.page import as_json, page
from vidcap_cli.inspect.gallery.pictures import Pictures, videos_to_show
from vidcap_cli.inspect.gallery.place import Place
from vidcap_cli.inspect.gallery.rows import LABELS, Piece, Rows
from vidcap_cli.inspect.judging import MEANS, Captions, Judged
from vidcap_cli.statuses import Flag
from vidcap_cli.view.words import count

ONE_FILE = 16_000_000  # bytes
_MEANS: dict[str, str] = {
    **MEANS,
    Flag.FRAME_RATE: "the frame rate in the file was wrong and was replaced",
    Flag.DAMAGED: "some of the video does not decode cleanly",
    Flag.TRUNCATED: "the file announces more than it holds",
    Flag.SHRUNK: "shown to the model smaller, for want of memory",
    Flag.HDR: "HDR, whose colours look pale to a model",
    Flag.ANAMORPHIC: "pixels are not square",
    Flag.REPETITIVE: "says the same again and again",
    Flag.RETRIED: "decoded once more, for it said the same again and again",
}


@dataclass(frozen=True, slots=True)
class Gallery:
    """What is wanted: the page ``output``, and ``thumbnails`` frames of a video, of some videos or
    of ``all_videos``. ``column`` names the captions of a run that was asked several questions.
    """

    output: Path
    thumbnails: int = 4
    all_videos: bool = False
    column: str | None = None

    @property
    def place(self) -> Place:
        """Where it goes."""
        return Place(self.output)


def make_gallery(
    wanted: Gallery, captions: Captions, judged: Judged, *, title: str, bases: Sequence[str]
) -> str:
    """Write the gallery of a table whose relative paths start from ``bases``; says what is written.

    Raises TableError for a table that is damaged.
    """
    total, shown = len(judged.faults), {}
    with wanted.place.making() as folder:
        pictures = Pictures(folder, total)
        if wanted.thumbnails:
            shown = videos_to_show(captions, judged, bases, everything=wanted.all_videos)
            pictures.make(shown, wanted.thumbnails)
        numbers = {"words": judged.words.astype(np.float32), "duration": pictures.seconds}
        rows = Rows(captions, judged, bases, wanted.output.absolute().parent, numbers)
        pieces = [_write(folder, n, piece, pictures) for n, piece in enumerate(rows.pieces())]
        about = _about(title, rows, len(pieces)) | {"strips": len(pictures)}
        beside = _size(folder) > ONE_FILE
        if beside:
            contents = page(title, about | {"folder": wanted.place.folder.name})
        else:
            contents = page(title, about, map(_json_of, pieces), _carried(pictures))
        wanted.place.settle(with_folder=beside)
        atomic_write(wanted.output, contents)
    more = f", which belongs to {wanted.place.folder}" if beside else ""
    if shown and not len(pictures):
        starts = " or ".join(dict.fromkeys(bases))
        more += f"; none of the videos could be read: relative paths start from {starts}, others "
        more += "are what vidcap merge --relative-to writes"
    return f"{count(total, 'row')} shown in {wanted.output}{more}"


_BEFORE, _AFTER = "takeRows(", ")\n"


def _write(folder: Path, number: int, piece: Piece, pictures: Pictures) -> Path:
    """Write a piece as a script: a page that was opened from a folder can load nothing else."""
    data = piece.columns | {"strips": pictures.of(piece.start, len(piece.columns["path"]))}
    file = folder / f"rows-{number}.js"
    file.write_text(f"{_BEFORE}{as_json(data)}{_AFTER}", encoding="utf-8", errors="replace")
    return file


def _json_of(piece: Path) -> str:
    text = piece.read_text(encoding="utf-8")
    return text.removeprefix(_BEFORE).removesuffix(_AFTER)


def _carried(pictures: Pictures) -> dict[int, str]:
    found = pictures.files().items()
    return {row: base64.b64encode(file.read_bytes()).decode() for row, file in found}


def _size(folder: Path) -> float:
    """Bytes of a page that carries all of it; pictures are a third longer there."""
    sizes = {file: file.stat().st_size for file in folder.rglob("*")}
    return sum(size * 4 / 3 if file.suffix == ".webp" else size for file, size in sizes.items())


def _about(title: str, rows: Rows, pieces: int) -> dict[str, Any]:
    """What the page has to know before it has rows."""
    known = [name for name, values in rows.numbers.items() if not np.isnan(values).all()]
    return {
        "title": title,
        "summary": _summary(rows.judged),
        "rows": len(rows.judged.faults),
        "pieces": pieces,
        "statuses": [{"name": name, "rows": n} for name, n in rows.statuses.rows.items()],
        "flags": [
            {"name": name, "rows": n, "means": _MEANS.get(name, "")}
            for name, n in rows.flags.rows.items()
        ],
        "numbers": {name: LABELS[name] for name in known},
        "charts": rows.charts(),
        "made": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        "by": f"vidcap {version('vidcap')}",
        "folder": "",
    }


def _summary(judged: Judged) -> str:
    total, spoken = len(judged.faults), int(np.count_nonzero(judged.words))
    flagged = int(np.count_nonzero(judged.faults))
    return f"{count(total, 'row')} · {spoken:,} captioned · {flagged:,} flagged"
