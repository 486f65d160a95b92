"""What a run leaves for programs when its command ends, however that is."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from vidcap_cli.caption import caption
from vidcap_cli.checks import with_model
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import INCOMPLETE, RunError, StoppedError
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import Leader, leading
from vidcap_cli.request import Request
from vidcap_cli.rundir.events import Committed, Done
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.view.follower import View

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta_caption_qwen2vl.vidcap" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("raised", "ended"),
    [(None, "finished"), (StoppedError("stopped"), "stopped"), (RunError("no"), "failed")],
)
def test_a_run_that_ends_leaves_a_summary(tmp_path, monkeypatch, raised, ended):
    """Made in one command: the second of two captions, and a failure."""
    meta = tmp_path / "meta.csv"
    meta.write_text("path\na.mp4\nb.mp4\nc.mp4\nd.mp4\n")

    def work(leader: Leader, view: View) -> None:
        assert not leader.run.summary.exists()
        put = leader.run.part
        write_part(put(leader.first, 0, 0, "parquet"), [Result(1, "b.mp4", "ok", "A circle.")])
        view.event(0, Done(1, "b.mp4", "ok", "A circle.", None, 9, 2.0, 0.5))
        bad = Result(2, "c.mp4", "missing_file", error="there is no such file")
        write_part(put(leader.first, 0, 1, "parquet"), [bad])
        view.event(0, Done(2, "c.mp4", "missing_file", None, bad.error, 0, 2.0, 0.5))
        view.event(0, Committed(2, memory=600_000_000))
        if raised:
            raise raised

    config = CaptionConfig("qwen2vl", "nano")
    run_dir = tmp_path / "meta_caption_qwen2vl.vidcap"
    with leading(Job(meta, run_dir, with_model(Request(meta, config)))) as leader:
        write_part(leader.run.part(1, 0, 0, "parquet"), [Result(0, "a.mp4", "ok", "A square.")])
        leader.run.summary.write_text("of an earlier command")
    monkeypatch.setattr(Leader, "work", work)
    with pytest.raises(type(raised)) if raised else nullcontext():
        assert caption(Request(meta, config)) == INCOMPLETE
    found = summary_of(tmp_path)
    assert (found["version"], found["ended"]) == (1, ended)
    assert found["statuses"] == {"ok": 2, "missing_file": 1}
    assert (found["rows"], found["left"], found["captions"]) == (4, 1, 1)
    assert found["seconds"] > 0
    assert found["captions_per_hour"] > 0
    assert found["ranks"] == {
        "0": {"ok": 1, "failed": 1, "launches": 0, "new_tokens": 9, "busy_s": 2.0, "wait_s": 0.5,
              "memory": 600_000_000}
    }  # fmt: skip
    assert found["failures"] == [
        {"status": "missing_file", "words": "there is no such file", "rows": 1, "row": 2,
         "path": "c.mp4", "error": "there is no such file"}
    ]  # fmt: skip
    for key in found:
        assert f"| `{key}` |" in README


def test_an_interrupt_after_a_stop_does_not_hide_what_is_told_of_it(tmp_path, monkeypatch):
    meta = tmp_path / "meta.csv"
    meta.write_text("path\na.mp4\n")

    def stop(leader: Leader, view: View) -> None:
        raise StoppedError("stopped; 0 of 1 rows are on disk")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Leader, "work", stop)
    monkeypatch.setattr(Leader, "summarise", interrupt)
    with pytest.raises(StoppedError, match="0 of 1 rows"):
        caption(Request(meta, CaptionConfig("qwen2vl", "nano")))
