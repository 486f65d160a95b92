"""The commands that the last words name: each is what was typed, or true where it is pasted."""

import shlex
from pathlib import Path

import pytest

from vidcap_cli.next_steps import Ending
from vidcap_cli.options import RunOptions
from vidcap_cli.statuses import Status


@pytest.fixture(autouse=True)
def nobody_around(monkeypatch):
    for name in ("SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK", "MS_ROLE"):
        monkeypatch.delenv(name, raising=False)


def commands(*typed, failed=None, ok=3, flagged=0, table=None, path_column="path", **asked):
    ending = Ending(
        typed, RunOptions(**asked), table or {}, Path("a b"), path_column,
        Path("/o/a b.vidcap"), Path("/o/a b.csv"), ok, flagged, failed or {},
    )  # fmt: skip
    return {step.purpose: shlex.split(step.command)[1:] for step in ending.steps()}


TYPED = ("qwen2vl", "a b", "--model", "nano")
AGAIN = "to try the 2 failed rows again"


def test_captions_are_to_be_looked_at():
    assert commands(*TYPED) == {"to look at the captions": ["inspect", "/o/a b.csv"]}
    found = commands(*TYPED, flagged=1, path_column="video")
    look = ["inspect", "/o/a b.csv", "--path-column", "video"]
    assert found == {"to look at the captions and their flags": look}


def test_what_may_do_better_is_tried_again_without_what_would_start_over():
    failed = {Status.OOM: 1, Status.MISSING_FILE: 1}
    words = [*TYPED, "--skip_if_existing", "--fresh"]
    found = commands(*words, failed=failed, fresh=True, skip_if_existing=True)
    assert found[AGAIN] == list(TYPED)
    # An option that was not typed would be there again.
    assert AGAIN not in commands(*TYPED, failed=failed, fresh=True)
    assert AGAIN not in commands(*TYPED, failed=failed, restart_failed="none")


def test_what_fails_for_good_is_not():
    failed = {Status.DECODE_ERROR: 1, Status.MISSING_FILE: 1}
    assert AGAIN not in commands(*TYPED, failed=failed)
    assert commands(*TYPED, failed=failed, ok=0) == {
        "to see why rows failed": ["inspect", "/o/a b.vidcap"]
    }


def test_ranks_of_msrun_are_named_and_what_srun_was_told_is_not_known(monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    monkeypatch.setenv("DEVICE_ID", "0")
    failed = {Status.CRASHED: 2}
    assert commands(*TYPED, failed=failed)[AGAIN] == [*TYPED, "--worker-num", "4"]
    for name, value in (("ID", "0"), ("NUM_TASKS", "1"), ("NUM_NODES", "1")):
        monkeypatch.setenv(f"SLURM_STEP_{name}", value)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1")
    monkeypatch.setenv("SLURM_NODEID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert AGAIN not in commands(*TYPED, failed=failed)


def test_shards_are_joined_with_the_options_of_the_table():
    table = {"output": "/o/a b.csv", "overwrite_column": True, "prefix": "ohwx, "}
    found = commands(*TYPED, shard="1/3", limit=9, table=table)
    runs = [f"/o/a b.{shard}-of-3.vidcap" for shard in range(3)]
    place = ["--meta", str(Path.cwd() / "a b")]
    joined = ["merge", *runs, "-o", "/o/a b.csv", *place, "--prefix", "ohwx, "]
    when = "when the other 2 shards have finished and their run directories are beside this one"
    assert found == {f"{when}, copied if need be, to join them": joined}
    assert commands(*TYPED, shard="1/3", run_dir=Path("mine")) == {}
