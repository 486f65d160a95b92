"""The options of the commands, each declared once: name, help, default, and what it may be.

An option is a field of a frozen dataclass, annotated with an ``Option``. The command line is made
from these fields (``vidcap_cli.cli``), and a dataclass goes on whole to whoever uses it; what the
ranks are told is one of them, ``vidcap_cli.config.CaptionConfig``. Names and defaults are those
of the original captioning scripts; a name may be written with hyphens or underscores.

Nothing here imports typer: ranks read their configuration through it.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from vidcap_cli.view.words import parse_size, setting, size

FRAMES = "Frames"
LAUNCHING = "Launching"
OUTPUT = "Output"
ENGINE = "Engine"

NANO = "nano"  # the bundled checkpoint
PATH = "path"  # the column of videos
TEXT = "text"  # the column of captions
NO_RANGES = "none"  # no column has ranges of videos
# Bytes a decoder needs to work at all: FFmpeg, NumPy and a video of ordinary size.
LEAST_DECODE_MEMORY = 256_000_000

# What --prompt asks; the first is the default question.
PROMPTS = {
    "detailed": "Describe the video in detail",
    "brief": "Describe the video briefly",
    "structured": (
        "Describe the video in four short paragraphs, each of which begins with its title: "
        "Subject, Setting, Action, Camera"
    ),
    "motion": (
        "Describe only what moves in the video: who or what it is, what it does, in which "
        "direction and how fast, in the order in which it happens, and how the camera moves"
    ),
}

NANO_QUESTIONS = (PROMPTS["detailed"], PROMPTS["brief"])  # that the bundled checkpoints know

_NAMED = re.compile(r"([^\W\d]\w*)=(.+)", re.DOTALL)  # a question with a name

Prompt = Literal["detailed", "brief", "structured", "motion"]
Sidecar = Literal["txt", "json", "both"]
Form = Literal["csv", "parquet", "jsonl"]
RestartFailed = Literal["all", "none"]
Prefer = Literal["newest", "oldest", "first", "longest"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Option:
    """What the command line says of a field.

    ``flags`` are its spellings, the name with hyphens unless given. ``low`` and ``high`` bound a
    number. ``usual`` is the default in words, where None stands for it. ``given`` is the type on
    the command line where it is not the field's; ``read`` then makes the value, ValueError is a
    wrong one, and ``preset`` is the default in that type. ``complete`` is what TAB offers.

    With ``alters`` captions depend on it: an unfinished run refuses another value. A ``last`` one
    stands at the end of its panel in the help.
    """

    help: str
    panel: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    usual: str | None = None
    given: Any = None
    read: Callable[[Any], Any] | None = None
    preset: Any = None
    complete: Callable[[str], list[str]] | None = None
    alters: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Declared:
    """A field that is an option: its name and type, and its default, MISSING for none."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        """Its spellings on the command line; the first is the one it is called by."""
        return self.option.flags or ("--" + self.name.replace("_", "-"),)


@cache
def declared(group: type) -> Mapping[str, Declared]:
    """The options of a dataclass by the names of their fields."""
    found = {}
    for field in fields(group):
        kind, *notes = get_args(field.type) or (field.type,)
        option = next((note for note in notes if isinstance(note, Option)), None)
        if option:
            found[field.name] = Declared(field.name, kind, field.default, option)
    return found


def given(options: Iterable[Declared], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the ``values`` of ``options`` those that are not the default, by their flags' words."""
    found = {}
    for option in options:
        value = values.get(option.name, option.default)
        if value != option.default:
            name = option.flags[0].removeprefix("--").replace("-", "_")
            found[name] = str(value) if isinstance(value, Path) else value
    return found


def spelled(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these options."""
    words = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            words += [word for key, one in value.items() for word in (flag, f"{key}={one}")]
        elif value is True:
            words.append(flag)
        else:
            words += [flag, setting(value)]
    return words


def models(incomplete: str) -> list[str]:
    """What TAB offers for a model: nano and the folders here, or nothing.

    For nothing every shell completes names of files itself, quotes them, and lets one descend
    into folders; so it does for all arguments that are paths. Only where nano is still possible
    has the choice to be ours, and then a name that a shell would quote is left out.
    """
    if not "nano".startswith(incomplete):
        return []
    names = [path.name for path in Path().glob(f"{incomplete}*") if path.is_dir()]
    return ["nano", *(f"{name}/" for name in sorted(names) if re.fullmatch(r"\w[\w.-]*", name))]


def as_bytes(text: str) -> int:
    """Bytes of a number, or of one with k, M, G or T (powers of 1000)."""
    found = parse_size(text)
    if found is None:
        raise ValueError("write a number and a unit, such as 12G or 800M.")
    return found


def as_decoder_bytes(text: str) -> int:
    """Bytes, enough for a decoder to work in at all."""
    found = as_bytes(text)
    if found < LEAST_DECODE_MEMORY:
        raise ValueError(f"a decoder needs {size(LEAST_DECODE_MEMORY)} or more.")
    return found


def as_question(text: str) -> str:
    """``text``, or for ``@FILE`` what that file says."""
    if not text.startswith("@"):
        return text
    file = Path(text[1:])
    try:
        found = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8; convert it.") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}.") from error
    if not found:
        raise ValueError(f"{file} says nothing; write the text into it.")
    return found


def as_questions(texts: list[str]) -> str | dict[str, str]:
    """One question, or several by their names, each written NAME=TEXT or NAME=@FILE."""
    found = [_NAMED.fullmatch(text) for text in texts]
    if len(texts) == 1 and not found[0]:
        return as_question(texts[0])
    questions = {}
    for text, named in zip(texts, found, strict=True):
        if not named:
            raise ValueError(f"several questions need names: write NAME=TEXT, not {text[:40]!r}.")
        if named[1] in questions:
            raise ValueError(f"two questions are called {named[1]}; rename one.")
        questions[named[1]] = as_question(named[2])
    return questions


def as_shape(text: str) -> str:
    """``text`` if it is written T-H-W."""
    if not re.fullmatch(r"[1-9]\d*-[1-9]\d*-[1-9]\d*", text):
        raise ValueError("write T-H-W, such as 4-12-12.")
    return text


def as_ranges(text: str) -> str:
    """``text`` if it names one column, or two with a comma between, or says none."""
    names = text.split(",")
    if len(names) > 2 or not all(name.strip() for name in names):
        raise ValueError(f"write START,END, the column with lists of ranges, or {NO_RANGES}.")
    return text


def as_shard(text: str) -> str:
    """``text`` if it is written I/N, I from 0 on and less than N."""
    found = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError("write I/N, such as 0/4 to 3/4.")
    return text


def as_bool(text: str) -> str:
    """``text`` if msrun takes it for true or false."""
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("write True or False.")
    return text


def as_reader(name: str) -> str:
    """The reader that ``name`` means; one that is not installed is a wrong value."""
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise ValueError("decord is not installed: pip install decord2.")
    return "pyav" if name == "auto" else name


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The table to write."""

    output: Annotated[
        Path | None,
        Option(
            "The table to write.",
            OUTPUT,
            flags=("--output", "-o"),
            metavar="FILE",
            usual="{META}_caption_{command} beside META",
        ),
    ] = None
    form: Annotated[
        Form | None,
        Option(
            "Format of the output; with csv the parts are CSV, too.",
            OUTPUT,
            flags=("--format",),
            usual="Parquet for Parquet, else CSV",
        ),
    ] = None
    all_columns: Annotated[
        bool, Option("Add everything known about a caption as columns caption_*.", OUTPUT)
    ] = False
    caption_column: Annotated[
        str, Option("Column that the captions are written to.", OUTPUT, metavar="NAME")
    ] = TEXT
    overwrite_column: Annotated[
        bool,
        Option("Replace columns of the table that have the names of those written.", OUTPUT),
    ] = False
    relative_to: Annotated[
        Path | None,
        Option(
            "Write the paths of videos relative to this folder.",
            OUTPUT,
            metavar="FOLDER",
            usual="as they are",
        ),
    ] = None
    sidecar: Annotated[
        Sidecar | None,
        Option(
            "Also write each caption beside its video: as text, in a JSON object, or both.",
            OUTPUT,
            usual="none",
        ),
    ] = None
    overwrite_sidecars: Annotated[
        bool, Option("Replace other captions in the files beside the videos.", OUTPUT)
    ] = False
    prefix: Annotated[
        str, Option("Text before every caption, spaces included.", OUTPUT, metavar="TEXT")
    ] = ""
    suffix: Annotated[str, Option("Text after every caption.", OUTPUT, metavar="TEXT")] = ""
    strip_prefix: Annotated[
        bool, Option('Remove stock openings of captions, such as "The video shows".', OUTPUT)
    ] = False
    trim_to_sentence: Annotated[
        bool,
        Option("End a caption that was cut off at its last full sentence.", OUTPUT),
    ] = False


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is done and asked at all, and where the run lives."""

    quiet: Annotated[
        bool,
        Option(
            "Say nothing but errors, and what failed in the end.",
            OUTPUT,
            flags=("--quiet", "-q"),
        ),
    ] = False
    verbose: Annotated[
        bool,
        Option("Show each caption as it is made.", OUTPUT, flags=("--verbose", "-v")),
    ] = False
    as_json: Annotated[
        bool,
        Option("Print how it ended as JSON, for machines.", OUTPUT, flags=("--json",)),
    ] = False
    demo: Annotated[bool, Option("Caption the bundled clips with the bundled nano checkpoint.")] = (
        False
    )
    prompt: Annotated[
        Prompt | None,
        Option(
            "A bundled question, for those without one of their own; see README.", usual="detailed"
        ),
    ] = None
    skip_if_existing: Annotated[bool, Option("Do nothing when the output exists.", OUTPUT)] = False
    run_dir: Annotated[
        Path | None,
        Option(
            "Where the run keeps its files.",
            OUTPUT,
            metavar="FOLDER",
            usual="beside the output, ending in .vidcap",
        ),
    ] = None
    fresh: Annotated[
        bool,
        Option("Start over; the old run is replaced when the new one has finished.", OUTPUT),
    ] = False
    extend: Annotated[
        bool,
        Option(
            "When the table or folder has changed, keep the captions of rows with the same path.",
            OUTPUT,
        ),
    ] = False
    limit: Annotated[int | None, Option("Only the first N rows.", OUTPUT, metavar="N", low=1)] = (
        None
    )
    shard: Annotated[
        str | None,
        Option(
            "Only shard I (from 0) of N: every N-th row. vidcap merge joins their run directories.",
            OUTPUT,
            metavar="I/N",
            read=as_shard,
        ),
    ] = None
    restart_failed: Annotated[
        RestartFailed,
        Option(
            "Whether a run that is continued tries the rows again that failed before.",
            OUTPUT,
        ),
    ] = "all"
    restart_changed: Annotated[
        bool,
        Option("Caption videos again whose files are newer than their captions.", OUTPUT),
    ] = False
    calibrate: Annotated[
        int | None,
        Option(
            "Caption N rows, spread over the table, to tell how long all take; keeps nothing.",
            OUTPUT,
            metavar="N",
            low=1,
        ),
    ] = None
    dry_run: Annotated[
        bool, Option("Show what would be done (rows, frames, tokens, output) and stop.", OUTPUT)
    ] = False


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """The ranks and nodes, and how their deaths are taken."""

    worker_num: Annotated[
        int | None,
        Option(
            "Ranks in all.",
            LAUNCHING,
            metavar="N",
            low=1,
            usual="Ascend devices found, 1 on CPU; on each node under srun or mpirun",
        ),
    ] = None
    local_worker_num: Annotated[
        int | None,
        Option(
            "Ranks on this node.",
            LAUNCHING,
            metavar="N",
            low=1,
            usual="all, or what srun or mpirun starts here",
        ),
    ] = None
    master_addr: Annotated[str, Option("Address of the first node.", LAUNCHING)] = "127.0.0.1"
    master_port: Annotated[
        int | None,
        Option(
            "Port of msrun's scheduler.",
            LAUNCHING,
            metavar="PORT",
            low=1024,
            high=65535,
            usual="a free one",
        ),
    ] = None
    node_rank: Annotated[
        int | None,
        Option("Number of this node.", LAUNCHING, low=0, usual="0, or what srun or mpirun says"),
    ] = None
    log_dir: Annotated[
        Path | None,
        Option(
            "Logs of msrun and the ranks.",
            LAUNCHING,
            metavar="FOLDER",
            usual="msrun_log in the run directory",
        ),
    ] = None
    join: Annotated[
        str,
        Option(
            "msrun's; a command waits for its ranks whatever it says.",
            LAUNCHING,
            metavar="BOOL",
            read=as_bool,
            last=True,
        ),
    ] = "True"
    retries: Annotated[
        int,
        Option("Launches in a row without any result before the run fails.", LAUNCHING, low=0),
    ] = 3
    stall_timeout: Annotated[
        float,
        Option(
            "Seconds after which a rank that reports nothing is killed and started again.",
            LAUNCHING,
            low=1.0,
        ),
    ] = 600.0
