"""Captions are edited on their way to the table, the same way each time; the parts keep them."""

import pyarrow as pa
import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.merge import editing
from vidcap_cli.merge.editing import Edits
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan


def edited(edits: Edits, *texts: str | None, flags: str | None = None) -> list[str | None]:
    """The texts, edited as columns of both kinds and in several chunks, which is the same."""
    whole = pa.chunked_array([[text] for text in texts], pa.string())
    words = pa.chunked_array([[flags] * len(texts)], pa.string())
    found: list[str | None] = edits.apply(whole, words).to_pylist()
    assert edits.apply(whole.cast(pa.large_string()), words).to_pylist() == found
    return found


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("The video shows a red ball.", "A red ball."),
        ("the  video\nDepicts that élan wins.", "Élan wins."),
        ("In this video, a man runs. The video shows him.", "A man runs. The video shows him."),
        ("In the short video clip, we can see two dogs.", "Two dogs."),
        ("In the clip we see 2 dogs.", "2 dogs."),
        ("In this video, the camera pans.", "The camera pans."),
        ("In this video, the video captures a cat.\nIt sits.", "A cat.\nIt sits."),
        ("The given footage begins with 猫.", "猫."),
        # No openings, or nothing behind one.
        ("In the video game, a man runs.", None),
        ("In the video a man runs.", None),
        ("The video shows", None),
        ("The video shows ", None),
        ("In this video, the video shows ", None),
        ("The video showsa", None),
        ("A man. In this video, he runs.", None),
        ("The videographer shows a ball.", None),
        ("", None),
    ],
)
def test_stock_openings(text, stripped):
    expected = text if stripped is None else stripped
    assert edited(Edits(strip_prefix=True), text, None, "A dog.") == [expected, None, "A dog."]


def test_every_noun_and_verb_of_the_list():
    for noun in editing.NOUNS:
        for verb in editing.VERBS:
            assert edited(Edits(strip_prefix=True), f"This {noun} {verb} it.") == ["It."]


@pytest.mark.parametrize(
    ("text", "trimmed"),
    [
        ("A man runs. He falls over a", "A man runs."),
        ("A man runs. He falls.", "A man runs. He falls."),
        ("A man runs.\n\nHe", "A man runs."),
        ('He says "Go!" and', 'He says "Go!" and'),  # the text goes on, so it is no end
        ('He says "Go!" Then', 'He says "Go!"'),
        ("**Scene.** A man", "**Scene.**"),
        ("Is it 3.5 m? It is 4.2", "Is it 3.5 m?"),
        ("It runs. Mr. Smith and J. Doe, e.g. in St. Ives", "It runs."),
        ("Two things:\n1. A dog.\n2. A ca", "Two things:\n1. A dog."),
        ("In 2020. Then", "In 2020."),
        ("a man runs. he falls over a", "a man runs."),
        ("猫が走る。犬は", "猫が走る。"),
        ("他说“走！”然后", "他说“走！”"),  # noqa: RUF001
        ("A man who never stops running", None),  # rather than nothing
    ],
)
def test_cut_captions_end_at_a_sentence(text, trimmed):
    expected = text if trimmed is None else trimmed
    for flags in ("cut", "shrunk,cut"):
        assert edited(Edits(trim_to_sentence=True), text, None, flags=flags) == [expected, None]
    for whole in (None, "shrunk", "uncut"):
        assert edited(Edits(trim_to_sentence=True), text, flags=whole) == [text]


def test_words_around_a_caption_are_there_once():
    edits = Edits(prefix="ohwx. ", suffix=" 4k")
    once = edited(edits, "A dog.", None, "ohwx. A cat.", "")
    assert once == ["ohwx. A dog. 4k", None, "ohwx. A cat. 4k", "ohwx.  4k"]
    assert edited(edits, *once) == once


def test_order():
    every = Edits("ohwx ", " 4k", strip_prefix=True, trim_to_sentence=True)
    assert edited(every, "The video shows a dog. It", flags="cut") == ["ohwx A dog. 4k"]
    assert edited(Edits(), " The video shows a dog. It", flags="cut") == [
        " The video shows a dog. It"
    ]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_parts_keep_what_the_model_wrote(tmp_path, form):
    meta = tmp_path / "meta.csv"
    meta.write_text("path\na.mp4\nb.mp4\nc.mp4\n")
    run = RunDir(tmp_path / "run")
    make_plan(meta, run, CaptionConfig("qwen2vl", "/models/qwen"))
    run.parts.mkdir()
    results = [
        Result(0, "a.mp4", "ok", text="The video shows a dog. It", flags="cut"),
        Result(1, "b.mp4", "oom"),
    ]
    write_part(run.part(1, 0, 0, form), results)
    kept = {file: file.read_bytes() for file in run.part_files()}
    tail = "caption_status,caption_error,caption_flags"
    for options, text in (
        ({"strip_prefix": True, "prefix": "x "}, "x A dog. It"),
        ({"trim_to_sentence": True, "suffix": "!"}, "The video shows a dog.!"),
        ({}, "The video shows a dog. It"),
    ):
        merge([run.path], tmp_path / "out.csv", **options)
        assert (tmp_path / "out.csv").read_text() == (
            f"path,text,{tail}\na.mp4,{text},ok,,cut\nb.mp4,,oom,,\nc.mp4,,missing,,\n"
        )
    assert {file: file.read_bytes() for file in run.part_files()} == kept
