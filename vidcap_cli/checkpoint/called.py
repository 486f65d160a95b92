"""What ``--model`` calls a checkpoint, and the folder that it means."""

import re
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


def model_name(folder: str, family: str) -> str:
    """What ``--model`` may call a folder: nano, its name on the hub, or the folder."""
    for name, toy in bundled_models(family).items():
        if folder == str(_in_package(toy)):
            return name
    cached = _SNAPSHOT.fullmatch(folder)
    if cached:
        newest = Path(cached["repository"], "refs", "main")
        name = f"{cached['owner']}/{cached['name']}"
        if (
            newest.is_file()
            and newest.read_text().strip() == cached["commit"]
            and is_hub_name(name)
        ):
            return name
    return folder


# A folder in the cache of huggingface_hub.
_SNAPSHOT = re.compile(
    r"(?P<repository>.*/models--(?P<owner>[^/]+?)--(?P<name>[^/]+))/snapshots/(?P<commit>[^/]+)"
)


def bundled(name: str) -> Path:
    """A folder that comes with the package: the nano checkpoint of a family, or ``clips``."""
    folder = _in_package(name)
    if not folder.is_dir():
        raise UsageError(f"this installation has no bundled {name}; reinstall vidcap.")
    return folder


def _in_package(name: str) -> Path:
    return Path(str(resources.files("vidcap_cli") / "nano" / name))
