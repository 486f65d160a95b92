"""What a run says: each caption, nothing, or how it ended as JSON; and what it leaves alone."""

import json
import shutil

import pytest

from tests.helpers.commands import vidcap
from vidcap_cli.checkpoint.called import bundled

CLIP = "green-circle-quickly-up.mp4"
CAPTION = "A green circle moves quickly upward across a navy background."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two rows, one of which failed; and what the command said."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copy(bundled("clips") / CLIP, folder)
    (folder / "m.csv").write_text(f"path\n{CLIP}\nnone.mp4\n")
    told = vidcap("qwen2vl", "m.csv", "--model", "nano", "--verbose", "--json", cwd=folder)
    return folder, told


def test_each_caption_is_shown_and_json_tells_the_end(folder):
    place, (code, out, err) = folder
    assert code == 3
    assert f"done: {CLIP} · {CAPTION}" in err.splitlines()
    assert "failed: none.mp4 · missing_file: there is no such file" in err.splitlines()
    told = json.loads(out)
    assert told["output"] == str(place / "m_caption_qwen2vl.csv")
    assert told["run"] == str(place / "m_caption_qwen2vl.vidcap")
    assert told["statuses"] == {"ok": 1, "missing_file": 1}
    assert (told["ended"], told["rows"], told["captions"]) == ("finished", 2, 1)


def test_rows_that_failed_are_left_alone_when_asked_and_no_rank_is_started(folder):
    place, _ = folder
    run = place / "m_caption_qwen2vl.vidcap"
    launches = sorted(path.name for path in (run / "attempts").iterdir())
    words = ["m.csv", "--model", "nano", "--restart-failed", "none"]
    code, out, err = vidcap("qwen2vl", *words, cwd=place)
    assert (code, out) == (3, "")
    assert "note: 1 row that failed before: left alone (--restart-failed none)" in err
    assert "1 failed before and was left alone" in err
    assert "not reached" not in err
    look = (
        f"  next, to look at the captions:\n    vidcap inspect {place / 'm_caption_qwen2vl.csv'}\n"
    )
    assert err.endswith(look)
    assert sorted(path.name for path in (run / "attempts").iterdir()) == launches
    for ahead in (["--dry-run"], ["--calibrate", "2"]):
        code, out, _ = vidcap("qwen2vl", *words, *ahead, cwd=place)
        assert code == 0
        assert "0, without 1 that failed before (--restart-failed none)" in out
        assert "nothing is left to caption" in out
        assert "none: no row is left to caption" in out


def test_a_quiet_run_tells_what_failed_alone(folder):
    place, _ = folder
    words = ["m.csv", "--model", "nano", "--restart-failed", "none", "-q"]
    code, out, err = vidcap("qwen2vl", *words, cwd=place)
    assert (code, out) == (3, "")
    assert err.startswith("! 1 of 2 videos have a caption\n")


def test_a_quiet_run_without_failures_says_nothing(folder):
    place, _ = folder
    code, out, err = vidcap("qwen2vl", CLIP, "--model", "nano", "-q", "--json", cwd=place)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["videos"] == [{"path": str(place / CLIP), "text": CAPTION, "caption_status": "ok"}]
    assert told["output"] is told["run"] is None


def test_quiet_and_verbose_are_refused_together(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    code, out, err = vidcap("qwen2vl", "m.csv", "--model", "nano", "-q", "-v", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--quiet and --verbose are opposites" in err


def test_merge_says_nothing_where_every_row_has_a_caption(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    (tmp_path / "done.csv").write_text("path,text\na.mp4,A\n")
    (tmp_path / "half.csv").write_text("path,text\na.mp4,\n")
    words = ("--meta", "m.csv", "-o", "out.csv", "-q")
    assert vidcap("merge", "done.csv", *words, cwd=tmp_path) == (0, "", "")
    code, _, err = vidcap("merge", "half.csv", *words, cwd=tmp_path)
    assert (code, "0 of 1 row has a caption" in err) == (3, True)
    assert vidcap("merge", "half.csv", *words, "--allow-missing", cwd=tmp_path) == (0, "", "")
