"""What is said of names that are not there, and of figures."""

from vidcap_cli.view.words import absent, figure


def test_another_shard_is_no_other_spelling(tmp_path):
    for shard in (0, 2):
        (tmp_path / f"meta_caption_llava.{shard}-of-3.vidcap").mkdir()
    gone = tmp_path / "meta_caption_llava.1-of-3.vidcap"
    told = f"{gone}: there is no such file or folder; "
    assert absent(gone) == f"{told}copy it here from where shard 1 was captioned"
    typed = tmp_path / "meta_caption_lava.2-of-3.vidcap"
    assert absent(typed).endswith("did you mean " + str(gone).replace(".1-", ".2-") + "?")
    assert "check the spelling" in absent(tmp_path / "x" / "none.mp4")


def test_a_name_with_the_same_ending_alone_is_no_other_spelling(tmp_path):
    for name in ("a_b.parquet", "notes.parquet", "notes.csv"):
        (tmp_path / name).touch()
    assert absent(tmp_path / "x_y.parquet").endswith("; check the spelling")
    assert absent(tmp_path / "note.parquet").endswith(f"did you mean {tmp_path}/notes.parquet?")
    assert absent(tmp_path / "nots.csv").endswith(f"did you mean {tmp_path}/notes.csv?")


def test_a_figure_is_the_same_as_that_of_one_that_was_rounded():
    for speed, told in ((1210.51, "1,210"), (1211.44, "1,211"), (99.96, "100"), (8.34, "8.3")):
        assert figure(speed) == figure(round(speed, 1)) == told
