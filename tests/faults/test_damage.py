"""Short slices of the campaign of damage; ``python -m tests.faults`` has the long ones."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import damage, mutants
from tests.faults.disks import Disk, disk
from tests.faults.scene import FINISHED, OUTPUT, PATIENCE, RUN, Scene, make_scene
from tests.helpers.commands import Command, committed


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), seed=31, rows=18)


def test_a_bit_flips_between_two_commands(scene, tmp_path):
    found = damage.bits(scene, tmp_path, seed=4, count=2)
    assert not found.wrong, found.wrong
    assert sum(found.ends.values()) == 2


class OnDisk:
    """A copy of the scene on a disk of its own, and commands there."""

    def __init__(self, scene: Scene, work: Path, disk: Disk) -> None:
        self.disk, self._scene, self._work = disk, scene, work
        self.output, self.run = disk.seen / OUTPUT, disk.seen / RUN
        for source in scene.folder.iterdir():
            (disk.seen / source.name).symlink_to(source.absolute())

    def start(self, *more: str, slowness: float = 0.08) -> Command:
        environment = replace(self._scene, slowness=slowness).environment(self._work)
        words = self._scene.words(*more)
        return Command(words, self._work, environment, before=self.disk.enter)

    def fails(
        self,
        code: int,
        *more: str,
        meanwhile: Callable[[Command], object] | None = None,
        slowness: float = 0.08,
    ) -> str:
        """The sentence of a command that ends with ``code``, and with no more than that."""
        command = self.start(*more, slowness=slowness)
        if meanwhile:
            meanwhile(command)
        ended, out, err = command.finish(PATIENCE)
        command.assert_gone()
        assert (ended, out) == (code, ""), err
        assert damage.TRACEBACK not in err
        assert err.strip().splitlines()[-1].startswith("vidcap: "), err
        return err

    def finishes(self, *more: str) -> bytes:
        """The table that the same command writes then."""
        code, _, err = self.start(*more).finish(PATIENCE)
        assert code in FINISHED, err
        return self.output.read_bytes()


@pytest.fixture
def place(scene: Scene, tmp_path: Path) -> Iterator[OnDisk]:
    work = scene.copy(tmp_path / "place")
    with ExitStack() as mounted:
        try:
            its = mounted.enter_context(disk(work))
        except PermissionError as error:
            pytest.skip(str(error))
        yield OnDisk(scene, work, its)


def test_a_disk_that_fills_up_while_captioning(scene, place):
    def fill(command: Command) -> None:
        command.wait_until(lambda: committed(place.run))
        place.disk.fill()

    assert "No space left on device" in place.fails(1, meanwhile=fill, slowness=1.0)
    before = committed(place.run)
    assert len(before) < scene.rows
    place.disk.make_room()
    assert place.finishes() == scene.expected
    captioned = [row for row, status in committed(place.run) if status == "ok"]
    assert len(captioned) == len(set(captioned))
    assert set(before) <= set(committed(place.run))


def test_a_disk_that_is_full_when_the_table_is_written(scene, place, tmp_path):
    run = tmp_path / "run"

    def fill(command: Command) -> None:
        command.wait_until((run / "attempts" / "0001" / "attempt.json").exists)
        place.disk.fill()

    more = ("--run-dir", str(run))
    err = place.fails(1, *more, meanwhile=fill)
    assert f"{OUTPUT}: cannot be written any more (No space left on device). Every" in err
    assert not place.output.exists()
    assert len(committed(run)) == scene.rows
    place.disk.make_room()
    assert place.finishes(*more) == scene.expected
    captioned = [row for row, status in committed(run) if status == "ok"]
    assert len(captioned) == len(set(captioned))


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start(scene, place):
    place.disk.fill(leave=20_000)
    assert "nothing can be written there (No space left on device)" in place.fails(2)
    place.disk.make_room()
    assert place.finishes() == scene.expected


@pytest.mark.slow
def test_a_disk_that_is_full_before_all_rows_are_planned(place):
    meta = place.disk.seen / "meta.csv"
    meta.unlink()
    names = "".join(f"{row:09}-{row * 7919 % 10007}.mp4\n" for row in range(100_000))
    meta.write_text(f"path\n{names}")
    place.disk.fill(leave=200_000)
    err = place.fails(1, "--limit", "2")
    assert "rows.parquet: No space left on device" in err
    assert not place.run.exists()
    place.disk.make_room()
    assert place.finishes("--limit", "2").count(b"missing_file") == 2


@pytest.mark.slow
def test_a_disk_that_is_read_only(scene, place):
    place.disk.protect()
    assert "nothing can be written there (Read-only file system)" in place.fails(2)
    place.disk.open_up()
    assert place.finishes() == scene.expected


def test_files_that_cannot_grow(scene, tmp_path):
    code, err = damage.small_files(scene, tmp_path / "small", 300)
    assert (code, err.count("\n")) == (2, 1), err
    assert "nothing can be written there (File too large)" in err


def test_a_run_directory_that_vanishes_while_ranks_work(scene, tmp_path):
    work = scene.copy(tmp_path / "run")
    command = replace(scene, slowness=1.0).command(work, workers=2)
    command.wait_until(lambda: committed(work / RUN))
    (work / RUN).rename(tmp_path / "vanished")
    code, out, err = command.finish(PATIENCE)
    assert (code, out) == (1, ""), err
    assert f"vidcap: {work / RUN}" in err
    assert damage.TRACEBACK not in err
    command.assert_gone()
    assert not (work / RUN).exists()  # it is not made again
    (tmp_path / "vanished").rename(work / RUN)
    before = committed(work / RUN)
    assert len(before) < scene.rows
    code, _, err = scene.command(work).finish(PATIENCE)
    assert code in FINISHED, err
    assert (work / OUTPUT).read_bytes() == scene.expected
    assert set(before) <= set(committed(work / RUN))


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
