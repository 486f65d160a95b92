"""A checkpoint folder as a whole: whose command captions with it, and whether it is complete.

A folder is in the Hugging Face layout: ``config.json``, ``tokenizer.json``, safetensors, and
perhaps ``generation_config.json``. Pickled weights are never loaded.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidcap_cli.checkpoint.files import lacking, read_json
from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import check_architecture, check_settings
from vidcap_cli.errors import ModelError
from vidcap_cli.families import FAMILIES, bundled_models, recognised
from vidcap_cli.view.words import nearest

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # loading one runs whatever code is in it


def check_model(folder: Path, family: str, *, weights: bool = True) -> None:
    """Raise ModelError unless ``folder`` is a complete checkpoint for the command ``family``.

    Of the weights the headers are read: every one is there, in the shape that the engine takes.
    Unless ``weights`` are asked for there may be none at all.
    """
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder}.{_meant(folder, family)} Give --model the folder of a "
            f"checkpoint, or its name on the hub, such as {FAMILIES[family].hub_name}, which is "
            "downloaded; --model nano is a bundled toy that knows drawn shapes alone, to try the "
            "command with."
        )
    _check_adapter(folder)
    config = read_json(folder / "config.json")
    _named(folder, check_architecture, config)
    command = command_of(config)
    if command != family:
        kind = config.get("model_type", "an unknown type")
        use = f"use `vidcap {command}`" if command else "vidcap cannot caption with it"
        raise ModelError(f"{folder} holds a model of type {kind}, not one for {family}: {use}.")
    there = weights or has_weights(folder)
    missing = lacking(folder, weights=there)
    if missing:
        pickled = next((f.suffix for k in _PICKLES for f in folder.glob(f"*{k}")), None)
        hint = (
            f" Pickled weights ({pickled}) are not loaded: load them with transformers where you "
            "trust them, and save_pretrained(..., safe_serialization=True) writes safetensors."
            if pickled
            else ""
        )
        raise ModelError(f"{folder} lacks {', '.join(missing)}; download it again.{hint}")
    _named(folder, check_settings, config)
    read_generation(folder)
    if there:
        Layout.read(folder, family)
    else:
        Layout.of_settings(folder, family)


def _meant(folder: Path, family: str) -> str:
    """A bundled model or a folder there that is called nearly like ``folder``."""
    with suppress(OSError):
        folders = {path.name: str(path) for path in folder.parent.iterdir() if path.is_dir()}
        known = folders | {name: name for name in bundled_models(family)}
        near = nearest(folder.name, known)
        return f" Did you mean {known[near]}?" if near else ""
    return ""


def has_weights(folder: Path) -> bool:
    """Whether any of its weights are in ``folder``, perhaps not all, or not as safetensors."""
    return any(file.suffix in {".safetensors", *_PICKLES} for file in folder.iterdir())


def _named(folder: Path, check: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
    """Check a ``config.json``; ModelError names the folder."""
    try:
        check(config)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


def _check_adapter(folder: Path) -> None:
    """Raise ModelError for a folder that holds an adapter without the model it belongs to."""
    file = folder / "adapter_config.json"
    if not file.is_file() or not {"config.json", "model.safetensors"} & set(lacking(folder)):
        return
    base = read_json(file).get("base_model_name_or_path")
    raise ModelError(
        f"{folder} holds an adapter alone. It needs its base model, "
        f"{str(base)[:200] if base else 'which adapter_config.json does not name'}: merge the two "
        "with PEFT (merge_and_unload) and give the folder of the result."
    )


def command_of(config: dict[str, Any]) -> str | None:
    """The command that captions with a checkpoint of this ``config.json``; None for no command."""
    family = recognised(config)
    return family.command if family else None
