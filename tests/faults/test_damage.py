"""Short slices of the campaign of damage; ``python -m tests.faults`` has the long ones."""

import pytest

from faults import damage, mutants
from faults.scene import Scene, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), seed=9, rows=18)


def test_a_bit_flips_between_two_commands(scene, tmp_path):
    found = damage.bits(scene, tmp_path, seed=4, count=2)
    assert not found.wrong, found.wrong
    assert sum(found.ends.values()) == 2


@pytest.mark.parametrize("kilobytes", [120])
def test_a_disk_that_was_full_costs_nothing_once_there_is_room(scene, tmp_path, kilobytes):
    if not damage.can_mount():
        pytest.skip("mounting a tmpfs in a namespace of its own is not permitted here")
    code, err, table = damage.full_disk(scene, tmp_path / "full", kilobytes)
    assert code == 1, err
    assert table == scene.expected


def test_mutated_tables(tmp_path):
    found = mutants.tables(tmp_path, seed=6, count=60)
    assert not found.wrong, found.wrong


def test_mutated_clips(scene, tmp_path):
    found = mutants.media(scene, tmp_path, seed=6, count=24)
    assert not found.wrong, found.wrong


@pytest.mark.slow
def test_more_damage(scene, tmp_path):
    for found in (
        damage.bits(scene, tmp_path / "bits", seed=1, count=40),
        damage.vanish(scene, tmp_path / "vanish", seed=1, count=12),
        mutants.tables(tmp_path, seed=1, count=1000),
        mutants.media(scene, tmp_path, seed=1, count=300),
    ):
        assert not found.wrong, str(found)
