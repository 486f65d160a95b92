"""Several questions about a video: a column for each, from parts and from tables with captions."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import vidcap
from vidcap_cli.caption import caption
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.finishing import refusal, steps_after_merge
from vidcap_cli.inspect import inspect
from vidcap_cli.merge.merge import merge
from vidcap_cli.options import InspectOptions, TableOptions
from vidcap_cli.request import Request
from vidcap_cli.rundir.parts import SCHEMA, Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

ONE = CaptionConfig("qwen2vl", "/models/qwen")
TWO = replace(ONE, question={"long": "Describe it in detail", "brief": "Describe it briefly"})
HEAD = "path,long,brief,caption_status,caption_error,caption_flags"


@pytest.fixture
def meta(tmp_path):
    path = tmp_path / "meta.csv"
    path.write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    return path


def result(row: int, long: str | None, brief: str | None, **more: str) -> Result:
    said = {"long": {"text": long, "flags": "cut" if long and long[-1] != "." else None}}
    said["brief"] = {"text": brief, "flags": None}
    ok = long is not None and brief is not None
    return Result(
        row, f"{'abc'[row]}.mp4", "ok" if ok else "empty", long if ok else None,
        answers=json.dumps(said), **more,
    )  # fmt: skip


def captioned(
    folder: Path, meta: Path, *results: Result, config: CaptionConfig = TWO, form: str = "parquet"
) -> RunDir:
    run = RunDir(folder)
    make_plan(meta, run, config)
    run.parts.mkdir()
    write_part(run.part(1, 0, 0, form), results)
    return run


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_every_question_has_a_column(tmp_path, meta, form):
    """Where one has no answer the other is not lost, and the row says so."""
    run = captioned(
        tmp_path / "run", meta,
        result(0, "A cat. It", 'A "cat".'), result(1, "A dog.", None, error="no word to brief"),
        form=form,
    )  # fmt: skip
    account = merge([run.path], tmp_path / "out.csv", trim_to_sentence=True, suffix=" !")
    assert (tmp_path / "out.csv").read_text() == (
        f'{HEAD}\na.mp4,A cat. !,"A ""cat"". !",ok,,\nb.mp4,A dog. !,,empty,no word to brief,\n'
        "c.mp4,,,missing,,\n"
    )
    assert (account.ok, account.failed["empty"].count, account.missing.count) == (1, 1, 1)
    merge([run.path], tmp_path / "all.parquet", all_columns=True)
    whole = pq.read_table(tmp_path / "all.parquet")
    assert whole.column_names[:6] == HEAD.split(",")
    assert whole.schema.field("brief").type == pa.string()
    assert json.loads(whole["caption_answers"][0].as_py())["long"]["flags"] == "cut"


def test_runs_parts_and_tables_are_merged(tmp_path, meta):
    first = captioned(tmp_path / "first", meta, result(0, "A cat.", "Cat."))
    merge([first.path], tmp_path / "first.csv")
    second = captioned(tmp_path / "second", meta, result(1, "A dog.", "Dog."))
    loose = tmp_path / "part-0001-00000-000000.parquet"
    write_part(loose, [result(2, "An owl.", "Owl.")])
    merge([tmp_path / "first.csv", second.path, loose], tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["long"], row["brief"]) for row in rows] == [
        ("A cat.", "Cat."), ("A dog.", "Dog."), ("An owl.", "Owl."),
    ]  # fmt: skip


def test_a_newer_answer_counts_for_all_questions(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, result(0, "A cat.", None))
    write_part(run.part(2, 0, 0, "parquet"), [result(0, "A cat.", "Cat.")])
    merge([run.path], tmp_path / "out.csv")
    assert "a.mp4,A cat.,Cat.,ok,,\n" in (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize("prefer", ["newest", "oldest", "first", "longest"])
def test_each_question_is_answered_by_the_best_result_that_does(tmp_path, meta, prefer):
    """A newer run or table that answers some of them replaces no answer to the others."""
    first = captioned(
        tmp_path / "both", meta,
        result(0, "A cat. It", "Cat."), result(1, "A dog.", None), result(2, None, "An owl."),
    )  # fmt: skip
    only = replace(ONE, question={"brief": "Describe it briefly"})
    said = [json.dumps({"brief": {"text": text, "flags": None}}) for text in ("Cat!", "Dog!")]
    results = [
        Result(row, f"{'ab'[row]}.mp4", "ok", "", flags="shrunk", answers=it)
        for row, it in enumerate(said)
    ]
    second = captioned(tmp_path / "brief", meta, *results, config=only)
    account = merge([first.path, second.path], tmp_path / "out.csv", prefer=prefer)
    assert not account.notes
    cat = "Cat!" if prefer == "newest" else "Cat."
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][:5] == ["a.mp4", "A cat. It", cat, "ok", ""]
    assert rows[2] == ["b.mp4", "A dog.", "Dog!", "ok", "", "shrunk"]
    assert rows[3][:4] == ["c.mp4", "", "An owl.", "empty"]
    assert (account.ok, account.conflicts.count) == (2, 1)
    other = "Cat." if prefer == "newest" else "Cat!"
    assert account.conflicts.examples[0].detail == f"brief, taken: {cat} | not: {other}"
    merge([first.path, second.path], tmp_path / "all.csv", prefer=prefer, all_columns=True)
    with (tmp_path / "all.csv").open(newline="") as file:
        whole = list(csv.DictReader(file))
    source = tmp_path / ("both" if prefer == "newest" else "brief")
    assert json.loads(whole[0]["caption_others"]) == [
        {"input": str(source), "question": "brief", "text": other}
    ]
    assert json.loads(whole[1]["caption_answers"])["brief"]["text"] == "Dog!"


def test_tables_of_several_questions_without_their_runs(tmp_path, meta):
    """No answer goes where another is, and none is left out without a word."""
    both, brief, todo = (tmp_path / name for name in ("both.csv", "brief.csv", "todo.csv"))
    both.write_text(f"{HEAD}\na.mp4,A cat.,Cat.,ok,,\n")
    brief.write_text("path,brief,caption_status,caption_error,caption_flags\nb.mp4,Dog.,ok,,\n")
    note = (
        "the columns `long`, `brief` of tables may all have captions: if they answer several "
        "questions, add --caption-column long,brief"
    )
    account = merge([both, brief], tmp_path / "one.csv", meta=meta)
    assert account.notes == (note,)
    words = ["--meta", meta, "--caption-column", "long,brief", "-o", tmp_path / "out.csv"]
    code, _, err = vidcap("merge", both, brief, *words, "--missing", todo, cwd=tmp_path)
    assert code == 3
    assert (tmp_path / "out.csv").read_text() == (
        f"{HEAD}\na.mp4,A cat.,Cat.,ok,,\nb.mp4,,Dog.,missing,no answer to `long`,\n"
        "c.mp4,,,missing,,\n"
    )
    assert "note: " not in err
    assert "next, " not in err  # what was asked is not known
    run = captioned(
        tmp_path / "run", meta, config=replace(ONE, question={"brief": "Describe it briefly"})
    )
    assert merge([run.path, both], tmp_path / "run.csv").notes == (
        note.replace("`long`, `brief`", "`brief`, `long`").replace("long,brief", "brief,long"),
    )
    merge([both], tmp_path / "again.csv", meta=meta, questions=["brief", "long"])
    assert merge([tmp_path / "again.csv"], tmp_path / "x.csv", meta=meta).notes


def test_a_table_at_the_place_of_several_questions_keeps_all(tmp_path, meta):
    """The command that is named instead of replacing it."""
    out = tmp_path / "out.csv"
    out.write_text(f"{HEAD}\na.mp4,A cat.,Cat.,ok,,\n")
    told = refusal(out, meta, TWO, "long,brief", run=False)
    assert f"--meta {meta} --caption-column long,brief -o" in told
    rows = "".join(f"{name}.mp4,Words.,W.,ok,,\n" for name in "abc")
    out.write_text(f"{HEAD}\n{rows}")
    assert "All 3 rows have a caption there" in refusal(out, meta, TWO, "long,brief", run=False)
    out.write_text(f"{HEAD}\n{rows.replace('Words.', '')}")
    assert "All 3 rows" not in refusal(out, meta, TWO, "long,brief", run=False)
    out.write_text("path,text\na.mp4,old\n")
    assert "vidcap merge" not in refusal(out, meta, TWO, "long,brief", run=False)


def test_the_next_command_asks_what_all_runs_were_asked(tmp_path, meta):
    first = captioned(tmp_path / "long", meta, result(0, "A cat.", "Cat."))
    only = replace(ONE, question={"third": "Who?"})
    second = captioned(tmp_path / "third", meta, config=only)
    other = replace(ONE, question={"third": "Who?", "brief": "Be brief"})
    third = captioned(tmp_path / "other", meta, config=other)
    account = merge([first.path, second.path, third.path], tmp_path / "x.csv")
    both = "--question: brief=Be brief, brief=Describe it briefly"
    assert account.notes == (
        f"the runs were made with different options ({both}): their captions are mixed",
    )
    inputs = [first.path, second.path]
    account = merge(inputs, tmp_path / "out.csv", missing=tmp_path / "todo.csv")
    command = steps_after_merge(account, inputs, None, {})[0].command
    for asked in ("'long=Describe it in detail'", "'brief=Describe it briefly'", "'third=Who?'"):
        assert f"--question {asked}" in command


def test_a_row_that_was_not_asked_everything_is_missing(tmp_path, meta):
    """What it has of captions stays, also when that table is merged again."""
    both = captioned(tmp_path / "both", meta, result(0, "A cat.", "Cat."))
    part = tmp_path / "part.csv"
    part.write_text("path,brief,caption_status\nb.mp4,Dog.,ok\nc.mp4,,missing_file\n")
    account = merge([both.path, part], tmp_path / "out.csv", missing=tmp_path / "todo.csv")
    assert (account.ok, account.missing.count, [*account.failed]) == (1, 1, ["missing_file"])
    told = "b.mp4,,Dog.,missing,no answer to `long`,"
    assert (tmp_path / "out.csv").read_text().splitlines()[2] == told
    assert (tmp_path / "todo.csv").read_text() == "path\nb.mp4\nc.mp4\n"
    merge([both.path, tmp_path / "out.csv"], tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "out.csv").read_text()


def test_one_question_and_several_are_not_mixed(tmp_path, meta):
    several = captioned(tmp_path / "several", meta, result(0, "A cat.", "Cat."))
    one = captioned(tmp_path / "one", meta, Result(1, "b.mp4", "ok", "A dog."), config=ONE)
    with pytest.raises(UsageError, match="one: was asked one question, others long, brief"):
        merge([several.path, one.path], tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"--caption-column words: .*\(long, brief\); leave it"):
        merge([several.path], tmp_path / "out.csv", caption_column="words")


def test_a_table_with_captions_to_no_question_of_the_runs(tmp_path, meta):
    """They would be in no column."""
    several = captioned(tmp_path / "several", meta, result(0, "A cat.", "Cat."))
    old = tmp_path / "old.csv"
    old.write_text("path,text\na.mp4,old\nb.mp4,old\n")
    with pytest.raises(
        UsageError, match=r"old\.csv: .* in `text`, .* in `long`, `brief`; merge.*long,brief,text"
    ):
        merge([several.path, old], tmp_path / "out.csv")
    old.write_text("path,long\na.mp4,old\nb.mp4,old\n")
    merge([several.path, old], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[1:3] == [
        "a.mp4,old,Cat.,ok,,",
        "b.mp4,old,,missing,no answer to `brief`,",
    ]


def test_rows_that_lack_the_answer_to_a_question_that_nobody_knows(tmp_path, meta):
    """The run that is there asked another; the same merge again has all that is in the table."""
    table, both, todo = (tmp_path / name for name in ("t.csv", "both.csv", "todo.csv"))
    one = captioned(tmp_path / "one", meta, Result(0, "a.mp4", "ok", "A cat."), config=ONE)
    merge([one.path], table)
    other = captioned(
        tmp_path / "other",
        meta,
        *(
            Result(row, f"{'abc'[row]}.mp4", "ok", "Cat.", answers='{"brief": {"text": "Cat."}}')
            for row in range(3)
        ),
        config=replace(ONE, question={"brief": "Briefly?"}),
    )
    for _ in range(2):
        inputs = [table, other.path]
        account = merge(inputs, both, questions=["text", "brief"], missing=todo)
        assert (account.ok, account.missing.count) == (1, 2)
        assert not any("kept as" in note for note in account.notes)
        asked = {"caption_column": "text,brief"}
        assert not steps_after_merge(account, inputs, None, asked)
    assert not list(tmp_path.glob("*.old*"))
    # What it says of another question is not lost to a table without it.
    assert "kept as" in merge([other.path], both).notes[0]


def test_parts_of_before_there_were_answers_are_merged(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, config=ONE)
    table = pa.Table.from_pylist(
        [{"row_id": 0, "path": "a.mp4", "text": "A cat.", "status": "ok"}], schema=SCHEMA
    ).drop_columns(["answers", "logprob"])
    pq.write_table(table, run.part(1, 0, 1, "parquet"))
    merge([run.path], tmp_path / "out.csv", all_columns=True)
    text = (tmp_path / "out.csv").read_text()
    assert "a.mp4,A cat.,ok" in text
    assert "caption_answers" not in text


def test_columns_that_cannot_be(tmp_path, meta):
    meta.write_text("path,brief\na.mp4,old\n")
    run = captioned(tmp_path / "run", meta, result(0, "A cat.", "Cat."))
    with pytest.raises(TableError, match=r"`brief` is already there.* --overwrite-column repl.*t$"):
        merge([run.path], tmp_path / "out.csv")
    merge([run.path], tmp_path / "out.csv", overwrite_column=True)
    assert (tmp_path / "out.csv").read_text() == f"{HEAD}\na.mp4,A cat.,Cat.,ok,,\n"
    for name in ("path", "caption_status", "caption_answers"):
        config = replace(ONE, model="nano", question={name: "Who?"})
        with pytest.raises(UsageError, match=f"--question {name}=.*vidcap's own name"):
            caption(Request(meta, config))
    with pytest.raises(UsageError, match="--caption-column says what --question NAME=TEXT says"):
        caption(Request(meta, replace(TWO, model="nano"), TableOptions(caption_column="words")))


def test_inspect_says_which_answers_it_judges_and_how_to_judge_the_others(tmp_path, meta):
    captioned(tmp_path / "out.vidcap", meta, result(0, "A cat sits.", "A cat."))
    merge([tmp_path / "out.vidcap"], tmp_path / "out.csv")
    for judged, other in (("brief", "long"), ("long", "brief")):
        report = inspect(tmp_path / "out.csv", InspectOptions(caption_column=judged))
        assert report.as_dict()["facts"]["captions"]["column"] == f"{judged}, not {other}"
        commands = {step.purpose: step.command for step in report.steps}
        assert commands[f"to judge the captions in {other}"] == (
            f"vidcap inspect {tmp_path / 'out.csv'} --caption-column {other}"
        )
    assert (
        inspect(tmp_path / "out.csv").as_dict()["facts"]["captions"]["column"] == "brief, not long"
    )
    (tmp_path / "out.vidcap").rename(tmp_path / "gone")
    assert inspect(tmp_path / "out.csv").as_dict()["facts"]["captions"]["column"] == "brief"
