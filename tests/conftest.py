"""What every test may use, and starts with."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.clips import make_clips

# A shell without job control starts what is behind an `&` with SIGINT ignored, and every child
# inherits that: a command would not hear the Ctrl-C of a test. A handled signal is reset by exec.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where Python may not keep what it compiles (containers set this), each of the processes that tests
# start would compile MindSpore's modules anew: 8 s instead of 4.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is.
settings.register_profile("vidcap", deadline=None)
settings.load_profile("vidcap")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real videos by name, healthy and broken; see tests/helpers/clips.py."""
    return make_clips(tmp_path_factory.mktemp("clips"))
