"""What both engines read of a checkpoint folder besides its weights.

A folder is in the Hugging Face layout: ``config.json``, ``tokenizer.json``, safetensors, and
perhaps ``generation_config.json``. Pickled weights are never loaded.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vidcap_cli.errors import ModelError

# model_type in config.json -> the command that captions with such a checkpoint.
COMMANDS = {"qwen2_vl": "qwen2vl", "llava": "llava", "pllava": "pllava"}


@dataclass(frozen=True, slots=True)
class Generation:
    """How a checkpoint wants to be decoded: greedily, until one of ``eos`` (token ids)."""

    eos: tuple[int, ...]
    repetition_penalty: float = 1.0


def check_model(folder: Path, family: str) -> None:
    """Raise ModelError unless ``folder`` is a complete checkpoint for the command ``family``."""
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder}. Give the folder of a checkpoint with --model, or try "
            "--model nano (bundled)."
        )
    config = read_json(folder / "config.json")
    command = COMMANDS.get(config.get("model_type", ""))
    if command != family:
        kind = config.get("model_type", "an unknown type")
        use = f"use `vidcap {command}`" if command else "vidcap cannot caption with it"
        raise ModelError(f"{folder} holds a model of type {kind}, not one for {family}: {use}.")
    missing = [] if (folder / "tokenizer.json").is_file() else ["tokenizer.json"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index)["weight_map"].values()))
        missing += [name for name in shards if not (folder / name).is_file()]
    elif not (folder / "model.safetensors").is_file():
        missing.append("model.safetensors")
    if missing:
        pickled = any(folder.glob("*.bin"))
        hint = " Pickled .bin weights are not loaded: save them as safetensors." if pickled else ""
        raise ModelError(f"{folder} lacks {', '.join(missing)}; download it again.{hint}")


def fingerprint(folder: Path) -> str:
    """A digest of a checkpoint's settings and of its files' names and sizes.

    The weights themselves are not read: hashing 140 GB would take longer than the start of a run.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json" and file.stat().st_size < 1 << 20:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        elif file.suffix in {".json", ".safetensors"}:
            digest.update(f"{file.name}\0{file.stat().st_size}".encode())
    return digest.hexdigest()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``; raises ModelError when it is missing or unreadable."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no tokenizer.json; download the checkpoint again.")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises plain Exception
        raise ModelError(f"{file} is not a tokenizer: {error}") from error


def read_generation(folder: Path) -> Generation:
    """Decoding settings of ``generation_config.json``, eos ids of ``config.json`` without it."""
    file = folder / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    eos = settings.get("eos_token_id")
    if eos is None:
        eos = read_json(folder / "config.json").get("eos_token_id")
    if eos is None:
        raise ModelError(f"{folder} names no eos_token_id, so captions would never end.")
    ids = tuple(eos) if isinstance(eos, list) else (int(eos),)
    return Generation(ids, float(settings.get("repetition_penalty") or 1.0))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint; raises ModelError when it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file.parent} has no {file.name}: not a checkpoint folder.") from None
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}") from error
    return content
