"""``--dry-run`` and ``--calibrate``: what they tell is what a run then has."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.faults.scene import FINISHED
from tests.helpers.commands import rows_of, vidcap, write_nano_table
from vidcap_cli import estimate, rank_memory
from vidcap_cli.calibration import Measured, _pace, _spread
from vidcap_cli.checkpoint.called import bundled
from vidcap_cli.config import CaptionConfig
from vidcap_cli.estimate import (
    Estimate,
    _problems,
    _time_facts,
    _video_facts,
    look_ahead,
)
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import leading
from vidcap_cli.launch.msrun import Cluster
from vidcap_cli.merge.merge import merge
from vidcap_cli.rank_memory import RankMemory, short_of_memory
from vidcap_cli.rundir.events import Began, Done, EventWriter, Started, State
from vidcap_cli.rundir.records import Attempt
from vidcap_cli.rundir.selection import Selection


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_nano_table(tmp_path_factory.mktemp("clips"), 6, seed=5)


def told(table: Path, *words: str, code: int = 0) -> dict:
    asked = [str(table), "--model", "nano", "--json", *words]
    ended, out, err = vidcap("qwen2vl", *asked, cwd=table.parent)
    assert ended == code, err
    return json.loads(out)["facts"]


def test_where_no_video_can_be_read_the_reasons_are_told(tmp_path):
    """With where relative paths start; it ends as ``inspect`` does of such a table."""
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "m.csv").write_text("path\nclips/1.mp4\nclips/2.mp4\nbad.mp4\n")
    words = ("qwen2vl", "m.csv", "--model", "nano", "--dry-run")
    code, out, err = vidcap(*words, cwd=tmp_path)
    assert code == 1, err
    missing = r"/clips/[12]\.mp4 · missing_file: there is no such file \(and 1 more\)"
    assert re.search(f"! {tmp_path}{missing}", out)
    assert f"! {tmp_path}/bad.mp4 · decode_error: " in out
    assert f"! relative paths start from {tmp_path}" in out
    assert "✗ none of the videos can be read\n✗ nothing was captioned" in out
    shutil.copy(next(bundled("clips").glob("*.mp4")), tmp_path / "bad.mp4")
    code, out, err = vidcap(*words, cwd=tmp_path)
    assert (code, "! nothing was captioned" in out) == (0, True), err


def test_rows_that_repeat_a_path_are_told(tmp_path):
    """Each costs a caption; with a question for each row they are meant so."""
    meta = tmp_path / "meta.csv"
    meta.write_text("path,ask\n" + "a.mp4,x\n" * 3 + "b.mp4,y\n")
    config = CaptionConfig("qwen2vl", str(bundled("qwen2vl")))
    texts = [one.text for one in _problems(look_ahead(meta, None, config, Selection()))]
    assert "2 rows repeat the path of another; each is captioned" in texts
    assert not look_ahead(meta, None, config, Selection(limit=1)).twice
    asked = replace(config, question_column="ask")
    assert not look_ahead(meta, None, asked, Selection()).twice


def test_a_sample_of_clips_names_the_videos_that_are_none(table, tmp_path, monkeypatch):
    """Planning has read them all."""
    videos = sorted(table.parent.glob("*.mp4"))[:3]
    (tmp_path / "bad.mp4").write_text("no video")
    meta = tmp_path / "m.csv"
    meta.write_text("\n".join(["path", *map(str, videos), "bad.mp4", ""]))
    config = CaptionConfig("qwen2vl", str(bundled("qwen2vl")), clip_length=0.5)
    for name, most in (("WHOLE", 2), ("SAMPLE", 2), ("_SECONDS", 9e9)):
        monkeypatch.setattr(estimate, name, most)
    planned = look_ahead(meta, None, config, Selection())
    assert (planned.uncut, planned.estimate.whole) == (("bad.mp4",), False)
    *_, problem = _problems(planned)
    assert problem.text == (
        "1 video cannot be cut into clips, such as bad.mp4: no length can be told"
    )
    assert not look_ahead(meta, None, replace(config, clip_length=None), Selection()).uncut


def varied(folder: Path, clips: dict[str, Path]) -> Path:
    """A table of videos of many sizes, lengths and kinds, some of them bad, and ranges of one.

    Without those in whose middle frames are lost, which only decoding all of them tells.
    """
    names = clips.keys() - {"flipped", "hole"}
    rows = [f"{clips[name]},," for name in sorted(names)] + ["gone.mp4,,"]
    rows += [f"{clips['h264']},{start / 10},{start / 10 + 0.5}" for start in range(10)]
    (folder / "varied.csv").write_text("path,start,end\n" + "\n".join(rows) + "\n")
    return folder / "varied.csv"


@pytest.mark.parametrize("kind", ["nano", "varied"])
@pytest.mark.parametrize("words", [[], ["--shard", "1/3"], ["--limit", "5"]])
def test_frames_and_tokens_are_those_of_the_run(table, clips, tmp_path, kind, words):
    """Exactly, also of what is left, of a shard and of the first rows; bad videos have none."""
    meta = table if kind == "nano" else varied(tmp_path, clips)
    facts = told(meta, "--dry-run", *words)
    out = tmp_path / "out.parquet"
    options = ["--model", "nano", "--bs", "4", "-o", out, *words]
    code, _, err = vidcap("qwen2vl", meta, *options, "--all-columns", cwd=tmp_path)
    assert code in FINISHED, err
    if "--shard" in words:
        run, table = next(tmp_path.glob("*.vidcap")), tmp_path / "all.parquet"
        merge([run], table, all_columns=True)
        out = table
    rows = pq.read_table(out).to_pylist()
    ok = [row for row in rows if row["caption_status"] == "ok"]
    visual = [row["caption_prompt_tokens"] - facts["videos"]["other_tokens"] for row in ok]
    assert facts["videos"]["in_all"] == {
        "frames": sum(row["caption_frames"] for row in ok),
        "visual_tokens": sum(visual),
        "frames_error": 0,
        "visual_tokens_error": 0,
    }
    assert facts["videos"]["visual_tokens"]["most"] == max(visual)
    done = sum(row["caption_status"] != "missing" for row in rows)
    assert facts["run"]["rows"] == facts["run"]["to_caption"] == done
    sample = facts["videos"]["sample"]
    assert sample == {"videos": done, "unreadable": done - len(ok), "all": True}
    again = told(meta, "--dry-run", *words, "-o", str(tmp_path / "out.parquet"))
    assert again["run"]["to_caption"] == again["videos"]["sample"]["videos"] == done - len(ok)


def test_totals_of_a_sample_are_told_with_their_error():
    """Which holds the truth for all but few of many samples."""
    rng = np.random.default_rng(3)
    values = rng.gamma(2, 5, 3000).astype(np.int64)
    held = 0
    for _ in range(200):
        some = rng.choice(values, 200, replace=False)
        guess = Estimate(3000, 200, some, some[some > 2], some, 26)
        total, error = guess.total(guess.frames)
        held += abs(total - values[values > 2].sum()) <= error
    assert 180 <= held < 200
    shown = {f.label: f for f in _video_facts(guess)}["in all"]
    assert re.fullmatch(r"about [\d,]+ frames \(± \d+%\), about .* \(± \d+%\)", shown.words)
    assert shown.value["frames_error"] == round(error)
    # Few that are alike say nothing of others.
    guess = Estimate(3000, 13, some[:13], some[:13], some[:13], 26)
    shown = {f.label: f for f in _video_facts(guess)}["in all"]
    assert re.fullmatch(r"about [^(±]+, going by 13 videos alone", shown.words)
    assert shown.value["frames_error"] is None


def test_a_calibration_measures_with_some_of_the_rows_and_keeps_nothing(table, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(table.parent / "tmp"))
    (table.parent / "tmp").mkdir()
    before = sorted(os.listdir(table.parent))
    facts = told(table, "--calibrate", "3", "-q")
    assert facts["time"]["measured_with"] == {"videos": 3, "captioned": 3, "shrunk": 0}
    assert facts["time"]["pace"] > 0
    assert facts["time"]["to_caption_them"] > facts["time"]["start"] > 0
    estimated, measured = facts["memory_of_a_rank"]["in_all"], facts["time"]["memory_of_a_rank"]
    assert abs(measured - estimated) < 0.15 * measured
    assert sorted(os.listdir(table.parent)) == before
    assert os.listdir(table.parent / "tmp") == []


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("rows", [3, 32, 64])
def test_the_pace_is_that_of_full_slots_and_frames_to_read(tmp_path, rows, together):
    """Not of a slow beginning, nor of a fast end, nor of captions that end ``together``."""
    (tmp_path / "meta.csv").write_text("path\n" + "".join(f"{n}.mp4\n" for n in range(rows)))
    config = CaptionConfig("qwen2vl", "/models/some", slots=4)
    job = Job(tmp_path / "meta.csv", tmp_path / "run", config)
    with leading(job) as leader:
        folder = leader.run.attempt(1)
        folder.path.mkdir(parents=True)
        Attempt(config, rows, 8, 1, ()).write(folder)
        with EventWriter(folder.events(0)) as events:
            events.write(Started(1, "host", time=0.0))
            events.write(State("captioning", time=5.0))
            time = 25.0
            for row in range(rows):
                if row % together == 0:
                    time += together * (0.01 if row > rows - 10 else 0.5)
                events.write(Began([row + 4], time=time))
                after = time + row % together / 1e6
                said = Done(row, f"{row}.mp4", "ok", "A", None, 1, 1.0, 0.0, time=after)
                events.write(said)
        pace = _pace(leader, job)
    assert pace == pytest.approx(2.0, rel=0.05) if rows > 3 else pace > 0


def test_the_demo_and_one_video_are_called_so(tmp_path, clips):
    _, out, _ = vidcap("qwen2vl", "--demo", "--dry-run", cwd=tmp_path)
    assert out.startswith("vidcap qwen2vl --demo\n")
    assert re.search(r"sample +all 8 videos\n", out)
    _, out, _ = vidcap("qwen2vl", clips["h264"], "--model", "nano", "--dry-run", cwd=tmp_path)
    assert re.search(r"sample +1 video\n", out)
    assert re.search(r"visual tokens +\d+, with this model", out)
    (tmp_path / "none.csv").write_text("path\nnone.mp4\n")
    _, out, _ = vidcap("qwen2vl", "none.csv", "--model", "nano", "--dry-run", cwd=tmp_path)
    assert re.search(r"sample +1 video, which cannot be read\n", out)


def test_a_calibration_with_few_rows_says_so(table):
    code, out, err = vidcap(
        "qwen2vl", table, "--model", "nano", "--dry-run", "--bs", "4", cwd=table.parent
    )
    assert code == 0, err
    assert "not measured: 6 videos are too few to tell a pace" in out
    assert "--calibrate" not in out
    told = {left: _time_facts(None, left, 32)[0].words for left in (32, 33)}
    assert told[33] == "not measured: --calibrate 32 captions 32 of the videos to tell"
    assert "--calibrate" not in told[32]
    code, out, _ = vidcap(
        *("qwen2vl", table, "--model", "nano", "--calibrate", "2", "-q"), cwd=table.parent
    )
    assert "! 2 videos say little of the pace, and all are too few" in out


def test_rows_measured_are_spread_over_those_selected():
    for selection, rows, count, expected in [
        (Selection(), 100, 4, [0, 25, 50, 75]),
        (Selection(limit=10), 100, 3, [0, 3, 6]),
        (Selection(None, 1, 2), 20, 3, [1, 7, 13]),
        (Selection(), 3, 8, [0, 1, 2]),
    ]:
        mask = _spread(selection, rows, count).mask(rows)
        assert [row for row in range(rows) if mask[row]] == expected
        assert not (mask & ~selection.mask(rows)).any()


def test_time_is_that_of_the_pace_and_of_the_start():
    measured = Measured(rows=8, ok=8, shrunk=0, per_second=2.0, start=10.0, memory=1)
    assert measured.seconds(7200) == 3610.0
    assert Measured(8, 0, 0, None, 10.0, 1).seconds(5) is None


def test_a_dry_run_needs_no_weights_but_a_calibration_does(table, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bundled("qwen2vl"), model, ignore=shutil.ignore_patterns("*.safetensors"))
    words = ["qwen2vl", table, "--model", model, "-o", tmp_path / "o.csv"]
    code, out, err = vidcap(*words, "--dry-run", cwd=tmp_path)
    assert code == 0, err
    assert "! the weights of the model are not here yet" in out
    whole = told(table, "--dry-run")["memory_of_a_rank"]["weights"]
    code, out, _ = vidcap(*words, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(out)["facts"]["memory_of_a_rank"]["weights"] == whole
    for more in (["--calibrate", "2"], []):
        code, out, err = vidcap(*words, *more, cwd=tmp_path)
        assert (code, out) == (2, "")
        assert "lacks model.safetensors" in err


def test_too_little_memory_is_told(table):
    words = ("qwen2vl", table, "--model", "nano", "--dry-run", "--memory-limit")
    for limit, told in (
        ("1M", "! the weights alone take more memory than --memory-limit 1.0 MB allows"),
        ("100M", "! a rank takes more memory than --memory-limit 100.0 MB allows"),
        ("2G", ""),
    ):
        code, out, _ = vidcap(*words, limit, cwd=table.parent)
        assert (code, (told or "more memory than") in out) == (0, bool(told)), out


def test_ranks_share_what_is_free(monkeypatch):
    monkeypatch.setattr(rank_memory, "available", lambda: 16_000_000_000)
    monkeypatch.setattr(rank_memory, "total", lambda: 20_000_000_000)
    held = RankMemory(weights=2_000_000_000, item=2, cache=1_000_000_000, tokens=1)
    assert short_of_memory(held, None, Cluster(4, 4), on_cpu=True) is None
    words = "a rank takes more memory than there is for each of {} ranks: videos would"
    for ranks in (5, 10):
        short = short_of_memory(held, None, Cluster(ranks, ranks), on_cpu=True)
        assert words.format(ranks) in str(short)
    words = "the weights alone take more memory than there is for each of 11 ranks: the run would"
    assert words in str(short_of_memory(held, None, Cluster(11, 11), on_cpu=True))
    assert short_of_memory(held, None, Cluster(11, 11), on_cpu=False) is None


def test_videos_that_cannot_be_read_leave_the_pace_unknown(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\nb.mp4\n")
    facts = told(tmp_path / "m.csv", "--calibrate", "2", "-q", code=1)
    assert facts["videos"]["sample"] == {"videos": 2, "unreadable": 2, "all": True}
    assert facts["time"]["to_caption_them"] == "unknown: none of 2 videos got a caption"
    assert rows_of(tmp_path / "m.csv") == [{"path": "a.mp4"}, {"path": "b.mp4"}]
