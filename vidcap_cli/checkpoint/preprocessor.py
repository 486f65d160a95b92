"""The settings of a checkpoint's image or video processor, wherever transformers saved them.

transformers 5 nests them in ``processor_config.json``; before, image processors had
``preprocessor_config.json`` and video processors, since 4.52, ``video_preprocessor_config.json``.
A folder without the last has its videos prepared by the settings of the image processor. Files
are asked in the order in which transformers 5 asks them.
"""

from pathlib import Path
from typing import Any

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.errors import ModelError

_NESTED = "processor_config.json"
_FILES = {
    "image_processor": ("preprocessor_config.json",),
    "video_processor": ("video_preprocessor_config.json", "preprocessor_config.json"),
}


def read_processor(folder: Path, kind: str) -> tuple[Path, dict[str, Any]] | None:
    """The file and the settings in it of ``image_processor`` or ``video_processor``.

    None when ``folder`` has no such file; raises ModelError when it is damaged.
    """
    nested = folder / _NESTED
    if nested.is_file() and (found := read_json(nested).get(kind)) is not None:
        if not isinstance(found, dict):
            raise ModelError(f"{nested}: {kind} is not a JSON object.")
        return nested, found
    files = (folder / name for name in _FILES[kind])
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else (file, read_json(file))
