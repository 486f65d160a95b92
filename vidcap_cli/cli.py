"""The commands: names, options and help. What they do is imported when they run.

Neither ``--help`` nor a TAB press may import MindSpore, pandas or pyarrow.
"""

import functools
import importlib.util
import inspect as signatures
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vidcap_cli import __version__, options
from vidcap_cli.config import DEFAULT_QUESTION, CaptionConfig
from vidcap_cli.errors import FAILED, INCOMPLETE, OK
from vidcap_cli.view.words import parse_size


class _Commands(TyperGroup):
    """The commands, whose own flags are parsed without pydantic (60 ms of every start)."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options before a command, those that typer adds among them."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            # --help and its like are None by default, and typer imports pydantic to convert that.
            if parameter.default is None:
                parameter.default = False
        return parameters


app = typer.Typer(
    name="vidcap",
    cls=_Commands,
    help="Caption the videos of a table on MindSpore: every row gets a caption or a reason.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        # The original scripts spell their options with underscores.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


@app.callback(invoke_without_command=True)
def version(
    *,
    show: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Caption the videos of a table on MindSpore: every row gets a caption or a reason."""
    if show:
        print(f"vidcap {__version__}")  # noqa: T201
        raise typer.Exit


def _caption(
    family: str,
    settings: dict[str, Any],
    meta: options.Meta = None,
    *,
    question: options.Question = DEFAULT_QUESTION,
    max_new_tokens: options.MaxNewTokens = 200,
    bs: options.Slots = 1,
    demo: options.Demo = False,
    reader: options.ReaderOption = options.Reader.auto,
    decoders: options.Decoders = 2,
    decode_timeout: options.DecodeTimeout = 60.0,
    decode_memory: options.DecodeMemory = None,
    output: options.Output = None,
    form: options.FormOption = None,
    all_columns: options.AllColumns = False,
    caption_column: options.CaptionColumn = "text",
    overwrite_column: options.OverwriteColumn = False,
    skip_if_existing: options.SkipIfExisting = False,
    run_dir: options.RunDirectory = None,
    fresh: options.Fresh = False,
    limit: options.Limit = None,
    dry_run: options.DryRun = False,
    flush_seconds: options.FlushSeconds = 30.0,
    engine: options.Engine = options.EngineName.graph,
    dtype: options.DType = options.NumberType.auto,
    memory_limit: options.MemoryLimit = None,
    on_oom: options.OnOomOption = options.OnOom.shrink,
    device_target: options.DeviceTarget = options.Device.auto,
    worker_num: options.WorkerNum = None,
    local_worker_num: options.LocalWorkerNum = None,
    master_addr: options.MasterAddr = "127.0.0.1",
    master_port: options.MasterPort = None,
    node_rank: options.NodeRank = 0,
    log_dir: options.LogDir = None,
    retries: options.Retries = 3,
    stall_timeout: options.StallTimeout = 600.0,
) -> int:
    """Caption with the options that all families share; ``settings`` are the family's own."""
    from vidcap_cli.caption import Request, caption

    config = CaptionConfig(
        family=family,
        question=question,
        max_new_tokens=max_new_tokens,
        dtype=dtype.value,
        engine=engine.value,
        device_target=device_target.value,
        slots=bs,
        memory_limit=parse_size(memory_limit) if memory_limit else None,
        on_oom=on_oom.value,
        reader=_reader(reader),
        decoders=decoders,
        decode_timeout=decode_timeout,
        decode_memory=parse_size(decode_memory) if decode_memory else None,
        flush_seconds=flush_seconds,
        part_format=form.value if form else "parquet",
        **settings,
    )
    request = Request(
        meta=meta,
        model=config.model,
        config=config,
        output=output,
        form=form.value if form else None,
        run_dir=run_dir,
        fresh=fresh,
        limit=limit,
        dry_run=dry_run,
        skip_if_existing=skip_if_existing,
        all_columns=all_columns,
        caption_column=caption_column,
        overwrite_column=overwrite_column,
        demo=demo,
        retries=retries,
        stall_timeout=stall_timeout,
        log_dir=log_dir,
        worker_num=worker_num,
        local_worker_num=local_worker_num,
        master_addr=master_addr,
        master_port=master_port,
        node_rank=node_rank,
        command_line=shlex.join(["vidcap", *sys.argv[1:]]),
    )
    return caption(request)


def _reader(reader: options.Reader) -> str:
    """The reader that ``reader`` means, refused when it is not installed."""
    if reader is options.Reader.decord and importlib.util.find_spec("decord") is None:
        raise typer.BadParameter("decord is not installed: pip install decord2.")
    return "pyav" if reader is options.Reader.auto else reader.value


def _family(own: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Make a command of ``own``, named as it is: its options and those all families share.

    ``own`` takes the options of one family and gives what they say, as fields of CaptionConfig.
    typer reads options off signatures, so the command is given one that joins both.
    """
    mine = signatures.signature(own).parameters
    shared = list(signatures.signature(_caption).parameters.values())[2:]
    # Where the model is, then what is shared, the family's own after --demo.
    places = [parameter.name for parameter in shared]
    cut = places.index("demo") + 1
    model, *rest = mine.values()
    joined = [shared[0], model, *shared[1:cut], *rest, *shared[cut:]]

    @functools.wraps(own)
    def command(**given: Any) -> None:
        settings = own(**{name: given.pop(name) for name in mine})
        raise typer.Exit(_caption(own.__name__, settings, **given))

    signature = signatures.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in joined])
    command.__dict__["__signature__"] = signature
    command.__annotations__ = {p.name: p.annotation for p in joined}
    return app.command()(command)


@_family
def llava(
    *,
    model: options.LlavaModel = "./pretrained_models/llava-llama-3-8b-v1_1-transformers",
    num_frames: options.NumFrames = 1,
) -> dict[str, Any]:
    """Caption videos with LLaVA, which looks at the middle frame.

    vidcap llava meta.csv writes meta_caption_llava.csv.

    The same command continues a run that was cut off.
    """
    return {"model": model, "num_frames": num_frames}


@_family
def pllava(
    *,
    model: options.Model = "./pretrained_models/pllava",
    num_frames: options.NumFrames = 4,
    pooling_shape: Annotated[
        str | None,
        typer.Option(
            metavar="T-H-W",
            help="Frames, height and width that the features of a video are averaged to.",
            show_default="all frames, half the grid: 4-12-12",
            rich_help_panel=options.FRAMES,
            callback=options.pooling_shape,
        ),
    ] = None,
    system_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What the model is told before the question.",
            show_default="vidcap's own text",
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Strength of the LoRA that is merged into the weights.",
            show_default="the checkpoint's, else 4",
            rich_help_panel=options.ENGINE,
        ),
    ] = None,
) -> dict[str, Any]:
    """Caption videos with PLLaVA, which looks at a few frames.

    vidcap pllava meta.csv --num-frames 8 writes meta_caption_pllava.csv.

    The same command continues a run that was cut off.
    """
    return {
        "model": model,
        "num_frames": num_frames,
        "pooling_shape": pooling_shape,
        "system_prompt": system_prompt,
        "lora_alpha": lora_alpha,
    }


@_family
def qwen2vl(
    *,
    model: options.Model = "./pretrained_models/Qwen2-VL-7B-Instruct",
    fps: Annotated[
        float,
        typer.Option(min=0.01, help="Frames per second of video.", rich_help_panel=options.FRAMES),
    ] = 4.0,
    height: Annotated[
        int,
        typer.Option(min=28, help="Frame height in pixels.", rich_help_panel=options.FRAMES),
    ] = 448,
    width: Annotated[
        int,
        typer.Option(min=28, help="Frame width in pixels.", rich_help_panel=options.FRAMES),
    ] = 672,
    resize: Annotated[
        options.Resize,
        typer.Option(
            help="area: height x width caps the area and the aspect is kept; exact: frames "
            "become that size.",
            rich_help_panel=options.FRAMES,
        ),
    ] = options.Resize.area,
) -> dict[str, Any]:
    """Caption videos with Qwen2-VL, the recommended model.

    vidcap qwen2vl meta.csv --fps 4 writes meta_caption_qwen2vl.csv.

    The same command continues a run that was cut off.
    """
    return {"model": model, "fps": fps, "height": height, "width": width, "resize": resize.value}


@app.command()
def merge(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories, part files, or tables with captions, in any mix.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The table to write."),
    ],
    meta: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="The planned table.",
            show_default="the one the runs were planned from",
        ),
    ] = None,
    prefer: Annotated[
        options.Prefer,
        typer.Option(help="Which of several captions of a row to take."),
    ] = options.Prefer.newest,
    missing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the rows still to do as a table.", show_default=False
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Exit with 0 although rows have no caption."),
    ] = False,
    form: options.FormOption = None,
    all_columns: options.AllColumns = False,
    caption_column: options.CaptionColumn = "text",
    overwrite_column: options.OverwriteColumn = False,
    as_json: options.Json = False,
) -> None:
    """Reconcile runs, parts and captioned tables into one table. Inputs are never touched."""
    from vidcap_cli.merge import merge as merging
    from vidcap_cli.view import reconciliation as report

    account = merging.merge(
        inputs,
        output,
        meta=meta,
        prefer=prefer.value,
        all_columns=all_columns,
        caption_column=caption_column,
        overwrite_column=overwrite_column,
        missing=missing,
        form=form.value if form else None,
    )
    report.show_merge(account, as_json=as_json)
    raise typer.Exit(OK if account.complete or allow_missing else INCOMPLETE)


@app.command()
def inspect(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="TARGET",
            help="A table, a video, a model folder or a run directory; nothing: this machine.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what vidcap knows about a table, a video, a model, a run, or this machine."""
    from vidcap_cli.inspect import inspect as look
    from vidcap_cli.inspect import render

    report = look(target)
    render(report, as_json=as_json)
    raise typer.Exit(OK if report.ok else FAILED)
