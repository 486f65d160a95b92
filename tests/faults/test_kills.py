"""A short slice of the campaign of kills; ``python -m tests.faults kills`` is the long one."""

from dataclasses import replace
from pathlib import Path

import pytest

from faults import kills
from faults.account import Account, summary
from faults.scene import FAKE, NANO, make_scene


def campaign(
    place: Path, *, seed: int, rows: int, count: int, model: str = FAKE, real_msrun: float = 0.25
) -> Account:
    scene = replace(make_scene(place, seed, rows, model), real_msrun=real_msrun)
    account = kills.campaign(scene, place, seed, count)
    print(summary(account))
    return account


def test_a_few_kills(tmp_path):
    account = campaign(tmp_path, seed=3, rows=24, count=5, real_msrun=0)
    assert account.kills >= 5
    assert not account.wrong, account.details


@pytest.mark.slow
@pytest.mark.parametrize(("model", "count"), [(FAKE, 60), (NANO, 12)])
def test_more_kills(tmp_path, model, count):
    account = campaign(tmp_path, seed=5, rows=24, count=count, model=model)
    assert not account.wrong, account.details
