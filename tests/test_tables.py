"""Tables come back as they were written, and every fault names its file, place and remedy."""

import csv
import datetime as dt
import gzip
import io
import json
import math
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidcap_cli import table_csv, table_json, tables
from vidcap_cli.atomic import committing
from vidcap_cli.errors import TableError
from vidcap_cli.meta import open_meta
from vidcap_cli.meta import row_names as paths
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import open_table, regroup

TRICKY = [
    ["id", "path", "note"],
    ["001", "a b.mp4", 'say "hi", twice'],
    ["1e5", "ü/視頻.mp4", "line one\nline two"],
    ["", "c,d.mp4", ""],
    ["NA", "NULL", "\r"],
    ["0x10", " e.mp4 ", "a\r\nb"],
    ["true", "f\tg.mp4", '"'],
]


def put(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def whole(path: Path) -> pa.Table:
    table = open_table(path)
    return pa.Table.from_batches(table.batches(), schema=table.schema)


def values(path: Path) -> list[list[object]]:
    table = whole(path)
    return [table.schema.names, *([*row.values()] for row in table.to_pylist())]


def write(path: Path, table: pa.Table, form: str) -> bytes:
    with writing(path, table.schema, form) as append:
        for block in regroup(table.to_batches(), 2):
            append(block)
    return path.read_bytes()


def strings(rows: list[list[str]]) -> pa.Table:
    header, *rest = rows
    columns = [pa.array([row[i] for row in rest], pa.string()) for i in range(len(header))]
    return pa.Table.from_arrays(columns, names=header)


def python_csv(rows: list[list[str]], delimiter: str = ",") -> bytes:
    """What Python's csv module writes with minimal quoting, with "\n" line ends."""
    found = b""
    for row in rows:
        # Only with this line end does it quote a lone "\r", which readers take for a line end.
        line = io.StringIO()
        csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(row)
        found += line.getvalue().removesuffix("\r\n").encode() + b"\n"
    return found


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tricky_values_come_back_exactly(tmp_path, name, delimiter):
    path = put(tmp_path, name, python_csv(TRICKY, delimiter))
    assert values(path) == TRICKY
    again = write(tmp_path / f"again{path.suffix}", strings(TRICKY), path.suffix[1:])
    assert again == path.read_bytes()


def test_exact_bytes_of_a_csv(tmp_path):
    table = pa.table(
        {"a": ["x", 'q"', "1,2", None, "l\n", "r\r"], "b": ["", "ü", "\t", "n", "o", ""]}
    )
    assert write(tmp_path / "a.csv", table, "csv") == (
        'a,b\nx,\n"q""",ü\n"1,2",\t\n,n\n"l\n",o\n"r\r",\n'.encode()
    )


def test_single_column_with_an_empty_value_is_not_a_blank_line(tmp_path):
    assert write(tmp_path / "a.csv", pa.table({"path": ["a", "", "b"]}), "csv") == (
        b'path\na\n""\nb\n'
    )
    assert values(tmp_path / "a.csv") == [["path"], ["a"], [""], ["b"]]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfpath,n\na,1\nb,2\n",
        b"path,n\r\na,1\r\nb,2\r\n",
        b"path,n\ra,1\rb,2\r",
        b"path,n\na,1\nb,2",
        b"\npath,n\n\na,1\n\n\nb,2\n\n",
        b'"path","n"\n"a","1"\n"b","2"\n',
        b'\xef\xbb\xbf"path",n\r\n"a",1\r\nb,"2"',
    ],
)
def test_every_dialect_of_the_same_table(tmp_path, data):
    assert values(put(tmp_path, "a.csv", data)) == [["path", "n"], ["a", "1"], ["b", "2"]]


def test_a_stray_quote_inside_a_field_is_a_character(tmp_path):
    assert values(put(tmp_path, "a.csv", b'path,n\n7" reel.mp4,1\n')) == [
        ["path", "n"],
        ['7" reel.mp4', "1"],
    ]


def test_rows_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(table_csv, "_BLOCK", 256)
    rows = [["path", "note"], *([f"{i}.mp4", 'x\n"y",' * (i % 7)] for i in range(500))]
    assert values(put(tmp_path, "a.csv", python_csv(rows))) == rows
    with pytest.raises(TableError, match=r"a\.csv: line \d+ \(row 500\) has 1 fields"):
        values(put(tmp_path, "a.csv", python_csv([*rows, ["short"], *rows])))


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=8)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1)
    )
)
def test_random_tables_round_trip(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("t")
    rows = [[f"c{i}" for i in range(len(rows[0]))], *rows]
    table = strings(rows)
    for form in ("csv", "tsv", "parquet"):
        data = write(folder / f"a.{form}", table, form)
        assert values(folder / f"a.{form}") == rows
        if form == "csv":
            assert data == python_csv(rows)


def rich_table() -> pa.Table:
    utc = dt.UTC
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001
    return pa.table(
        {
            "path": pa.array(["a", "b", "c"]).dictionary_encode(),
            "when": pa.array([moment, None, moment], pa.timestamp("ns")),
            "zoned": pa.array([moment.replace(tzinfo=utc)] * 3, pa.timestamp("ms", tz="UTC")),
            "day": pa.array([dt.date(2026, 1, 2)] * 3),
            "scores": pa.array([[1.5, None], [], None], pa.list_(pa.float32())),
            "info": pa.array([{"w": 1, "tags": ["ü"]}, None, {"w": 2, "tags": None}]),
            "small": pa.array([1, None, -3], pa.int8()),
            "big": pa.array([2**63, 0, 1], pa.uint64()),
            "fps": pa.array([30.0, 29.97, None]),
            "good": pa.array([True, False, None]),
            "raw": pa.array([b"ok", b"\xff", None], pa.binary()),
            "price": pa.array([None] * 3, pa.decimal128(9, 2)),
            "lasts": pa.array([dt.timedelta(seconds=90), None, None], pa.duration("s")),
            "long": pa.array(["x", "y", "z"], pa.large_string()),
            "a.b": pa.array([1, 2, 3]),
            "nothing": pa.nulls(3),
        }
    )


def test_parquet_keeps_types(tmp_path):
    table = rich_table()
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    opened = open_table(tmp_path / "in.parquet")
    write(tmp_path / "out.parquet", pa.Table.from_batches(opened.batches()), "parquet")
    again = pq.read_table(tmp_path / "out.parquet")
    assert again.schema == table.schema
    assert again.to_pylist() == table.to_pylist()
    assert [b.schema.names for b in opened.batches(["fps", "a.b"])] == [["fps", "a.b"]]


def test_typed_columns_as_csv(tmp_path):
    table = rich_table().slice(0, 2)
    data = write(tmp_path / "a.csv", table, "csv")
    first, second = whole(tmp_path / "a.csv").to_pylist()
    assert data.startswith(b"path,when,zoned,day,scores,")
    assert first == {
        "path": "a",
        "when": "2026-01-02 03:04:05.678901000",
        "zoned": "2026-01-02 03:04:05.678Z",
        "day": "2026-01-02",
        "scores": "[1.5, null]",
        "info": '{"tags": ["ü"], "w": 1}',
        "small": "1",
        "big": str(2**63),
        "fps": "30.0",
        "good": "true",
        "raw": "ok",
        "price": "",
        "lasts": "90",
        "long": "x",
        "a.b": "1",
        "nothing": "",
    }
    assert [second[name] for name in ("when", "scores", "info", "small", "raw")] == [
        "", "[]", "", "", "\\xff",
    ]  # fmt: skip
    frame = pd.read_csv(tmp_path / "a.csv")
    assert frame["fps"].tolist() == [30.0, 29.97]
    assert frame["good"].tolist() == [True, False]


def test_jsonl_keeps_types_and_dates_stay_strings(tmp_path):
    rows = [
        {"path": "a", "day": "2020-01-01", "n": 1, "x": 1, "tags": ["u", "v"], "in": {"w": 1}},
        {"path": "b", "n": 2, "x": 2.5, "tags": [], "new": True},
        {"path": "ü\n", "day": "2020-01-02", "n": None, "in": {"w": 2, "h": 0.5}},
    ]
    lines = "\n\n".join(json.dumps(row) for row in rows) + "\n"
    table = whole(put(tmp_path, "a.jsonl", lines))
    kinds = {field.name: field.type for field in table.schema}
    assert list(kinds) == ["path", "day", "n", "x", "tags", "in", "new"]
    assert (kinds["day"], kinds["n"], kinds["x"]) == (pa.string(), pa.int64(), pa.float64())
    assert table["path"].to_pylist() == ["a", "b", "ü\n"]
    assert table["day"].to_pylist() == ["2020-01-01", None, "2020-01-02"]
    assert table["in"].to_pylist()[2] == {"w": 2, "h": 0.5}
    assert table["new"].to_pylist() == [None, True, None]


ROWS = [{"path": "a", "n": 1, "note": None}, {"path": "ü\n", "n": 2.5, "note": ["x"]}]


@pytest.mark.parametrize(
    "text",
    [json.dumps(ROWS), "\ufeff\n " + json.dumps(ROWS, indent=2), "\n".join(map(json.dumps, ROWS))],
    ids=["array", "indented", "lines"],
)
@pytest.mark.parametrize("name", ["a.json", "A.JSON.GZ"])
def test_json_is_an_array_or_an_object_a_line(tmp_path, name, text):
    data = gzip.compress(text.encode()) if name.endswith("GZ") else text
    table = whole(put(tmp_path, name, data))
    assert table.to_pylist() == ROWS
    assert next(paths(open_meta(tmp_path / name))).to_pylist() == ["a", "ü\n"]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.CSV.GZ", "a.jsonl.gz"])
def test_compressed_tables_are_the_tables_that_were_compressed(tmp_path, name):
    table = strings(TRICKY)
    plain = tmp_path / name.lower().removesuffix(".gz")
    compressed = put(tmp_path, name, gzip.compress(write(plain, table, plain.suffix[1:])))
    assert values(compressed) == values(plain) == TRICKY


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz"])
def test_faults_of_compressed_tables(tmp_path, name):
    rows = [{"path": f"{i}{os.urandom(9).hex()}"} for i in range(9000)]
    lines = ["path", *(row["path"] for row in rows)] if "csv" in name else map(json.dumps, rows)
    text = json.dumps(rows) if name == "a.json.gz" else "\n".join(lines) + "\n"
    data = gzip.compress(text.encode())
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    for damaged in (data[:-5], data[: len(data) // 2], text.encode()):
        path = put(tmp_path, name, damaged)
        with pytest.raises(TableError, match=f"{name}: .*cannot be read"):
            list(paths(open_meta(path)))
    with pytest.raises(TableError, match=name):  # at the sum, or where the text is broken
        list(paths(open_meta(put(tmp_path, name, bytes(flipped)))))
    with pytest.raises(TableError, match=r"unknown kind of table"):
        open_table(put(tmp_path, "a.parquet.gz", b""))


def test_what_is_read_can_be_read_again(tmp_path):
    """Deeper, Arrow writes a Parquet file that it cannot read."""
    deep = '{"path": "a", "n": ' + '{"a": [' * 49 + "1" + "]}" * 49 + "}\n"
    table = whole(put(tmp_path, "a.jsonl", deep))
    for form in ("csv", "parquet"):
        write(tmp_path / f"o.{form}", table, form)
        assert whole(tmp_path / f"o.{form}").num_rows == 1
    assert whole(tmp_path / "o.parquet") == table


def test_jsonl_types_are_those_of_all_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(table_json, "_ROWS", 2)
    rows = [{"path": str(i), **({"x": i} if i < 3 else {"x": i + 0.5, "y": "z"})} for i in range(7)]
    table = whole(put(tmp_path, "a.jsonl", "".join(json.dumps(r) + "\n" for r in rows)))
    assert table["x"].to_pylist() == [0, 1, 2, 3.5, 4.5, 5.5, 6.5]
    assert table["y"].null_count == 3


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gone.csv", None, "no such file; check the spelling"),
        (
            "a.xlsx",
            "x",
            r"unknown kind of table '.xlsx'; vidcap reads .csv, .tsv, .parquet, .jsonl",
        ),
        ("a.csv", "", "the file is empty; the first line must name the columns"),
        ("a.csv", "path,n\n", "has a header but no rows; add the videos"),
        ("a.csv", "path,n", "has a header but no rows"),
        (
            "a.csv",
            "id,name\n1,2\n",
            "no column is called `path`. Columns found: `id`, `name`; rename",
        ),
        ("a.csv", "id,video\n1,2\n", "rename `video` to `path` .*--path-column video"),
        ("a.csv", "id, Path \n1,2\n", "rename ` Path ` to `path`"),
        ("a.csv", "b/a.mp4\nc.mp4\n", "write the line path before `b/a.mp4`"),
        ("a.csv", "path;n\na;1\n", "separated by ';': write it with commas, or as .tsv"),
        ("a.csv", "path,n,n\na,1,2\n", "the column `n` is there more than once; rename or drop"),
        (
            "a.csv",
            "path,n\na,1\n,2\n",
            r"row 1 \(from 0\) has an empty `path`; fill it in or delete",
        ),
        (
            "a.csv",
            "path,n\na,1\n,2\n,3\nb,4\n,5\n",
            r"row 1 \(from 0\) has an empty `path`, and so have 2 rows after it; .* the rows$",
        ),
        ("a.csv", "path,n\n \t,2\n", r"row 0 \(from 0\) has an empty `path`"),
        (
            "a.csv",
            'path,n\n"a\nb",1\n\nc\n',
            r"line 5 \(row 1\) has 1 fields where .* has 2; quote",
        ),
        ("a.csv", "path,n\na,1,2\n", r"line 2 \(row 0\) has 3 fields"),
        (
            "a.csv",
            'path,n\na,1\nb,"2\nc,3\n',
            "row that begins on line 3.*a quote that is never closed",
        ),
        (
            "a.csv",
            "path,n\na,1\nb,\xdcbung f\xfcr Gr\xfc\xdfe\n".encode("cp1252"),
            r"like WINDOWS-1252 \(Western Europe\).*iconv -f WINDOWS-1252 -t UTF-8 .*utf8-a.c",
        ),
        (
            "a.csv",
            "path,n\na,1\nb,视频 红色\n".encode("gb18030"),
            r"line 3 is not UTF-8. It looks like GB18030 \(Chinese\).*iconv -f GB18030",
        ),
        (
            "a.csv",
            "path,n\na,動画です\n".encode("shift-jis"),
            "Save it as UTF-8.*iconv -f ENCODING",
        ),
        ("a.csv", b"path,\xfc\na,1\n", "line 1 is not UTF-8"),
        ("a.csv", "path,n\na,1\n".encode("utf-16"), "line 1 is not UTF-8.*iconv -f UTF-16"),
        ("a.jsonl", "", "the file is empty; write one JSON object a line"),
        ("a.jsonl", '{"path": "a"}\n{"path"', "line 2 is not JSON.*mend it"),
        ("a.jsonl", '{"path": "a"}\n\n[1]\n', "line 3 is not a JSON object"),
        (
            "a.jsonl",
            '{"path": "a"}\n{"path": null}\n',
            r"row 1 \(from 0\) has an empty `path`",
        ),
        ("a.jsonl", '{"path": 1}\n', "the column `path` holds int64, not text; convert it"),
        (
            "a.jsonl",
            '{"path": "a", "n": 1}\n{"path": "b", "n": "x"}\n',
            "line 2: the column `n` has a value of another type than before: 'x'; mend it",
        ),
        (
            "a.jsonl",
            '{"path": "a", "n": "x"}\n\n{"path": "b"}\n{"path": "b", "n": 2}\n{"path": "c"}\n',
            "line 4: the column `n` has a value of another type than before: 2; mend it",
        ),
        ("a.jsonl", '{"path": "a", "n": 99999999999999999999}\n', "the column `n` has a value of"),
        ("a.jsonl", '{"path": "\\ud800"}\n', "the column `path` has a value of"),
        ("a.jsonl", b'{"path": "\xff"}\n', "line 1 is not UTF-8"),
        (
            "a.jsonl",
            '{"path": "a"}\n{"path": "a", "n": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
            "line 2 has lists or objects in more than 100 others",
        ),
        (
            "a.jsonl",
            '{"path": "a", "n": ' + '{"a": [' * 51 + "]}" * 51 + "}\n",
            "the column `n`, in one of the 1 rows from line 1 on, has lists or objects",
        ),
        ("a.json", '[{"path": "a"}, 3]', "item 2 is not a JSON object"),
        ("a.json", '[{"path": "a"}', "is not JSON: .*; mend it"),
        ("a.json", "[]", "the file is empty; write one JSON object a line"),
        ("a.json", '{\n"path": "a"\n}', "line 1 is not JSON: .*an array of objects, or has one"),
        ("a.json", '[{"path": "a"}, {"path": 3}]', "item 2: the column `path` .*: 3; mend"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "an item has lists or objects in more than"),
        ("a.parquet", b"PAR1 and no more", "cannot be read, the file looks damaged"),
        ("a.parquet", b"", "cannot be read, the file looks damaged"),
    ],
)
def test_faults_name_file_place_and_remedy(tmp_path, name, data, message):
    path = tmp_path / name if data is None else put(tmp_path, name, data)
    with pytest.raises(TableError, match=f"(?s){name}: .*{message}"):
        list(paths(open_meta(path)))


def test_faults_of_parquet_files(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"path": pa.array(["a", None, "c"])}), path)
    with pytest.raises(TableError, match=r"a\.parquet: row 1 \(from 0\) has an empty `path`"):
        list(paths(open_meta(path)))
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["path", "path"]), path)
    with pytest.raises(TableError, match="more than once"):
        open_meta(path)
    pq.write_table(pa.table({"path": pa.nulls(2)}), path)
    with pytest.raises(TableError, match=r"row 0 \(from 0\) has an empty"):
        list(paths(open_meta(path)))
    pq.write_table(pa.table({"path": [f"{i:09}" for i in range(9000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:1200] = os.urandom(1000)
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"a\.parquet: cannot be read"):
        list(paths(open_meta(path)))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.string_view()])
def test_paths_of_every_string_type(tmp_path, kind):
    column = pa.array(["a", "ü"]).cast(kind)
    pq.write_table(pa.table({"path": column}), tmp_path / "a.parquet")
    found = list(paths(open_meta(tmp_path / "a.parquet")))
    assert [array.type for array in found] == [pa.string()]
    assert found[0].to_pylist() == ["a", "ü"]


def test_paths_of_a_dictionary_column(tmp_path):
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    pq.write_table(pa.table({"path": column}), tmp_path / "a.parquet")
    assert next(paths(open_meta(tmp_path / "a.parquet"))).to_pylist() == ["a", "b", "a"]


@given(st.lists(st.integers(0, 9)), st.integers(1, 7))
def test_regroup(sizes, rows):
    batches = [pa.record_batch({"x": pa.array([i] * n, pa.int64())}) for i, n in enumerate(sizes)]
    blocks = list(regroup(batches, rows))
    assert all(block.num_rows == rows for block in blocks[:-1])
    assert [v for b in blocks for v in b["x"].to_pylist()] == [
        i for i, n in enumerate(sizes) for _ in range(n)
    ]


def test_nothing_appears_before_the_block_ends(tmp_path):
    path = put(tmp_path, "a.csv", b"old")
    table = pa.table({"path": ["x"]})

    def fail() -> None:
        with writing(path, table.schema, "csv") as append:
            append(table)
            assert path.read_bytes() == b"old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with committing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_output_form():
    with pytest.raises(TableError, match=r"a\.csv\.gz: vidcap writes no \.gz"):
        output_form(Path("a.csv.gz"), "csv")
    assert output_form(Path("a.CSV")) == "csv"
    assert output_form(Path("a.parquet"), "csv") == "csv"
    assert output_form(Path("a.JSONL")) == "jsonl"
    for name, form in [("a.json", None), ("a", None), ("a.csv", "xlsx")]:
        with pytest.raises(TableError, match=r"a[.a-z]*: vidcap writes .*--format"):
            output_form(Path(name), form)


def test_large_csv_is_written_as_read(tmp_path):
    count = 200_000
    table = pa.table({"path": [f"v/{i:06}.mp4" for i in range(count)], "n": pa.array(range(count))})
    with writing(tmp_path / "a.csv", table.schema, "csv") as append:
        for block in regroup(table.to_batches(), tables.ROWS):
            append(block)
    again = whole(tmp_path / "a.csv")
    assert again["path"].combine_chunks() == table["path"].combine_chunks()
    assert again["n"].combine_chunks() == pc.cast(table["n"], pa.string()).combine_chunks()


def test_json_lines_come_back_as_they_were(tmp_path):
    header, *rest = TRICKY
    table = strings(TRICKY)
    lines = write(tmp_path / "a.jsonl", table, "jsonl").decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        dict(zip(header, row, strict=True)) for row in rest
    ]
    assert lines[-1] == ""
    assert values(tmp_path / "a.jsonl") == TRICKY
    typed = pa.table({
        "n": pa.array([2**53 + 1, None, -1]), "x": [0.1, None, 1e300], "b": [True, False, None],
        "tags": [["a", None], [], None], "at": [{"x": 1, "y": [2.5]}, {"x": 3, "y": []}, None],
    })  # fmt: skip
    write(tmp_path / "b.jsonl", typed, "jsonl")
    assert whole(tmp_path / "b.jsonl").to_pylist() == typed.to_pylist()


def test_what_json_has_no_value_for(tmp_path):
    table = pa.table({
        "x": [math.nan, math.inf], "bytes": [b"a\xff", b"b"], "day": [dt.date(2024, 5, 6), None],
        "pairs": pa.array([[("k", math.nan)], []], pa.map_(pa.string(), pa.float64())),
    })  # fmt: skip
    lines = write(tmp_path / "a.jsonl", table, "jsonl").decode().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"x": None, "bytes": "a\\xff", "day": "2024-05-06", "pairs": [["k", None]]},
        {"x": None, "bytes": "b", "day": None, "pairs": []},
    ]


def test_a_type_that_parquet_lacks(tmp_path):
    table = whole(put(tmp_path, "a.jsonl", '{"path": "a", "x": {}}\n'))
    with pytest.raises(TableError, match=r"a\.parquet: Parquet has no such type .*write CSV"):
        write(tmp_path / "a.parquet", table, "parquet")
    assert write(tmp_path / "a.csv", table, "csv") == b"path,x\na,{}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.jsonl"]
