"""Run directories as runs leave them: written with the package's own writers."""

import fcntl
import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vidcap_cli.addresses import tidy
from vidcap_cli.cli import app
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import FAILED, INCOMPLETE, RunError, UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.launch.leader import Leader
from vidcap_cli.merge.merge import merge
from vidcap_cli.options import InspectOptions
from vidcap_cli.outputs import default_output, default_run_dir
from vidcap_cli.rundir.events import Began, Committed, Done, Ended, EventWriter, Started, State
from vidcap_cli.rundir.parts import Result, set_aside, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan, read_plan
from vidcap_cli.rundir.records import Attempt, Finished, RankExit
from vidcap_cli.rundir.scope import Scope
from vidcap_cli.rundir.selection import Selection

CONFIG = CaptionConfig(family="qwen2vl", model="/models/q w", fps=2.0, question="What moves?")


def facts(report, section):
    return report.as_dict()["facts"][section]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Six rows. Launch 1: rank 0 captions row 0, row 1 fails, rank 1 is killed. Launch 2: rows
    1 and 2 are captioned, row 3 fails. Rows 4 and 5 are left.
    """
    meta = tmp_path / "meta.csv"
    meta.write_text("path\n" + "".join(f"{n}.mp4\n" for n in range(6)))
    run = RunDir(default_run_dir(default_output(meta, "qwen2vl", None)))
    plan = make_plan(meta, run, CONFIG)
    run.parts.mkdir()
    for number, ranks in ((1, 2), (2, 1)):
        folder = run.attempt(number)
        folder.claims.mkdir(parents=True)
        Attempt(CONFIG, rows=7 - number, chunk=1, ranks=ranks, bases=plan.bases).write(folder)
    ok, bad = {"status": "ok", "text": "A red circle."}, {"status": "decode_error", "error": "no!"}
    write_part(run.part(1, 0, 0, "parquet"), [Result(0, "0.mp4", **ok), Result(1, "1.mp4", **bad)])
    write_part(
        run.part(2, 0, 0, "parquet"),
        [Result(1, "1.mp4", **ok), Result(2, "2.mp4", **ok), Result(3, "3.mp4", **bad)],
    )
    with EventWriter(run.attempt(1).events(0)) as events:
        events.write(Started(10, "host", time=0.0))
        events.write(State("captioning", time=10.0))
        events.write(Began([0], time=10.0))
        events.write(Done(0, "0.mp4", "ok", "A red circle.", None, 40, 8.0, 2.0, time=20.0))
        events.write(Done(1, "1.mp4", "decode_error", None, "no!", 0, 8.0, 2.0, time=36.0))
        events.write(Committed(2, memory=612_000_000, time=36.0))
        events.write(Ended("stopped", time=36.0))
    RankExit(0, 0).write(run.attempt(1))
    RankExit(1, -9, (2,)).write(run.attempt(1))
    return run


def test_a_path_with_dots_is_the_same_run(run, monkeypatch):
    """Its command has no --run-dir, and a path as short as can be."""
    elsewhere = run.path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    dotted = Path("..") / run.path.name
    assert inspect(dotted).steps[0].command == inspect(run.path).steps[0].command
    other = run.path.rename(run.path.with_name("other.vidcap"))
    command = inspect(Path("..") / other.name).steps[0].command
    assert command.endswith(f"--run-dir {shlex.quote(str(other))}")
    (elsewhere / "link").symlink_to(other)
    assert tidy(elsewhere / "link" / ".." / "x") == elsewhere / "link" / ".." / "x"


def test_rows_and_what_continues_them(run):
    report = inspect(run.path)
    assert report.ok
    assert facts(report, "rows") == {"asked_for": 6, "captioned": 3, "decode_error": 1, "left": 2}
    assert report.verdict == "not finished: 2 rows left, 1 failed"
    shown = {section.title: section.facts for section in report.shown}
    assert [(f.label, f.words) for f in shown["failures"]] == [("decode_error", "3.mp4 · no!")]
    assert report.steps[0].purpose == "to continue the run"
    command = shlex.split(report.steps[0].command)
    assert command[:3] == ["vidcap", "qwen2vl", str(run.path.parent / "meta.csv")]
    assert command[3:] == ["--model", "/models/q w", "--question", "What moves?", "--fps", "2"]


@pytest.mark.parametrize(
    ("selection", "words", "rows", "verdict"),
    [
        (Selection(None, 0, 3), "2 of 6: --shard 0/3", (2, 1, 1, 0), "not finished: 1 failed"),
        (Selection(5, 1, 3), "2 of 6: --limit 5 --shard 1/3", (2, 1, 0, 1),
         "not finished: 1 row left"),
        (Selection(3), "3 of 6: --limit 3", (3, 3, 0, 0), "finished: every row of --limit 3 has"),
    ],
)  # fmt: skip
def test_only_the_rows_that_were_asked_for_count(run, tmp_path, selection, words, rows, verdict):
    """And the command that continues asks for them, also in a summary."""
    place = default_run_dir(default_output(tmp_path / "meta.csv", "qwen2vl", None), selection)
    run.path.rename(place)
    run = RunDir(place)
    Scope(selection).write(run)
    if selection.limit == 3:
        Finished(6, 3, 0).write(run)
    report = inspect(run.path)
    asked = {fact.label: fact.words for s in report.sections for fact in s.facts}["asked for"]
    assert asked == words
    besides = 2 if selection.is_shard else 0
    assert facts(report, "rows").get("captioned_besides", 0) == besides
    found, names = facts(report, "rows"), ("asked_for", "captioned", "decode_error", "left")
    assert tuple(found.get(name, 0) for name in names) == rows
    assert report.verdict.startswith(verdict)
    commands = [step.command for step in report.steps if " qwen2vl " in step.command]
    assert bool(commands) == ("left" in verdict)
    assert all(command.endswith(words.split(": ")[1]) for command in commands)
    inspect(run.path, InspectOptions(failed=tmp_path / "failed.csv"))
    assert len((tmp_path / "failed.csv").read_text().splitlines()) == 1 + rows[2]


def test_plan_and_launches(run):
    report = inspect(run.path)
    plan = facts(report, "plan")
    assert (plan["rows"], plan["fps"]) == (6, 2.0)
    first = facts(report, "launch_1")
    done = first["done"]
    assert (done["rows"], done["captions"], done["seconds"]) == (2, 1, 36.0)
    assert done["per_hour"] == 100.0
    assert first["balance"] == {"least": 0, "most": 1}
    assert first["rank_0"]["ok"] == 1
    assert first["rank_0"]["failed"] == 1
    assert (first["rank_0"]["memory"], first["rank_1"]["memory"]) == (612_000_000, None)
    assert first["rank_1"]["exit_code"] == -9
    words = {f.label: f.words for s in report.sections for f in s.facts if s.title == "launch 1"}
    assert words["done"] == "1 caption and 1 failure in 36 s"
    assert words["rank 0"].split(" ", 1) == [
        "█" * 10, "stopped · 1 ok · 1 failed · 5.0 tokens/s · waiting 20% · 612.0 MB"
    ]  # fmt: skip
    assert re.match(" {10}.*SIGKILL", words["rank 1"])
    json.dumps(report.as_dict())


@pytest.mark.parametrize("family", ["llava", "pllava", "qwen2vl"])
def test_options_that_the_family_does_not_have_are_not_told(tmp_path, family):
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    make_plan(tmp_path / "meta.csv", RunDir(tmp_path / "r"), CaptionConfig(family, "/m"))
    report = inspect(tmp_path / "r")
    plan = facts(report, "plan")
    shown = {f.label for section in report.shown for f in section.facts if section.title == "plan"}
    assert ("fps" in plan, "fps" in shown) == (family == "qwen2vl",) * 2
    assert ("num_frames" in plan) == (family != "qwen2vl")
    assert "lora alpha" not in shown
    if family == "pllava":
        assert plan["lora_alpha"] is None  # was not given
    assert "None" not in json.dumps(report.as_dict())


def test_failed_rows_become_a_table(run, tmp_path):
    more = [Result(n, f"{n}.mp4", "missing_file", error="no such file") for n in (4, 5)]
    write_part(run.part(3, 0, 0, "parquet"), more)
    report = inspect(run.path, InspectOptions(failed=tmp_path / "failed.csv"))
    assert report.verdict.endswith(f"3 failed rows written to {tmp_path / 'failed.csv'}")
    lines = (tmp_path / "failed.csv").read_text().splitlines()
    assert lines == [
        "row_id,path,status,error,attempts,rank",
        "3,3.mp4,decode_error,no!,1,",
        "4,4.mp4,missing_file,no such file,1,",
        "5,5.mp4,missing_file,no such file,1,",
    ]
    details = facts(report, "details")
    assert [cause["rows"] for cause in details["failures"]] == [2, 1]
    shown = {section.title: section.facts for section in report.shown}
    assert shown["failures"][0].words == "2 rows · no such file · such as 4.mp4"
    failed = f"vidcap inspect {run.path} --failed {run.path.stem}_failed.csv"
    assert failed == inspect(run.path).steps[-1].command


@pytest.mark.parametrize("name", ["meta_caption_qwen2vl.vidcap/f.csv", "nowhere/f.csv", "f.doc"])
def test_a_table_of_failed_rows_that_cannot_be(run, tmp_path, name):
    with pytest.raises(UsageError):
        inspect(run.path, InspectOptions(failed=tmp_path / name))
    assert not (tmp_path / name).exists()


def test_speed_over_time_and_the_time_left(run):
    now = time.time()
    with EventWriter(run.attempt(2).events(0)) as events:
        events.write(Started(10, "host", time=now - 400))
        events.write(Began([0], time=now - 200))
        for row in range(20):
            events.write(
                Done(row, "x.mp4", "ok", "A.", None, 40, 8.0, 2.0, time=now - 190 + 10 * row)
            )
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Attempt(CONFIG, rows=60, chunk=1, ranks=1, bases=()).write(run.attempt(2))
        report = inspect(run.path)
    pace = facts(report, "rows")["at_this_pace"]
    assert pace["per_hour"] == pytest.approx(360, rel=0.05)
    assert pace["seconds"] == pytest.approx(400, rel=0.05)
    over_time = facts(report, "launch_2")["done"]["over_time"]
    assert over_time["seconds"][-1] == pytest.approx(400, abs=1)
    assert over_time["per_hour"][0] == 0
    assert 300 < over_time["per_hour"][-1] < 500
    lines = {section.title: section.facts for section in report.shown}["captions an hour, launch 2"]
    assert lines[0].label == "from 0:00:00"
    assert "at_this_pace" not in facts(inspect(run.path), "rows")


def test_a_rank_that_started_anew_has_the_sums_of_its_processes(run):
    with EventWriter(run.attempt(1).events(0)) as events:
        events.write(Started(10, "host", time=40.0))
        events.write(Done(2, "2.mp4", "ok", "A red circle.", None, 40, 8.0, 2.0, time=56.0))
        events.write(Ended("finished", time=56.0))
    report = inspect(run.path)
    rank = facts(report, "launch_1")["rank_0"]
    assert (rank["restarts"], rank["new_tokens"], rank["busy_s"], rank["ok"]) == (1, 80, 16.0, 2)
    words = {f.label: f.words for s in report.sections for f in s.facts if s.title == "launch 1"}
    assert words["rank 0"].endswith(
        "finished · 2 ok · 1 failed · short of memory, so started anew 1 time · 5.0 tokens/s · "
        "waiting 20% · 612.0 MB"
    )


def test_another_place_is_part_of_the_command(run, tmp_path):
    run.path.rename(tmp_path / "elsewhere.next")
    command = inspect(tmp_path / "elsewhere.next").steps[0].command
    assert command.endswith(f"--run-dir {tmp_path / 'elsewhere'}")


def test_how_the_work_was_done_is_part_of_the_command(run):
    config = replace(CONFIG, slots=8, memory_limit=12_000_000_000, fps=1.0)
    folder = run.attempt(3)
    folder.claims.mkdir(parents=True)
    Attempt(config, rows=2, chunk=1, ranks=3, bases=()).write(folder)
    command = shlex.split(inspect(run.path).steps[0].command)
    assert command[3:] == [
        *("--model", "/models/q w", "--question", "What moves?", "--bs", "8", "--fps", "2"),
        *("--memory-limit", "12000000000", "--worker-num", "3"),
    ]


def test_a_run_is_continued_by_the_command_that_inspect_prints(tmp_path, monkeypatch):
    """The command says all that the run was asked, or it would be refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meta.csv").write_text("path,text\nnone.mp4,mine\n")

    def fail(leader: Leader, view: object) -> None:
        write_part(leader.run.part(1, 0, 0, "parquet"), [Result(0, "none.mp4", "oom")])

    monkeypatch.setattr(Leader, "work", fail)
    asked = ["-o", "out.csv", "--caption-column", "words", "--all-columns", "--reader", "decord"]
    words = ["llava", "meta.csv", "--model", "nano", "--num-frames", "4", *asked]
    assert CliRunner().invoke(app, words).exit_code == INCOMPLETE
    command = shlex.split(inspect(tmp_path / "out.vidcap").steps[0].command)
    assert command[0] == "vidcap"
    assert command[command.index("--model") + 1] == "nano"
    assert command[command.index("--output") + 1] == str(tmp_path / "out.csv")
    assert "--all-columns" in command
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = CliRunner().invoke(app, [*command[1:], "--dry-run"])
    assert done.exit_code == FAILED, done.exception  # there is no such video


def test_an_exception_in_a_rank_is_shown(run):
    record = {"time": 5.0, "rank": 0, "message": "no weights\nat all", "type": "ModelError",
              "expected": True, "traceback": "..."}  # fmt: skip
    run.attempt(2).error(0).write_text(json.dumps(record))
    texts = [problem.text for problem in inspect(run.path).problems]
    assert "launch 2: rank 0 failed: no weights" in texts


def test_a_run_that_goes_on(run):
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert inspect(run.path).verdict == "goes on: 3 of 6 captioned, 1 failed, 2 left"
    assert inspect(run.path).verdict.startswith("not finished")


def test_a_run_that_is_about_to_be_replaced_does_not_go_on(run):
    """Its command leads the new one, under the locks of both."""
    for row in (3, 4, 5):
        write_part(run.part(3, 0, row, "parquet"), [Result(row, f"{row}.mp4", "ok", text="A.")])
    make_plan(Path(read_plan(run).meta), run.next, CONFIG)
    with run.lock.open("wb") as lock, run.next.lock.open("wb") as other:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        report = inspect(run.path)
        assert report.verdict.startswith("not finished: every row is captioned")
        goes_on = f"{run.next.path}, which is to replace this run, goes on: 0 of its 6 rows"
        assert goes_on in report.problems[0].text
        assert [step.command for step in report.steps] == [f"vidcap inspect {run.next.path}"]
        assert inspect(run.next.path).verdict.startswith("goes on: 0 of 6 captioned")


def test_a_rank_that_could_not_say_that_it_ends_was_cut_off(run):
    def words() -> list[str]:
        shown = {section.title: section.facts for section in inspect(run.path).shown}
        return [next(f.words for f in shown[f"launch {n}"] if f.label == "rank 0") for n in (1, 2)]

    folder = run.attempt(1)
    lines = folder.events(0).read_bytes().splitlines(keepends=True)
    for number in (1, 2):
        run.attempt(number).events(0).write_bytes(b"".join(lines[:-1]))
    for end in folder.path.glob("*exit*"):
        end.unlink()
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [told.split(" · ")[0].lstrip("█ ") for told in words()] == ["cut off", "captioning"]
    assert [told.split(" · ")[0].lstrip("█ ") for told in words()] == ["cut off", "cut off"]
    assert "not on the disk" not in words()[0]
    run.attempt(1).events(0).write_bytes(b"".join(lines[:-2]))  # it was killed before it committed
    assert "1 ok · 1 failed · 2 of them not on the disk" in words()[0]


def while_it_goes_on(run, *statuses):
    """The report on the run whose second launch has reported these of rows 1 to 4."""
    Attempt(CONFIG, rows=5, chunk=1, ranks=1, bases=(), captioned=1).write(run.attempt(2))
    with EventWriter(run.attempt(2).events(0)) as events:
        events.write(Started(11, "host", time=40.0))
        for row, status in enumerate(statuses, 1):
            events.write(Done(row, f"{row}.mp4", status, None, None, 1, 1.0, 0.0, time=50.0 + row))
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return inspect(run.path)


def test_what_is_reported_and_what_is_on_the_disk_are_told_apart(run):
    """The live view counts what ranks report; captions are committed some seconds later."""
    report = while_it_goes_on(run, "ok", "ok", "decode_error", "ok")
    made = "4 of 6 captioned (1 of them not on the disk yet)"
    assert report.verdict == f"goes on: {made}, 1 failed, 1 left"
    told = {fact.label: fact.words for fact in report.sections[1].facts}
    assert told["captioned"] == "3 on the disk, 1 more made"
    assert told["left"] == "1"
    rows = facts(report, "rows")
    assert (rows["captioned"], rows["captioned_not_on_disk"]) == (3, 1)
    assert "failed_not_on_disk" not in rows


def test_failures_that_are_not_on_the_disk_yet_are_told(run):
    report = while_it_goes_on(run, "ok", "ok", "decode_error", "decode_error")
    assert report.verdict == "goes on: 3 of 6 captioned, 2 failed, 1 left"
    rows = facts(report, "rows")
    told = [rows[name] for name in ("captioned", "decode_error", "failed_not_on_disk", "left")]
    assert (told, rows["asked_for"]) == ([3, 1, 1, 1], 6)


def finish(run, *, failed):
    rows = range(3, 6)
    results = [Result(n, f"{n}.mp4", "ok", text="A circle.") for n in rows if n != failed]
    write_part(run.part(3, None, 0, "csv"), results)


def test_a_run_that_was_not_merged(run):
    finish(run, failed=None)
    report = inspect(run.path)
    assert report.verdict == "not finished: every row is captioned, but the table is not written"
    assert report.doubtful
    assert report.steps[0].purpose == "to write it"


def test_a_finished_run(run):
    finish(run, failed=None)
    run.finished.write_text(json.dumps({"planned": 6, "rows": 6, "failed": 0}))
    report = inspect(run.path)
    assert report.verdict == "finished: every row has a caption"
    assert not report.doubtful
    assert report.problems == report.steps == ()
    run.summary.write_text(
        '{"ended": "finished", "captions": 6, "seconds": 90, "captions_per_hour": 240.0}'
    )
    told = facts(inspect(run.path), "rows")["last_command"]
    assert (told["seconds"], told["captions_per_hour"]) == (90, 240.0)
    words = [f.words for s in inspect(run.path).sections for f in s.facts if f.value == told]
    assert words == ["finished, 6 captions in 1 min 30 s, 240 videos/h from start to end"]
    output = run.path.with_suffix(".csv")
    output.touch()
    assert [step.command for step in inspect(run.path).steps] == [f"vidcap inspect {output}"]


def test_a_finished_run_with_failures(run):
    finish(run, failed=3)
    run.finished.write_text(json.dumps({"planned": 6, "rows": 6, "failed": 1}))
    report = inspect(run.path)
    assert report.doubtful
    helps = "mend the file, or drop it from the table and add --extend"
    assert report.verdict == f"finished: 1 failed; another try alone does not help: {helps}"
    assert [step.purpose for step in report.steps] == [
        "for the failed rows, all of them, as a table"
    ]
    write_part(run.part(4, None, 0, "csv"), [Result(3, "3.mp4", "oom")])
    report = inspect(run.path)
    assert report.verdict == "finished: 1 failed"
    assert report.steps[0].purpose == "to try the failed row again"


def test_damage_is_named(run):
    part = run.part(2, 0, 0, "parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 8
    part.write_bytes(data)
    report = inspect(run.path)
    assert not report.ok
    problem = next(problem for problem in report.problems if str(part) in problem.text)
    assert "this part is damaged (its checksum" in problem.text
    assert "vidcap qwen2vl" in (problem.remedy or "")
    assert facts(report, "rows") == {"asked_for": 6, "captioned": 1, "decode_error": 1, "left": 4}
    kept = set_aside(part)
    report = inspect(run.path)
    assert report.ok
    assert any(f"1 damaged part set aside earlier, such as {kept}" in p.text
               for p in report.problems)  # fmt: skip


def test_a_part_of_another_run_is_named(run):
    part = run.part(4, 0, 0, "csv")
    write_part(part, [Result(4, "5.mp4", "ok", text="A circle.")])
    report = inspect(run.path)
    assert not report.ok
    assert any(f"{part}: this part has '5.mp4' for row 4" in p.text for p in report.problems)
    assert facts(report, "rows")["left"] == 2


def test_columns_that_lack_or_are_new(run):
    run.part(4, 0, 0, "csv").write_text('"new","status","row_id"\n1,"oom",4\n2,"ok",5\n')
    report = inspect(run.path)
    assert report.ok
    assert facts(report, "rows") == {
        "asked_for": 6,
        "captioned": 4,
        "decode_error": 1,
        "oom": 1,
        "left": 0,
    }


def test_foreign_rows_are_named(run):
    run.rows.write_bytes(run.rows.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"rows\.parquet: damaged"):
        inspect(run.path)


def test_a_run_that_was_copied_without_parts_is_not_finished(run, tmp_path):
    """So says merge; one of the first rows alone says how many come after them."""
    Scope(Selection(4)).write(run)
    Finished(6, 4, 1).write(run)
    report = inspect(run.path)
    assert report.verdict.startswith("finished: 1 failed; 2 rows of the table come after --limit 4")
    assert facts(report, "rows")["after_--limit"] == 2
    notes = merge([run.path], tmp_path / "out.csv").notes
    assert not [note for note in notes if "parts of it are gone" in note]
    run.part(2, 0, 0, "parquet").unlink()
    report = inspect(run.path)
    assert report.verdict == (
        "not whole: it had finished, but 2 rows have no result any more; parts are gone"
    )
    assert report.steps[0].purpose == "to do these rows again, unless the parts are found"
    note, kept = merge([run.path], tmp_path / "out.csv").notes
    assert note.startswith(f"{run.path} has fewer results (2) than when it finished (4): parts of")
    assert "that is kept as" in kept  # captions that only the lost part had
