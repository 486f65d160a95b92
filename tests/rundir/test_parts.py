"""Part files keep every value apart, in both formats."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from vidcap_cli.errors import DamagedPartError, RunError
from vidcap_cli.rundir.parts import (
    SCHEMA,
    Result,
    read_part,
    set_aside,
    write_part,
)
from vidcap_cli.statuses import FAILED

FORMS = pytest.mark.parametrize("form", ["parquet", "csv"])

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


@pytest.mark.parametrize("status", FAILED)
def test_text_goes_with_ok_and_only_with_ok(status):
    with pytest.raises(ValueError, match="goes with the status ok"):
        Result(0, "a", status, text="words")
    with pytest.raises(ValueError, match="goes with the status ok"):
        Result(0, "a", "ok")


def realistic(count: int, seed: int = 0) -> list[Result]:
    """Rows as a run leaves them: captions of some length, here and there a failure."""
    rng = np.random.default_rng(seed)
    words = [f"word{n}" for n in range(300)] + ['"red",', "circle\n", "圆", "«ü»"]
    found = []
    for row in range(count):
        path = f"videos/{row % 17:03}/clip_{row:09}.mp4"
        if rng.random() < 0.05:
            error = "the file ends in frame 7"
            found.append(Result(row, path, "decode_error", error=error, rank=1))
            continue
        text = " ".join(rng.choice(words, 30))
        found.append(
            Result(
                row, path, "ok", text=text, finish_reason="stop", prompt_tokens=3640,
                new_tokens=60, frames=20, height=392, width=728, decode_s=float(rng.random()),
                infer_s=float(rng.random()), rank=1, reader="pyav", model="/models/Qwen2-VL-7B",
                prompt="Describe the video in detail",
            )
        )  # fmt: skip
    return found


@FORMS
@pytest.mark.parametrize(("rows", "flips"), [(1, 150), (40, 250), (3000, 100)])
def test_no_flipped_bit_passes(tmp_path, form, rows, flips):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, realistic(rows))
    data = file.read_bytes()
    rng = np.random.default_rng(rows)
    # Of the first and the last bytes every bit, of the rest some by chance.
    places = [*range(8 * 8), *range(8 * (len(data) - 8), 8 * len(data))]
    places += rng.integers(0, 8 * len(data), flips).tolist()
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        with pytest.raises(DamagedPartError) as caught:
            read_part(file)
        assert str(caught.value).startswith(f"{file}: this part is damaged (")
        assert caught.value.part == file


@FORMS
def test_every_bit_of_the_seal_counts(tmp_path, form):
    """A part whose sign of a checksum is hit does not pass for one of an older version."""
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, RESULTS)
    data = file.read_bytes()
    mark = b"vidcap-part-sha256:"
    name = b"vidcap-part-checksum" if form == "parquet" else b',"checksum"'
    spans = [(data.rfind(mark), len(mark) + 64), (data.rfind(name), len(name))]
    for start, length in spans:
        for place in range(8 * start, 8 * (start + length)):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            with pytest.raises(DamagedPartError):
                read_part(file)


@FORMS
def test_a_part_cut_short_anywhere_is_damaged(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, realistic(40))
    data = file.read_bytes()
    ends = {*range(0, len(data), 97), *range(len(data) - 90, len(data))}
    ends |= {place + 1 for place, byte in enumerate(data) if byte == 10}  # whole lines
    for end in sorted(ends - {len(data)}):
        file.write_bytes(data[:end])
        with pytest.raises(DamagedPartError, match="this part is damaged"):
            read_part(file)
    for more in (data + b"\n", data + data, bytes(len(data))):
        file.write_bytes(more)
        with pytest.raises(DamagedPartError, match="this part is damaged"):
            read_part(file)


@FORMS
def test_the_checksum_goes_with_the_file_whatever_it_is_called(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, RESULTS)
    renamed = file.rename(tmp_path / f"rank0.{form}")
    assert read_part(renamed)["row_id"].to_pylist() == [3, 0, 1, 2**40]
    data = bytearray(renamed.read_bytes())
    data[len(data) // 3] ^= 4
    renamed.write_bytes(data)
    with pytest.raises(DamagedPartError, match="checksum"):
        read_part(renamed)


@FORMS
def test_the_checksum_is_the_sha256_of_the_file_with_zeros_in_its_place(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, RESULTS)
    before, mark, rest = file.read_bytes().rpartition(b"vidcap-part-sha256:")
    zeros = before + mark + b"0" * 64 + rest[64:]
    assert rest[:64].decode() == hashlib.sha256(zeros).hexdigest()


@FORMS
def test_other_programs_read_a_part_as_any_file(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_part(file, RESULTS)
    frame = pd.read_parquet(file) if form == "parquet" else pd.read_csv(file)
    assert frame["row_id"].tolist() == [3, 0, 1, 2**40]
    assert frame["flags"].tolist()[1] == "damaged,truncated"
    assert list(frame)[: len(SCHEMA)] == SCHEMA.names


def write_plain(file: Path, table: pa.Table) -> None:
    """A part as versions without checksums wrote it."""
    if file.suffix == ".csv":
        pacsv.write_csv(table, file)
    else:
        pq.write_table(table, file, compression="zstd")


@FORMS
def test_parts_of_other_versions_are_read(tmp_path, form):
    """Columns that lack are null, unknown ones are left out, in whatever order they come."""
    file = tmp_path / f"part-0001-0000-00000.{form}"
    rows = [
        {"status": "ok", "novelty": 0.5, "text": "a, b", "row_id": 7},
        {"status": "oom", "novelty": None, "text": None, "row_id": 8},
    ]
    write_plain(file, pa.Table.from_pylist(rows))
    table = read_part(file)
    assert table.schema == SCHEMA
    assert table["text"].to_pylist() == ["a, b", None]
    assert table["row_id"].to_pylist() == [7, 8]
    assert all(table[name].null_count == 2 for name in SCHEMA.names[4:])
    assert read_part(file, ["attempts"]).to_pydict() == {"attempts": [None, None]}
    write_plain(file, pa.Table.from_pylist([], schema=SCHEMA))
    assert read_part(file).num_rows == 0


@FORMS
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"row_id": 1, "text": "a"}, "it has no column status"),
        ({"status": "ok", "text": "a"}, "it has no column row_id"),
        ({"row_id": None, "status": "ok"}, "row_id"),
        ({"row_id": "seven", "status": "ok"}, "seven"),
    ],
)
def test_what_every_part_must_have(tmp_path, form, row, words):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_plain(file, pa.Table.from_pylist([row]))
    with pytest.raises(DamagedPartError, match=words):
        read_part(file)


def test_pages_have_checksums_of_their_own(tmp_path):
    """So other readers see damage too, and so do we where the seal of a part was lost."""
    file = tmp_path / "part-0001-0000-00000.parquet"
    write_part(file, realistic(40))
    seal = {name for name in pq.read_metadata(file).metadata if b"checksum" in name}
    assert seal == {b"vidcap-part-checksum"}
    table = pq.read_table(file, page_checksum_verification=True)
    pq.write_table(table.replace_schema_metadata(), file, write_page_checksum=True,
                   compression="none", use_dictionary=False)  # fmt: skip
    assert read_part(file).equals(table)
    data = file.read_bytes()
    place = data.index(table["text"][7].as_py().encode()) + 20  # not in a page's header
    file.write_bytes(data[:place] + b"W" + data[place + 1 :])
    with pytest.raises(DamagedPartError, match="CRC checksum"):
        read_part(file)


@FORMS
def test_an_older_part_with_bytes_that_are_no_text_is_damaged(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    rows = [{"row_id": 1, "status": "ok", "text": "a red circle moves"}]
    table = pa.Table.from_pylist(rows)
    if form == "csv":
        pacsv.write_csv(table, file)
    else:
        pq.write_table(table, file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace(b"circle moves", b"circl\xff moves"))
    with pytest.raises(DamagedPartError):
        read_part(file)


@FORMS
def test_an_older_part_cut_short_is_damaged(tmp_path, form):
    file = tmp_path / f"part-0001-0000-00000.{form}"
    write_plain(file, pa.Table.from_pylist([{"row_id": 1, "status": "ok", "text": "a\nb"}] * 2))
    data = file.read_bytes()
    for end in (0, 4, len(data) - 1, len(data) - 4):
        file.write_bytes(data[:end])
        with pytest.raises(DamagedPartError):
            read_part(file)


def test_a_part_is_never_replaced(tmp_path):
    file = tmp_path / "part-0001-0000-00000.parquet"
    write_part(file, RESULTS)
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="never replaced"):
        write_part(file, RESULTS[:1])
    assert file.read_bytes() == before


def test_parts_set_aside_keep_apart(tmp_path):
    for number in range(3):
        file = tmp_path / "part-0001-0000-00000.csv"
        file.write_text(str(number))
        kept = set_aside(file)
        assert kept.read_text() == str(number)
    assert len(list(tmp_path.glob("part-0001-0000-00000.csv.damaged*"))) == 3


def test_a_part_that_the_disk_does_not_give_is_not_called_damaged(tmp_path):
    with pytest.raises(RunError, match=r"gone\.csv: this part cannot be read: No such") as caught:
        read_part(tmp_path / "gone.csv")
    assert not isinstance(caught.value, DamagedPartError)
