"""The commands: made from the options and the families. What they do is imported when they run.

Neither ``--help`` nor a TAB press may import MindSpore, pandas or pyarrow.
"""

import inspect as signatures
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vidcap_cli import __version__
from vidcap_cli.config import CaptionConfig, options_of
from vidcap_cli.declaring import Declared, declared, given
from vidcap_cli.errors import FAILED, INCOMPLETE, OK, RunError
from vidcap_cli.families import FAMILIES, Family
from vidcap_cli.options import (
    PROMPTS,
    InspectOptions,
    LaunchOptions,
    MergeOptions,
    RunOptions,
    TableOptions,
)

# What typer raises for words that it does not understand.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


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

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, in whose help bounds and lists of values leave their column to words."""
        command = super().get_command(ctx, cmd_name)
        parameters: list[Any] = list(command.params) if command else []
        for parameter in parameters:
            parameter.min = parameter.max = None  # an error tells them
            choices = parameter.type_descriptor.choices
            if choices and parameter.metavar is None:
                parameter.metavar = "CHOICE"
                parameter.help += f" One of {', '.join(map(str, choices))}."
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words after ``vidcap``; what is wrong with the first of them is said in our words."""
        if args[1:] and args[0] in ("--install-completion", "--show-completion"):
            ctx.fail(f"{args[0]} takes no value: it is for the shell that it is typed in.")
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            from vidcap_cli.usage import misplaced_option, reword

            option = getattr(error, "option_name", None)
            if told := option and misplaced_option(option, self.commands.values()):
                ctx.fail(told)
            reword(error)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        name = args[0].replace("_", "-")
        if not name.startswith("-") and not ctx.resilient_parsing and name not in self.commands:
            from vidcap_cli.usage import unknown_command

            ctx.fail(unknown_command(args[0], list(self.commands)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with its words is said in ours."""
        try:
            return super().invoke(ctx)
        except _UsageError as error:
            from vidcap_cli.usage import reword

            reword(error)
            raise


class _Command(TyperCommand):
    """A command whose help shows names and defaults whole."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words after it; each error knows the command, also of an option without a value."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined]
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Draw it; the text is on stdout when this returns."""
        from vidcap_cli.view.help import folding

        with folding(self.params):
            super().format_help(ctx, formatter)


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

_Meta = Annotated[
    Path | None,
    typer.Argument(
        metavar="META",
        help="A table (csv, tsv, jsonl, json, also .gz; parquet) with a column path "
        "(--path-column), one video, or a folder of videos.",
        show_default=False,
    ),
]
_Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run directories, part files, or tables with captions, in any mix.",
        show_default=False,
    ),
]
_Target = Annotated[
    Path | None,
    typer.Argument(
        metavar="TARGET",
        help="A table (of videos or with captions), a folder of videos, a video, a model (a "
        "folder, a name on the hub, nano) or a run directory; nothing: this machine.",
        show_default=False,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


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


_NUMBERS: dict[Any, str] = dict.fromkeys((int, int | None, float, float | None), "N")


@cache  # most options are those of several commands
def _parameter(option: Declared) -> signatures.Parameter:
    """``option`` as the parameter of a function that typer makes a command of."""
    its = option.option
    shown: Any = typer.Option(
        *option.flags,
        help=its.help,
        metavar=its.metavar or _NUMBERS.get(its.given or option.type),
        min=its.low,
        max=its.high,
        show_default=its.usual or True,
        rich_help_panel=its.panel,
        autocompletion=its.complete,
        callback=_reading(its.read, several=its.given == list[str]) if its.read else None,
    )
    default = option.default if its.preset is None else its.preset
    return signatures.Parameter(
        option.name,
        signatures.Parameter.KEYWORD_ONLY,
        default=signatures.Parameter.empty if default is MISSING else default,
        annotation=Annotated[its.given or option.type, shown],
    )


def _reading(read: Callable[[Any], Any], *, several: bool = False) -> Callable[[Any], Any]:
    """What typer calls with a value; of an option given ``several`` times it wants a list back."""

    def callback(value: Any) -> Any:
        try:
            found = None if value is None else read(value)
        except ValueError as error:
            named = not isinstance(value, str) or value in str(error)
            raise typer.BadParameter(f"{'' if named else f'{value!r}: '}{error}") from error
        return [found] if several else found

    return callback


def _command(function: Callable[..., None], groups: Mapping[str, Mapping[str, Declared]]) -> None:
    """Make a command of ``function``, whose parameters of these names are groups of options.

    typer reads options off signatures, so it is given one that has those of all groups. The
    function gets each group as a dictionary.
    """
    parameters: list[signatures.Parameter] = []
    for parameter in signatures.signature(function).parameters.values():
        options = groups.get(parameter.name)
        if options is None:
            parameters.append(parameter.replace(kind=signatures.Parameter.KEYWORD_ONLY))
        else:
            parameters += map(_parameter, options.values())
    late = {name for group in groups.values() for name, it in group.items() if it.option.last}
    parameters.sort(key=lambda parameter: parameter.name in late)

    def command(**given: Any) -> None:
        grouped = {
            group: {name: _value(it, given.pop(name)) for name, it in options.items()}
            for group, options in groups.items()
        }
        function(**given, **grouped)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__dict__["__signature__"] = signatures.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app.command(cls=_Command)(command)


def _value(option: Declared, value: Any) -> Any:
    """What ``_reading`` has read."""
    return value[0] if option.option.given == list[str] else value


def _add_family(family: Family) -> None:
    """Add the command that captions with the models of ``family``."""

    def command(
        context: typer.Context,
        meta: _Meta = None,
        *,
        told: dict[str, Any],
        table: dict[str, Any],
        run: dict[str, Any],
        launch: dict[str, Any],
    ) -> None:
        from vidcap_cli.caption import caption
        from vidcap_cli.request import Request

        if run["prompt"]:
            source = context.get_parameter_source("question")
            if source and source.name != "DEFAULT":
                raise typer.BadParameter("--prompt and --question say the same; leave one out.")
            told["question"] = PROMPTS[run["prompt"]]
        wanted = TableOptions(**table)
        part_format = "csv" if wanted.form == "csv" else "parquet"
        request = Request(
            meta=meta,
            config=CaptionConfig(family=family.command, part_format=part_format, **told),
            table=wanted,
            run=RunOptions(**run),
            launch=LaunchOptions(**launch),
            typed=tuple(sys.argv[1:]),
        )
        raise typer.Exit(caption(request))

    command.__name__ = family.command
    command.__doc__ = (
        f"{family.summary}\n\n{family.example} writes meta_caption_{family.command}.csv.\n\n"
        "The same command continues a run that was cut off."
    )
    groups = {"table": TableOptions, "run": RunOptions, "launch": LaunchOptions}
    _command(
        command,
        {"told": options_of(family)} | {name: declared(group) for name, group in groups.items()},
    )


def merge(inputs: _Inputs, *, own: dict[str, Any], table: dict[str, Any]) -> None:
    """Reconcile runs, parts and captioned tables into one table. Inputs are never touched."""
    from vidcap_cli.merge import merge as merging
    from vidcap_cli.view import reconciliation as report

    wanted = MergeOptions(**own)
    rows: dict[str, Any] = {name: own[name] for name in ("path_column", "ranges", "prefer")}
    column = table["caption_column"] or ""
    several = {"caption_column": None, "questions": column.split(",")} if "," in column else {}
    account = merging.merge(
        inputs, wanted.output, meta=wanted.meta, missing=wanted.missing, **rows, **table | several
    )
    fine = account.complete or wanted.allow_missing
    if wanted.as_json or not (wanted.quiet and fine):
        from vidcap_cli.finishing import steps_after_merge, todo_step

        options = declared(MergeOptions)
        asked = given((options[name] for name in rows), rows) | given(_own_table.values(), table)
        steps = steps_after_merge(account, inputs, wanted.meta, asked)
        if not (wanted.missing or fine):
            steps = todo_step(account, sys.argv[1:])
        report.show_merge(
            account,
            steps,
            prefer=wanted.prefer,
            others=table["all_columns"],
            as_json=wanted.as_json,
        )
    if account.failure:
        raise RunError(account.failure)
    raise typer.Exit(OK if fine else INCOMPLETE)


def inspect(target: _Target = None, *, wanted: dict[str, Any], as_json: _Json = False) -> None:
    """Show what vidcap knows about a table, its captions, a video, a model, a run, or this machine.

    Of a table with captions it shows how long they are, and which are suspect and why.
    """
    from vidcap_cli.inspect import inspect as look
    from vidcap_cli.inspect import render

    report = look(target, InspectOptions(**wanted))
    render(report, as_json=as_json)
    raise typer.Exit(OK if report.ok else FAILED)


for _family in FAMILIES.values():
    _add_family(_family)
_own_table = {name: it for name, it in declared(TableOptions).items() if name != "output"}
_column = _own_table["caption_column"]
_own_table["caption_column"] = replace(
    _column,
    default=None,
    option=replace(
        _column.option,
        help="Column that captions are written to, and read from in tables of other programs; "
        "those of several questions with commas between.",
        usual="that of the runs, else text",
    ),
)
_form = _own_table["form"]
_own_table["form"] = replace(
    _form,
    option=replace(_form.option, help="Format of the output.", usual="what its name ends in"),
)
_command(merge, {"own": declared(MergeOptions), "table": _own_table})
_command(inspect, {"wanted": declared(InspectOptions)})
