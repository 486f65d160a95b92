"""A table or a folder of videos: what its columns are, whether the files exist, what they hold.

Every row is read. Of the files, two thousand spread over the table are looked for, and a hundred of
those that exist are opened; or all of them, where that is wanted.
"""

import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.addresses import is_remote, locate
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.finishing import caption_counts, completing_steps
from vidcap_cli.inspect.command import caption_step
from vidcap_cli.inspect.probed import check_probed, write_probed
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.inspect.videos import Video, cause_words, causes, survey, survey_sections
from vidcap_cli.merge.columns import STATUS, CaptionColumns, caption_column
from vidcap_cli.meta import RangesError, open_meta, row_names
from vidcap_cli.option_values import NO_RANGES
from vidcap_cli.options import PATH
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import FOLDER, kind_of, make_plan
from vidcap_cli.tables import Table, is_text, open_table
from vidcap_cli.view.progress import Progress
from vidcap_cli.view.steps import Step
from vidcap_cli.view.words import count, one_line, size

LOOKED_FOR = 2000  # files
OPENED = 100
_LISTED = 5
_CAUSES = 8
_STEP = 500  # files between two drawings of the bar


@dataclass(frozen=True, slots=True)
class Probing:
    """Whether ``all_videos`` are opened or a sample, and the table to write with what they hold.

    ``drop`` leaves rows out of it whose video cannot be read. ``videos``: also of a table that
    cannot be captioned as it is.
    """

    all_videos: bool = False
    output: Path | None = None
    drop: bool = False
    videos: bool = False

    @property
    def asked(self) -> bool:
        """Whether anything but the usual is wanted."""
        return self != Probing()


def meta_report(target: Path, probing: Probing | None = None, paths: str = PATH) -> Report:
    """The report on a table, whose column ``paths`` names the videos, or on a folder of videos.

    Raises TableError for a damaged one, UsageError where the output cannot be written.
    """
    probing = probing or Probing()
    if probing.drop and not probing.output:
        raise UsageError("--drop-unreadable is about the table of -o; name one.")
    if probing.output:
        check_probed(probing.output, target)
    if kind_of(target) == FOLDER:
        return _report(
            "folder", target, _listing(target), [str(target)], (), videos=None, probing=probing
        )
    table = open_table(target)
    columns = Section("columns", tuple(Fact(field.name, str(field.type)) for field in table.schema))
    try:
        videos = open_meta(target, paths)
        if not probing.asked:
            CaptionColumns().check(table)
    except TableError as error:
        if probing.asked:
            raise
        # Not a table to caption; what it holds can still be told.
        return _other_table(table, columns, error)
    if probing.output and len(videos.ranges) == 1:  # a row has one number of frames
        videos = replace(videos, ranges=())
    problems: tuple[Problem, ...] = ()
    try:
        column = pa.chunked_array(list(row_names(videos)), pa.string())
    except RangesError as error:
        text = str(error).removeprefix(f"{target}: ")
        problems, videos = (Problem(text, serious=False),), replace(videos, ranges=())
        column = pa.chunked_array(list(row_names(videos)), pa.string())
    bases = [str(target.absolute().parent), str(Path.cwd())]
    options: tuple[str, ...] = ("--ranges", NO_RANGES) if problems else ()
    report = _report(
        "table", target, column, bases, (columns,), videos=videos, probing=probing, options=options
    )
    return replace(report, problems=(*problems, *report.problems))


def _listing(folder: Path) -> pa.ChunkedArray:
    """The videos in a folder, as a run would plan them."""
    with TemporaryDirectory() as place:
        run = RunDir(Path(place))
        make_plan(folder, run, CaptionConfig(family="", model=""))
        return pq.read_table(run.rows, columns=["path"])["path"]


def _report(
    kind: str,
    target: Path,
    column: pa.ChunkedArray,
    bases: Sequence[str],
    sections: tuple[Section, ...],
    *,
    videos: Table | None,
    probing: Probing,
    options: tuple[str, ...] = (),
) -> Report:
    rows = len(column)
    everything = probing.all_videos or probing.output is not None
    looked = column.unique() if everything else column.take(pa.array(_spread(rows)))
    names = looked.to_pylist()
    files = _look_for(names, bases)
    twice = rows - pc.count_distinct(column).as_py()
    there = round(rows * len(files.there) / len(names))
    ranged = videos is not None and bool(videos.ranges)
    facts = _row_facts(column, files, twice=twice, there=None if ranged else there)
    here = list(dict.fromkeys(files.meant[name] for name in files.there))
    others = len({*files.there}) - len(here)
    if others:
        facts.append(Fact("other spellings", f"{others:,} of files that are opened once", others))
    opened = here if everything else _opened(here)
    found = survey(opened)
    shown = [Section("rows", tuple(facts)), *sections, *survey_sections(found, there)]
    why = causes(found)
    shown.append(Section("details", (Fact("unreadable", "", why),)))
    problems = _problems(files, bases, why)
    if twice:
        repeat = f"{count(twice, 'row')} {'repeats' if twice == 1 else 'repeat'}"
        problems.append(Problem(f"{repeat} the path of another", serious=False))
    verdict = "no video of it could be opened"
    readable, steps = int(found.readable.sum()), _steps(target, options, videos)
    if readable:
        verdict = f"{readable:,} of {count(found.videos, 'video')} opened can be captioned"
    else:
        steps = []
        problems.append(Problem("none of its videos can be captioned"))
    if probing.all_videos and not probing.output:
        tip = "-o FILE writes a table with what the videos hold, in the same pass as this"
        problems.append(Problem(tip, serious=False))
    if probing.output:
        places = {file: place for place, file in enumerate(opened)}
        of_name = {name: places.get(one, -1) for name, one in files.meant.items()}
        if kind == "folder":  # from anywhere else its names lead nowhere
            of_name = {str(Path(files.meant[n][0]).absolute()): at for n, at in of_name.items()}
            column = pa.chunked_array([list(of_name)])
        written = write_probed(videos, column, of_name, found, probing.output, drop=probing.drop)
        verdict, steps = f"{count(written, 'row')} written to {probing.output}", []
    return Report(
        kind, str(target), verdict, tuple(shown), tuple(problems), tuple(steps),
        doubtful=readable < found.videos or bool(files.missing or files.folders),
    )  # fmt: skip


def _steps(target: Path, options: Sequence[str], videos: Table | None) -> list[Step]:
    """To caption the videos; of a table that has captions those without."""
    column = caption_column(videos.schema.names) if videos else None
    if videos and column and is_text(videos.schema.field(column).type):
        captioned, lacking = caption_counts(videos, column)
        if captioned and (lacking or STATUS in videos.schema.names):
            return completing_steps(videos, lacking, column)
    return [caption_step(target, *options, table=videos)]


@dataclass(frozen=True, slots=True)
class _Files:
    """What names mean (``meant``: a file and a range), and whose files are there, missing, or no
    files but folders and the like; ``sizes`` in bytes of those that are there, some elsewhere.
    """

    meant: dict[str, Video] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    there: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @property
    def names(self) -> int:
        """How many were looked for."""
        return len(self.there) + len(self.missing) + len(self.folders)


def _look_for(names: Sequence[str], bases: Sequence[str]) -> _Files:
    """Look whose files are there; a bar counts them."""
    found = _Files()
    with Progress("files looked for", len(names)) as progress:
        for number, name in enumerate(names, 1):
            found.meant[name] = file, _ = locate(name, bases)
            held = _bytes_of(file)
            if held is not None:
                found.sizes[file] = held
                found.there.append(name)
            elif is_remote(file):
                found.away.add(file)
                found.there.append(name)
            elif os.path.exists(file):  # noqa: PTH110 - a Path raises at odd names
                found.folders.append(name)
            else:
                found.missing.append(name)
            if not number % _STEP:
                progress.advance(_STEP)
    return found


def _row_facts(
    column: pa.ChunkedArray, files: _Files, *, twice: int, there: int | None
) -> list[Fact]:
    """The rows and their files; ``there`` is how many have one, None where several may share it."""
    rows, endings = len(column), _extensions(column)
    facts = [
        Fact("rows", f"{rows:,}", rows),
        Fact("file types", _listed([f"{end} {n:,}" for end, n in endings.items()], 6), endings),
        Fact("looked for", count(files.names, "file"), files.names),
        Fact("missing", f"{len(files.missing):,}", len(files.missing)),
    ]
    if files.folders:
        words = f"{len(files.folders):,} folders and the like"
        facts.append(Fact("no file", words, len(files.folders)))
    if files.away:
        facts.append(Fact("elsewhere", f"{len(files.away):,}", len(files.away)))
    if files.sizes and not files.away and there is not None:
        total = sum(files.sizes.values()) / len(files.sizes) * there
        about = "" if len(files.sizes) == there else "about "
        facts.append(Fact("size of all", f"{about}{size(total)}", round(total)))
    return [*facts, Fact("repeated paths", f"{twice:,}", twice)]


def _bytes_of(file: str) -> int | None:
    """The size of a regular file; None where there is none, or it cannot be looked at."""
    try:
        found = Path(file).stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _problems(files: _Files, bases: Sequence[str], why: Sequence[dict[str, Any]]) -> list[Problem]:
    problems = []
    looked = count(files.names, "file")
    if files.missing:
        starts = ""
        if any(not os.path.isabs(name) for name in files.missing):  # noqa: PTH117 - a name, not a file
            starts = f"; relative paths start from {' or '.join(dict.fromkeys(bases))}"
        do = "does" if len(files.missing) == 1 else "do"
        share = f"{len(files.missing):,} of the {looked} looked for {do} not exist"
        listed = _listed([one_line(name) for name in files.missing], _LISTED)
        problems.append(Problem(f"{share}: {listed}{starts}", serious=False))
    if files.folders:
        are = "is a folder" if len(files.folders) == 1 else "are folders"
        share = f"{len(files.folders):,} of the {looked} looked for {are} or the like"
        listed = _listed([one_line(name) for name in files.folders], _LISTED)
        problems.append(Problem(f"{share}: {listed}", serious=False))
    problems += [Problem(cause_words(one), serious=False) for one in why[:_CAUSES]]
    if why[_CAUSES:]:
        more = sum(one["videos"] for one in why[_CAUSES:])
        problems.append(Problem(f"and {count(more, 'video')} for other reasons", serious=False))
    return problems


def _opened(found: Sequence[Video]) -> list[Video]:
    """A few of the files, evenly spread."""
    places = np.linspace(0, len(found) - 1, min(len(found), OPENED)).astype(int)
    return [found[place] for place in places]


def _listed(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (" …" if len(words) > most else "")


def _spread(rows: int) -> list[int]:
    """One row of each of so many equal stretches of the table, all rows of a small one.

    Drawn, always the same: evenly spread ones might be all of a kind in a table that alternates.
    """
    bounds = np.linspace(0, rows, min(rows, LOOKED_FOR) + 1).astype(int)
    drawn: list[int] = np.random.default_rng(0).integers(bounds[:-1], bounds[1:]).tolist()
    return drawn


def _extensions(column: pa.ChunkedArray) -> dict[str, int]:
    paths = pc.replace_substring_regex(column, r"#t=[\d.,]+$", "")
    endings = pc.extract_regex(pc.utf8_lower(paths), r"(?P<ending>\.[^./]*)$")
    counted = pc.value_counts(pc.struct_field(endings, "ending")).to_pylist()
    counts = Counter({entry["values"] or "none": entry["counts"] for entry in counted})
    return dict(counts.most_common())


def _other_table(table: Table, columns: Section, error: TableError) -> Report:
    """A table that cannot be captioned as it is: its rows, and its captions if it has any."""
    text_column = caption_column(table.schema.names)
    has_status = STATUS in table.schema.names and _is_string(table.schema.field(STATUS).type)
    if text_column is not None and not _is_string(table.schema.field(text_column).type):
        text_column = None
    rows = 0
    captions = 0
    statuses: Counter[str] = Counter()
    for batch in table.batches():
        rows += batch.num_rows
        if text_column is not None:
            texts = pc.utf8_trim_whitespace(batch.column(text_column).cast(pa.string()))
            captions += pc.sum(pc.fill_null(pc.not_equal(texts, ""), False)).as_py() or 0
        if has_status:
            counted = pc.value_counts(batch.column(STATUS)).to_pylist()
            statuses.update({entry["values"] or "": entry["counts"] for entry in counted})
    facts = [Fact("rows", f"{rows:,}", rows)]
    if text_column is not None:
        facts.append(Fact("with a caption", f"{captions:,}", captions))
    facts += [Fact(f"status {name}", f"{n:,}", n) for name, n in statuses.most_common()]
    text, _, remedy = str(error).removeprefix(f"{table.path}: ").partition(". ")
    return Report(
        "table",
        str(table.path),
        "cannot be captioned as it is",
        (Section("rows", tuple(facts)), columns),
        (Problem(text, remedy or None),),
    )


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
