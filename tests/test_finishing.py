"""A table that is captioned in part is finished by the commands that the screen shows."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import rows_of, vidcap, write_nano_table
from vidcap_cli.finishing import steps_after_merge, todo_step
from vidcap_cli.inspect import inspect
from vidcap_cli.merge.merge import merge
from vidcap_cli.options import InspectOptions

PURPOSE = "to caption the 2 rows without a caption"


def half(folder: Path, column: str = "path") -> Path:
    """A table as the original scripts leave it, with captions in some rows."""
    write_nano_table(folder, 3, 5)
    (folder / "meta.csv").write_text(f"{column}\n000.mp4\n001.mp4\n002.mp4\n")
    old = folder / "old.csv"
    old.write_text(f"{column},text\n000.mp4,an old caption\n001.mp4,\n002.mp4, \n")
    return old


def commands(out: str) -> dict[str, str]:
    """The next commands on the screen, by what they are for."""
    lines = out.splitlines()
    return {
        line.removeprefix("  next, ").rstrip(":"): lines[number + 1].strip()
        for number, line in enumerate(lines)
        if line.startswith("  next, ")
    }


@pytest.mark.parametrize("column", ["path", "clip"])
def test_from_half_a_table_to_all_of_it(tmp_path, column):
    """As pasted; only the model is a smaller one."""
    old = half(tmp_path, column)
    named = [] if column == "path" else ["--path-column", column]
    for options in ([], ["--all"]):
        _, out, _ = vidcap("inspect", old.name, *named, *options, cwd=tmp_path)
        first = commands(out)[PURPOSE]
    code, _, err = vidcap(*shlex.split(first)[1:], cwd=tmp_path)
    assert code == 3
    found = commands(err)
    another = f"{PURPOSE}, with the model of the others if that is another"
    words = shlex.split(found[another].replace("Qwen/Qwen2-VL-2B-Instruct", "nano"))
    code, _, err = vidcap(*words[1:], cwd=tmp_path)
    assert code == 0, err
    join = shlex.split(found["when that has finished, to join its captions"])
    code, _, err = vidcap(*join[1:], cwd=tmp_path)
    assert (code, "kept as" in err) == (0, False), err
    every = join[join.index("-o") + 1]
    rows = rows_of(tmp_path / every)
    assert rows[0]["text"] == "an old caption"
    assert all(row["text"] and row["caption_status"] == "ok" for row in rows)
    code, out, err = vidcap("inspect", every, *named, "--export-flagged", "f.csv", cwd=tmp_path)
    assert (code, "of 3 has a flag" in out or "of 3 have a flag" in out) == (0, True), out + err


def test_a_folder_captioned_in_part_whose_run_is_gone(tmp_path):
    (tmp_path / "clips").mkdir()
    write_nano_table(tmp_path / "clips", 2, 5).unlink()
    words = ("qwen2vl", "clips", "--model", "nano")
    assert vidcap(*words, cwd=tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "clips_caption_qwen2vl.vidcap")
    table = tmp_path / "clips_caption_qwen2vl.csv"
    code, _, err = vidcap(*words, cwd=tmp_path)
    assert (code, err.rstrip().endswith("replaced with --fresh.")) == (2, True), err
    first = rows_of(table)[0]
    table.write_text(table.read_text().replace(f"{first['text']},ok,", ",oom,", 1))
    code, _, err = vidcap(*words, cwd=tmp_path)
    assert (code, "To caption the 1 row without a caption" in err) == (2, True), err
    code, _, err = vidcap(*shlex.split(err.splitlines()[-1])[1:], cwd=tmp_path)
    assert (code, "to caption the 1 row without a caption" in err) == (3, True), err
    code, _, err = vidcap("merge", table.name, "--meta", "clips", "-o", "o.csv", cwd=tmp_path)
    assert (code, "--meta clips: is a folder" in err) == (2, True), err


def test_half_a_table_as_the_table_of_videos(tmp_path):
    """It is refused, with what finishes it and not only with what captions all of it."""
    old = half(tmp_path)
    code, _, err = vidcap("qwen2vl", old.name, "--model", "nano", cwd=tmp_path)
    assert code == 2
    assert "--caption-column NAME names another. To caption the 2 rows without a caption" in err
    command = err.splitlines()[-1].strip()
    code, _, err = vidcap(*shlex.split(command)[1:], cwd=tmp_path)
    assert (code, PURPOSE in err) == (3, True)
    for rest in ("a\n001.mp4,b\n002.mp4,c\n", "\n001.mp4,\n002.mp4,\n"):  # all, none
        old.write_text(f"path,text\n000.mp4,{rest}")
        _, _, err = vidcap("qwen2vl", old.name, "--model", "nano", cwd=tmp_path)
        assert err.endswith("--caption-column NAME names another\n")


def test_rows_to_do_that_were_captioned_are_not_replaced(tmp_path):
    """Their run could not go on, and an extension would have rows for none of its captions."""
    old = half(tmp_path)
    words = ["merge", old.name, "--meta", "meta.csv", "-o", "all.csv", "--missing", "todo.csv"]
    assert vidcap(*words, cwd=tmp_path)[0] == 3
    assert vidcap(*words, cwd=tmp_path)[0] == 3  # nobody has begun with them
    todo = (tmp_path / "todo.csv").read_bytes()
    caption = ["qwen2vl", "todo.csv", "--model", "nano", "--limit", "1"]
    assert vidcap(*caption, cwd=tmp_path)[0] == 0
    words.insert(2, "todo_caption_qwen2vl.csv")
    code, _, err = vidcap(*words, cwd=tmp_path)
    run = tmp_path / "todo_caption_qwen2vl.vidcap"
    assert (code, f"is the table that {run} was planned from; name another" in err) == (2, True)
    assert (tmp_path / "todo.csv").read_bytes() == todo


def test_captions_in_a_column_that_was_named(tmp_path):
    """As pasted: each command finds them."""
    old = half(tmp_path)
    old.write_text(old.read_text().replace("path,text", "path,words"))
    _, out, _ = vidcap("inspect", old.name, "--caption-column", "words", cwd=tmp_path)
    found = {"--missing": 3, "--html": 0, "--export-flagged": 0}
    for option, code in found.items():
        (line,) = [line for line in commands(out).values() if option in line]
        assert vidcap(*shlex.split(line)[1:], cwd=tmp_path)[0] == code, line
    rows = rows_of(tmp_path / "old_all.csv")
    assert [row["words"] for row in rows] == ["an old caption", "", ""]


def test_a_table_with_all_its_captions_is_not_captioned_again(tmp_path):
    half(tmp_path)
    merge([tmp_path / "old.csv"], tmp_path / "all.csv", meta=tmp_path / "meta.csv")
    text = (tmp_path / "all.csv").read_text()
    whole = text.replace(",,empty,", ",words,ok,")
    (tmp_path / "all.csv").write_text(whole)
    assert not inspect(tmp_path / "all.csv", InspectOptions(all_videos=True)).steps
    # Nor one whose rows have failed for good.
    (tmp_path / "all.csv").write_text(text.replace(",,empty,", ",,decode_error,"))
    assert not inspect(tmp_path / "all.csv", InspectOptions(all_videos=True)).steps
    assert PURPOSE not in {one.purpose for one in inspect(tmp_path / "all.csv").steps}
    (tmp_path / "all.csv").write_text(text.replace(",,empty,", ",,oom,"))
    for wanted in (InspectOptions(all_videos=True), InspectOptions()):
        assert inspect(tmp_path / "all.csv", wanted).steps[0].purpose == PURPOSE


def test_the_number_is_that_of_the_rows_which_the_command_writes(tmp_path):
    """Those that failed for good, too, once another may get a caption."""
    half(tmp_path)
    old, every = tmp_path / "old.csv", tmp_path / "all.csv"
    old.write_text("path,text\n000.mp4,an old caption\n001.mp4,\n")
    account = merge([old], every, meta=tmp_path / "meta.csv")
    assert (account.failed["empty"].count, account.missing.count) == (1, 1)
    for wanted in (InspectOptions(all_videos=True), InspectOptions()):
        assert inspect(every, wanted).steps[0].purpose == PURPOSE


def test_a_merge_that_has_all_or_was_not_asked_names_nothing(tmp_path):
    old = half(tmp_path)
    meta, out, todo = (tmp_path / name for name in ("meta.csv", "out.csv", "todo.csv"))
    account = merge([old], out, meta=meta)
    assert not steps_after_merge(account, [old], meta, {})
    typed = ["merge", str(old), "--meta", str(meta), "-o", str(out)]
    (step,) = todo_step(account, typed)
    assert step.purpose == "to write the 2 rows without a caption to a table of their own"
    assert shlex.split(step.command) == [
        "vidcap", *typed, "--missing", str(tmp_path / "out_todo.csv")
    ]  # fmt: skip
    assert not todo_step(account, [*typed, *map(str, range(20))])
    (tmp_path / "out_todo.csv").touch()
    (tmp_path / "out_todo2.csv").touch()
    assert todo_step(account, typed)[0].command.endswith("out_todo3.csv")
    account = merge([old], out, meta=meta, missing=todo, prefix="x ")
    caption, join = steps_after_merge(account, [old], meta, {"prefix": "x "})
    assert caption.command.startswith(f"vidcap qwen2vl {todo}")
    assert shlex.split(join.command)[-4:] == ["--prefix", "x ", "-o", str(out)]
    old.write_text(old.read_text().replace("1.mp4,", "1.mp4,a").replace("2.mp4, ", "2.mp4,b"))
    account = merge([old], out, meta=meta, missing=todo)
    assert not steps_after_merge(account, [old], meta, {})
    assert not todo_step(account, typed)
