"""The stand-in for CANN, built once."""

import pytest

from tests.ascend.build import build
from tests.ascend.harness import StandIn, obstacle


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> StandIn:
    if why := obstacle():
        pytest.skip(f"no stand-in for CANN: {why}")
    folder = tmp_path_factory.mktemp("cann")
    build(folder)
    return StandIn(folder)
