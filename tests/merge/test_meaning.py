"""Results whose paths are written otherwise than META's go to the rows that mean the same file."""

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.merge.test_merge import CONFIG, new_run
from vidcap_cli.merge import matching
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.parts import Result, write_part

FILES = ("a.mp4", "sub/a.mp4", "sub/b c.mp4")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Videos, in a folder that is the working directory."""
    for folder in (tmp_path / "here", tmp_path / "there"):
        for file in FILES:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def table(path: Path, head: str, *rows: str) -> Path:
    path.write_text("\n".join([head, *rows, ""]))
    return path


def texts(out: Path) -> list[str]:
    with out.open(newline="", encoding="utf-8") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "written",
    [
        "./sub/b c.mp4",
        "sub//b c.mp4",
        "sub/../sub/b c.mp4",
        "{}/sub/b c.mp4",
        "file://{}/sub/b%20c.mp4",
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_other_ways_to_write_a_path(place, written, turned):
    plain, other = "sub/b c.mp4", written.format(place)
    if turned:
        plain, other = other, plain
    meta = table(place / "meta.csv", "path", "sub/a.mp4", plain, "a.mp4", plain)
    old = table(place / "old.csv", "path,text", f"{other},words", "gone.mp4,lost")
    account = merge([old], place / "out.csv", meta=meta, missing=place / "todo.csv")
    assert texts(place / "out.csv") == ["", "words", "", "words"]
    assert account.unmatched.count == 1
    assert account.notes == (
        "1 result fits by the file that is meant; META writes its path otherwise",
    )
    assert (place / "todo.csv").read_text() == "path\nsub/a.mp4\na.mp4\n"


def test_what_is_to_do_can_be_captioned_where_it_is_written(place):
    """Its paths mean the same files there, and its captions find their rows."""
    (place / "linked").symlink_to(place / "sub")
    rows = ["sub/a.mp4", "gone.mp4", "a.mp4#t=1,2", "linked/b c.mp4", "linked/../a.mp4"]
    rows += [str(place / "a.mp4"), "https://x.org/a.mp4"]
    quoted = [f'"{row}"' for row in rows]
    meta = table(place / "meta.csv", "path", *quoted)
    none = table(place / "none.csv", "path,text", "another.mp4,")
    for folder, start in ((place.parent, "here"), (place.parent / "there", place)):
        todo = folder / "todo.csv"
        merge([none], place / "out.csv", meta=meta, missing=todo)
        with todo.open(newline="") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
        assert paths == [*(f"{start}/{row}" for row in rows[:4]), f"{place}/{rows[4]}", *rows[5:]]
        done = table(folder / "done.csv", "path,text", *(f'"{it}","of {it}"' for it in paths))
        assert not merge([done], place / "out.csv", meta=meta).unmatched.count
        assert texts(place / "out.csv") == [f"of {path}" for path in paths]
    merge([none], place / "out.csv", meta=meta, missing=place / "todo.csv")
    with (place / "todo.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == rows


def test_letter_by_letter_goes_first(place):
    meta = table(place / "meta.csv", "path", "a.mp4", "./a.mp4")
    old = table(place / "old.csv", "path,text", "a.mp4,plain", "./a.mp4,dotted")
    assert not merge([old], place / "out.csv", meta=meta).notes
    assert texts(place / "out.csv") == ["plain", "dotted"]


def test_files_that_are_only_called_alike_are_told(place):
    """Where the files are tells which they are; of a table elsewhere its folder comes first."""
    meta = table(place / "meta.csv", "path", "./a.mp4", "./sub/a.mp4", "/nowhere/x.mp4")
    rows = ("a.mp4,there", "/videos/sub/a.mp4,elsewhere", "nowhere/x.mp4,gone")
    old = table(place.parent / "there" / "old.csv", "path,text", *rows)
    account = merge([old], place / "out.csv", meta=meta)
    assert texts(place / "out.csv") == [""] * 3
    assert account.unmatched.count == 3
    said = "3 results that fit no planned row are about files that are called as those of META: "
    assert account.notes == (
        f"{said}where paths differ only in how they are written, write them alike",
    )


def test_ranges_and_runs_of_other_tables(place):
    head = "path,start,end"
    meta = table(place / "meta.csv", head, f"{place}/a.mp4,1,2", f"{place}/a.mp4,2,3")
    other = table(place / "other.csv", head, "a.mp4,2.0,3", "a.mp4,1,9")
    run = new_run(place / "run", other, CONFIG)
    names = ("a.mp4#t=2,3", "a.mp4#t=1,9")
    write_part(run.part(1, 0, 0, "csv"), [Result(n, p, "ok", p) for n, p in enumerate(names)])
    account = merge([run.path], place / "out.csv", meta=meta)
    assert texts(place / "out.csv") == ["", names[0]]
    assert account.unmatched.count == 1


WAYS = ("{}", "./{}", "/{}", ".//{}", "x/../{}")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_caption_is_on_another_files_row(place, data):
    """Every result is on the rows of its file, and on no other, however both are written."""
    written = st.tuples(st.integers(0, 5), st.sampled_from(WAYS)).map(
        lambda it: (it[0], it[1].replace("/{}", f"{place}/{{}}", it[1] == "/{}"))
    )
    rows = data.draw(st.lists(written, min_size=1, max_size=12, unique_by=lambda it: it[0]))
    results = data.draw(st.lists(written, min_size=1, max_size=12, unique_by=lambda it: it[0]))
    (place / "x").mkdir(exist_ok=True)
    name = "d{0}/f{1}.mp4"

    def spelled(file: int, way: str) -> str:
        return way.format(name.format(file % 3, file % 2))

    meta = table(place / "meta.csv", "path", *(spelled(*row) for row in rows))
    old = table(
        place / "old.csv", "path,text", *(f"{spelled(file, way)},{file}" for file, way in results)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(matching, "_PATHS", 2)
        merge([old], place / "out.csv", meta=meta)
    have = {file for file, _ in results}
    assert texts(place / "out.csv") == [str(file) if file in have else "" for file, _ in rows]
