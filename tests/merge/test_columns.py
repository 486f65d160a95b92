"""Captions get columns of their own, never one of META's unless it is asked for."""

import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcap_cli.caption import caption
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.merge.columns import CaptionColumns, caption_column
from vidcap_cli.merge.merge import merge
from vidcap_cli.meta import open_meta
from vidcap_cli.options import RunOptions, TableOptions
from vidcap_cli.request import Request
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")
OLD = "id,text,path\n1,old a,a.mp4\n2,old b,b.mp4\n3,old c,c.mp4\n"
TAIL = "caption_status,caption_error,caption_flags"


@pytest.fixture
def meta(tmp_path):
    path = tmp_path / "meta.csv"
    path.write_text(OLD)
    return path


def captioned(folder, meta, *texts, first=0, config=CONFIG, table_options=None) -> RunDir:
    """A run of ``meta`` with captions of the first rows; None is a failure."""
    run = RunDir(folder)
    make_plan(meta, run, config, table_options)
    run.parts.mkdir()
    results = [
        Result(row, f"{'abc'[row]}.mp4", "ok" if text else "oom", text=text)
        for row, text in enumerate(texts, first)
    ]
    write_part(run.part(1, 0, 0, "parquet"), results)
    return run


def test_a_column_that_is_there_is_refused_with_both_options(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, "A")
    words = r"meta\.csv: the column `text` is already there.*--overwrite-column.*--caption-column"
    with pytest.raises(TableError, match=words):
        merge([run.path], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_another_column(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, "A", None)
    left = tmp_path / "left.csv"
    merge([run.path], tmp_path / "out.csv", caption_column="new, text", missing=left)
    assert (tmp_path / "out.csv").read_text() == (
        f'id,text,path,"new, text",{TAIL}\n'
        "1,old a,a.mp4,A,ok,,\n2,old b,b.mp4,,oom,,\n3,old c,c.mp4,,missing,,\n"
    )
    assert left.read_text() == "id,text,path\n2,old b,b.mp4\n3,old c,c.mp4\n"


def test_the_column_is_replaced(tmp_path, meta):
    """It moves to the end, and no old caption passes for a new one where there is none."""
    run = captioned(tmp_path / "run", meta, "A", None)
    left = tmp_path / "left.csv"
    merge([run.path], tmp_path / "out.csv", overwrite_column=True, missing=left)
    assert (tmp_path / "out.csv").read_text() == (
        f"id,path,text,{TAIL}\n1,a.mp4,A,ok,,\n2,b.mp4,,oom,,\n3,c.mp4,,missing,,\n"
    )
    # What is left can be captioned as it is.
    assert left.read_text() == "id,path\n2,b.mp4\n3,c.mp4\n"
    assert meta.read_text() == OLD


@pytest.mark.parametrize("table", ["run.csv", "other.csv"])
def test_a_run_is_merged_as_it_was_asked_to_be(tmp_path, meta, table):
    """So is the table that it wrote, which lies beside it; of another nobody knows."""
    (tmp_path / "run.vidcap").mkdir()
    options = {"overwrite_column": True}
    run = captioned(tmp_path / "run.vidcap", meta, "A", "B", table_options=options)
    merge([run.path], tmp_path / table)
    alone = tmp_path / "alone.csv"
    if table == "run.csv":
        merge([tmp_path / table], alone, meta=meta)
        assert alone.read_text() == (tmp_path / table).read_text()
    else:
        with pytest.raises(TableError, match="`text` is already there"):
            merge([tmp_path / table], alone, meta=meta)
    (run.plan).write_text("damaged")
    with pytest.raises(TableError, match="`text` is already there"):
        merge([tmp_path / table], tmp_path / "out.csv", meta=meta)


@pytest.mark.parametrize(
    ("asked", "wanted", "column"),
    [
        (["mine", "mine"], None, "mine"),
        (["mine", "mine"], "other", "other"),
        (["mine", "yours"], "both", "both"),
        (["text", "text"], "text2", "text2"),
    ],
)
def test_runs_say_what_captions_are_called(tmp_path, meta, asked, wanted, column):
    """If all say the same; else they would be called text, which the table has."""
    runs = []
    for number, name in enumerate(asked):
        run = captioned(tmp_path / f"run{number}", meta, "A", "B")
        plan = json.loads(run.plan.read_text())
        options = {} if name == "text" else {"caption_column": name}
        run.plan.write_text(json.dumps({**plan, "table_options": options}))
        runs.append(run.path)
    merge(runs, tmp_path / "out.csv", caption_column=wanted)
    assert column in (tmp_path / "out.csv").read_text().splitlines()[0].split(",")
    with pytest.raises(TableError, match="`text` is already there"):
        merge([runs[0]], tmp_path / "out.csv", caption_column="text")


@pytest.mark.parametrize("wanted", [None, "caption"])
def test_tables_of_others_have_their_captions_where_the_runs_have(tmp_path, meta, wanted):
    """Whatever the order of the inputs, and whatever a column ``text`` of theirs says."""
    run = captioned(tmp_path / "run", meta, "A", table_options={"caption_column": "caption"})
    human = tmp_path / "human.csv"
    human.write_text("path,text,caption\nb.mp4,no,B\n")
    merge([human, run.path], tmp_path / "out.csv", caption_column=wanted)
    assert pd.read_csv(tmp_path / "out.csv")["caption"].tolist()[:2] == ["A", "B"]


def test_what_vidcap_wrote_is_captioned_again(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, "A", "B", "C")
    first = tmp_path / "first.csv"
    merge([run.path], first, overwrite_column=True, all_columns=True)
    again = captioned(tmp_path / "again", first, "X", "Y", "Z")
    with pytest.raises(TableError, match=r"them, with --caption-column NAME all but the captions$"):
        merge([again.path], tmp_path / "out.csv")
    words = r"`caption_status`.* are already there.*go\. --overwrite-column replaces them"
    with pytest.raises(TableError, match=words):
        merge([again.path], tmp_path / "out.csv", caption_column="second")
    merge([again.path], tmp_path / "out.csv", caption_column="second", overwrite_column=True)
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame["text"].tolist() == ["A", "B", "C"]
    assert frame["second"].tolist() == ["X", "Y", "Z"]
    assert list(frame).count("caption_status") == 1
    # What was known of the others besides would be taken for what is known of these.
    assert not {"caption_model", "caption_logprob"} & {*frame}
    with pytest.raises(TableError, match=r"`caption_model`.*or leave out --all-columns"):
        merge([again.path], tmp_path / "o2.csv", caption_column="second", all_columns=True)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_captions_of_another_column_are_merged(tmp_path, meta, form):
    """Also beside a column ``text`` of the table's own, and without being told their name."""
    run = captioned(tmp_path / "run", meta, "A", None)
    table = tmp_path / f"one.{form}"
    merge([run.path], table, caption_column="qwen", all_columns=True)
    rest = captioned(tmp_path / "rest", meta, "B", "C", first=1)
    merge([table, rest.path], tmp_path / "out.csv", meta=meta, caption_column="both")
    frame = pd.read_csv(tmp_path / "out.csv")
    assert frame["both"].tolist() == ["A", "B", "C"]
    assert frame["text"].tolist() == ["old a", "old b", "old c"]
    plain = tmp_path / "plain.csv"
    plain.write_text("id,path,words\n1,a.mp4,W\n")
    with pytest.raises(
        TableError, match=r"plain\.csv: .*name the one with the captions with --cap"
    ):
        merge([plain], tmp_path / "o2.csv", meta=meta, overwrite_column=True)
    merge([plain], tmp_path / "o2.csv", meta=meta, caption_column="words")
    assert pd.read_csv(tmp_path / "o2.csv")["words"].tolist()[0] == "W"


@pytest.fixture
def by_clip(tmp_path):
    """A table whose column ``path`` is something else, and a run of it with two captions."""
    meta = tmp_path / "clips.csv"
    meta.write_text("path,clip\n1,a.mp4\n2,b.mp4\n3,c.mp4\n")
    config = replace(CONFIG, path_column="clip")
    return meta, captioned(tmp_path / "by_clip", meta, "A", None, config=config)


def test_the_column_of_the_paths_is_that_of_the_runs(tmp_path, by_clip):
    meta, run = by_clip
    expected = f"path,clip,text,{TAIL}\n1,a.mp4,A,ok,,\n2,b.mp4,,oom,,\n3,c.mp4,,missing,,\n"
    out, left = tmp_path / "out.csv", tmp_path / "left.csv"
    account = merge([run.path], out, missing=left)
    assert out.read_text() == expected
    assert account.missing.examples[0].path == "c.mp4"
    assert left.read_text() == "path,clip\n2,b.mp4\n3,c.mp4\n"
    # By path, letter by letter, where the table is another.
    meta.write_text(meta.read_text() + "4,a.mp4\n")
    merge([run.path], out, meta=meta)
    assert out.read_text() == f"{expected}4,a.mp4,A,ok,,\n"


def test_captioned_tables_with_another_column_of_paths(tmp_path, by_clip):
    meta, run = by_clip
    one, out = tmp_path / "one.csv", tmp_path / "out.csv"
    merge([run.path], one)
    merge([one], out, meta=meta, path_column="clip")
    assert out.read_text() == one.read_text()
    plain = tmp_path / "plain.csv"
    plain.write_text("clip,text\nb.mp4,B\n")
    merge([one, plain], out, meta=meta, path_column="clip")
    assert pd.read_csv(out)["text"].tolist()[:2] == ["A", "B"]
    with pytest.raises(TableError, match="the one with the videos with --path-column"):
        merge([plain], out, meta=meta)
    # A run among the inputs says it, or the one that lies beside the table.
    merge([run.path, plain], out)
    assert pd.read_csv(out)["text"].tolist()[:2] == ["A", "B"]
    run.path.rename(tmp_path / "one.vidcap")
    merge([one], out, meta=meta, path_column="clip")
    assert out.read_text() == one.read_text()
    assert inspect(one).kind == "captions"


def test_runs_of_different_columns_are_runs_of_different_rows(tmp_path, by_clip):
    meta, run = by_clip
    other = RunDir(tmp_path / "by_path")
    make_plan(meta, other, CONFIG)
    with pytest.raises(UsageError, match="made from different tables"):
        merge([run.path, other.path], tmp_path / "out.csv")


def test_captions_never_replace_the_paths(tmp_path, by_clip):
    with pytest.raises(UsageError, match="the column `clip` holds the paths"):
        merge([by_clip[1].path], tmp_path / "o.csv", caption_column="clip", overwrite_column=True)


def test_a_column_of_paths_is_that_of_a_table(tmp_path):
    config = replace(CONFIG, path_column="clip")
    with pytest.raises(UsageError, match="is not a table; leave out --path-column"):
        caption(Request(tmp_path, config))
    (tmp_path / "m.csv").write_text("path,b\nx,y\n")
    with pytest.raises(TableError, match=r"no column is called `clip`.*with --path-column"):
        caption(Request(tmp_path / "m.csv", config))


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        ("path text", "text", "text"),
        ("path text words", "words", "words"),
        ("path text", "words", "text"),
        ("path words", "text", None),
        (f"path text words {TAIL}", "text", "words"),
        (f"words path text {TAIL}", "words", "text"),
        (f"text path {TAIL}", "text", "text"),
        (f"{TAIL} path text", "text", "text"),
        ("id caption_status path text", "text", "text"),
    ],
)
def test_where_the_captions_of_a_table_are(names, wanted, found):
    assert caption_column(names.replace(",", " ").split(), wanted) == found


@pytest.mark.parametrize("index", [None, True, False])
def test_pandas_reads_a_table_whose_column_was_replaced(tmp_path, index):
    """What pandas noted of the old column would make it read the new one wrongly."""
    frame = pd.DataFrame({"path": ["a.mp4", "b.mp4"], "text": pd.array([1, 2], "Int64")})
    meta = tmp_path / "m.parquet"
    (frame if index is None else frame.set_index("text", drop=index)).to_parquet(meta)
    run = captioned(tmp_path / "run", meta, "A")
    out, left = tmp_path / "out.parquet", tmp_path / "left.parquet"
    merge([run.path], out, overwrite_column=True, missing=left)
    again = pd.read_parquet(out)
    assert again["text"].tolist() == ["A", None]
    assert again["path"].tolist() == ["a.mp4", "b.mp4"]
    assert pd.read_parquet(left)["path"].tolist() == ["b.mp4"]
    assert pq.read_schema(out).field("text").type == pa.string()


@pytest.mark.parametrize(
    "name", ["path", "caption_status", "caption_frames", "", "  ", "a\nb", "a\x1b[31m"]
)
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match=r"--caption-column .*choose another"):
        CaptionColumns(name)


@pytest.mark.parametrize(
    ("header", "settings", "remedy"),
    [
        ("path,text", {}, "--overwrite-column replaces it, --caption-column NAME"),
        ("path,mine", {"caption_column": "mine"}, "--caption-column NAME"),
        ("path,caption_flags", {}, "go. --overwrite-column replaces it$"),
        ("path,caption_rank", {"all_columns": True}, "leave out --all-columns"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_caption_command_refuses_before_anything_else(tmp_path, header, settings, remedy, dry):
    """Before the model is looked for, and nothing is written."""
    meta = tmp_path / "meta.csv"
    meta.write_text(f"{header}\na.mp4,x\n")
    config, run = replace(CONFIG, model="/no/model"), RunOptions(dry_run=dry)
    request = Request(meta, config, TableOptions(**settings), run)
    with pytest.raises(TableError, match=remedy):
        caption(request)
    assert [path.name for path in tmp_path.iterdir()] == ["meta.csv"]
    with pytest.raises(Exception, match="/no/model"):
        caption(Request(meta, config, TableOptions(overwrite_column=True, **settings)))


def test_inspect_finds_the_captions(tmp_path, meta):
    run = captioned(tmp_path / "run", meta, "A", None)
    merge([run.path], tmp_path / "out.csv", caption_column="qwen")
    report = inspect(tmp_path / "out.csv")
    assert report.ok
    captions = report.as_dict()["facts"]["captions"]
    assert captions["column"] == "qwen"
    assert (captions["rows"], captions["with_a_caption"]) == (3, 1)
    assert captions["status"] == {"missing": 1, "oom": 1, "ok": 1}


def test_inspect_of_columns_that_are_no_text(tmp_path):
    odd = pa.table({"path": ["a"], "text": [[1]], "caption_status": [[2]]})
    pq.write_table(odd, tmp_path / "odd.parquet")
    assert inspect(tmp_path / "odd.parquet").verdict == "cannot be captioned as it is"
    assert open_meta(tmp_path / "odd.parquet").schema.names[0] == "path"
