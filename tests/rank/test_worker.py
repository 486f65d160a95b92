"""The rank's loop where it meets the files of a launch."""

import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rank.worker import Rank
from vidcap_cli.rundir.attempt import Attempt
from vidcap_cli.rundir.events import EventWriter
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan, write_todo


@pytest.mark.parametrize("damage", ["gone", "empty", "half", "text"])
def test_a_damaged_todo_is_told(tmp_path, damage):
    (tmp_path / "meta.csv").write_text("path\n" + "a.mp4\n" * 100)
    run, config = RunDir(tmp_path / "run"), CaptionConfig("qwen2vl", "/models/some")
    plan = make_plan(tmp_path / "meta.csv", run, config)
    folder = run.attempt(1)
    folder.claims.mkdir(parents=True)
    write_todo(run, plan, folder)
    Attempt(config, rows=100, chunk=10, ranks=1, bases=plan.bases).write(folder)
    data = folder.todo.read_bytes()
    if damage == "gone":
        folder.todo.unlink()
    else:
        changed = {"empty": b"", "half": data[: len(data) // 2], "text": b"path\na.mp4\n" * 50}
        folder.todo.write_bytes(changed[damage])
    with EventWriter(folder.events(0)) as events:
        rank = Rank(run, folder, 0, events)
        with pytest.raises(RunError, match=r"todo\.arrow: damaged, gone .* repeat the command"):
            next(rank._rows)
