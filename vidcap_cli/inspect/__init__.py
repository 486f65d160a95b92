"""``vidcap inspect``: what vidcap knows about a table, a video, a model, a run, or this machine.

``inspect`` looks and ``render`` shows. Nothing is changed, and MindSpore is never imported in
this process: what can hang or crash (videos, its import) happens in processes that can be killed.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidcap_cli.addresses import named
from vidcap_cli.checkpoint.hub import is_hub_name
from vidcap_cli.errors import UsageError
from vidcap_cli.families import RECOMMENDED, bundled_models
from vidcap_cli.inspect.report import Report, render

if TYPE_CHECKING:
    from vidcap_cli.inspect.gallery.make import Gallery

__all__ = ["Report", "Wanted", "inspect", "render"]


THUMBNAILS = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a target besides the report; each goes with one kind of target.

    Of a table with captions: ``caption_column`` names theirs, ``export_flagged`` is the table to
    write of the rows with a flag. Of a run directory: ``failed`` is the table to write of all rows
    that failed, and ``watch`` draws the run first, until it ends. Of a table or folder of videos:
    ``videos`` looks at them though the table has captions, ``all_videos`` opens all, not a sample;
    ``output`` is the table to write with what they hold,
    without those that cannot be read where ``drop_unreadable`` says so. Of captions, in a table or
    a run directory: ``html`` is the page to write that shows them, with ``thumbnails`` frames of a
    video, of all videos with ``all_videos``.
    """

    caption_column: str | None = None
    export_flagged: Path | None = None
    failed: Path | None = None
    watch: bool = False
    videos: bool = False
    all_videos: bool = False
    output: Path | None = None
    drop_unreadable: bool = False
    html: Path | None = None
    thumbnails: int = THUMBNAILS

    def only(self, kind: str, *taken: str) -> None:
        """Raise UsageError when something is wanted that a target of this ``kind`` has not."""
        for each in fields(self):
            if each.name not in taken and getattr(self, each.name) != each.default:
                option = "--" + each.name.removesuffix("_videos").replace("_", "-")
                raise UsageError(f"{option} says nothing about {kind}; leave it out.")


def inspect(target: Path | None, wanted: Wanted | None = None) -> Report:
    """The report on ``target``; on this machine without one.

    Raises UsageError when ``target`` is nothing that vidcap works with, and TableError or
    RunError when it is damaged so that nothing can be said.
    """
    wanted = wanted or Wanted()
    if target is None:
        from vidcap_cli.inspect.doctor import machine_report  # noqa: PLC0415 - only what is needed

        wanted.only("this machine")
        return machine_report()
    name, target = str(target), named(target)
    if not target.exists() and _names_a_model(name):
        from vidcap_cli.checkpoint.called import model_folder  # noqa: PLC0415
        from vidcap_cli.inspect.model import model_report  # noqa: PLC0415

        wanted.only("a model")
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


def _folder(target: Path, wanted: Wanted) -> Report:
    from vidcap_cli.rundir.paths import RunDir  # noqa: PLC0415

    if RunDir(target).is_run or (wanted.watch and RunDir(target).next.is_run):
        from vidcap_cli.inspect.run import run_report  # noqa: PLC0415

        column = ("caption_column",) if wanted.html else ()
        wanted.only("a run directory", "failed", "watch", *column, *_gallery_options(wanted))
        if wanted.watch:
            from vidcap_cli.inspect.watch import watch  # noqa: PLC0415

            watch(target)
        return run_report(RunDir(target), wanted.failed, _gallery(wanted))
    if (target / "config.json").is_file() or any(target.glob("*.safetensors")):
        from vidcap_cli.inspect.model import model_report  # noqa: PLC0415

        wanted.only("a model")
        return model_report(target)
    from vidcap_cli.errors import TableError  # noqa: PLC0415
    from vidcap_cli.inspect.meta import Probing, meta_report  # noqa: PLC0415

    wanted.only("a folder of videos", *_PROBING)
    try:
        return meta_report(target, Probing(*_probing(wanted)))
    except TableError as error:
        raise UsageError(
            f"{target}: neither a run directory (plan.json) nor a model folder (config.json) nor "
            "a folder of videos."
        ) from error


def _file(target: Path, wanted: Wanted) -> Report:
    from vidcap_cli.rundir.plan import TABLE, kind_of  # noqa: PLC0415

    if target.suffix.lower() in {".html", ".htm"}:
        raise UsageError(f"{target}: is a page; open it in a browser.")
    if kind_of(target) == TABLE:
        return _table(target, wanted)
    from vidcap_cli.inspect.video import video_report  # noqa: PLC0415

    wanted.only("a video")
    return video_report(target)


def _table(target: Path, wanted: Wanted) -> Report:
    from vidcap_cli.inspect.command import usual_column  # noqa: PLC0415
    from vidcap_cli.merge.columns import STATUS, caption_column  # noqa: PLC0415
    from vidcap_cli.options import PATH, TEXT  # noqa: PLC0415
    from vidcap_cli.tables import is_text, open_table  # noqa: PLC0415

    table = open_table(target)
    names = table.schema.names
    column = caption_column(names)
    if column and (PATH not in names or not is_text(table.schema.field(column).type)):
        column = None
    column = wanted.caption_column or column
    if column == TEXT and not wanted.caption_column and STATUS not in names and not wanted.html:
        usual = usual_column()
        column = usual if usual in names else None
        wanted = replace(wanted, videos=wanted.videos or column is None)
    if column and (wanted.html or not any(_probing(wanted))):
        from vidcap_cli.inspect.captions import captions_report  # noqa: PLC0415
        from vidcap_cli.inspect.judging import Captions  # noqa: PLC0415

        of_gallery = _gallery_options(wanted)
        wanted.only("a table with captions", "caption_column", "export_flagged", *of_gallery)
        captions = Captions.of(table, column)
        return captions_report(captions, wanted.export_flagged, _gallery(wanted))
    from vidcap_cli.inspect.meta import Probing, meta_report  # noqa: PLC0415

    wanted.only("the videos of a table", *_PROBING)
    return meta_report(target, Probing(*_probing(wanted)))


_PROBING = ("all_videos", "output", "drop_unreadable", "videos")


def _probing(wanted: Wanted) -> tuple[bool, Path | None, bool, bool]:
    """What is wanted of videos; of a table with captions, too, it is about its videos then."""
    return wanted.all_videos, wanted.output, wanted.drop_unreadable, wanted.videos


def _gallery_options(wanted: Wanted) -> tuple[str, ...]:
    return ("html", "thumbnails", "all_videos") if wanted.html else ()


def _gallery(wanted: Wanted) -> "Gallery | None":
    from vidcap_cli.inspect.gallery.make import Gallery  # noqa: PLC0415

    if wanted.html is None:
        return None
    return Gallery(wanted.html, wanted.thumbnails, wanted.all_videos, wanted.caption_column)
