"""Events survive their way through a file that grows while it is read."""

from dataclasses import asdict

import pytest

from vidcap_cli.rundir import events
from vidcap_cli.rundir.events import (
    Began,
    Committed,
    Done,
    Ended,
    Event,
    EventReader,
    EventWriter,
    Notice,
    Rows,
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


@pytest.mark.parametrize("singly", [None, 500])
def test_reading_ends_where_the_file_grows_as_fast_as_it_is_read(tmp_path, singly):
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    with EventWriter(file) as writer:
        for number in range(100):
            writer.write(Notice(str(number)))
        numbers = []
        for event in reader.read(singly):
            numbers.append(int(event.text))
            writer.write(Notice(str(100 + len(numbers))))
        assert numbers == list(range(100))
    assert len(list(reader.read(singly))) == 100


def rows_of_a_rank() -> list[Event]:
    """5,000 rows, some of which fail, and other events among them; one stays in the model, and one
    begins after the last result.
    """
    sent: list[Event] = [Started(7, "host"), Began([9999])]
    for row in range(5000):
        sent.append(Began([row]))
        status = (Status.OOM, Status.MODEL_ERROR)[row % 2] if row % 3 == 0 else Status.OK
        text, error = ('ä "b"\n\\', None) if status == Status.OK else (None, 'no "room"')
        sent.append(Done(row, f"{row}.mp4", status, text, error, 2, row / 10, row / 20))
        if row % 700 == 1:
            sent.append(Notice(f"{row}"))
    return [*sent, Began([5000]), Committed(5000, 77), Ended(Doing.STOPPED)]


def test_who_is_behind_is_told_rows_together(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "_FAILURES", 100)
    monkeypatch.setattr(events, "_FIRST", 30)
    file = tmp_path / "events.jsonl"
    sent = rows_of_a_rank()
    with EventWriter(file) as writer:
        for event in sent:
            writer.write(event)
    near, far = EventReader(file), EventReader(file)
    assert list(near.read(file.stat().st_size)) == sent
    told = list(far.read(file.stat().st_size - 1))
    assert list(far.read(0)) == []
    others = [event for event in sent if not isinstance(event, Began | Done)]
    assert [event for event in told if not isinstance(event, Began | Rows | Done)] == others
    assert told[:60] == sent[:60]
    together = [event for event in told if isinstance(event, Rows)]
    both = [event for event in told if isinstance(event, Began | Rows)]
    begun = [row for it in both for row in (it.rows if isinstance(it, Began) else it.begun)]
    assert begun == [9999, *range(5001)]
    times = {event.row: event.time for event in sent if isinstance(event, Done)}
    assert all(times[row] == time for rows in together for row, _, time in rows.ended)
    ended = {row: status for rows in together for row, status, _ in rows.ended}
    done = {event.row: event for event in told if isinstance(event, Done)}
    assert not ended.keys() & done.keys()
    assert ended | {row: event.status for row, event in done.items()} == {
        event.row: event.status for event in sent if isinstance(event, Done)
    }
    assert sum(rows.new_tokens for rows in together) == 2 * len(ended)
    # One by one: those that failed first, and the last of each stretch.
    assert len(done) < 500
    assert done.keys() >= {row for row in range(600) if row % 3 == 0} | {4999}
    assert all(done[row] in sent for row in done)


def test_a_line_that_is_longer_than_a_block_keeps_nobody_from_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "_BLOCK", 64)
    file = tmp_path / "events.jsonl"
    long = Notice("x" * 1000)
    with EventWriter(file) as writer:
        for event in (Notice("a"), long, Notice("b")):
            writer.write(event)
    for singly in (None, 0):
        assert [len(event.text) for event in EventReader(file).read(singly)] == [1, 1000, 1]


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
