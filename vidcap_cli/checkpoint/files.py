"""The files of a checkpoint folder in the Hugging Face layout, and its JSON."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from vidcap_cli.errors import ModelError

_SHARD = re.compile(r"[\w][\w.-]*\.safetensors")


def weight_map(folder: Path) -> dict[str, str]:
    """The shard of every tensor by ``model.safetensors.index.json``; {} without that file.

    Raises ModelError for anything but names of files in ``folder``.
    """
    file = folder / "model.safetensors.index.json"
    if not file.is_file():
        return {}
    placed = read_json(file).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelError(f"{file} has no weight_map; download it again.")
    for shard in placed.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelError(
                f"{file} names {str(shard)[:80]!r}, which is no safetensors file in its folder."
            )
    return placed


def lacking(folder: Path, *, weights: bool = True) -> list[str]:
    """The files that ``folder`` lacks as a checkpoint, or as one without ``weights``."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    if not weights:
        return missing
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(weight_map(folder).values()))
        missing += [name for name in shards if not (folder / name).is_file()]
    elif not (folder / "model.safetensors").is_file():
        missing.append("model.safetensors")
    return missing


def fingerprint(folder: Path) -> str:
    """A digest of a checkpoint's settings and of its files' names and sizes.

    The weights themselves are not read: hashing 140 GB would take longer than the start of a run.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" and file.stat().st_size < 1 << 20:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        elif file.suffix in {".json", ".safetensors", ".model"}:
            digest.update(f"{file.name}\0{file.stat().st_size}".encode())
    return digest.hexdigest()


def stored_type(folder: Path) -> str:
    """The number type that ``config.json`` says the weights have: float32, bfloat16, ..."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    names = (place.get(key) for place in places for key in ("dtype", "torch_dtype"))
    return next((str(name) for name in names if name), "float32")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint; raises ModelError when it is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file.parent} has no {file.name}: not a checkpoint folder.") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not valid JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a JSON object; download it again.")
    return content
