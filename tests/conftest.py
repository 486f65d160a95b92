"""Fixtures that every test may use."""

from pathlib import Path

import pytest
from clips import make_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real videos by name, healthy and broken; see tests/clips.py."""
    return make_clips(tmp_path_factory.mktemp("clips"))
