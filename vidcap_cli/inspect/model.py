"""A checkpoint folder: its family and sizes, its weights by their headers, what is missing.

Of a safetensors file only the header is read (8 bytes of length, then JSON: name, dtype, shape and
place of every tensor; https://huggingface.co/docs/safetensors). Nothing is loaded.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidcap_cli.checkpoint.files import read_json, weight_map
from vidcap_cli.checkpoint.folder import check_model, command_of, has_weights
from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.checkpoint.weights import Tensor, read_header
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.families import CHECKPOINTS
from vidcap_cli.inspect.report import Fact, Problem, Report, Section
from vidcap_cli.inspect.sharing import device_sizes, sharing_facts
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.processors import load_captioner
from vidcap_cli.view.words import count, size

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
_VISION = tuple(key for family in CHECKPOINTS for key in family.tower_keys)
_NOT_HERE = "the weights are not here yet; what is told is by config.json"
# file -> what is lost without it
_OPTIONAL = {
    "generation_config.json": "end tokens are taken from config.json",
    "preprocessor_config.json": "the family's own values are used",
    "video_preprocessor_config.json": "the family's own bounds of the frame size are used",
}


def model_report(folder: Path, name: str | None = None) -> Report:
    """The report on a checkpoint folder; a damaged one is a report with problems.

    ``name`` is how ``--model`` calls it where that is not the folder: its weights may not have been
    downloaded then.
    """
    problems: list[Problem] = []
    weights = name is None or has_weights(folder)
    if not weights:
        problems.append(Problem(_NOT_HERE, "the first run downloads them", serious=False))
    tensors = _weights(folder, problems) if weights else {}
    config: dict[str, Any] = {}
    try:
        config = read_json(folder / "config.json")
    except ModelError as error:
        problems.append(Problem(str(error)))
    command = command_of(config)
    _usable(folder, command, config, problems, weights=weights)
    sections = []
    if config:
        sections.append(Section("model", _model_facts(folder, config)))
    if tensors:
        sections.append(Section("weights", _weight_facts(config, tensors)))
    if command:
        with suppress(ModelError):  # which is among the problems
            sections.append(
                Section("tensor parallel", sharing_facts(folder, command, device_sizes()))
            )
    sections.append(Section("files", _file_facts(folder)))
    serious = any(problem.serious for problem in problems)
    usage = f"can be used by vidcap {command}, as --model {shlex.quote(name or str(folder))}"
    verdict = "cannot be used as it is" if serious else usage
    return Report("model", name or str(folder), verdict, tuple(sections), _distinct(problems))


def _usable(
    folder: Path,
    command: str | None,
    config: Mapping[str, Any],
    problems: list[Problem],
    *,
    weights: bool,
) -> None:
    """Ask what a caption command would ask before it starts."""
    if not config:
        return
    if command is None:
        known = ", ".join(family.model_type for family in CHECKPOINTS)
        kind = config.get("model_type", "an unknown type")
        problems.append(
            Problem(f"vidcap cannot caption with a model of type {kind}", f"it knows {known}")
        )
        return
    try:
        check_model(folder, command, weights=weights)
        load_captioner(CaptionConfig(family=command, model=str(folder)))
    except ModelError as error:
        problems.append(Problem(str(error)))


def _weights(folder: Path, problems: list[Problem]) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, checked against the index."""
    listed: dict[str, str] = {}
    try:
        listed = weight_map(folder)
    except ModelError as error:
        problems.append(Problem(str(error)))
    files = sorted(set(listed.values())) or [p.name for p in sorted(folder.glob("*.safetensors"))]
    tensors: dict[str, Tensor] = {}
    for name in files:
        if not (folder / name).is_file():
            problems.append(Problem(f"the shard {name} is missing", "download it again"))
            continue
        try:
            found = read_header(folder / name)
        except ModelError as error:
            problems.append(Problem(str(error)))
            continue
        tensors |= found
        if listed:
            problems += _against_index(name, found, listed)
    return tensors


def _against_index(
    shard: str, found: Mapping[str, Tensor], listed: Mapping[str, str]
) -> list[Problem]:
    there = set(found)
    wanted = {name for name, file in listed.items() if file == shard}
    problems = []
    if wanted - there:
        lost = count(len(wanted - there), "tensor")
        problems.append(
            Problem(
                f"{shard} lacks {lost} that the index names, such as {min(wanted - there)}",
                "shards of two downloads are mixed: download the checkpoint again",
            )
        )
    if there - wanted:
        more = count(len(there - wanted), "tensor")
        problems.append(
            Problem(f"{shard} has {more} that the index does not name there", serious=False)
        )
    return problems


def _model_facts(folder: Path, config: Mapping[str, Any]) -> tuple[Fact, ...]:
    # Newer saves nest what describes the language model.
    text, vision = (
        _object(config.get("text_config")) or config,
        _object(config.get("vision_config")),
    )
    facts = [Fact("type", str(config.get("model_type", "unknown")))]
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        facts.append(Fact("architecture", ", ".join(map(str, architectures)), architectures))
    for label, key in (
        ("layers", "num_hidden_layers"),
        ("hidden size", "hidden_size"),
        ("mlp size", "intermediate_size"),
        ("heads", "num_attention_heads"),
        ("kv heads", "num_key_value_heads"),
        ("vocabulary", "vocab_size"),
    ):
        if type(text.get(key)) is int:
            facts.append(Fact(label, f"{text[key]:,}", text[key]))
    depth = vision.get("depth", vision.get("num_hidden_layers"))
    width = vision.get("embed_dim", vision.get("hidden_size"))
    if type(depth) is int and type(width) is int:
        facts.append(
            Fact("vision tower", f"{depth} layers of {width:,}", {"layers": depth, "width": width})
        )
    stored = config.get("dtype") or config.get("torch_dtype") or text.get("torch_dtype")
    if stored:
        facts.append(Fact("dtype", str(stored)))
    try:
        eos = read_generation(folder).eos
    except (ModelError, ValueError, TypeError):
        facts.append(Fact("end tokens", "unknown", []))
    else:
        facts.append(Fact("end tokens", ", ".join(map(str, eos)), list(eos)))
    return tuple(facts)


def _object(value: Any) -> Mapping[str, Any]:
    """``value`` where it is a JSON object; damaged settings are shown as far as they go."""
    return value if isinstance(value, Mapping) else {}


def _weight_facts(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Fact, ...]:
    total = sum(tensor.parameters for tensor in tensors.values())
    vision = sum(t.parameters for name, t in tensors.items() if name.startswith(_VISION))
    lora = sum(1 for name in tensors if ".lora_" in name)
    kinds: Counter[str] = Counter()
    for tensor in tensors.values():
        kinds[tensor.number] += tensor.parameters
    stored = sum(_BYTES.get(kind, 4) * number for kind, number in kinds.items())
    facts = [
        Fact("parameters", _parameters(total), total),
        Fact("of them vision", _parameters(vision), vision),
        Fact("tensors", f"{len(tensors):,}", len(tensors)),
        Fact("stored as", ", ".join(kinds), dict(kinds)),
        Fact("on the disk", size(stored), stored),
        Fact("memory in float32", size(total * 4), total * 4),
        Fact("memory in 16 bits", size(total * 2), total * 2),
    ]
    if lora:
        facts.append(Fact("unmerged LoRA", count(lora, "tensor"), lora))
    cache = _cache_numbers(config)
    if cache:
        words = f"{size(cache * 4000)} in float32, {size(cache * 2000)} in 16 bits"
        facts.append(Fact("cache of 1,000 tokens", words, {"numbers_per_token": cache}))
    return tuple(facts)


def _cache_numbers(config: Mapping[str, Any]) -> int:
    """Keys and values that one token leaves in all layers; 0 where the settings do not say."""
    if command_of(dict(config)) is None:
        return 0
    try:
        return DecoderConfig.read(config).kv_per_token
    except ModelError:
        return 0


def _file_facts(folder: Path) -> tuple[Fact, ...]:
    facts = []
    for name in ("config.json", "tokenizer.json"):
        there = (folder / name).is_file()
        facts.append(Fact(name, "there" if there else "missing", there))
    for name, without in _OPTIONAL.items():
        there = (folder / name).is_file()
        facts.append(Fact(name, "there" if there else f"not there: {without}", there))
    shards = sorted(folder.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in shards)
    words = f"{count(len(shards), 'file')}, {size(total)}" if shards else "missing"
    facts.append(Fact("safetensors", words, {"files": len(shards), "bytes": total}))
    return tuple(facts)


def _parameters(number: int) -> str:
    for scale, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number:,}"


def _distinct(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    return tuple({problem.text: problem for problem in problems}.values())
