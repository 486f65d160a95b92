"""What both engines read of a checkpoint folder besides its weights.

A folder is in the Hugging Face layout: ``config.json``, ``tokenizer.json``, safetensors, and
perhaps ``generation_config.json``. Pickled weights are never loaded.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from vidcap_cli.checkpoint.generation import check_generation, repetition_penalty, sampling
from vidcap_cli.checkpoint.settings import check_settings
from vidcap_cli.errors import ModelError

# model_type in config.json -> the command that captions with such a checkpoint.
COMMANDS = {"qwen2_vl": "qwen2vl", "llava": "llava", "pllava": "pllava"}
# What only PLLaVA has in config.json; its checkpoints may call themselves "llava" otherwise.
_POOLING = ("pooling_shape", "pooling_method", "use_pooling", "frame_shape")
_MOST_TOKENS = 10_000_000
_MOST_ADDED = 10_000
_SHARD = re.compile(r"[\w][\w.-]*\.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # loading one runs whatever code is in it
# Tokens that end a turn in the chat templates of the models; generation stops there, too, where
# the checkpoint's own settings name the end of the text alone.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Generation:
    """How a checkpoint wants to be decoded: greedily, until one of ``eos`` (token ids)."""

    eos: tuple[int, ...]
    repetition_penalty: float = 1.0


def check_model(folder: Path, family: str) -> None:
    """Raise ModelError unless ``folder`` is a complete checkpoint for the command ``family``.

    Of the weights the headers are read: every one is there, in the shape that the engine takes.
    """
    if not folder.is_dir():
        raise ModelError(
            f"no model folder at {folder}. Give the folder of a checkpoint with --model, or try "
            "--model nano (bundled)."
        )
    _check_adapter(folder)
    config = read_json(folder / "config.json")
    command = command_of(config)
    if command != family:
        kind = config.get("model_type", "an unknown type")
        use = f"use `vidcap {command}`" if command else "vidcap cannot caption with it"
        raise ModelError(f"{folder} holds a model of type {kind}, not one for {family}: {use}.")
    missing = lacking(folder)
    if missing:
        pickled = next((f.suffix for k in _PICKLES for f in folder.glob(f"*{k}")), None)
        hint = (
            f" Pickled weights ({pickled}) are not loaded: load them with transformers where you "
            "trust them, and save_pretrained(..., safe_serialization=True) writes safetensors."
            if pickled
            else ""
        )
        raise ModelError(f"{folder} lacks {', '.join(missing)}; download it again.{hint}")
    try:
        check_settings(config)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    read_generation(folder)
    from vidcap_cli.checkpoint.layout import Layout  # noqa: PLC0415 - it reads through this one

    Layout.read(folder, family)


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


def lacking(folder: Path) -> list[str]:
    """The files that ``folder`` lacks as a checkpoint."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        missing.append("tokenizer.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(weight_map(folder).values()))
        missing += [name for name in shards if not (folder / name).is_file()]
    elif not (folder / "model.safetensors").is_file():
        missing.append("model.safetensors")
    return missing


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


def command_of(config: dict[str, Any]) -> str | None:
    """The command that captions with a checkpoint of this ``config.json``; None for no command."""
    command = COMMANDS.get(str(config.get("model_type", "")))
    pooled = any(name in config for name in _POOLING)
    architectures = config.get("architectures")
    listed = architectures if isinstance(architectures, list) else ()
    named = any(str(name).startswith("Pllava") for name in listed)
    return "pllava" if command == "llava" and (pooled or named) else command


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


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``, from ``tokenizer.json`` or a sentencepiece ``tokenizer.model``.

    Encoding with special tokens begins a text as transformers would. Raises ModelError when both
    files are missing, or unreadable.
    """
    file, settings = folder / "tokenizer.json", _tokenizer_settings(folder)
    if file.is_file():
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust library raises plain Exception
            raise ModelError(f"{file} is not a tokenizer: {error}") from error
    elif (folder / "tokenizer.model").is_file():
        from vidcap_cli.checkpoint.sentencepiece import convert  # noqa: PLC0415 - rare

        tokenizer = convert(folder / "tokenizer.model", settings)
    else:
        raise ModelError(f"{folder} has no tokenizer.json; download the checkpoint again.")
    # All at once: each call goes through all tokens that were ever added.
    tokenizer.add_special_tokens(
        [
            token
            for token in _added_tokens(folder, settings)
            if tokenizer.token_to_id(token.content) is None
        ]
    )
    if str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer"):
        # transformers' class sets this itself, whatever tokenizer.json says.
        tokenizer.post_processor = _beginning(tokenizer, settings)
    return tokenizer


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _added_tokens(folder: Path, settings: dict[str, Any]) -> list[AddedToken]:
    """Tokens that were added to the vocabulary afterwards, in the order of their ids."""
    file = folder / "added_tokens.json"
    plain = read_json(file) if file.is_file() else {}
    decoder = settings.get("added_tokens_decoder") or {}
    damaged = ModelError(f"the added tokens of {folder} are damaged; download it again.")
    if not isinstance(decoder, dict):
        raise damaged
    if len(plain) + len(decoder) > _MOST_ADDED:
        raise ModelError(f"{folder} has more than {_MOST_ADDED:,} added tokens: it is damaged.")
    try:
        found = {int(number): AddedToken(text, special=True) for text, number in plain.items()}
        for number, token in decoder.items():
            sides = {side: bool(token.get(side)) for side in ("lstrip", "rstrip", "single_word")}
            found[int(number)] = AddedToken(token["content"], special=True, **sides)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged from error
    return [token for _, token in sorted(found.items(), key=lambda entry: entry[0])]


def _beginning(tokenizer: Tokenizer, settings: dict[str, Any]) -> Any:
    """A post-processor that puts the beginning-of-text token first, where one is wanted."""
    text = _content(settings.get("bos_token")) or "<s>"
    number = tokenizer.token_to_id(text)
    if number is None or settings.get("add_bos_token") is False:
        return processors.TemplateProcessing(single="$A", special_tokens=[])
    return processors.TemplateProcessing(single=f"{text} $A", special_tokens=[(text, number)])


def read_generation(folder: Path) -> Generation:
    """Decoding settings of ``generation_config.json``.

    Without it, or where it names no end, the eos ids of ``config.json`` or of its text model.
    """
    file = folder / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    config = read_json(folder / "config.json")
    check_generation(settings)
    text = config.get("text_config")
    places = (settings, config, text if isinstance(text, dict) else {})
    eos = next((e for e in (place.get("eos_token_id") for place in places) if e is not None), None)
    ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    if not all(type(end) is int and 0 <= end < _MOST_TOKENS for end in ids):
        raise ModelError(
            f"{folder}: eos_token_id {str(eos)[:60]} is not a token or a list of them."
        )
    tokenizer = read_tokenizer(folder)
    ends = [tokenizer.token_to_id(text) for text in (*_TURN_ENDS, _eos_token(folder))]
    ids += tuple(end for end in dict.fromkeys(ends) if end is not None and end not in ids)
    if not ids:
        raise ModelError(f"{folder} names no eos_token_id, so captions would never end.")
    return Generation(ids, repetition_penalty(settings))


def sampling_keys(folder: Path) -> tuple[str, ...]:
    """The keys by which ``generation_config.json`` asks for sampling, which is not done."""
    file = folder / "generation_config.json"
    return sampling(read_json(file)) if file.is_file() else ()


def stored_type(folder: Path) -> str:
    """The number type that ``config.json`` says the weights have: float32, bfloat16, ..."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    names = (place.get(key) for place in places for key in ("dtype", "torch_dtype"))
    return next((str(name) for name in names if name), "float32")


def _eos_token(folder: Path) -> str:
    return _content(_tokenizer_settings(folder).get("eos_token"))


def _content(token: Any) -> str:
    """The text of a token of ``tokenizer_config.json``, plain or an object; "" for none."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


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
