"""The commands that the README shows: each is understood, and most are run on the bundled clips."""

import re
import shlex
import shutil
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from tests.helpers.commands import vidcap
from tests.nano import world
from vidcap_cli import caption
from vidcap_cli.checkpoint.called import bundled
from vidcap_cli.cli import app
from vidcap_cli.merge import merge

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    shlex.split(line, comments=True)[1:]
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("vidcap ")
]
# What the scripts left without a caption is captioned, one command after the other.
MOVING = [words for words in EXAMPLES if {"todo.csv", "todo_caption_qwen2vl.csv"} & {*words}][-3:]
OTHERS = [words for words in EXAMPLES if words not in MOVING]
CAPTIONING = [words for words in OTHERS if words[0] in {"qwen2vl", "llava", "pllava"}]


def test_there_are_examples_of_every_command():
    assert {words[0] for words in EXAMPLES} == {"qwen2vl", "llava", "pllava", "merge", "inspect"}


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_understood(words, monkeypatch, tmp_path):
    """Its options are there, with values that they take; nothing is done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detailed.txt").write_text("What is to be seen?")

    class ReachedError(Exception):
        pass

    def reached(*_: object, **__: object) -> None:
        raise ReachedError

    monkeypatch.setattr(caption, "caption", reached)
    monkeypatch.setattr(merge, "merge", reached)
    monkeypatch.setattr("vidcap_cli.inspect.inspect", reached)
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ReachedError), done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the examples speak of, and ``nano`` wherever no model is named."""
    place = tmp_path_factory.mktemp("examples")
    shutil.copytree(bundled("clips"), place / "clips")
    names = sorted(path.name for path in (place / "clips").glob("*.mp4"))[:2]
    table = "path\n" + "".join(f"clips/{name}\n" for name in names)
    (place / "meta.csv").write_text(table)
    shutil.copy(place / "clips" / names[0], place / "clip.mp4")
    (place / "old_captions.csv").write_text(f"path,text\nclips/{names[0]},An old caption.\n")
    (place / "scenes_timestamp.csv").write_text(
        f"path,timestamp\nclips/{names[0]},\"[('0', '0.7'), ('0.7', '1.4')]\"\n"
    )
    (place / "movies.csv").write_text("path\nmovie.mp4\n")
    with av.open(str(place / "clips" / names[0])) as source:
        frame = next(source.decode(video=0)).to_ndarray(format="rgb24")
    with av.open(str(place / "movie.mp4"), "w") as target:
        stream = target.add_stream("libx264", rate=2, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
        for _ in range(2 * 35):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        target.mux(stream.encode())
    (place / "detailed.txt").write_text(world.DETAIL)
    (place / "vidcap.toml").write_text("model = 'nano'\nbs = 4\n")
    return place


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run an example where its files are, with nano for the models that are not here."""
    named = ["nano" if re.match(r"/models/|Qwen/", word) else word for word in words]
    return vidcap(*named, cwd=folder)


def test_what_the_scripts_left_is_captioned_as_the_readme_says(folder, tmp_path):
    """Their tables have a column `text`, empty where they failed."""
    shutil.copytree(folder / "clips", tmp_path / "clips")
    shutil.copy(folder / "vidcap.toml", tmp_path)
    names = sorted(path.name for path in (tmp_path / "clips").glob("*.mp4"))[:2]
    for name, texts in (("meta.csv", ("", "")), ("old_captions.csv", ("An old caption.", ""))):
        rows = [f"clips/{clip},{text}\n" for clip, text in zip(names, texts, strict=True)]
        (tmp_path / name).write_text("path,text\n" + "".join(rows))
    assert [words[0] for words in MOVING] == ["merge", "qwen2vl", "merge"]
    for words, code in zip(MOVING, (3, 0, 0), strict=True):
        found, _, err = run(tmp_path, *words)
        assert found == code, (words, err)
    rows = (tmp_path / "all.csv").read_text().splitlines()
    assert rows[0] == "path,text,caption_status,caption_error,caption_flags"
    assert rows[1] == f"clips/{names[0]},An old caption.,ok,,"
    assert rows[2].startswith(f"clips/{names[1]},A ")


@pytest.mark.slow
def test_the_examples_do_what_is_said_of_them(folder):
    """In the order of the README, as far as they are for one machine."""
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    pq.write_table(pacsv.read_csv(folder / "meta.csv"), folder / "meta.parquet")
    done = set()
    other_shard = [["qwen2vl", "meta.csv", "--shard", "1/2"]]
    for words in CAPTIONING + other_shard:
        if tuple(words) in done or "--node-rank" in words:
            continue
        done.add(tuple(words))
        code, out, err = run(folder, *words, "--fresh")
        assert code == 0, (words, err)
        if "clip.mp4" in words:
            assert out.startswith(f"{folder / 'clip.mp4'}\tA "), out
    assert run(folder, "qwen2vl", "meta.csv", "--fresh")[0] == 0  # captions in `text` once more
    for name in ("run1", "run2", "run"):
        shutil.copytree(folder / "meta_caption_qwen2vl.vidcap", folder / f"{name}.vidcap")
    shutil.copy(folder / "meta_caption_qwen2vl.csv", folder / "captions.csv")
    # Captions are the answers to two questions since the last of them.
    assert (folder / "captions.csv").read_text().startswith("path,text,caption_status")
    for words in (words for words in OTHERS if words[0] in {"merge", "inspect"}):
        code, out, err = run(folder, *words)
        assert code == 0, (words, out, err)
    assert (folder / "gallery.html").read_text().startswith("<!doctype html>")
    merged = pacsv.read_csv(folder / "all.csv")
    assert merged["caption_status"].to_pylist() == ["ok", "ok"]
    assert isinstance(merged, pa.Table)
