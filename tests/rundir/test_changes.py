"""Where META and the model lie is no change, as long as rows mean the same videos."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunChangedError
from vidcap_cli.rundir.changes import (
    check_unchanged,
    folder_has_moved,
    keep_place,
    located,
    only_contents_changed,
)
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan, make_plan, read_plan

CONFIG = CaptionConfig("qwen2vl", "/models/qwen", "1")


def table(folder: Path, *paths: str, sizes: int = 100) -> Path:
    """A table, and files of the size where its paths are relative."""
    folder.mkdir(exist_ok=True)
    for path in paths:
        if not path.startswith("/"):
            (folder / path).write_bytes(bytes(sizes))
    meta = folder / "meta.csv"
    meta.write_text("\n".join(["path", *paths]) + "\n")
    return meta


def planned(meta: Path, config: CaptionConfig = CONFIG) -> tuple[RunDir, Plan]:
    run = RunDir(meta.parent / "meta.vidcap")
    return run, make_plan(meta, run, config)


def test_options_and_rows_that_have_changed(tmp_path):
    """The command as it was would be refused for the rows."""
    meta = table(tmp_path / "a", "1.mp4")
    _, plan = planned(meta)
    other = replace(CONFIG, fps=1.0)
    for failed, purpose in ((None, "continue the run"), (2, "try these rows again")):
        with pytest.raises(RunChangedError, match=f"command as it was to {purpose}, or add --fres"):
            check_unchanged(plan, meta, other, failed=failed)
    table(tmp_path / "a", "1.mp4", "2.mp4")
    with pytest.raises(RunChangedError, match="as it was but with --extend to continue the run"):
        check_unchanged(plan, meta, other)
    with pytest.raises(RunChangedError, match=r"-o to keep both \(.*\), or add --fresh"):
        check_unchanged(plan, meta, other, failed=0)


def test_a_folder_with_table_and_run_that_has_moved_goes_on(tmp_path):
    run, plan = planned(table(tmp_path / "a", "1.mp4", "2.mp4"))
    (tmp_path / "a").rename(tmp_path / "b")
    meta, moved = tmp_path / "b" / "meta.csv", RunDir(tmp_path / "b" / "meta.vidcap")
    check_unchanged(plan, meta, CONFIG)
    assert located(moved, plan).meta == str(meta)
    now = keep_place(moved, plan, meta, CONFIG)
    assert now == read_plan(moved)
    assert (now.meta, now.bases[0]) == (str(meta), str(tmp_path / "b"))
    assert plan.bases[0] in now.bases  # what has stayed behind is found there
    assert (now.identity, now.rows_digest) == (plan.identity, plan.rows_digest)
    assert run.path != moved.path


@pytest.mark.parametrize("sizes", [100, 200])
def test_a_copy_goes_on_unless_its_videos_are_others(tmp_path, sizes):
    """The place of before is still there, so what its rows meant can be compared."""
    _, plan = planned(table(tmp_path / "a", "1.mp4", "2.mp4"))
    meta = table(tmp_path / "b", "1.mp4", "2.mp4", sizes=sizes)
    if sizes == 100:
        check_unchanged(plan, meta, CONFIG)
        return
    words = rf"the table: {plan.meta} -> {meta}: 1\.mp4 has 200 bytes there, and 100 at the place"
    with pytest.raises(RunChangedError, match=words) as caught:
        check_unchanged(plan, meta, CONFIG)
    assert "--extend keeps" not in str(caught.value)


def test_absolute_paths_mean_the_same_wherever_the_table_is(tmp_path):
    _, plan = planned(table(tmp_path / "a", "/videos/1.mp4"))
    check_unchanged(plan, table(tmp_path / "b", "/videos/1.mp4"), CONFIG)


def test_a_table_with_another_name_beside_the_old_one_extends_it(tmp_path):
    """Such as the same rows as Parquet: there relative paths mean the same files."""
    old = table(tmp_path / "a", "1.mp4", "2.mp4")
    _, plan = planned(old)
    meta = old.with_name("meta.parquet")
    pq.write_table(pa.table({"path": ["2.mp4", "1.mp4"]}), meta)
    with pytest.raises(RunChangedError, match=rf"the table: {old} -> {meta}\n--extend keeps the"):
        check_unchanged(plan, meta, CONFIG)
    assert only_contents_changed(plan, meta, CONFIG)
    (tmp_path / "b").mkdir()
    with pytest.raises(RunChangedError, match="the table: "):
        only_contents_changed(plan, meta.rename(tmp_path / "b" / "meta.parquet"), CONFIG)


def test_a_table_that_has_moved_and_changed_can_be_extended(tmp_path):
    old = table(tmp_path / "a", "1.mp4")
    _, plan = planned(old)
    meta = table(tmp_path / "b", "1.mp4", "2.mp4")
    old.unlink()
    assert only_contents_changed(plan, meta, CONFIG)
    renamed = meta.rename(meta.with_name("other.csv"))
    with pytest.raises(RunChangedError, match="the table: "):
        only_contents_changed(plan, renamed, CONFIG)


def test_a_copy_that_has_changed_can_be_extended(tmp_path):
    """While the one it was made of is still there: its videos say whether it is a copy."""
    _, plan = planned(table(tmp_path / "a", "1.mp4", "/videos/0.mp4"))
    with pytest.raises(RunChangedError, match=r"contents of meta.csv: 2 -> 3 rows\n--extend keeps"):
        check_unchanged(plan, table(tmp_path / "b", "1.mp4", "/videos/0.mp4", "2.mp4"), CONFIG)
    assert only_contents_changed(plan, tmp_path / "b" / "meta.csv", CONFIG)
    assert only_contents_changed(plan, table(tmp_path / "c", "/videos/0.mp4"), CONFIG)
    renamed = table(tmp_path / "d", "1.mp4").rename(tmp_path / "d" / "other.csv")
    with pytest.raises(RunChangedError, match="the table: "):
        only_contents_changed(plan, renamed, CONFIG)


@pytest.mark.parametrize("sizes", [100, 200])
@pytest.mark.parametrize("gone", [True, False])
def test_another_table_of_the_same_name_is_no_copy(tmp_path, sizes, gone):
    """One without a video in common, or with others of the same names, or none of them here."""
    old = table(tmp_path / "a", "1.mp4")
    _, plan = planned(old)
    meta = table(tmp_path / "b", *(["2.mp4"] if sizes == 100 else ["1.mp4", "3.mp4"]), sizes=sizes)
    if gone:
        meta.write_text("path\n1.mp4\n4.mp4\n")
        (tmp_path / "b" / "1.mp4").unlink(missing_ok=True)
    with pytest.raises(RunChangedError, match=rf"the table: {old} -> {meta}") as caught:
        only_contents_changed(plan, meta, CONFIG)
    assert "--extend" not in str(caught.value)
    with pytest.raises(RunChangedError, match=r"^the run there, finished but for 2 failed rows,"):
        only_contents_changed(plan, meta, CONFIG, failed=2)


def test_a_folder_of_videos_that_has_moved(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").write_bytes(b"1")
    _, plan = planned(tmp_path / "clips")
    (tmp_path / "clips").rename(tmp_path / "others")
    assert folder_has_moved(plan, tmp_path / "others", CONFIG)
    (tmp_path / "others" / "2.mp4").write_bytes(b"2")
    assert not folder_has_moved(plan, tmp_path / "others", CONFIG)


def test_a_copied_folder_with_other_videos_in_it(tmp_path):
    for folder in "ab":
        (tmp_path / folder / "clips").mkdir(parents=True)
        (tmp_path / folder / "clips" / "1.mp4").write_bytes(b"1")
    _, plan = planned(tmp_path / "a" / "clips")
    copy = tmp_path / "b" / "clips"
    (copy / "2.mp4").write_bytes(b"2")
    assert only_contents_changed(plan, copy, CONFIG)
    (copy / "1.mp4").unlink()
    with pytest.raises(RunChangedError, match="the table: "):
        only_contents_changed(plan, copy, CONFIG)


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("/gone/models/qwen", "/models/qwen", True),
        ("/gone/models/qwen", "/models/other", False),
        ("{here}/qwen", "/models/qwen", False),
        ("{here}/models--Q--m/snapshots/c0", "/cache/models--Q--m/snapshots/c0", True),
        ("{here}/models--Q--m/snapshots/c0", "/cache/models--Q--m/snapshots/c1", False),
        ("{here}/vidcap_cli/nano/qwen2vl", "/venv/vidcap_cli/nano/qwen2vl", True),
    ],
)
def test_a_model_at_another_place(tmp_path, before, now, same):
    """The same commit, the same toy, or a folder of the same files that has gone from there."""
    before = before.format(here=tmp_path)
    if before.startswith(str(tmp_path)):
        Path(before).mkdir(parents=True)
    meta = table(tmp_path / "a", "1.mp4")
    run, plan = planned(meta, replace(CONFIG, model=before))
    asked = replace(CONFIG, model=now)
    if same:
        check_unchanged(plan, meta, asked)
        assert keep_place(run, plan, meta, asked).options["model"] == now
    else:
        with pytest.raises(RunChangedError, match="--model: "):
            check_unchanged(plan, meta, asked)
    with pytest.raises(RunChangedError, match="the files of the model"):
        check_unchanged(plan, meta, replace(asked, model_fingerprint="2"))
