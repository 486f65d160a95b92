"""What outputs are called unless the user says it."""

import pytest

from vidcap_cli.outputs import default_output


@pytest.mark.parametrize(
    ("meta", "output"),
    [
        ("meta.csv.gz", "meta_caption_qwen2vl.csv"),
        ("meta.v1.json", "meta.v1_caption_qwen2vl.csv"),
        ("meta.parquet", "meta_caption_qwen2vl.parquet"),
    ],
)
def test_where_captions_go(tmp_path, meta, output):
    assert default_output(tmp_path / meta, "qwen2vl", None) == tmp_path / output
