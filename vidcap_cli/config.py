"""What ranks are told: one frozen dataclass, written as JSON beside the plan.

Options come in two kinds. Those that alter captions decide what the captions say; an unfinished
run refuses to continue with others. The rest only decide how the work is done and may change from
one attempt to the next.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from vidcap_cli.declaring import Declared, Option, declared
from vidcap_cli.families import FAMILIES, Family
from vidcap_cli.option_values import (
    as_bytes,
    as_decoder_bytes,
    as_question,
    as_questions,
    as_ranges,
    as_reader,
    as_shape,
    models,
)
from vidcap_cli.options import ENGINE, FRAMES, LAUNCHING, OUTPUT, PATH, PROMPTS


@dataclass(frozen=True, slots=True)
class CaptionConfig:
    """Everything a rank needs to know besides its rows.

    ``model`` is an absolute folder and ``model_fingerprint`` a digest of what it holds. Options
    that are not every family's are named in ``vidcap_cli.families``; where None stands for one,
    the family says what it is. ``slots`` rows are decoded together on a rank. ``memory_limit`` is
    bytes a rank may take, None for what there is; a clip too large for it is shrunk or, with
    ``on_oom`` "empty", left without a caption. ``decode_memory`` is bytes that a decoder may take,
    None for its share of the machine.
    """

    family: str
    model: Annotated[
        str,
        Option(
            "Checkpoint folder in the Hugging Face layout; nano is the bundled one.",
            ENGINE,
            flags=("--model", "--pretrained-model-name-or-path"),
            metavar="FOLDER",
            complete=models,
            alters=True,
        ),
    ]
    model_fingerprint: str = ""
    path_column: Annotated[
        str,
        Option(
            "Column of the table with the paths of the videos.",
            metavar="NAME",
            alters=True,
            last=True,
        ),
    ] = PATH
    ranges: Annotated[
        str | None,
        Option(
            "Columns with the ranges of the videos that are meant: START,END, or one with lists of "
            "pairs; none for whole videos.",
            metavar="NAMES",
            usual="start,end or timestamp, if they are there",
            read=as_ranges,
            alters=True,
            last=True,
        ),
    ] = None
    clip_length: Annotated[
        float | None,
        Option(
            "Cut videos into clips of so many seconds, each a row of the output.",
            metavar="SECONDS",
            low=0.01,
            usual="whole videos",
            alters=True,
            last=True,
        ),
    ] = None
    stride: Annotated[
        float | None,
        Option(
            "Seconds from the start of one clip to that of the next.",
            metavar="SECONDS",
            low=0.01,
            usual="the length of a clip",
            alters=True,
            last=True,
        ),
    ] = None
    question: Annotated[
        str | dict[str, str],
        Option(
            "What the model is asked about each video; @FILE reads it from a file. Several, each "
            "NAME=TEXT, give columns of these names.",
            metavar="TEXT",
            given=list[str],
            preset=[PROMPTS["detailed"]],
            read=as_questions,
            alters=True,
        ),
    ] = PROMPTS["detailed"]
    question_column: Annotated[
        str | None,
        Option(
            "Column of the table with questions for rows; an empty one is asked that of all.",
            metavar="NAME",
            alters=True,
            last=True,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        Option(
            "Above 1, tokens that were there before are less likely.",
            low=0.01,
            usual="the checkpoint's, else 1",
            alters=True,
            last=True,
        ),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None,
        Option(
            "So many tokens never follow each other twice; 0 allows it.",
            metavar="N",
            low=0,
            usual="the checkpoint's, else 0",
            alters=True,
            last=True,
        ),
    ] = None
    retry_repetitive: Annotated[
        bool,
        Option(
            "Decode a caption that repeats itself once more, with stronger penalties.",
            alters=True,
            last=True,
        ),
    ] = False
    max_new_tokens: Annotated[int, Option("Longest caption, in tokens.", low=1, alters=True)] = 200
    slots: Annotated[int, Option("Videos decoded together on a rank.", flags=("--bs",), low=1)] = 1
    num_frames: Annotated[int, Option("Frames shown of a video.", FRAMES, low=1, alters=True)] = 4
    pooling_shape: Annotated[
        str | None,
        Option(
            "Frames, height and width that the features of a video are averaged to.",
            FRAMES,
            metavar="T-H-W",
            usual="all frames, half the grid: 4-12-12",
            read=as_shape,
            alters=True,
        ),
    ] = None
    fps: Annotated[float, Option("Frames per second of video.", FRAMES, low=0.01, alters=True)] = (
        4.0
    )
    height: Annotated[int, Option("Frame height in pixels.", FRAMES, low=28, alters=True)] = 448
    width: Annotated[int, Option("Frame width in pixels.", FRAMES, low=28, alters=True)] = 672
    resize: Annotated[
        Literal["area", "exact"],
        Option(
            "area: height x width caps the area and the aspect is kept; exact: frames become that "
            "size.",
            FRAMES,
            alters=True,
        ),
    ] = "area"
    system_prompt: Annotated[
        str | None,
        Option(
            "What the model is told before all else, as its chat template has it; @FILE reads it.",
            metavar="TEXT",
            usual="the template's own; of PLLaVA vidcap's",
            read=as_question,
            alters=True,
            last=True,
        ),
    ] = None
    lora_alpha: Annotated[
        float | None,
        Option(
            "Strength of the LoRA that is merged into the weights.",
            ENGINE,
            low=0,
            usual="the checkpoint's, else 4",
            alters=True,
        ),
    ] = None
    reader: Annotated[
        str,
        Option(
            "What reads the frames; auto is pyav, decord repeats what the original scripts read.",
            FRAMES,
            given=Literal["auto", "pyav", "decord"],
            read=as_reader,
            preset="auto",
            alters=True,
        ),
    ] = "pyav"
    decoders: Annotated[
        int, Option("Processes per rank that read frames ahead.", FRAMES, low=1)
    ] = 2
    decode_timeout: Annotated[
        float,
        Option("Seconds after which a video that cannot be read is given up.", FRAMES, low=0.1),
    ] = 60.0
    cache_size: Annotated[
        int | None,
        Option(
            "Room for downloaded files on each machine, such as 100G; see VIDCAP_CACHE in README.",
            FRAMES,
            metavar="SIZE",
            usual="10G",
            given=str | None,
            read=as_bytes,
        ),
    ] = None
    decode_memory: Annotated[
        int | None,
        Option(
            "Memory that one of them may take, such as 4G; a video that needs more fails.",
            FRAMES,
            metavar="SIZE",
            usual="its share of half the machine",
            given=str | None,
            read=as_decoder_bytes,
        ),
    ] = None
    flush_seconds: Annotated[
        float,
        Option(
            "A finished row is on disk after at most this many seconds.",
            OUTPUT,
            low=0.1,
            last=True,
        ),
    ] = 30.0
    engine: Annotated[
        Literal["graph", "mindnlp"],
        Option(
            "graph is compiled; mindnlp runs the Hugging Face definitions, the slow reference.",
            ENGINE,
        ),
    ] = "graph"
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Option("Number type of the weights; auto is the checkpoint's own.", ENGINE, alters=True),
    ] = "auto"
    tensor_parallel: Annotated[
        int,
        Option(
            "Ranks, of one node, that share a model which one device cannot hold.",
            LAUNCHING,
            metavar="T",
            low=1,
        ),
    ] = 1
    memory_limit: Annotated[
        int | None,
        Option(
            "Memory that a rank may take, weights included, such as 12G.",
            ENGINE,
            metavar="SIZE",
            usual="most of what is free",
            given=str | None,
            read=as_bytes,
        ),
    ] = None
    on_oom: Annotated[
        Literal["shrink", "empty"],
        Option("A video too large for the memory is shown smaller, or gets no caption.", ENGINE),
    ] = "shrink"
    device_target: Annotated[
        Literal["auto", "Ascend", "CPU"],
        Option("auto takes Ascend when there is one.", ENGINE),
    ] = "auto"
    part_format: str = "parquet"

    def to_json(self) -> str:
        """The configuration as JSON, fields in order."""
        import json  # noqa: PLC0415 - not for TAB and --help, which import this module too

        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "CaptionConfig":
        """The inverse of ``to_json``; keys that this version does not know are ignored."""
        import json  # noqa: PLC0415

        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})

    @property
    def questions(self) -> dict[str, str]:
        """What is asked, by name; a single question without one is called ""."""
        return {"": self.question} if isinstance(self.question, str) else self.question

    def called(self, name: str) -> str | None:
        """How the user calls what alters captions; None for an option of other families alone."""
        if name in _NOT_OPTIONS:
            return _NOT_OPTIONS[name]
        row = FAMILIES.get(self.family)
        option = options_of(row).get(name) if row else None
        return option.flags[0] if option else None

    def caption_options(self) -> dict[str, Any]:
        """What decides what the captions say: the options that alter them, and the model."""
        return {name: getattr(self, name) for name in ALTERS_CAPTIONS}

    def usual_caption_options(self) -> dict[str, Any]:
        """The same where nothing else is asked for: what plans of versions mean that lack one."""
        row = FAMILIES.get(self.family)
        options = options_of(row) if row else declared(CaptionConfig)
        return {name: it.default for name, it in options.items() if name in ALTERS_CAPTIONS}


# What the command finds out by itself, as it is called where it differs.
_NOT_OPTIONS = {"family": "the command", "model_fingerprint": "the files of the model"}
ALTERS_CAPTIONS = (
    *_NOT_OPTIONS,
    *(name for name, it in declared(CaptionConfig).items() if it.option.alters),
)


def options_of(family: Family) -> dict[str, Declared]:
    """The options of a family's command that ranks are told, with its own defaults and flags."""
    foreign = {name for row in FAMILIES.values() for name in row.options} - {*family.options}
    found = {name: it for name, it in declared(CaptionConfig).items() if name not in foreign}
    for name, default in family.defaults.items():
        found[name] = replace(found[name], default=default)
    if family.model_flags:
        model = found["model"]
        flags = (*model.flags, *family.model_flags)
        found["model"] = replace(model, option=replace(model.option, flags=flags))
    return found
