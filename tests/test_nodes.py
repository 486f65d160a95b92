"""Two nodes share a run through a folder alone: each is a command of its own with its own ranks."""

from pathlib import Path

from commands import Command, committed, events, rows_of, write_nano_table

ROWS = 10


def node(folder: Path, rank: int) -> Command:
    arguments = [
        *("qwen2vl", "meta.csv", "--model", "nano", "--worker-num", "2"),
        *("--local-worker-num", "1", "--node-rank", str(rank), "--flush-seconds", "0.2"),
    ]
    return Command(arguments, folder)


def test_two_nodes_caption_one_table(tmp_path):
    write_nano_table(tmp_path, ROWS, seed=21)
    nodes = [node(tmp_path, 1), node(tmp_path, 0)]
    (second, _, err1), (first, _, err0) = [command.finish() for command in nodes]
    assert (first, second) == (0, 0), (err0, err1)
    for command in nodes:
        command.assert_gone()
    rows = rows_of(tmp_path / "meta_caption_qwen2vl.csv")
    assert [row["caption_status"] for row in rows] == ["ok"] * ROWS
    run = tmp_path / "meta_caption_qwen2vl.vidcap"
    assert sorted(row for row, _ in committed(run)) == list(range(ROWS))
    assert {event["rank"] for event in events(run) if event["kind"] == "started"} == {0, 1}
    assert list((run / "attempts").iterdir()) == [run / "attempts" / "0001"]
