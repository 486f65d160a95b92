"""Shards: commands that share no folder each do a part of the rows, and merge joins them."""

import pytest

from tests.faults.scene import FINISHED, OUTPUT, make_scene
from tests.helpers.commands import committed, vidcap
from vidcap_cli.option_values import as_shard
from vidcap_cli.rundir.selection import Selection

ROWS = 11


@pytest.mark.parametrize("text", ["2/2", "-1/2", "0/0", "1", "a/b", "1/2/3"])
def test_a_shard_is_one_of_its_number(text):
    with pytest.raises(ValueError, match="write I/N"):
        as_shard(text)


@pytest.mark.parametrize("limit", [None, 1, 7, 100])
@pytest.mark.parametrize("of", [1, 2, 5, 20])
def test_shards_are_all_rows_once(limit, of):
    masks = [Selection.make(limit, f"{index}/{of}").mask(ROWS) for index in range(of)]
    counts = [Selection.make(limit, f"{index}/{of}").count(ROWS) for index in range(of)]
    assert counts == [int(mask.sum()) for mask in masks]
    assert sum(masks).tolist() == [int(row < (limit or ROWS)) for row in range(ROWS)]


def test_two_shards_merged_are_the_single_run(tmp_path):
    scene = make_scene(tmp_path, seed=51, rows=ROWS)
    places = [scene.copy(tmp_path / f"node-{shard}") for shard in (0, 1)]
    runs = []
    for shard, place in enumerate(places):
        command = scene.command(place, "--shard", f"{shard}/2")
        code, _, err = command.finish()
        assert code in FINISHED, err
        run = place / OUTPUT.replace(".csv", f".{shard}-of-2.vidcap")
        assert {row for row, _ in committed(run)} == set(range(shard, ROWS, 2))
        assert not (place / OUTPUT).exists()
        other = place / OUTPUT.replace(".csv", f".{1 - shard}-of-2.vidcap")
        joined = " ".join(map(str, sorted([run, other])))
        when = "when the other shard has finished and its run directory is beside this one"
        assert f"next, {when}, copied if need be, to join them:\n" in err
        assert f"    vidcap merge {joined} -o {place / OUTPUT} --meta {place}/meta.csv\n" in err
        runs.append(run)
    for shard, run in enumerate(runs):
        _, _, err = vidcap("merge", run, "-o", tmp_path / "one.csv", cwd=tmp_path)
        assert f"note: shard {1 - shard}/2 is not among the inputs" in err
    merged = tmp_path / "merged.csv"
    code, _, err = vidcap(
        "merge", *runs, "-o", merged, "--meta", places[0] / "meta.csv", cwd=tmp_path
    )
    assert code in FINISHED, err
    assert merged.read_bytes() == scene.expected
    assert "not among the inputs" not in err


def test_a_shard_of_a_single_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").touch()
    code, _, err = vidcap("qwen2vl", "a.mp4", "--model", "nano", "--shard", "0/2", cwd=tmp_path)
    assert code == 2
    assert "--shard is for tables" in err
