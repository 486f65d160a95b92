"""What ``--model`` calls a checkpoint, from its folder and back."""

from pathlib import Path

import pytest

from vidcap_cli.checkpoint.called import model_folder, model_name


@pytest.mark.parametrize("name", ["nano", "nano2.5"])
def test_a_bundled_model_has_its_name(name):
    assert model_name(str(model_folder(name, "qwen2vl")), "qwen2vl") == name


def test_a_folder_is_called_by_its_path(tmp_path):
    assert model_name(str(tmp_path), "qwen2vl") == str(tmp_path)


def test_what_the_cache_has_of_the_hub_is_called_by_its_name_there(tmp_path: Path):
    repository = tmp_path / "hub" / "models--some-one--A.model--2B"
    folder = repository / "snapshots" / ("a1" * 20)
    folder.mkdir(parents=True)
    assert model_name(str(folder), "qwen2vl") == str(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a1" * 20)
    assert model_name(str(folder), "qwen2vl") == "some-one/A.model--2B"
    (repository / "refs" / "main").write_text("b2" * 20)  # it is not what the name means now
    assert model_name(str(folder), "qwen2vl") == str(folder)
