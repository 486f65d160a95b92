"""What ``--model`` calls a checkpoint, and the folder that it means."""

from importlib import resources
from pathlib import Path

from vidcap_cli.checkpoint.hub import fetch, is_hub_name
from vidcap_cli.errors import UsageError
from vidcap_cli.families import bundled_models


def model_folder(name: str, family: str, *, weights: bool = True) -> Path:
    """The checkpoint folder that a ``--model`` value names: bundled, a folder, or one on the hub.

    Of the last perhaps all but the ``weights``.
    """
    if (toy := bundled_models(family).get(name)) is not None:
        return bundled(toy)
    return fetch(name, weights=weights) if is_hub_name(name) else Path(name).absolute()


def bundled(name: str) -> Path:
    """A folder that comes with the package: the nano checkpoint of a family, or ``clips``."""
    folder = Path(str(resources.files("vidcap_cli") / "nano" / name))
    if not folder.is_dir():
        raise UsageError(f"this installation has no bundled {name}; reinstall vidcap.")
    return folder
