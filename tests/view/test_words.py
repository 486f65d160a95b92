"""What is said of names that are not there."""

from vidcap_cli.view.words import absent


def test_another_shard_is_no_other_spelling(tmp_path):
    for shard in (0, 2):
        (tmp_path / f"meta_caption_llava.{shard}-of-3.vidcap").mkdir()
    gone = tmp_path / "meta_caption_llava.1-of-3.vidcap"
    told = f"{gone}: there is no such file or folder; "
    assert absent(gone) == f"{told}copy it here from where shard 1 was captioned"
    typed = tmp_path / "meta_caption_lava.2-of-3.vidcap"
    assert absent(typed).endswith("did you mean " + str(gone).replace(".1-", ".2-") + "?")
    assert "check the spelling" in absent(tmp_path / "x" / "none.mp4")
