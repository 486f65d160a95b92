"""The options that several commands share, each with its help, once.

Names and defaults are those of the original captioning scripts; a name may be written with
hyphens or underscores.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vidcap_cli.config import LEAST_DECODE_MEMORY
from vidcap_cli.view.words import parse_size, size

FRAMES = "Frames"
LAUNCHING = "Launching"
OUTPUT = "Output"
ENGINE = "Engine"


class Form(StrEnum):
    """Formats of an output table."""

    csv = "csv"
    parquet = "parquet"


class Resize(StrEnum):
    """What height and width mean."""

    area = "area"
    exact = "exact"


class Reader(StrEnum):
    """What reads the frames."""

    auto = "auto"
    pyav = "pyav"
    decord = "decord"


class Device(StrEnum):
    """Where the ranks compute."""

    auto = "auto"
    ascend = "Ascend"
    cpu = "CPU"


class EngineName(StrEnum):
    """Which engine captions."""

    graph = "graph"
    mindnlp = "mindnlp"


class OnOom(StrEnum):
    """What becomes of a video for which there is not enough memory."""

    shrink = "shrink"
    empty = "empty"


class Prefer(StrEnum):
    """Which of several results a merge takes."""

    newest = "newest"
    oldest = "oldest"
    first = "first"
    longest = "longest"


class NumberType(StrEnum):
    """What the weights are computed in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


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


def memory_size(text: str | None) -> str | None:
    """``text`` if it is a number of bytes, or of k, M, G or T (powers of 1000)."""
    if text is not None and parse_size(text) is None:
        raise typer.BadParameter("write a number and a unit, such as 12G or 800M.")
    return text


def decoder_memory(text: str | None) -> str | None:
    """``text`` if it is a size that a decoder can work in at all."""
    text = memory_size(text)
    if text is not None and (parse_size(text) or 0) < LEAST_DECODE_MEMORY:
        raise typer.BadParameter(f"a decoder needs {size(LEAST_DECODE_MEMORY)} or more.")
    return text


def pooling_shape(text: str | None) -> str | None:
    """``text`` if it is written T-H-W."""
    if text is not None and not re.fullmatch(r"[1-9]\d*-[1-9]\d*-[1-9]\d*", text):
        raise typer.BadParameter("write T-H-W, such as 4-12-12.")
    return text


Meta = Annotated[
    Path | None,
    typer.Argument(
        metavar="META",
        help="A table (csv, tsv, parquet, jsonl) with a column path, one video, or a folder of "
        "videos.",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "--pretrained-model-name-or-path",
        metavar="FOLDER",
        help="Checkpoint folder in the Hugging Face layout; nano is the bundled one.",
        autocompletion=models,
        rich_help_panel=ENGINE,
    ),
]
LlavaModel = Annotated[
    str,
    typer.Option(
        "--model",
        "--pretrained-model-name-or-path",
        "--llava-model-path",
        metavar="FOLDER",
        help="Checkpoint folder in the Hugging Face layout; nano is the bundled one.",
        autocompletion=models,
        rich_help_panel=ENGINE,
    ),
]
NumFrames = Annotated[
    int, typer.Option(min=1, help="Frames shown of a video.", rich_help_panel=FRAMES)
]
Question = Annotated[str, typer.Option(help="What the model is asked about each video.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest caption, in tokens.")]
Slots = Annotated[int, typer.Option("--bs", min=1, help="Videos decoded together on a rank.")]
SkipIfExisting = Annotated[
    bool,
    typer.Option(
        "--skip-if-existing", help="Do nothing when the output exists.", rich_help_panel=OUTPUT
    ),
]
Demo = Annotated[
    bool,
    typer.Option("--demo", help="Caption the bundled clips with the bundled nano checkpoint."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The table to write.",
        rich_help_panel=OUTPUT,
        show_default="{META}_caption_{command} beside META",
    ),
]
FormOption = Annotated[
    Form | None,
    typer.Option(
        "--format",
        help="Format of the output and its parts.",
        rich_help_panel=OUTPUT,
        show_default="Parquet for Parquet, else CSV",
    ),
]
AllColumns = Annotated[
    bool,
    typer.Option(
        "--all-columns",
        help="Add everything known about a caption as columns caption_*.",
        rich_help_panel=OUTPUT,
    ),
]
CaptionColumn = Annotated[
    str,
    typer.Option(
        "--caption-column",
        metavar="NAME",
        help="Column that the captions are written to.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteColumn = Annotated[
    bool,
    typer.Option(
        "--overwrite-column",
        help="Replace columns of the table that have the names of those written.",
        rich_help_panel=OUTPUT,
    ),
]
RunDirectory = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the run keeps its files.",
        rich_help_panel=OUTPUT,
        show_default="beside the output, ending in .vidcap",
    ),
]
Fresh = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start over; the old run is replaced when the new one has finished.",
        rich_help_panel=OUTPUT,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Only the first N rows.", rich_help_panel=OUTPUT),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be done (rows, frames, tokens, output) and stop.",
        rich_help_panel=OUTPUT,
    ),
]
FlushSeconds = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="A finished row is on disk after at most this many seconds.",
        rich_help_panel=OUTPUT,
    ),
]
Engine = Annotated[
    EngineName,
    typer.Option(
        help="graph is compiled; mindnlp runs the Hugging Face definitions, the slow reference.",
        rich_help_panel=ENGINE,
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory that a rank may take, weights included, such as 12G.",
        callback=memory_size,
        rich_help_panel=ENGINE,
        show_default="most of what is free",
    ),
]
OnOomOption = Annotated[
    OnOom,
    typer.Option(
        help="A video too large for the memory is shown smaller, or gets no caption.",
        rich_help_panel=ENGINE,
    ),
]
DType = Annotated[
    NumberType,
    typer.Option(
        "--dtype",
        help="Number type; auto is the checkpoint's own, float32 on CPU.",
        rich_help_panel=ENGINE,
    ),
]
DeviceTarget = Annotated[
    Device, typer.Option(help="auto takes Ascend when there is one.", rich_help_panel=ENGINE)
]
WorkerNum = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Ranks in all.",
        rich_help_panel=LAUNCHING,
        show_default="Ascend devices found, 1 on CPU",
    ),
]
LocalWorkerNum = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Ranks on this node.",
        rich_help_panel=LAUNCHING,
        show_default="all",
    ),
]
MasterAddr = Annotated[
    str, typer.Option(help="Address of the first node.", rich_help_panel=LAUNCHING)
]
MasterPort = Annotated[
    int | None,
    typer.Option(
        min=1024,
        max=65535,
        metavar="PORT",
        help="Port of msrun's scheduler.",
        rich_help_panel=LAUNCHING,
        show_default="a free one",
    ),
]
NodeRank = Annotated[
    int, typer.Option(min=0, help="Number of this node.", rich_help_panel=LAUNCHING)
]
LogDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Logs of msrun and the ranks.",
        rich_help_panel=LAUNCHING,
        show_default="msrun_log in the run directory",
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="Launches in a row without any result before the run fails.",
        rich_help_panel=LAUNCHING,
    ),
]
StallTimeout = Annotated[
    float,
    typer.Option(
        min=1.0,
        help="Seconds after which a rank that reports nothing is killed and started again.",
        rich_help_panel=LAUNCHING,
    ),
]
Decoders = Annotated[
    int,
    typer.Option(min=1, help="Processes per rank that read frames ahead.", rich_help_panel=FRAMES),
]
DecodeMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory that one of them may take, such as 4G; a video that needs more fails.",
        callback=decoder_memory,
        rich_help_panel=FRAMES,
        show_default="its share of half the machine",
    ),
]
DecodeTimeout = Annotated[
    float,
    typer.Option(
        min=0.1,
        help="Seconds after which a video that cannot be read is given up.",
        rich_help_panel=FRAMES,
    ),
]
ReaderOption = Annotated[
    Reader,
    typer.Option(
        "--reader",
        help="What reads the frames; auto is pyav, decord repeats what the original scripts read.",
        rich_help_panel=FRAMES,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
