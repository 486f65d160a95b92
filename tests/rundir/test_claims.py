"""Chunks go to exactly one rank each, whoever asks at the same time."""

import subprocess
import sys

from vidcap_cli.rundir.claims import any_unclaimed, claim_chunks, own_chunks
from vidcap_cli.rundir.paths import RunDir

CHUNKS = 400


def test_processes_share_all_chunks_without_overlap(tmp_path):
    attempt = RunDir(tmp_path).attempt(1)
    attempt.claims.mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path\n"
        "from vidcap_cli.rundir.claims import claim_chunks\n"
        "from vidcap_cli.rundir.paths import RunDir\n"
        "attempt = RunDir(Path(sys.argv[1])).attempt(1)\n"
        "sys.stdin.readline()\n"
        f"print(*claim_chunks(attempt, {CHUNKS}, int(sys.argv[2])))\n"
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    for rank in ranks:
        rank.stdin.write("\n")
        rank.stdin.flush()
    claimed = [[int(chunk) for chunk in rank.communicate()[0].split()] for rank in ranks]
    assert sorted(chunk for chunks in claimed for chunk in chunks) == list(range(CHUNKS))
    for number, chunks in enumerate(claimed):
        for chunk in chunks:
            assert attempt.claim(chunk).read_text() == f"{number}\n"


def test_chunks_taken_by_others_are_passed_over(tmp_path):
    attempt = RunDir(tmp_path).attempt(1)
    attempt.claims.mkdir(parents=True)
    mine, theirs = claim_chunks(attempt, 5, 0), claim_chunks(attempt, 5, 1)
    assert [next(mine), next(theirs), next(theirs)] == [0, 1, 2]
    assert list(mine) == [3, 4]
    assert list(theirs) == []


def test_a_rank_finds_again_what_it_has_claimed(tmp_path):
    attempt = RunDir(tmp_path).attempt(1)
    attempt.claims.mkdir(parents=True)
    mine, theirs = claim_chunks(attempt, 5, 1), claim_chunks(attempt, 5, 11)
    assert [next(mine), next(theirs), next(mine)] == [0, 1, 2]
    attempt.claim(3).touch()  # of a rank that died before it had written its number
    assert (own_chunks(attempt, 1), own_chunks(attempt, 11), own_chunks(attempt, 0)) == (
        [0, 2],
        [1],
        [],
    )
    assert any_unclaimed(attempt, 5)
    assert list(mine) == [4]
    assert not any_unclaimed(attempt, 5)
