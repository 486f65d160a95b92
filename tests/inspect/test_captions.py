"""Captions that are suspect: the rules on labelled captions, and the report on a table."""

import csv
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vidcap_cli import repeats
from vidcap_cli.cli import app
from vidcap_cli.errors import OK, TableError, UsageError
from vidcap_cli.inspect import inspect, judging, likeness, rules
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.merge.columns import CaptionColumns
from vidcap_cli.options import InspectOptions

LABELLED = Path(__file__).parents[1] / "data" / "captions" / "labelled.txt"
COLUMNS = {
    "path": "", "text": "", "caption_status": "ok", "caption_error": "", "caption_flags": "",
    "caption_finish_reason": "", "caption_prompt": "",
}  # fmt: skip
FLOOR = 0.9  # of precision and of recall
IN_WORDS = tuple(fault for fault in Fault if fault != Fault.LOW_CONFIDENCE)


@cache
def labelled() -> list[tuple[dict[str, str], frozenset[str]]]:
    """The rows of a table, and what is wrong with each."""
    found, wrong = [], frozenset[str]()
    for line in LABELLED.read_text(encoding="utf-8").split("\n"):
        if line.startswith("= "):
            wrong = frozenset(line[2:].split())
        elif line and not line.startswith("# "):
            cells = re.match(r"((?:\{\w+=[^}]*\} ?)*)(.*)", line)
            told = dict(re.findall(r"\{(\w+)=([^}]*)\}", cells[1]))
            text = cells[2].replace("\\n", "\n")
            row = {**COLUMNS, "path": f"{len(found)}.mp4", **told, "text": text}
            found.append((row, wrong))
    return found


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=100)
        return file
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def flagged(table: Path, export: Path) -> dict[int, frozenset[str]]:
    """What the rows of ``table`` are flagged with, by the number that ``numbered`` gave them."""
    inspect(table, InspectOptions(export_flagged=export))
    with export.open(newline="", encoding="utf-8") as stream:
        return {
            int(row["number"]): frozenset(row["quality_flags"].split(","))
            for row in csv.DictReader(stream)
        }


def numbered(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"number": str(number), **row} for number, row in enumerate(rows)]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, frozenset[str]]:
    folder = tmp_path_factory.mktemp("labelled")
    table = write(folder / "t.csv", numbered([row for row, _ in labelled()]))
    return flagged(table, folder / "flagged.csv")


def test_there_are_captions_enough_to_tell():
    wrong = Counter(fault for _, faults in labelled() for fault in faults)
    assert len(labelled()) >= 300
    assert sum(not faults for _, faults in labelled()) >= 150
    assert set(wrong) == set(IN_WORDS)
    assert min(wrong.values()) >= 10


@pytest.mark.parametrize("fault", IN_WORDS)
def test_a_rule_finds_what_is_wrong_and_little_else(verdicts, fault):
    right = {number for number, (_, faults) in enumerate(labelled()) if fault in faults}
    found = {number for number, faults in verdicts.items() if fault in faults}
    texts = {number: labelled()[number][0]["text"] for number in right ^ found}
    assert len(right & found) >= FLOOR * len(found), texts
    assert len(right & found) >= FLOOR * len(right), texts


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_blocks_make_no_difference(verdicts, tmp_path, monkeypatch, form):
    monkeypatch.setattr(judging, "_BLOCK", 7)
    rows = numbered([row for row, _ in labelled()])
    assert flagged(write(tmp_path / f"t.{form}", rows), tmp_path / "out.csv") == verdicts


ROWS = [
    {"path": "a.mp4", "text": "A man rows a boat. He waves to a"},
    {"path": "b.mp4", "text": "A cat sleeps on a warm stone."},
    {"path": "c.mp4", "text": "a cat sleeps on a warm stone"},
    {"path": "d.mp4", "text": ""},
    {"path": "e.mp4", "text": "A gull lands on a bollard and looks around."},
]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_captions_that_the_model_was_less_sure_of(tmp_path, form):
    """By the quartiles of those that say it; not of few, and not of rows without a caption."""
    rng = np.random.default_rng(2)
    sure = rng.normal(-0.4, 0.05, 60).round(4).tolist()
    rows = [
        {
            "number": str(n),
            "path": f"{n}.mp4",
            "text": f"Bus number {n} stops.",
            "caption_logprob": p,
        }
        for n, p in enumerate([*sure, -2.5, -0.45, None, -9.0])
    ]
    rows[-1]["text"] = ""
    found = flagged(write(tmp_path / f"t.{form}", rows), tmp_path / "out.csv")
    assert found == {60: {"low_confidence"}, 63: {"empty"}}
    facts = inspect(tmp_path / f"t.{form}").as_dict()["facts"]["flags"]["low_confidence"]
    assert facts["examples"][0]["evidence"] == "-2.50: Bus number 60 stops."
    few = write(tmp_path / f"few.{form}", rows[50:63])
    assert flagged(few, tmp_path / "out.csv") == {}


def test_what_is_shown_and_told(tmp_path):
    report = inspect(write(tmp_path / "t.csv", ROWS))
    assert (report.kind, report.ok) == ("captions", True)
    assert report.verdict == "4 rows of 5 have a flag"
    facts = report.as_dict()["facts"]
    assert facts["captions"]["with_a_caption"] == 4
    assert facts["captions"]["words_in_a_caption"]["max"] == 9
    assert sum(facts["captions"]["words_in_a_caption"]["counts"]) == 4
    assert {name: flag["rows"] for name, flag in facts["flags"].items() if flag["rows"]} == {
        "empty": 1, "cut": 1, "duplicate": 2,
    }  # fmt: skip
    cut = facts["flags"]["cut"]
    assert cut["share"] == 1 / 4
    assert cut["examples"][0]["path"] == "a.mp4"
    assert facts["flags"]["duplicate"]["examples"][0]["evidence"].endswith("(as row 1)")
    shown = {section.title: section.facts for section in report.sections}
    assert shown["cut, for example"][0].label == "row 0"
    assert "waves to a" in shown["cut, for example"][0].words
    assert report.doubtful
    commands = [step.command.split() for step in report.steps]
    ends = ["--missing", "--html", "--export-flagged", str(tmp_path / "t.csv")]
    assert [words[-2] for words in commands] == ends
    assert report.as_dict()["next"][1]["command"].endswith(" --html t_gallery.html")
    json.dumps(report.as_dict())


def test_openings_are_named_in_the_order_of_the_table(tmp_path):
    openings = ["A red bus", "The cat now", "One old man", "Two dogs run"]
    rows = [
        {"path": f"{n}.mp4", "text": f"{openings[n % 4]} near house number {n}."} for n in range(80)
    ]
    facts = inspect(write(tmp_path / "t.csv", rows)).as_dict()["facts"]
    assert facts["flags"]["stock_opening"]["openings"] == [words.lower() for words in openings]


def test_flagged_rows_are_exported_with_all_their_columns(tmp_path):
    rows = [{"id": f"00{n}", **row} for n, row in enumerate(ROWS)]
    table = write(tmp_path / "t.parquet", rows)
    report = inspect(table, InspectOptions(export_flagged=tmp_path / "out.parquet"))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["id", "path", "text", "quality_flags"]
    assert found["id"].to_pylist() == ["000", "001", "002", "003"]
    assert found["quality_flags"].to_pylist() == ["cut", "duplicate", "duplicate", "empty"]
    assert report.steps == ()
    again = inspect(tmp_path / "out.parquet", InspectOptions(export_flagged=tmp_path / "again.csv"))
    assert again.ok
    header = (tmp_path / "again.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert header.count("quality_flags") == 1


def test_captions_that_are_all_well(tmp_path):
    table = write(tmp_path / "t.csv", [ROWS[1], ROWS[4]])
    report = inspect(table, InspectOptions(export_flagged=tmp_path / "out.csv"))
    assert report.verdict.startswith("0 rows of 2 have a flag")
    assert not report.doubtful
    assert (tmp_path / "out.csv").read_text() == "path,text,quality_flags\n"


def test_a_table_as_vidcap_writes_it_says_where_its_captions_are(tmp_path):
    names = CaptionColumns("words", everything=True).names
    row = {"path": "a.mp4", "text": "not the caption", **dict.fromkeys(names, "")}
    rows = [{**row, "words": "A bus stops.", "caption_status": "ok"},
            {**row, "path": "b.mp4", "caption_status": "oom", "caption_error": "big"}]  # fmt: skip
    facts = inspect(write(tmp_path / "t.csv", rows)).as_dict()["facts"]
    assert facts["captions"]["column"] == "words"
    assert facts["captions"]["status"] == {"ok": 1, "oom": 1}
    assert facts["flags"]["failed"]["examples"][0]["evidence"] == "oom: big"


def test_examples_of_ranges_say_which(tmp_path):
    said = {"path": "a.mp4", "text": "A red ball rolls down the long hill to the sea, and"}
    rows = [{**said, "start": str(start), "end": str(start + 5)} for start in (0, 5)]
    examples = inspect(write(tmp_path / "t.csv", rows)).as_dict()["facts"]["flags"]["cut"]
    assert [one["path"] for one in examples["examples"]] == ["a.mp4#t=0,5", "a.mp4#t=5,10"]


def test_rows_that_are_not_done_yet_have_no_flag(tmp_path):
    names = CaptionColumns().names
    rows = [{"path": "a.mp4", **dict.fromkeys(names, ""), "caption_status": status}
            for status in ("missing", "missing", "oom")]  # fmt: skip
    report = inspect(
        write(tmp_path / "t.csv", rows), InspectOptions(export_flagged=tmp_path / "out.csv")
    )
    facts = report.as_dict()["facts"]
    assert facts["captions"]["status"] == {"missing": 2, "oom": 1}
    assert (facts["captions"]["with_a_flag"], facts["flags"]["empty"]["rows"]) == (1, 0)
    shown = {fact.label: fact.words for fact in report.shown[0].facts}
    assert shown["with a flag"] == "1 (100.0 % of 1 done)"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_captions_say_how_their_videos_are_looked_into(tmp_path):
    table = write(tmp_path / "t.csv", [{"path": "a.mp4", "text": "A bus stops."}])
    assert f"vidcap inspect {table} --videos" in [one.command for one in inspect(table).steps]


def test_a_column_can_be_named(tmp_path):
    table = write(tmp_path / "t.csv", [{"path": "a.mp4", "blip": "A bus stops at a"}])
    report = inspect(table, InspectOptions(caption_column="blip"))
    assert report.as_dict()["facts"]["flags"]["cut"]["rows"] == 1
    with pytest.raises(TableError, match=r"no column is called `clip`.*--caption-column"):
        inspect(table, InspectOptions(caption_column="clip"))


def test_a_column_without_text_is_refused(tmp_path):
    pq.write_table(pa.table({"path": ["a.mp4"], "text": [1.5]}), tmp_path / "t.parquet")
    assert inspect(tmp_path / "t.parquet").kind == "table"
    with pytest.raises(TableError, match="`text` holds no text"):
        inspect(tmp_path / "t.parquet", InspectOptions(caption_column="text"))


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path,text\n")
    with pytest.raises(TableError, match="no rows"):
        inspect(tmp_path / "t.csv")


def test_outputs_that_cannot_be(tmp_path):
    table = write(tmp_path / "t.csv", ROWS)
    with pytest.raises(UsageError, match="is the table itself"):
        inspect(table, InspectOptions(export_flagged=table))
    with pytest.raises(UsageError, match="nowhere"):
        inspect(table, InspectOptions(export_flagged=tmp_path / "nowhere" / "out.csv"))
    with pytest.raises(TableError, match="vidcap writes"):
        inspect(table, InspectOptions(export_flagged=tmp_path / "out.xlsx"))


def test_captions_of_other_tables_are_not_replaced(tmp_path, clips):
    table = write(tmp_path / "t.csv", ROWS)
    other = write(tmp_path / "other.csv", [{"path": "a.mp4", "text": "Mine."}])
    before = other.read_bytes()
    videos = tmp_path / "meta.csv"
    videos.write_text(f"path\n{clips['h264']}\n")
    for target, wanted in (
        (table, InspectOptions(export_flagged=other)),
        (table, InspectOptions(output=other)),
        (videos, InspectOptions(output=other)),
    ):
        with pytest.raises(UsageError, match="with captions of its own; name another file"):
            inspect(target, wanted)
        assert other.read_bytes() == before
    for _ in range(2):  # its own go on being written
        inspect(table, InspectOptions(export_flagged=tmp_path / "flagged.csv"))
        inspect(videos, InspectOptions(output=tmp_path / "info.csv"))


def test_options_of_another_kind_of_target_are_refused(tmp_path, clips):
    for target in (None, clips["h264"], clips["h264"].parent):
        with pytest.raises(UsageError, match="--export-flagged says nothing about"):
            inspect(target, InspectOptions(export_flagged=tmp_path / "out.csv"))


def test_the_command(tmp_path):
    table = write(tmp_path / "t.csv", ROWS)
    out = tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["inspect", str(table), "--export-flagged", str(out), "--json"])
    assert done.exit_code == OK
    assert json.loads(done.stdout)["facts"]["flags"]["duplicate"]["rows"] == 2
    assert out.is_file()
    lines = CliRunner().invoke(app, ["inspect", str(table)]).stdout
    assert "█" in lines
    assert "\x1b" not in lines


def test_a_near_duplicate_is_found_among_many():
    """Captions of random words are alike by chance only; one word in twenty is changed."""
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, 3000, 20).astype(np.uint32) for _ in range(2000)]
    for number in range(0, 400, 2):
        texts[number + 1] = texts[number].copy()
        texts[number + 1][number % 20] = 5000
    with likeness.Shelf() as shelf:
        for words in texts:
            shelf.add(words)
        bands = [likeness.signatures(np.concatenate(texts), np.arange(2001) * 20)]
        alike = likeness.near_duplicates(bands, shelf, lambda _i, _j: True)
        same_video = likeness.near_duplicates(bands, shelf, lambda i, j: i // 2 != j // 2)
    found = np.flatnonzero(alike >= 0)
    assert len(found) >= 0.97 * 400
    assert (alike[found] == found ^ 1).all()
    assert (same_video == -1).all()


phrases = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)


@given(st.lists(st.tuples(phrases, st.integers(1, 9)), min_size=1, max_size=5))
def test_a_phrase_that_follows_itself_often_enough_is_a_loop(parts):
    """As counted one phrase after the other; nothing of the next caption counts."""
    words = [word for phrase, times in parts for word in phrase * times]
    expected = any(
        words[start : start + size] * times == words[start : start + size * times]
        for size in range(1, len(words) // 3 + 1)
        for times in (3, 4, 5, 8)
        if times >= 5 or times * size >= 8
        for start in range(len(words) - size * times + 1)
    )
    numbers = repeats.numbered(words)
    halves = np.array([0, len(words), 2 * len(words)])
    found = repeats.loops(np.concatenate([numbers, numbers]), halves)
    again = repeats.said_again(numbers, halves[:2])[0] >= 0.3
    assert list(found) == [expected or again] * 2


@given(st.lists(st.text(max_size=80), min_size=1, max_size=12))
def test_any_text_is_judged(texts):
    """Whatever is in it, every caption gets its flags, and those of its words alone."""
    rows = [{"path": str(n), "text": text.replace("\x00", "")} for n, text in enumerate(texts)]
    with TemporaryDirectory() as folder:
        table = Path(folder) / "t.parquet"
        pq.write_table(pa.Table.from_pylist(rows), table)
        report = inspect(table, InspectOptions(export_flagged=Path(folder) / "out.parquet"))
        found = pq.read_table(Path(folder) / "out.parquet").to_pylist()
    empty = [row["path"] for row in found if "empty" in row["quality_flags"]]
    assert empty == [row["path"] for row in rows if not repeats.words_of(row["text"])]
    assert report.as_dict()["facts"]["flags"]["empty"]["rows"] == len(empty)


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_captions_of_every_string_type(tmp_path, kind):
    texts = pa.array(["A cat sleeps.", None, "A dog and a"])
    texts = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    pq.write_table(pa.table({"path": ["a", "b", "c"], "text": texts}), tmp_path / "t.parquet")
    inspect(tmp_path / "t.parquet", InspectOptions(export_flagged=tmp_path / "out.csv"))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines == ["path,text,quality_flags", "b,,empty", "c,A dog and a,cut"]


def test_bytes_that_are_no_text(tmp_path):
    pq.write_table(pa.table({"path": ["a"], "text": [b"\xff"]}), tmp_path / "t.parquet")
    with pytest.raises(TableError, match="the column `text` cannot be read"):
        inspect(tmp_path / "t.parquet")


def test_words_of_any_script():
    assert repeats.words_of("Don't stop, 東京 n°7!") == ["don't", "stop", "東", "京", "n", "7"]
    assert repeats.words_of("कुत्ता दौड़ता है।") == ["कुत्ता", "दौड़ता", "है"]
    assert repeats.words_of("Zoë\u2019s café") == ["zoë\u2019s", "café"]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("plain", ("Latin", "none")),
        ("Fußgänger", ("Latin", "none")),
        ("一只猫 a", ("Chinese or Japanese", "Latin")),
        ('A sign "東京"', ("Latin", "none")),
        ("Владимир sings well", ("Latin", "none")),
        ("он sings", ("Latin", "Cyrillic")),
        ("\uff46\uff55\uff4c\uff4c", ("Latin", "none")),
        ("12 + 3 °", ("none", "none")),
    ],
)
def test_scripts(text, shares):
    first, second, _, _ = rules.scripts_of(text)
    assert (rules.SCRIPTS[first], rules.SCRIPTS[second]) == shares


@pytest.mark.parametrize("source", ["option", "variable", "file"])
def test_alt_texts_are_no_captions_where_these_are_called_otherwise(tmp_path, monkeypatch, source):
    """A sample of the videos is looked into then, and what captions it needs no other column."""
    monkeypatch.chdir(tmp_path)
    table = write(Path("m.csv"), [{"path": "a.mp4", "text": "A cat | stock video"}])
    assert inspect(table).kind == "captions"
    wanted = None
    if source == "option":
        wanted = InspectOptions(videos=True)
    elif source == "variable":
        monkeypatch.setenv("VIDCAP_CAPTION_COLUMN", "caption")
    else:
        Path("vidcap.toml").write_text('[qwen2vl]\ncaption_column = "caption"\n')
    report = inspect(table, wanted)
    assert report.kind == "table"
    assert report.as_dict()["facts"]["rows"]["missing"] == 1
    write(table, [{"path": "a.mp4", "text": "A cat | stock video", "caption": "A cat."}])
    if source != "option":
        assert inspect(table).as_dict()["facts"]["captions"]["column"] == "caption"


def test_shares_are_of_captions_and_not_of_rows_to_do(tmp_path):
    rows = [
        {"path": f"{n}.mp4", "text": text, "caption_status": status}
        for n, (text, status) in enumerate(
            [("A bus stops.", "ok"), ("A bus stops.", "ok"), ("", "oom"), *[("", "missing")] * 5]
        )
    ]
    flags = inspect(write(tmp_path / "t.csv", rows)).as_dict()["facts"]["flags"]
    assert (flags["duplicate"]["rows"], flags["duplicate"]["share"]) == (2, 1.0)
    assert flags["failed"]["share"] == pytest.approx(1 / 3)


def test_a_table_that_is_cut_short_is_told(tmp_path):
    file = tmp_path / "m.csv"
    for end, told in (("\n", 0), ("", 1)):
        file.write_text(f"path,text\na.mp4,\nb.mp4,A cat sle{end}")
        report = inspect(file)
        assert any("vidcap merge" in step.command for step in report.steps) == (not told)
        assert [one.text[:28] for one in report.problems] == told * ["the last row is not finished"]
        assert report.ok
