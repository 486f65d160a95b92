"""The options of the commands, each declared once: name, help, default, and what it may be.

How, ``declaring.py`` says. What the ranks are told is one more of these dataclasses,
``vidcap_cli.config.CaptionConfig``. Names and defaults are those of the original captioning
scripts; a name may be written with hyphens or underscores.

Nothing here imports typer: ranks read their configuration through it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vidcap_cli.declaring import Option
from vidcap_cli.option_values import as_bool, as_ranges, as_shard

FRAMES = "Frames"
LAUNCHING = "Launching"
OUTPUT = "Output"
ENGINE = "Engine"
VIDEOS = "A table or folder of videos"
TABLE = "A table"
CAPTIONS, RUN = "A table with captions", "A run directory"
GALLERY = "A table with captions, or a run directory"

NANO = "nano"  # the bundled checkpoint
PATH = "path"  # the column of videos
TEXT = "text"  # the column of captions

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

Prompt = Literal["detailed", "brief", "structured", "motion"]
Sidecar = Literal["txt", "json", "both"]
Form = Literal["csv", "parquet", "jsonl"]
RestartFailed = Literal["all", "none"]
Prefer = Literal["newest", "oldest", "first", "longest"]


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
        str,
        Option("Text before every caption; no space is added.", OUTPUT, metavar="TEXT"),
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


@dataclass(frozen=True, slots=True)
class MergeOptions:
    """What is merged, besides the inputs, and how it is told."""

    output: Annotated[Path, Option("The table to write.", flags=("--output", "-o"), metavar="FILE")]
    meta: Annotated[
        Path | None,
        Option("The planned table.", metavar="TABLE", usual="the one the runs were planned from"),
    ] = None
    path_column: Annotated[
        str | None,
        Option(
            "The column with the paths, in that table and in tables with captions.",
            metavar="NAME",
            usual="that of the runs, else path",
        ),
    ] = None
    ranges: Annotated[
        str | None,
        Option(
            "The columns with ranges of videos there: START,END, or none.",
            metavar="NAMES",
            usual="those of the runs, else start,end if they are there",
            read=as_ranges,
        ),
    ] = None
    prefer: Annotated[
        Prefer,
        Option(
            "Which of several captions of a row to take: by when the inputs were written and, "
            "within one, by launch or row; the first in the order of the inputs and their rows; "
            "or the longest."
        ),
    ] = "newest"
    missing: Annotated[
        Path | None, Option("Write the rows still to do as a table.", metavar="FILE")
    ] = None
    allow_missing: Annotated[bool, Option("Exit with 0 although rows have no caption.")] = False
    quiet: Annotated[
        bool,
        Option(
            "Say nothing unless rows have no caption, or errors.",
            flags=("--quiet", "-q"),
            last=True,
        ),
    ] = False
    as_json: Annotated[bool, Option("Print JSON, for machines.", flags=("--json",), last=True)] = (
        False
    )


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What is wanted of a target besides the report; each goes with the kind its panel names."""

    path_column: Annotated[
        str | None,
        Option(
            "The column with the paths of a table.",
            TABLE,
            metavar="NAME",
            usual="that of the run beside it, else as for captioning",
        ),
    ] = None
    caption_column: Annotated[
        str | None,
        Option(
            "The column with the captions of a table.",
            CAPTIONS,
            metavar="NAME",
            usual="the one before caption_status, else text",
        ),
    ] = None
    export_flagged: Annotated[
        Path | None,
        Option(
            "Write the captions with a flag as a table, with their flags.",
            CAPTIONS,
            metavar="FILE",
        ),
    ] = None
    failed: Annotated[
        Path | None,
        Option("Write the failed rows, all of them, as a table.", RUN, metavar="FILE"),
    ] = None
    watch: Annotated[bool, Option("Draw the run until it ends.", RUN)] = False
    videos: Annotated[
        bool, Option("Look into the videos of a table that has captions.", VIDEOS)
    ] = False
    all_videos: Annotated[
        bool,
        Option("Open all videos, not a sample; also for a page.", VIDEOS, flags=("--all",)),
    ] = False
    output: Annotated[
        Path | None,
        Option(
            "Write the table with what its videos hold (num_frames, height, width, "
            "aspect_ratio, fps, resolution); opens all.",
            VIDEOS,
            flags=("--output", "-o"),
            metavar="FILE",
        ),
    ] = None
    drop_unreadable: Annotated[
        bool, Option("Leave rows out of it whose video cannot be read.", VIDEOS)
    ] = False
    html: Annotated[
        Path | None,
        Option(
            "Write a page for a browser that shows the captions beside their videos.",
            GALLERY,
            metavar="FILE",
        ),
    ] = None
    thumbnails: Annotated[
        int,
        Option(
            "How many frames of a video it shows, of 2,000 videos.",
            GALLERY,
            metavar="N",
            low=0,
            high=12,
        ),
    ] = 4
