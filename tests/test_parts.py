"""Part files keep every value apart, in both formats."""

import pyarrow as pa
import pytest

from vidcap_cli.parts import FAILED_STATUSES, SCHEMA, Result, read_part, write_part

RESULTS = [
    Result(3, "a,b.mp4", "ok", text='He said "hi",\nthen left.\r\n', finish_reason="stop", rank=1),
    Result(0, "ünï 影片.mp4", "ok", text="NULL", flags="damaged,truncated", decode_s=0.25),
    Result(1, "", "decode_error", error="broken", attempts=2),
    Result(2**40, "x", "empty", error="", frames=8, height=28, width=56, new_tokens=0),
]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_values_come_back_as_they_were(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, RESULTS)
    table = read_part(file)
    assert table.schema == SCHEMA
    assert [Result(**row) for row in table.to_pylist()] == RESULTS
    assert read_part(file, ["status", "row_id"]).to_pydict() == {
        "status": [result.status for result in RESULTS],
        "row_id": [result.row_id for result in RESULTS],
    }


def test_a_long_caption_fits_into_csv(tmp_path):
    file = tmp_path / "part-0001-0000-00000.csv"
    write_part(file, [Result(0, "a", "ok", text="word " * 400_000)])
    assert len(read_part(file)["text"][0].as_py()) == 2_000_000


@pytest.mark.parametrize("status", FAILED_STATUSES)
def test_text_goes_with_ok_and_only_with_ok(status):
    with pytest.raises(ValueError, match="goes with the status ok"):
        Result(0, "a", status, text="words")
    with pytest.raises(ValueError, match="goes with the status ok"):
        Result(0, "a", "ok")


def test_a_cut_off_part_is_an_error(tmp_path):
    file = tmp_path / "part-0001-0000-00000.parquet"
    write_part(file, RESULTS)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(pa.ArrowInvalid):
        read_part(file)
