"""What the three caption commands tell the ranks: each its own options beside the shared ones.

And the table behind them: its parts exist, and nothing is imported for it.
"""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidcap_cli import caption
from vidcap_cli.cli import app
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import ModelError
from vidcap_cli.families import CHECKPOINTS, FAMILIES, family_for, family_of, part, recognised
from vidcap_cli.request import Request


@pytest.fixture
def told(monkeypatch):
    """Run a command line up to where captioning would begin; its configuration."""
    requests: list[Request] = []
    monkeypatch.setattr(caption, "caption", lambda request: requests.append(request) or 0)

    def run(*arguments: str) -> Request:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return requests.pop()

    return run


def test_defaults_are_those_of_the_original_scripts(told):
    shown = {name: told(name, "meta.csv").config for name in ("llava", "pllava", "qwen2vl")}
    assert {name: config.family for name, config in shown.items()} == {name: name for name in shown}
    assert (shown["llava"].num_frames, shown["pllava"].num_frames) == (1, 4)
    assert {Path(config.model).name for config in shown.values()} == {
        "llava-llama-3-8b-v1_1-transformers",
        "pllava",
        "Qwen2-VL-7B-Instruct",
    }
    assert {config.max_new_tokens for config in shown.values()} == {200}
    assert shown["qwen2vl"] == CaptionConfig("qwen2vl", shown["qwen2vl"].model)


@pytest.mark.parametrize(
    "name", ["--model", "--llava_model_path", "--pretrained_model_name_or_path"]
)
def test_names_of_llavas_model(told, name):
    assert told("llava", "meta.csv", name, "here", "--num_frames", "3").config.num_frames == 3
    assert told("llava", "meta.csv", name, "here").config.model == "here"


def test_options_of_pllava(told):
    config = told(
        *("pllava", "meta.csv", "--pooling-shape", "2-6-6", "--lora-alpha", "0"),
        *("--system-prompt", "Look.", "--num-frames", "8", "--bs", "2"),
    ).config
    assert (config.pooling_shape, config.lora_alpha, config.system_prompt) == (
        "2-6-6",
        0.0,
        "Look.",
    )
    assert (config.num_frames, config.slots) == (8, 2)
    assert CaptionConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("shape", ["4x12x12", "4", "0-1-1"])
def test_a_pooling_shape_that_is_none_is_a_usage_error(shape):
    done = CliRunner().invoke(app, ["pllava", "meta.csv", "--pooling-shape", shape])
    assert done.exit_code == 2
    assert "T-H-W" in done.output


def test_options_of_one_family_are_not_the_others(told):
    for arguments in (["llava", "m", "--fps", "4"], ["qwen2vl", "m", "--num-frames", "4"]):
        assert CliRunner().invoke(app, arguments).exit_code == 2


PACKAGE = Path(caption.__file__).parent
PARTS = ("processor", "frame_rule", "check", "tower_config", "tower", "reference")


@pytest.mark.parametrize("family", CHECKPOINTS, ids=lambda family: family.model_type)
def test_the_parts_of_a_family_exist(family):
    """Read, not imported: some need MindSpore or mindnlp."""
    for name in filter(None, (getattr(family, field) for field in PARTS)):
        module, _, wanted = name.partition(":")
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if hasattr(node, "name")}
        assert wanted in defined, name


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_options_and_defaults_of_a_family_are_fields(family):
    known = {field.name for field in fields(CaptionConfig)}
    assert {*family.options, *family.defaults} <= known
    assert "model" in family.defaults
    assert family.example.startswith(f"vidcap {family.command} meta.csv")


def test_a_part_is_what_its_name_says():
    from vidcap_cli.processors.llava import Llava

    assert part(family_of("llava").processor) is Llava
    settings = {"model_type": "qwen2_5_vl"}
    assert family_for("qwen2vl", settings).processor.endswith(":Qwen25VL")
    assert family_for("qwen2vl", {}) is family_of("qwen2vl")
    assert family_for("llava", settings) is family_of("llava")
    with pytest.raises(ModelError, match="no captioner of the name blip"):
        family_of("blip")


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"model_type": "qwen2_vl", "pooling_shape": [4, 12, 12]}, "qwen2vl"),
        ({"model_type": "qwen2_5_vl"}, "qwen2vl"),
        ({"model_type": "llava", "architectures": "Pllava"}, "llava"),
        ({"model_type": "llava", "architectures": ["PllavaForConditionalGeneration"]}, "pllava"),
        ({"model_type": "pllava"}, "pllava"),
        ({"model_type": ["llava"]}, None),
        ({}, None),
    ],
)
def test_the_family_of_a_checkpoint(config, command):
    family = recognised(config)
    assert (family.command if family else None) == command


def test_the_table_imports_nothing():
    code = "import sys; before = {*sys.modules}; import vidcap_cli.families\n"
    code += "print(*sorted(name for name in {*sys.modules} - before if 'vidcap' in name))\n"
    code += "print({'numpy', 'mindspore', 'typer'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [
        "vidcap_cli vidcap_cli.errors vidcap_cli.families",
        "set()",
    ]


def test_nobody_else_asks_which_family_it_is():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                words = {
                    leaf.value
                    for side in sides
                    for leaf in ast.walk(side)
                    if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                }
                assert not words & {*FAMILIES, "qwen2_vl", "qwen2_5_vl"}, f"{file}:{node.lineno}"
