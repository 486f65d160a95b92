"""Which Ascend devices ranks may use, by /dev and by the environment."""

from pathlib import Path

import pytest

from vidcap_cli import ascend
from vidcap_cli.ascend import VISIBLE, visible_devices


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Path(f"/dev/davinci{number}") for number in range(4, 8)]
    monkeypatch.setattr(ascend, "device_nodes", lambda: nodes)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_all_are_visible_unless_the_environment_names_some(monkeypatch):
    # A container sees the nodes it was given, numbered from 0.
    assert visible_devices() == [0, 1, 2, 3]
    monkeypatch.setenv(VISIBLE, " ")
    assert visible_devices() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("named", "visible"),
    [
        ("1", [1]),
        ("0,2,3", [0, 2, 3]),
        # As CANN reads them: up to what is out of place.
        ("1, 2,3", [1]),
        ("1 ,2", [1]),
        ("1,3,8", [1, 3]),
        ("0,-1,2", [0]),
        ("0,,2", [0]),
        ("-1", []),
        ("none", []),
        ("4", []),
    ],
)
def test_numbers_are_read_up_to_what_is_out_of_place(monkeypatch, named, visible):
    monkeypatch.setenv(VISIBLE, named)
    assert visible_devices() == visible
