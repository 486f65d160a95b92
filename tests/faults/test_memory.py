"""Ranks whose memory runs out for good: the fake model in the real loop, real processes, msrun."""

import csv
import re
from dataclasses import replace
from pathlib import Path

from tests.helpers.commands import committed, events

from .scene import OUTPUT, PATIENCE, RUN, make_scene

ROWS = 24


def test_a_rank_that_runs_out_of_memory_starts_anew_in_the_same_launch(tmp_path: Path) -> None:
    scene = replace(make_scene(tmp_path, 17, ROWS), short={3: 1, 7: 9})
    work = scene.copy(tmp_path / "run")
    command = scene.command(work, workers=2, standin=False)
    code, _, err = command.finish(PATIENCE)
    assert code == 3, err
    command.assert_gone()
    assert " was killed by " not in err
    # Row 3 was with others once; row 7 was (with row 3, maybe), and was alone; there is no smaller
    # clip of it.
    anew = re.findall(r"rank \d: ran out of memory and starts anew", err)
    assert len(anew) in (2, 3)
    found = events(work / RUN)
    assert {event["attempt"] for event in found} == {1}
    started = [(event["rank"], event["pid"]) for event in found if event["kind"] == "started"]
    assert (len(started), len(set(started))) == (2 + len(anew), 2)  # numbers of processes stay
    results = committed(work / RUN)
    assert sorted(row for row, _ in results) == [*range(ROWS)]
    assert [row for row, status in results if status == "oom"] == [7]
    wanted = list(csv.reader(scene.expected.decode().splitlines(keepends=True)))
    table = list(csv.reader((work / OUTPUT).read_text().splitlines(keepends=True)))
    assert [row for row, other in zip(table, wanted, strict=True) if row != other] == [table[8]]
    assert not (work / RUN / "attempts/0001/error-0000.json").exists()
