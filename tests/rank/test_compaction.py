"""Small parts become large ones: the same rows, in fewer files, whatever comes in between."""

import pytest

from tests.launch.runs import CONFIG
from vidcap_cli.rank.compaction import TOGETHER, compact
from vidcap_cli.rank.recorder import Recorder
from vidcap_cli.rank.row import Row
from vidcap_cli.rundir.events import EventWriter
from vidcap_cli.rundir.leases import grant, revoke
from vidcap_cli.rundir.ledger import Ledger
from vidcap_cli.rundir.parts import Result, read_part, write_part
from vidcap_cli.rundir.paths import AttemptDir, RunDir
from vidcap_cli.rundir.plan import Plan, make_plan
from vidcap_cli.statuses import Status


class Rank:
    """The parts of rank 1, one row each; ``write`` commits the next."""

    def __init__(self, run: RunDir, form: str) -> None:
        self.run, self.form = run, form
        self.folder = run.attempt(1)
        run.parts.mkdir(parents=True)
        self.folder.path.mkdir(parents=True)
        self.lease = self.folder.lease(1, grant(self.folder, [1]))

    def write(self, rows: range) -> None:
        for row in rows:
            result = Result(row, f"{row}.mp4", "ok", text=f'a "{row}"\n', decode_s=row / 3)
            write_part(self.run.part(1, 1, row, self.form), [result])
            if row % TOGETHER == TOGETHER - 1:
                self.compact()

    def compact(self) -> None:
        compact(self.run, 1, 1, self.lease)

    def rows(self) -> list[int]:
        return [
            row for part in self.run.part_files() for row in read_part(part)["row_id"].to_pylist()
        ]


@pytest.fixture(params=["parquet", "csv"])
def rank(request, tmp_path) -> Rank:
    return Rank(RunDir(tmp_path / "run"), request.param)


def test_many_parts_become_one_and_many_of_these_another(rank):
    rank.write(range(2 * TOGETHER + 3))
    names = [part.name for part in rank.run.part_files()]
    assert names[:2] == [f"part-0001-0001-{n:05d}-{n + 63:05d}.{rank.form}" for n in (0, 64)]
    assert len(names) == len(list(rank.run.parts.iterdir())) == 5
    assert rank.rows() == list(range(2 * TOGETHER + 3))
    whole = read_part(rank.run.part_files()[0]).to_pylist()[5]
    assert (whole["text"], whole["decode_s"]) == ('a "5"\n', pytest.approx(5 / 3))
    assert rank.run.next_sequence(1, 1) == 2 * TOGETHER + 3


def test_a_row_is_written_once_more_each_time_there_are_many_more(tmp_path, monkeypatch):
    monkeypatch.setattr("vidcap_cli.rank.compaction.TOGETHER", 4)
    monkeypatch.setitem(globals(), "TOGETHER", 4)
    rank = Rank(RunDir(tmp_path), "parquet")
    rank.write(range(4**3 + 4 + 1))
    ends = [part.stem.removeprefix("part-0001-0001-") for part in rank.run.part_files()]
    assert ends == ["00000-00063", "00064-00067", "00068"]
    assert rank.rows() == list(range(4**3 + 4 + 1))


def test_parts_that_are_still_there_beside_the_one_that_stands_for_them_do_not_count(rank):
    """The rank was killed in between."""
    rank.write(range(TOGETHER - 1))
    kept = {part: part.read_bytes() for part in rank.run.part_files()}
    rank.write(range(TOGETHER - 1, TOGETHER))
    for part, content in kept.items():
        part.write_bytes(content)
    assert len(rank.run.part_files()) == 1
    assert rank.rows() == list(range(TOGETHER))
    # Once it is set aside as damaged they do again.
    rank.run.part_files()[0].rename(rank.run.parts / "part-0001-0001-00000-00063.damaged")
    assert rank.rows() == list(range(TOGETHER - 1))


def test_a_damaged_part_stays_and_is_not_hidden(rank):
    rank.write(range(TOGETHER - 1))
    rank.run.part_files()[7].write_bytes(b"rubbish")
    rank.write(range(TOGETHER - 1, TOGETHER))
    assert len(rank.run.part_files()) == TOGETHER


def test_a_rank_whose_lease_is_gone_removes_nothing(rank):
    rank.write(range(TOGETHER - 1))
    revoke(rank.folder)
    with pytest.raises(FileNotFoundError):
        rank.write(range(TOGETHER - 1, TOGETHER))
    assert len(rank.run.part_files()) == TOGETHER


def test_parts_of_others_are_theirs(rank):
    write_part(rank.run.part(1, 0, 5, rank.form), [Result(900, "x", "ok", text="y")])
    write_part(rank.run.part(1, None, 7, rank.form), [Result(901, "x", "ok", text="y")])
    write_part(rank.run.part(2, 1, 9, rank.form), [Result(902, "x", "ok", text="y")])
    rank.write(range(TOGETHER))
    assert sorted(rank.rows()) == [*range(TOGETHER), 900, 901, 902]


@pytest.fixture
def planned(rank, tmp_path) -> Plan:
    paths = "".join(f"{row}.mp4\n" for row in range(2 * TOGETHER))
    (tmp_path / "meta.csv").write_text(f"path\n{paths}")
    return make_plan(tmp_path / "meta.csv", rank.run, CONFIG)


def test_a_ledger_sees_every_row_whenever_it_looks(rank, planned, monkeypatch):
    ledger = Ledger(rank.run, planned)
    rank.write(range(TOGETHER - 1))
    assert int(ledger.read().ok.sum()) == TOGETHER - 1
    rank.write(range(TOGETHER - 1, 2 * TOGETHER - 1))
    # Listed, and made one before they are read.
    listed = iter([rank.run.part_files()])
    real = RunDir.part_files
    monkeypatch.setattr(RunDir, "part_files", lambda run: next(listed, None) or real(run))
    rank.write(range(2 * TOGETHER - 1, 2 * TOGETHER))
    assert int(ledger.read().ok.sum()) == 2 * TOGETHER


def test_a_recorder_makes_its_parts_one(tmp_path):
    run, folder = RunDir(tmp_path), AttemptDir(tmp_path / "attempts" / "0001", 1)
    run.parts.mkdir()
    folder.path.mkdir(parents=True)
    lease = folder.lease(0, grant(folder, [0]))
    with EventWriter(folder.events(0)) as events:
        recorder = Recorder(run, folder, 0, lease=lease, config=CONFIG, events=events)
        for row in range(TOGETHER):
            recorder._write(row, [Result(row, "a.mp4", "ok", text="words")])
        assert len(run.part_files()) == 1
        # Another process of this rank goes on behind them.
        with Recorder(run, folder, 0, lease=lease, config=CONFIG, events=events) as another:
            another.failed(Row(TOGETHER, "b.mp4", 1), Status.MISSING_FILE, "gone")
    rows = [row for part in run.part_files() for row in read_part(part)["row_id"].to_pylist()]
    assert rows == list(range(TOGETHER + 1))
