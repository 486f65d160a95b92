"""A merge loses no captions that are at its place already, and asks nothing about its own."""

from pathlib import Path

import pytest

from tests.merge.test_answers import captioned, result
from tests.merge.test_merge import META, bad, new_run, ok, put
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.paths import RunDir

OLD = "path,text\na.mp4,an old one\nb.mp4,\n"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "meta.csv").write_text(META)
    run = new_run(tmp_path / "run", tmp_path / "meta.csv")
    put(run, [ok(0, "The video shows one"), ok(1, "two"), bad(2)])
    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} - {"meta.csv"}


@pytest.mark.parametrize(
    "content", [OLD, OLD.replace("text", "other"), "no table", "path,text\na.mp4,\n"]
)
@pytest.mark.parametrize("linked", [True, False])
def test_what_no_input_has_is_kept(tmp_path, run, content, linked, monkeypatch):
    if not linked:  # a file system without second names

        def refused(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "hardlink_to", refused)
    out = tmp_path / "all.csv"
    for number, kept in enumerate(("all.old.csv", "all.old-2.csv")):
        out.write_text(f"{content}{number}\n")
        account = merge([run.path], out)
        assert (tmp_path / kept).read_text() == f"{content}{number}\n"
        assert account.notes == (
            f"{out} was there, with what no input has; that is kept as {tmp_path / kept}",
        )
        assert "The video shows one" in out.read_text()
    assert names(tmp_path) == {"all.csv", "all.old.csv", "all.old-2.csv"}


def test_the_same_merge_and_one_with_more_inputs_replace_their_table(tmp_path, run):
    out, old, todo = (tmp_path / name for name in ("all.csv", "old.csv", "todo.csv"))
    old.write_text(OLD.replace("a.mp4", "d.mp4"))
    every = ([run.path], [run.path], [run.path, old], [run.path, old])
    for attempt, words in enumerate(({}, {"strip_prefix": True, "prefix": "x "}), 2):
        for inputs in every if not words else every[2:]:
            assert not merge(inputs, out, missing=todo, **words).notes
        put(run, [ok(2, "three")], attempt=attempt)
    assert names(tmp_path) == {"all.csv", "old.csv", "todo.csv"}
    assert not merge([out], tmp_path / "again.csv", meta=tmp_path / "meta.csv").notes


def test_a_table_made_with_other_edits_is_replaced_but_not_one_edited_by_hand(tmp_path, run):
    out = tmp_path / "all.csv"
    put(run, [ok(2, "A sentence. And a", flags="cut")], attempt=3)
    every = (
        {"prefix": "ohwx, ", "suffix": " !"},
        {"prefix": "abc, ", "strip_prefix": True},
        {"trim_to_sentence": True, "suffix": " (b)"},
        {"prefix": "x "},
        {},
    )
    for words in every:
        assert not merge([run.path], out, **words).notes
        merged = out.read_text()
        out.write_text(merged.replace("two", "two and more"))
        assert len(merge([run.path], out, prefix="another ").notes) == 1
        out.write_text(merged)
    assert not merge([run.path], out, prefix="x ").notes


def test_a_single_caption_may_be_edited_by_hand(tmp_path, run):
    out = tmp_path / "all.csv"
    out.write_text("path,text\na.mp4,The video shows one and more\n")
    assert len(merge([run.path], out).notes) == 1


def test_rows_without_captions_do_not_replace_any(tmp_path, run):
    out, todo = tmp_path / "all.csv", tmp_path / "todo.csv"
    todo.write_text(OLD)
    account = merge([run.path], out, missing=todo)
    assert len(account.notes) == 1
    assert (tmp_path / "todo.old.csv").read_text() == OLD
    assert not merge([run.path], out, missing=todo).notes


def test_an_empty_file_is_no_table(tmp_path, run):
    out = tmp_path / "all.csv"
    out.touch()
    assert not merge([run.path], out).notes
    assert names(tmp_path) == {"all.csv"}


def test_what_is_there_stays_when_the_merge_fails(tmp_path, run):
    out = tmp_path / "all.csv"
    out.write_text(OLD)
    part = put(run, [ok(3, "four")], attempt=3)
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(Exception, match="leave it out"):
        merge([run.path], out)
    assert out.read_text() == OLD
    assert names(tmp_path) == {"all.csv"}


def test_answers_to_several_questions_are_known(tmp_path):
    meta = tmp_path / "meta.csv"
    meta.write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    first = captioned(tmp_path / "first", meta, result(0, "A cat. It", "Cat."))
    out = tmp_path / "out.csv"
    for _ in range(2):
        assert not merge([first.path], out, trim_to_sentence=True, suffix=" !").notes
    out.write_text(out.read_text().replace("Cat.", "A dog, as I can see."))
    assert len(merge([first.path], out, trim_to_sentence=True, suffix=" !").notes) == 1


def test_a_row_that_had_a_caption_and_has_none_now_is_kept(tmp_path, run):
    """Also where the same words are elsewhere: captions of videos that look alike are alike."""
    out, old = tmp_path / "all.csv", tmp_path / "old.csv"
    old.write_text(OLD.replace("a.mp4,an old one", "d.mp4,two"))
    merge([run.path, old], out)
    text = out.read_text()
    notes = merge([run.path], out).notes
    assert notes == (
        f"{out} was there, with what no input has; that is kept as {tmp_path / 'all.old.csv'}",
    )
    assert (tmp_path / "all.old.csv").read_text() == text
    for _ in range(2):
        assert not merge([run.path, old], out).notes
