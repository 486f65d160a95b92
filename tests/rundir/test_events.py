"""Events survive their way through a file that grows while it is read."""

from dataclasses import asdict

import pytest

from vidcap_cli.rundir.events import (
    Began,
    Done,
    Ended,
    EventReader,
    EventWriter,
    Notice,
    Started,
    State,
    decode,
    encode,
)
from vidcap_cli.statuses import Doing, Status


def test_events_come_back_as_they_were(tmp_path):
    sent = [
        Started(7, "host"),
        Began([1, 2]),
        Done(1, "ä.mp4", "ok", "two\nlines “quoted”", None, 9, 1.5, 0.5),
        Notice("text"),
    ]
    reader = EventReader(tmp_path / "events.jsonl")
    assert list(reader.read()) == []
    with EventWriter(tmp_path / "events.jsonl") as writer:
        for event in sent:
            writer.write(event)
            assert list(reader.read()) == [event]
    assert list(reader.read()) == []


def test_reading_ends_where_the_file_grows_as_fast_as_it_is_read(tmp_path):
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    numbers = []
    with EventWriter(file) as writer:
        for number in range(100):
            writer.write(Began([number]))
        for _ in range(50):
            for event in reader.read(500):
                numbers += event.rows
                writer.write(Began([100 + len(numbers)]))
        assert len(numbers) < 1000
        numbers += [row for event in reader.read() for row in event.rows]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(numbers) > 200


def test_a_half_written_line_waits_for_its_end(tmp_path):
    file = tmp_path / "events.jsonl"
    line = encode(Notice("whole")).encode()
    reader = EventReader(file)
    file.write_bytes(line + line[:9])
    assert len(list(reader.read())) == 1
    assert list(reader.read()) == []
    file.write_bytes(line + line)
    assert [event.text for event in reader.read()] == ["whole"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind": "no', b"\0\0\0", b"\xff\xfe", b"[1]", b"7", b"{}", b'{"kind": ["began"]}',
        b'{"kind": "began"}', b'{"kind": "began", "rows": ["a"], "time": 1}',
        b'{"kind": "began", "rows": [-1], "time": 1}',
        b'{"kind": "state", "state": "s", "time": "x"}', b'{"kind": "state", "state": 3}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_passed_over(tmp_path, line):
    around = encode(Notice("whole")).encode()
    (tmp_path / "events.jsonl").write_bytes(around + line + b"\n" + around)
    read = EventReader(tmp_path / "events.jsonl").read()
    assert [event.text for event in read] == ["whole", "whole"]


def test_unknown_kinds_are_passed_over():
    assert decode('{"kind": "from a later version", "x": 1}') is None


@pytest.mark.parametrize(
    "event",
    [Done(1, "a.mp4", Status.OOM, None, "no room", 0, 1.5, 0.5), State(Doing.LOADING),
     Ended(Doing.STOPPED)],
)  # fmt: skip
def test_words_come_back_as_words_and_unknown_ones_are_passed_over(event):
    line = encode(event)
    word = next(value for value in asdict(event).values() if isinstance(value, Status | Doing))
    assert f'"{word.value}"' in line
    assert decode(line) == event
    back = decode(line)
    assert [type(value) for value in asdict(back).values()] == [
        type(value) for value in asdict(event).values()
    ]
    assert decode(line.replace(word.value, "of a later version")) is None


def test_a_line_that_is_no_event_is_passed_over(tmp_path):
    bad = ["{", "[]", "3", '{"kind": 1}', '{"kind": "done"}', '{"kind": ["x"]}', "[" * 99999]
    bad += ['{"kind": "began", "rows": ["1"]}', '{"kind": "notice", "text": 5}']
    file = tmp_path / "events.jsonl"
    whole = encode(Notice("whole")).encode()
    file.write_bytes(b"\n".join(line.encode() for line in bad) + b"\n\xff\xfe\n" + whole)
    assert [event.text for event in EventReader(file).read()] == ["whole"]
