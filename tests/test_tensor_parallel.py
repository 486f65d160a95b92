"""``--tensor-parallel``: ranks that share a model write the tokens that one rank writes.

Real msrun, real ranks, real collectives. Random checkpoints caption with random tokens, so that
equal captions mean equal tokens; nano checkpoints caption rightly.
"""

import csv
import os
import signal
from pathlib import Path

import pytest

from tests.helpers.commands import Command, committed, events, rows_of, vidcap, write_nano_table
from tests.helpers.tiny import TinyQwen2VL, TinyQwen25VL, write_qwen2vl
from tests.helpers.tiny_llava import TinyLlava, TinyPllava, write_llava

ROWS = 12
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of nano clips, of which two cannot be read, and random checkpoints."""
    folder = tmp_path_factory.mktemp("shared")
    write_nano_table(folder, ROWS, seed=5)
    (folder / "004.mp4").write_bytes(b"no video")
    (folder / "007.mp4").unlink()
    # Fewer heads of keys than ranks, an MLP and a vocabulary that do not divide evenly.
    write_qwen2vl(
        folder / "qwen2vl", TinyQwen2VL(seed=5, hidden=64, heads=8, mlp=90, layers=3, tied=False)
    )
    write_qwen2vl(
        folder / "qwen2.5vl", TinyQwen25VL(seed=8, hidden=64, heads=8, mlp=90, tied=False)
    )
    write_llava(folder / "llava", TinyLlava(seed=6, hidden=64, heads=8, kv_heads=4))
    write_llava(
        folder / "pllava", TinyPllava(seed=7, hidden=64, heads=8, kv_heads=4, lora="default")
    )
    return folder


def command(family: str, model: str, ranks: int, groups: int = 1) -> list[str]:
    name = "qwen2vl" if family == "qwen2.5vl" else family
    words = [name, "meta.csv", "--model", model, "--max-new-tokens", "24", "--bs", "2"]
    words += ["--flush-seconds", "0.2", "-o", f"{family}-{ranks}x{groups}.csv", "--all-columns"]
    return [*words, "--tensor-parallel", str(ranks), "--worker-num", str(ranks * groups)]


def said(table: Path) -> list[tuple[str, str, str]]:
    columns = ("caption_status", "text", "caption_new_tokens")
    return [tuple(row[name] for name in columns) for row in rows_of(table)]


@pytest.fixture(scope="module")
def by_one(videos):
    """What one rank writes, by family."""
    written: dict[str, list[tuple[str, str, str]]] = {}

    def of(family: str) -> list[tuple[str, str, str]]:
        if family not in written:
            code, _, err = vidcap(*command(family, family, 1), cwd=videos)
            assert code == 3, err  # two rows cannot be read
            written[family] = said(videos / f"{family}-1x1.csv")
            assert sum(status == "ok" for status, _, _ in written[family]) == ROWS - 2
        return written[family]

    return of


@pytest.mark.parametrize(
    ("family", "ranks", "groups"),
    [
        ("qwen2vl", 4, 1),
        pytest.param("qwen2vl", 2, 1, marks=SLOW),
        pytest.param("qwen2vl", 2, 2, marks=SLOW),
        pytest.param("qwen2.5vl", 2, 1, marks=SLOW),
        pytest.param("llava", 2, 1, marks=SLOW),
        pytest.param("llava", 4, 1, marks=SLOW),
        pytest.param("pllava", 2, 1, marks=SLOW),
        pytest.param("pllava", 4, 1, marks=SLOW),
    ],
)
def test_ranks_that_share_a_model_write_the_same_tokens(videos, by_one, family, ranks, groups):
    code, _, err = vidcap(*command(family, family, ranks, groups), cwd=videos)
    assert code == 3, err
    assert said(videos / f"{family}-{ranks}x{groups}.csv") == by_one(family)
    run = videos / f"{family}-{ranks}x{groups}.vidcap"
    leaders = {event["rank"] for event in events(run) if event["kind"] == "done"}
    assert leaders == set(range(0, ranks * groups, ranks))
    log = (run / "msrun_log" / "0001" / "worker_1.log").read_text()
    assert f"share 2 of {ranks}" in log


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=SLOW)])
def test_a_rank_of_a_group_is_killed(videos, tmp_path, victim):
    """The group ends with it, commits what is finished, and another one finishes the run."""
    write_nano_table(tmp_path, 60, seed=8, clips=10)
    running = Command(
        [
            *("qwen2vl", "meta.csv", "--model", "nano", "--tensor-parallel", "2"),
            *("--flush-seconds", "0.2", "-o", "out.csv"),
        ],
        tmp_path,
    )
    run = tmp_path / "out.vidcap"
    running.wait_until(lambda: len(committed(run)) >= 3)
    started = {e["rank"]: int(str(e["pid"])) for e in events(run) if e["kind"] == "started"}
    os.kill(started[victim], signal.SIGKILL)
    code, _, err = running.finish()
    assert code == 0, err
    assert f"rank {victim} was killed by SIGKILL" in err
    running.assert_gone()
    rows = [row for row, _ in committed(run)]
    assert sorted(rows) == list(range(60))
    by_clip: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "out.csv"):
        by_clip.setdefault(row["path"], set()).add(row["text"])
    assert all(len(texts) == 1 for texts in by_clip.values())


@SLOW
def test_a_row_that_kills_a_rank_of_its_group_twice_is_left_out(tmp_path):
    """Though the rank that leads, and not the one that was killed, has the rows."""
    write_nano_table(tmp_path, 30, seed=8, clips=10)
    running = Command(
        [
            *("qwen2vl", "meta.csv", "--model", "nano", "--tensor-parallel", "2"),
            *("--flush-seconds", "0.2", "-o", "out.csv"),
        ],
        tmp_path,
    )
    run = tmp_path / "out.vidcap"
    kills = [kill_follower_with_rows_in_model(running, run, launch) for launch in (1, 2)]
    assert kills[0] == kills[1]
    code, _, err = running.finish()
    assert code == 3, err
    status = [row["caption_status"] for row in rows_of(tmp_path / "out.csv")]
    assert [row for row, word in enumerate(status) if word != "ok"] == sorted(kills[0])
    assert {status[row] for row in kills[0]} == {"crashed"}


# Python imports this at its start: the second rank of a group has no memory for long prompts.
SHORT_OF_MEMORY = """
import os, sys
if "vidcap_cli.rank.worker" in sys.orig_argv and os.environ.get("RANK_ID") == "1":
    from vidcap_cli.engine import group
    follow = group.follow

    def follow_short_of_memory(rank, size, load, alive):
        def loaded(share):
            found = load(share)
            begin = type(found.model).begin

            def limited(model, slot, prompt, new_tokens):
                if len(prompt.ids) > 300:
                    raise RuntimeError("Allocate memory failed")
                return begin(model, slot, prompt, new_tokens)

            type(found.model).begin = limited
            return found

        return follow(rank, size, loaded, alive)

    group.follow = follow_short_of_memory
"""


@SLOW
def test_a_row_that_one_rank_of_a_group_has_no_memory_for(tmp_path):
    """It is tried again alone, and is then out of memory, and not what killed a rank."""
    write_nano_table(tmp_path, 6, seed=9)
    rows = rows_of(tmp_path / "meta.csv")
    asked = [row | {"ask": "What moves? " * (80 if row["id"] == "0003" else 1)} for row in rows]
    with (tmp_path / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, asked[0])
        table.writeheader()
        table.writerows(asked)
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY, encoding="utf-8")
    running = Command(
        [
            *("qwen2vl", "meta.csv", "--model", "nano", "--tensor-parallel", "2"),
            *("--question-column", "ask", "--all-columns", "-o", "out.csv"),
        ],
        tmp_path,
        {"PYTHONPATH": str(tmp_path), "VIDCAP_APART_SECONDS": "2"},
    )
    code, _, err = running.finish()
    assert code == 3, err
    found = rows_of(tmp_path / "out.csv")
    assert [row["caption_status"] for row in found] == ["ok"] * 3 + ["oom"] + ["ok"] * 2
    assert "Allocate memory failed" in found[3]["caption_error"]


def kill_follower_with_rows_in_model(running: Command, run: Path, launch: int) -> set[int]:
    """Kill rank 1 while the first row of a launch is in the model; which row that is."""

    def killed() -> set[int] | None:
        mine = [event for event in events(run) if event["attempt"] == launch]
        began = {row for event in mine if event["kind"] == "began" for row in event["rows"]}
        if not began:
            return None
        done = {event["row"] for event in mine if event["kind"] == "done"}
        pid = next(e["pid"] for e in mine if e["kind"] == "started" and e["rank"] == 1)
        os.kill(int(str(pid)), signal.SIGKILL)
        return began - done

    rows = running.wait_until(killed)
    assert isinstance(rows, set)
    return rows


@pytest.mark.parametrize(
    ("family", "model"),
    [("qwen2vl", "nano"), ("qwen2vl", "nano2.5"), ("llava", "nano"), ("pllava", "nano")],
)
@SLOW
def test_nano_models_caption_rightly_when_they_are_shared(tmp_path, family, model):
    clips = Path(__file__).parents[1] / "vidcap_cli" / "nano" / "clips" / "clips.csv"
    code, _, err = vidcap(
        *(family, clips, "--model", model, "--tensor-parallel", 2, "-o", "out.csv"), cwd=tmp_path
    )
    assert code == 0, err
    with (tmp_path / "out.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert row["text"] == row[f"detail_{family}"]


@SLOW
def test_a_stopped_group_leaves_nothing_behind(tmp_path):
    write_nano_table(tmp_path, 200, seed=9, clips=10)
    running = Command(
        [
            *("qwen2vl", "meta.csv", "--model", "nano", "--tensor-parallel", "2"),
            *("--flush-seconds", "0.2", "-o", "out.csv"),
        ],
        tmp_path,
    )
    run = tmp_path / "out.vidcap"
    running.wait_until(lambda: len(committed(run)) >= 3)
    running.process.send_signal(signal.SIGINT)
    code, _, err = running.finish(timeout=60)
    assert code == 130, err
    running.assert_gone()
    reported = {event["row"] for event in events(run) if event["kind"] == "done"}
    assert reported == {row for row, _ in committed(run)}
