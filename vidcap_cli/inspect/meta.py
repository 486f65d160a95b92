"""A table or a folder of videos: what its columns are, whether the files exist, what they hold.

Every row is read; of the files, the first thousand and as many spread over the rest are looked
for, and a few dozen of those that exist are opened.
"""

import shlex
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import TableError
from vidcap_cli.families import RECOMMENDED
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.inspect.video import RULES, Bad, survey
from vidcap_cli.merge.columns import STATUS, CaptionColumns, caption_column
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import FOLDER, kind_of, make_plan, resolve
from vidcap_cli.tables import Table, open_meta, open_table, paths
from vidcap_cli.video import VideoInfo
from vidcap_cli.view.words import count, duration, one_line, size

LOOKED_FOR = 1000  # files at the start of the table, and as many again spread over the rest
OPENED = 32
_LISTED = 5


def meta_report(target: Path) -> Report:
    """The report on a table, or on a folder of videos. Raises TableError for a damaged one."""
    if kind_of(target) == FOLDER:
        return _report("folder", target, _listing(target), [str(target)], ())
    table = open_table(target)
    columns = Section("columns", tuple(Fact(field.name, str(field.type)) for field in table.schema))
    try:
        CaptionColumns().check(open_meta(target))
    except TableError as error:
        # Not a table to caption; what it holds can still be told.
        return _other_table(table, columns, error)
    column = pa.chunked_array(list(paths(table)), pa.string())
    bases = [str(target.absolute().parent), str(Path.cwd())]
    return _report("table", target, column, bases, (columns,))


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
) -> Report:
    rows = len(column)
    names = column.take(pa.array(_spread(rows))).to_pylist()
    files = {name: resolve(name, bases) for name in names}
    sizes = {file: held for file in files.values() if (held := _bytes_of(file)) is not None}
    missing = [name for name in names if files[name] not in sizes]
    twice = rows - pc.count_distinct(column).as_py()
    endings = _extensions(column)
    facts = [
        Fact("rows", f"{rows:,}", rows),
        Fact("file types", _listed([f"{end} {n:,}" for end, n in endings.items()], 6), endings),
        Fact("looked for", count(len(names), "file"), len(names)),
        Fact("missing", f"{len(missing):,}", len(missing)),
    ]
    if sizes:
        total = sum(sizes.values()) / len(sizes) * rows
        about = "" if len(sizes) == rows else "about "
        facts.append(Fact("size of all", f"{about}{size(total)}", round(total)))
    facts.append(Fact("repeated paths", f"{twice:,}", twice))
    infos, bad = survey([str(file) for file in _opened(list(sizes))])
    shown = [Section("rows", tuple(facts)), *sections]
    verdict = "no video of it could be opened"
    if infos:
        shown.append(Section("videos opened", _video_facts(infos, rows)))
        verdict = f"can be captioned: {shlex.join(['vidcap', RECOMMENDED.command, str(target)])}"
    problems = _problems(names, missing, bases, bad)
    if twice:
        problems.append(Problem(f"{count(twice, 'row')} repeat the path of another", serious=False))
    if not infos:
        problems.append(Problem("none of its videos gives frames"))
    return Report(kind, str(target), verdict, tuple(shown), tuple(problems))


def _bytes_of(file: Path) -> int | None:
    """The size of a regular file; None where there is none, or it cannot be looked at."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _problems(
    names: Sequence[str], missing: Sequence[str], bases: Sequence[str], bad: Sequence[Bad]
) -> list[Problem]:
    problems = []
    if missing:
        share = f"{len(missing):,} of the {count(len(names), 'file')} looked for do not exist"
        listed = _listed([one_line(name) for name in missing], _LISTED)
        places = " or ".join(dict.fromkeys(bases))
        problems.append(
            Problem(f"{share}: {listed}", f"relative paths start from {places}", serious=False)
        )
    problems += [
        Problem(f"{one_line(video.path)} · {video.status}: {video.error}", serious=False)
        for video in bad
    ]
    return problems


def _opened(found: Sequence[Path]) -> list[Path]:
    """A few of the files, evenly spread."""
    places = np.linspace(0, len(found) - 1, min(len(found), OPENED)).astype(int)
    return [found[place] for place in places]


def _listed(words: Sequence[str], most: int) -> str:
    return ", ".join(words[:most]) + (" …" if len(words) > most else "")


def _spread(rows: int) -> list[int]:
    """The first rows and others evenly spread over the rest."""
    first = list(range(min(rows, LOOKED_FOR)))
    if rows <= LOOKED_FOR:
        return first
    rest = np.linspace(LOOKED_FOR, rows - 1, min(LOOKED_FOR, rows - LOOKED_FOR)).astype(int)
    return [*first, *(int(row) for row in np.unique(rest))]


def _extensions(column: pa.ChunkedArray) -> dict[str, int]:
    endings = pc.extract_regex(pc.utf8_lower(column), r"(?P<ending>\.[^./]*)$")
    counted = pc.value_counts(pc.struct_field(endings, "ending")).to_pylist()
    counts = Counter({entry["values"] or "none": entry["counts"] for entry in counted})
    return dict(counts.most_common())


def _video_facts(infos: Sequence[VideoInfo], rows: int) -> tuple[Fact, ...]:
    seconds = [info.duration for info in infos]
    together = float(np.mean(seconds)) * rows
    facts = [
        Fact("opened", count(len(infos), "video"), len(infos)),
        _range("duration", seconds, "s"),
        Fact("duration of all", f"about {duration(together)}", round(together)),
        _range("frame rate", [info.fps for info in infos], "a second"),
        _frame_sizes(infos),
        _common("codec", [info.codec for info in infos]),
        _common("container", [info.container for info in infos]),
    ]
    flags = [flag for info in infos for flag in info.flags]
    if flags:
        facts.append(_common("flags", flags))
    for family, rule in RULES.items():
        sampled = [rule.indices(info.frames, info.fps) for info in infos]
        tokens = [
            rule.tokens(len(indices), info.height, info.width)
            for indices, info in zip(sampled, infos, strict=True)
        ]
        facts.append(_range(f"{family} frames", [len(indices) for indices in sampled], ""))
        facts.append(_range(f"{family} visual tokens", tokens, ""))
    return tuple(facts)


def _frame_sizes(infos: Sequence[VideoInfo]) -> Fact:
    sizes = sorted({(info.height * info.width, info.width, info.height) for info in infos})
    spelled = [f"{wide} x {tall}" for _, wide, tall in (sizes[0], sizes[-1])]
    return Fact("frame size", " to ".join(dict.fromkeys(spelled)), [list(s[1:]) for s in sizes])


def _range(label: str, values: Sequence[float], unit: str) -> Fact:
    """Smallest, middle and largest of a sample."""
    low, middle, high = np.percentile(values, [0, 50, 100]).tolist()
    unit = f" {unit}" if unit else ""
    words = f"{_plain(low)} to {_plain(high)}{unit}, median {_plain(middle)}"
    if low == high:
        words = f"{_plain(low)}{unit}"
    return Fact(label, words, {"min": low, "median": middle, "max": high})


def _plain(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")


def _common(label: str, values: Sequence[str]) -> Fact:
    counts = dict(Counter(values).most_common())
    words = [f"{value} ({number})" for value, number in counts.items()]
    return Fact(label, values[0] if len(counts) == 1 else _listed(words, 4), counts)


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
