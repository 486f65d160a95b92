"""``vidcap inspect``: what vidcap knows about a table, a video, a model, a run, or this machine.

``inspect`` looks and ``render`` shows. Nothing is changed, and MindSpore is never imported in
this process: what can hang or crash (videos, its import) happens in processes that can be killed.
"""

from pathlib import Path

from vidcap_cli.errors import UsageError
from vidcap_cli.inspect.report import Report, render

__all__ = ["Report", "inspect", "render"]


def inspect(target: Path | None) -> Report:
    """The report on ``target``; on this machine without one.

    Raises UsageError when ``target`` is nothing that vidcap works with, and TableError or
    RunError when it is damaged so that nothing can be said.
    """
    if target is None:
        from vidcap_cli.inspect.doctor import machine_report  # noqa: PLC0415 - only what is needed

        return machine_report()
    if not target.exists():
        raise UsageError(f"{target}: there is no such file or folder; check the spelling.")
    return _folder(target) if target.is_dir() else _file(target)


def _folder(target: Path) -> Report:
    from vidcap_cli.rundir.paths import RunDir  # noqa: PLC0415

    if RunDir(target).is_run:
        from vidcap_cli.inspect.run import run_report  # noqa: PLC0415

        return run_report(RunDir(target))
    if (target / "config.json").is_file() or any(target.glob("*.safetensors")):
        from vidcap_cli.inspect.model import model_report  # noqa: PLC0415

        return model_report(target)
    from vidcap_cli.errors import TableError  # noqa: PLC0415
    from vidcap_cli.inspect.meta import meta_report  # noqa: PLC0415

    try:
        return meta_report(target)
    except TableError as error:
        raise UsageError(
            f"{target}: neither a run directory (plan.json) nor a model folder (config.json) nor "
            "a folder of videos."
        ) from error


def _file(target: Path) -> Report:
    from vidcap_cli.rundir.plan import TABLE, kind_of  # noqa: PLC0415

    if kind_of(target) == TABLE:
        from vidcap_cli.inspect.meta import meta_report  # noqa: PLC0415

        return meta_report(target)
    from vidcap_cli.inspect.video import video_report  # noqa: PLC0415

    return video_report(target)
