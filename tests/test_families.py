"""What the three caption commands tell the ranks: each its own options beside the shared ones."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidcap_cli import caption
from vidcap_cli.cli import app
from vidcap_cli.config import CaptionConfig


@pytest.fixture
def told(monkeypatch):
    """Run a command line up to where captioning would begin; its configuration."""
    requests: list[caption.Request] = []
    monkeypatch.setattr(caption, "caption", lambda request: requests.append(request) or 0)

    def run(*arguments: str) -> caption.Request:
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
    assert told("llava", "meta.csv", name, "here").model == "here"


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
