"""A short slice of the campaign of kills; ``python -m tests.faults kills`` is the long one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.account import Account, summary
from tests.faults.scene import FAKE, NANO, OUTPUT, RUN, Scene, make_scene
from tests.helpers.commands import MARK, Command


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


@pytest.fixture
def life(tmp_path: Path) -> kills.Life:
    """A run without a row, disturbed by nobody; its account is ``life._account``."""
    (tmp_path / "scene").mkdir()
    scene = Scene(tmp_path / "scene", seed=1, rows=0, expected=b"path,text\na.mp4,words\n")
    return kills.Life(scene, tmp_path / "life", "1-0", Account())


def test_the_campaign_notices_a_process_that_is_left(life, monkeypatch):
    monkeypatch.setattr(kills, "_GONE_SECONDS", 0.5)
    command = Command(["--version"], life._work)
    command.process.communicate()
    command.process.communicate = lambda **_: ("", "")
    life._check_end(command)
    assert not life._account.wrong
    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, MARK: command.mark},
    )
    life._check_end(command)
    assert life._account.wrong == {"processes left": 1}
    assert left.wait(timeout=10) != 0  # it is ended, too
    assert "processes left: 1" in summary(life._account)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (b"path,text\na.mp4,words\n", None),
        (b"path,text\na.mp4,other words\n", "different tables"),
        (b"path,text\n", "different tables"),
        (None, "rows lost"),
    ],
)
def test_the_campaign_notices_a_table_that_is_another_or_missing(life, table, kind):
    if table is not None:
        (life._work / OUTPUT).write_bytes(table)
    life._check_table()
    assert life._account.wrong == ({kind: 1} if kind else {})


def test_the_campaign_notices_a_file_that_is_left(life):
    (life._work / RUN).mkdir()
    life._check_files()
    assert not life._account.wrong
    (life._work / RUN / f".plan.json.{'0' * 32}.tmp").touch()
    life._check_files()
    assert life._account.wrong == {"files left": 1}
