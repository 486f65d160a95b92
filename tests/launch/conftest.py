"""A command to lead a run: three rows, no ranks."""

import pytest

from tests.launch.runs import CONFIG
from vidcap_cli.launch.job import Job


@pytest.fixture
def job(tmp_path) -> Job:
    (tmp_path / "meta.csv").write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    return Job(tmp_path / "meta.csv", tmp_path / "out.vidcap", CONFIG)
