"""``vidcap inspect``: what vidcap knows about a table, a video, a model, a run, or this machine.

``inspect`` looks and ``render`` shows. Nothing is changed, and MindSpore is never imported in
this process: what can hang or crash (videos, its import) happens in processes that can be killed.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidcap_cli.addresses import named
from vidcap_cli.checkpoint.hub import is_hub_name
from vidcap_cli.declaring import declared
from vidcap_cli.errors import UsageError
from vidcap_cli.families import RECOMMENDED, bundled_models
from vidcap_cli.inspect.report import Report, render
from vidcap_cli.options import InspectOptions

if TYPE_CHECKING:
    from vidcap_cli.inspect.gallery.make import Gallery

__all__ = ["Report", "inspect", "render"]


def _only(wanted: InspectOptions, kind: str, *taken: str) -> None:
    """Raise UsageError when something is wanted that a target of this ``kind`` has not."""
    for name, option in declared(InspectOptions).items():
        if name not in taken and getattr(wanted, name) != option.default:
            raise UsageError(f"{option.flags[0]} says nothing about {kind}; leave it out.")


def inspect(target: Path | None, wanted: InspectOptions | None = None) -> Report:
    """The report on ``target``; on this machine without one.

    Raises UsageError when ``target`` is nothing that vidcap works with, and TableError or
    RunError when it is damaged so that nothing can be said.
    """
    wanted = wanted or InspectOptions()
    if target is None:
        from vidcap_cli.inspect.doctor import machine_report  # noqa: PLC0415 - only what is needed

        _only(wanted, "this machine")
        return machine_report()
    name, target = str(target), named(target)
    if not target.exists() and _names_a_model(name):
        from vidcap_cli.checkpoint.called import model_folder  # noqa: PLC0415
        from vidcap_cli.inspect.model import model_report  # noqa: PLC0415

        _only(wanted, "a model")
        return model_report(model_folder(name, RECOMMENDED.command, weights=False), name)
    if not target.exists():
        from vidcap_cli.view.words import absent  # noqa: PLC0415

        raise UsageError(absent(target))
    return _folder(target, wanted) if target.is_dir() else _file(target, wanted)


def _names_a_model(name: str) -> bool:
    """Whether ``name``, which is no file, is one that --model takes, and no file misspelled."""
    from vidcap_cli.rundir.plan import VIDEO_SUFFIXES  # noqa: PLC0415
    from vidcap_cli.tables import table_form  # noqa: PLC0415

    path = Path(name)
    is_file = table_form(path) or path.suffix.lower() in VIDEO_SUFFIXES | {".vidcap"}
    return name in bundled_models(RECOMMENDED.command) or (is_hub_name(name) and not is_file)


def _folder(target: Path, wanted: InspectOptions) -> Report:
    from vidcap_cli.rundir.paths import RunDir  # noqa: PLC0415

    if RunDir(target).is_run or (wanted.watch and RunDir(target).next.is_run):
        from vidcap_cli.inspect.run import run_report  # noqa: PLC0415

        column = ("caption_column",) if wanted.html else ()
        _only(wanted, "a run directory", "failed", "watch", *column, *_gallery_options(wanted))
        if wanted.watch:
            from vidcap_cli.inspect.watch import watch  # noqa: PLC0415

            watch(target)
        return run_report(RunDir(target), wanted.failed, _gallery(wanted))
    if (target / "config.json").is_file() or any(target.glob("*.safetensors")):
        from vidcap_cli.inspect.model import model_report  # noqa: PLC0415

        _only(wanted, "a model")
        return model_report(target)
    from vidcap_cli.errors import TableError  # noqa: PLC0415
    from vidcap_cli.inspect.meta import Probing, meta_report  # noqa: PLC0415

    _only(wanted, "a folder of videos", *_PROBING)
    try:
        return meta_report(target, Probing(*_probing(wanted)))
    except TableError as error:
        raise UsageError(
            f"{target}: neither a run directory (plan.json) nor a model folder (config.json) nor "
            "a folder of videos."
        ) from error


def _file(target: Path, wanted: InspectOptions) -> Report:
    from vidcap_cli.rundir.plan import TABLE, kind_of  # noqa: PLC0415

    if target.suffix.lower() in {".html", ".htm"}:
        raise UsageError(f"{target}: is a page; open it in a browser.")
    if kind_of(target) == TABLE:
        return _table(target, wanted)
    from vidcap_cli.inspect.video import video_report  # noqa: PLC0415

    _only(wanted, "a video")
    return video_report(target)


def _table(target: Path, wanted: InspectOptions) -> Report:
    from vidcap_cli.inspect.command import usual_column, usual_path_columns  # noqa: PLC0415
    from vidcap_cli.merge.columns import STATUS, caption_column  # noqa: PLC0415
    from vidcap_cli.merge.sources import usual_paths  # noqa: PLC0415
    from vidcap_cli.options import TEXT  # noqa: PLC0415
    from vidcap_cli.tables import is_text, open_table  # noqa: PLC0415

    table = open_table(target)
    names = table.schema.names
    paths = wanted.path_column or usual_paths(target, names, usual_path_columns())
    table = replace(table, path_column=paths)
    column = caption_column(names)
    if column and not is_text(table.schema.field(column).type):
        column = None
    if paths not in names and not (wanted.html or wanted.export_flagged):
        column = None  # the report on its videos says what is wrong
    column = wanted.caption_column or column
    if column == TEXT and not wanted.caption_column and STATUS not in names and not wanted.html:
        usual = usual_column()
        column = usual if usual in names else None
        wanted = replace(wanted, videos=wanted.videos or column is None)
    if column and (wanted.html or not any(_probing(wanted))):
        from vidcap_cli.inspect.captions import captions_report  # noqa: PLC0415
        from vidcap_cli.inspect.judging import Captions  # noqa: PLC0415

        of_gallery = _gallery_options(wanted)
        taken = ("path_column", "caption_column", "export_flagged", *of_gallery)
        _only(wanted, "a table with captions", *taken)
        captions = Captions.of(table, column)
        return captions_report(captions, wanted.export_flagged, _gallery(wanted))
    from vidcap_cli.inspect.meta import Probing, meta_report  # noqa: PLC0415

    _only(wanted, "the videos of a table", "path_column", *_PROBING)
    return meta_report(target, Probing(*_probing(wanted)), paths)


_PROBING = ("all_videos", "output", "drop_unreadable", "videos")


def _probing(wanted: InspectOptions) -> tuple[bool, Path | None, bool, bool]:
    """What is wanted of videos; of a table with captions, too, it is about its videos then."""
    return wanted.all_videos, wanted.output, wanted.drop_unreadable, wanted.videos


def _gallery_options(wanted: InspectOptions) -> tuple[str, ...]:
    return ("html", "thumbnails", "all_videos") if wanted.html else ()


def _gallery(wanted: InspectOptions) -> "Gallery | None":
    from vidcap_cli.inspect.gallery.make import Gallery  # noqa: PLC0415

    if wanted.html is None:
        return None
    return Gallery(wanted.html, wanted.thumbnails, wanted.all_videos, wanted.caption_column)
