"""What a caption command refuses before any video is captioned, for the end would refuse it.

Each check raises UsageError, with the remedy.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from vidcap_cli.checkpoint.called import model_folder
from vidcap_cli.checkpoint.files import fingerprint, read_json
from vidcap_cli.checkpoint.folder import check_model
from vidcap_cli.checkpoint.generation import sampling_keys
from vidcap_cli.checkpoint.shares import Share
from vidcap_cli.config import CaptionConfig, options_of
from vidcap_cli.disk import check_log_dir, check_output
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.families import FAMILIES, bundled_models
from vidcap_cli.finishing import or_completed, refusal
from vidcap_cli.launch.ranks import devices
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.merge.sidecars import RANGES
from vidcap_cli.meta import check_questions, open_meta
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.options import NANO_QUESTIONS, PATH, TEXT, RunOptions, TableOptions
from vidcap_cli.outputs import default_run_dir
from vidcap_cli.processors import load_captioner
from vidcap_cli.processors.pllava import pooled_shape
from vidcap_cli.request import Request
from vidcap_cli.rundir.places import Places, read_finished
from vidcap_cli.rundir.plan import TABLE, kind_of
from vidcap_cli.rundir.replacing import may_replace
from vidcap_cli.table_writer import output_form


def check_together(run: RunOptions, config: CaptionConfig, *, shown: bool) -> None:
    """Refuse options that say nothing together."""
    if run.quiet and run.verbose:
        raise UsageError("--quiet and --verbose are opposites; leave one out.")
    if run.extend and run.fresh:
        raise UsageError("--extend keeps captions and --fresh does not; leave one out.")
    if run.extend and config.question_column:
        raise UsageError(
            "--extend keeps captions by path alone; leave out --question-column, or it."
        )
    if run.shard and shown:
        raise UsageError("--shard is for tables and folders, whose captions are merged in the end.")


def check_columns(table: TableOptions, meta: Path, config: CaptionConfig) -> None:
    """Refuse at once what the merge would refuse when all videos have been captioned."""
    questions = tuple(name for name in config.questions if name)
    if questions and table.caption_column != TEXT:
        raise UsageError("--caption-column says what --question NAME=TEXT says; leave one out.")
    columns = CaptionColumns(
        table.caption_column,
        overwrite=table.overwrite_column,
        everything=table.all_columns,
        questions=questions,
    )
    if questions and config.question_column:
        raise UsageError(
            "--question-column goes with one question, not with several that have names."
        )
    if kind_of(meta) == TABLE:
        opened = open_meta(meta, config.path_column, config.ranges)
        try:
            columns.check(opened)
        except TableError as error:
            raise TableError(f"{error}{or_completed(opened, table.caption_column)}") from error
        if config.question_column:
            check_questions(opened, config.question_column)
        if table.sidecar and opened.ranges:
            raise UsageError(RANGES)
    elif config.path_column != PATH or config.ranges or config.question_column:
        flag = "--question-column" if config.question_column else "--ranges"
        flag = "--path-column" if config.path_column != PATH else flag
        raise UsageError(f"{meta}: is not a table; leave out {flag}")
    if table.sidecar and config.clip_length:
        raise UsageError(RANGES)
    if config.stride and not config.clip_length:
        raise UsageError("--stride is about the clips of --clip-length; name that too.")


def check_places(request: Request, meta: Path, output: Path | None) -> None:
    """Refuse at once an output or a folder of logs that could not be written in the end."""
    if output:
        output_form(output, request.table.form)
        real = output.resolve()
        run_dir = (request.run.run_dir or default_run_dir(output, request.selection)).resolve()
        if real == meta.resolve():
            raise UsageError(f"{output}: is the table of videos itself; name another file with -o")
        if real.is_relative_to(run_dir):
            raise UsageError(
                f"{output}: lies inside the run directory {run_dir}; name a file outside with -o, "
                "or another --run-dir"
            )
        check_output(output)
        places = Places.of(run_dir)
        if read_finished(places.settled) is None:  # of another it is asked whether it is done
            check_replaced(request, places, meta, output)
    if request.launch.log_dir and not (request.run.dry_run or request.run.calibrate):
        check_log_dir(request.launch.log_dir)


def check_replaced(request: Request, places: Places, meta: Path, output: Path) -> None:
    """Refuse to replace a table that the run has not written: its captions may be nowhere else."""
    if not (request.run.fresh or request.run.shard or may_replace(places, output)):
        column = ",".join(request.caption_columns)
        run = places.settled.path.exists() or places.coming.path.exists()
        raise UsageError(refusal(output, meta, request.config, column, run=run))


def with_model(request: Request) -> CaptionConfig:
    """What ranks are told, the model a folder that they can all caption with."""
    family = request.config.family
    weights = not request.run.dry_run or request.run.calibrate is not None
    model = model_folder(request.config.model, family, weights=weights)
    check_model(model, family, weights=weights)
    _check_share(request.config, model)
    _say_sampling(request, model)
    config = replace(request.config, model=str(model), model_fingerprint=fingerprint(model))
    load_captioner(config)  # refuses now what every rank would refuse
    if request.config.model in bundled_models(family):
        _say_what_toys_know(request, config)
    return config


def _say_what_toys_know(request: Request, model: CaptionConfig) -> None:
    config = request.config
    if config.question_column or not set(config.questions.values()) <= {*NANO_QUESTIONS}:
        known = " and ".join(f'"{question}"' for question in NANO_QUESTIONS)
        request.say(
            f"{config.model} is a toy that knows two questions, word for word: {known}. What it "
            "answers to others means nothing.",
        )
    frames = options_of(FAMILIES[config.family]).get("num_frames")
    if frames and config.num_frames != frames.default:
        request.say(
            f"{config.model} is a toy that was trained with --num-frames {frames.default}. What it "
            f"says of {config.num_frames} means nothing."
        )
    if config.pooling_shape:
        usual = pooled_shape(replace(model, pooling_shape=None))
        if pooled_shape(model)[1:] != usual[1:]:
            request.say(
                f"{config.model} is a toy that was trained with --pooling-shape "
                f"{'-'.join(map(str, usual))}. What it says with {config.pooling_shape} means "
                "nothing."
            )


def _check_share(config: CaptionConfig, model: Path) -> None:
    """Refuse a number of ranks that cannot share a model."""
    ranks = config.tensor_parallel
    if ranks > 1 and config.engine != "graph":
        raise UsageError(f"--tensor-parallel goes with --engine graph, not with {config.engine}.")
    if ranks > 1 and devices(config.device_target) and find_spec("hccl") is None:
        raise UsageError(
            "--tensor-parallel needs CANN's Python package hccl, which MindSpore asks for: source "
            "CANN's set_env.sh, or pip install $ASCEND_HOME_PATH/lib64/hccl-*.whl."
        )
    Share(0, ranks).config(DecoderConfig.read(read_json(model / "config.json")))


def _say_sampling(request: Request, model: Path) -> None:
    ignored = sampling_keys(model)
    if ignored:
        keys = ", ".join(ignored)
        request.say(
            f"the model asks for sampling ({keys}); vidcap decodes greedily and ignores it.",
        )
