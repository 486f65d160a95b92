"""What the command refuses before a model is looked for: outputs and logs with no place to go."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.commands import vidcap
from vidcap_cli.caption import _say_shards, _say_what_is_kept, caption
from vidcap_cli.config import CaptionConfig
from vidcap_cli.declaring import declared
from vidcap_cli.errors import OK, ModelError, RunChangedError, RunError, UsageError
from vidcap_cli.inspect import inspect
from vidcap_cli.launch.job import Job
from vidcap_cli.launch.leader import Leader, leading
from vidcap_cli.options import PROMPTS, LaunchOptions, RunOptions, TableOptions
from vidcap_cli.request import Request
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.selection import Selection


@pytest.fixture
def request_of(tmp_path):
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    (tmp_path / "folder.csv").mkdir()

    def make(**options: object) -> Request:
        # A model that is not there: what comes later than the places ends with ModelError.
        config = CaptionConfig("qwen2vl", str(tmp_path / "no-model"))
        groups = [
            group(**{name: options.pop(name) for name in declared(group) if name in options})
            for group in (TableOptions, RunOptions, LaunchOptions)
        ]
        assert not options
        return Request(tmp_path / "meta.csv", config, *groups)

    return make


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/out.csv", "nowhere does not exist; create it first"),
        ("folder.csv", "is a folder; name a file"),
        ("", r"is a folder; name a file in it, such as .*/captions\.csv$"),
        ("captions", r"vidcap writes \.csv, \.tsv, \.parquet, \.jsonl; choose one"),
        ("out.docx", "vidcap writes"),
        ("meta.csv", "is the table of videos itself"),
        ("run/out.csv", "lies inside the run directory"),
        ("run/parts/out.csv", "lies inside the run directory"),
        ("meta.csv/out.csv", "does not exist"),
        ("x" * 252 + ".csv", "nothing can be written there .File name too long"),
        ("/proc/out.csv", "nothing can be written there"),
        ("/dev/null", "vidcap writes"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_an_output_that_cannot_be_written(tmp_path, request_of, output, message, dry_run):
    before = set(tmp_path.iterdir())
    asked = request_of(output=tmp_path / output, run_dir=tmp_path / "run", dry_run=dry_run)
    with pytest.raises(UsageError, match=message):
        caption(asked)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ("https://host/clip.mp4", "is no table by its name .* from a table that names them"),
        ("ftp://host/meta.csv", "ftp:// files are not read .*; download them or mount the place"),
    ],
)
def test_what_is_no_remote_table_is_refused(request_of, meta, words):
    with pytest.raises(UsageError, match=f"^{meta}: {words}"):
        caption(replace(request_of(), meta=Path(meta)))


def test_a_table_named_by_its_address_is_read(tmp_path, request_of):
    with pytest.raises(ModelError):  # it goes on to the model, which is not there
        caption(replace(request_of(), meta=Path(f"file://{tmp_path}/meta.csv")))


def test_a_folder_that_is_called_by_dots_has_its_name(tmp_path):
    below = tmp_path / "clips" / "below"
    below.mkdir(parents=True)
    (below / "a.mp4").write_text("no video")
    for meta, name in ((".", "below"), ("..", "clips")):
        _, _, err = vidcap("qwen2vl", meta, "--model", "nano", cwd=below)
        title = f"vidcap qwen2vl {name} → {name}_caption_qwen2vl.csv: 1 video"
        assert err.splitlines()[0] == title
    assert (tmp_path / "clips_caption_qwen2vl.csv").is_file()


def test_a_device_is_not_replaced_by_a_table(request_of):
    with pytest.raises(UsageError, match="not a regular file"):
        caption(request_of(output=Path("/dev/null"), form="csv"))


def test_logs_that_cannot_be_written(tmp_path, request_of):
    with pytest.raises(UsageError, match=r"logs cannot be written there .*--log-dir"):
        caption(request_of(log_dir=tmp_path / "meta.csv" / "logs"))


def test_what_a_killed_merge_left_beside_the_output_is_removed(tmp_path, request_of):
    ours = tmp_path / f".out.csv.{'a' * 32}.tmp"
    other = tmp_path / f".mine.csv.{'a' * 32}.tmp"
    for file in (ours, other):
        file.write_text("half")
    with pytest.raises(ModelError):
        caption(request_of(output=tmp_path / "out.csv"))
    assert not ours.exists()
    assert other.exists()


def test_an_output_that_exists_is_skipped_but_a_folder_is_not(tmp_path, request_of):
    (tmp_path / "out.csv").write_text("path,text\n")
    assert caption(request_of(output=tmp_path / "out.csv", skip_if_existing=True)) == OK
    with pytest.raises(UsageError, match="is a folder"):
        caption(request_of(output=tmp_path / "folder.csv", skip_if_existing=True))


def test_an_engine_that_is_not_installed(request_of, monkeypatch):
    monkeypatch.setattr("vidcap_cli.engine.has_mindnlp", lambda: False)
    asked = request_of()
    with pytest.raises(UsageError, match=r"not installed: pip install 'vidcap\[mindnlp\]'"):
        caption(replace(asked, config=replace(asked.config, engine="mindnlp")))


def test_merge_refuses_the_same_outputs(tmp_path, request_of):
    asked = request_of()
    with leading(Job(tmp_path / "meta.csv", tmp_path / "run", asked.config)):
        pass
    code, _, said = vidcap("merge", "run", "-o", "folder.csv", cwd=tmp_path)
    assert (code, said.strip()) == (2, "vidcap: folder.csv: is a folder; name a file")


def test_the_command_leaves_a_folder_of_the_user_alone(tmp_path):
    (tmp_path / "bad.csv").write_text("video\na.mp4\n")
    (tmp_path / "mydata").mkdir()
    (tmp_path / "mydata" / "thesis.txt").write_text("years of work")
    code, _, said = vidcap(
        "qwen2vl", "bad.csv", "--model", "nano", "--run-dir", "mydata", cwd=tmp_path
    )
    assert code == 2
    assert "Traceback" not in said
    assert (tmp_path / "mydata" / "thesis.txt").read_text() == "years of work"


def test_a_table_that_changed_while_videos_were_captioned_is_not_called_a_full_disk(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    meta = tmp_path / "meta.csv"
    meta.write_text("path\na.mp4\n")

    def change(leader: Leader, view: object) -> None:
        write_part(leader.run.part(1, 0, 0, "parquet"), [Result(0, "a.mp4", "ok", text="A.")])
        meta.write_text("path\nb.mp4\n")

    monkeypatch.setattr(Leader, "work", change)
    config = CaptionConfig("qwen2vl", "nano")
    with pytest.raises(RunChangedError, match=r"the table has changed since .* with --extend, "):
        caption(Request(meta, config))
    report = inspect(tmp_path / "meta_caption_qwen2vl.vidcap")
    assert report.steps[0].command.endswith(" --extend")
    meta.write_text("path\na.mp4\n")  # as it was
    assert not inspect(tmp_path / "meta_caption_qwen2vl.vidcap").steps[0].command.endswith("extend")


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_to_be_repeated_goes_on(tmp_path, monkeypatch, fresh):
    """Also with --fresh, which goes on with a start over that was cut off."""
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")

    def fail(leader: Leader, view: object) -> None:
        raise RunError(f"{leader.run.path}: the disk is full; repeat the command to continue.")

    monkeypatch.setattr(Leader, "work", fail)
    request = Request(tmp_path / "meta.csv", CaptionConfig("qwen2vl", "nano"))
    with pytest.raises(RunError, match="repeat the command to"):
        caption(replace(request, run=RunOptions(fresh=fresh)))


def test_captions_of_other_rows_are_not_said_to_be_of_other_shards(tmp_path, capsys):
    """They may as well be this shard's, after its --limit."""
    leader = SimpleNamespace(
        moved_from=None, captions_lost=0, captioned_besides=327, selection=Selection(6, 1, 3)
    )
    request = Request(tmp_path / "meta.csv", CaptionConfig("qwen2vl", "nano"))
    _say_what_is_kept(leader, request)
    told = "327 captions of rows not asked for stay in the run, for vidcap merge.\n"
    assert capsys.readouterr().err == told
    leader.captioned_besides, leader.captions_lost = 0, 1
    _say_what_is_kept(leader, request)
    told = "1 caption is of a row that the table has no more: it goes with the old run once this"
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_new_run_of_all_rows_beside_a_shard_says_so(tmp_path, capsys):
    shard = tmp_path / "m[1].0-of-3.vidcap"
    shard.mkdir()
    for run, selection, finished, told in (
        ("m[1]", Selection(), 0, f"{shard} has a shard of this table; without --shard all rows"),
        ("m[1]", Selection(), 2, ""),
        ("m[1].1-of-3", Selection(None, 1, 3), 0, ""),
        ("m1", Selection(), 0, ""),
    ):
        place = RunDir(tmp_path / f"{run}.vidcap")
        leader = SimpleNamespace(run=place, selection=selection, finished_before=finished)
        _say_shards(leader, Request(tmp_path / "meta.csv", CaptionConfig("qwen2vl", "nano")))
        assert told in (said := "".join(capsys.readouterr().err.splitlines()))
        assert bool(told) == bool(said)


def test_a_toy_says_what_it_knows(tmp_path, monkeypatch, capsys):
    (tmp_path / "meta.csv").write_text("path\na.mp4\n")
    monkeypatch.setattr(Leader, "work", lambda *_: None)
    for question, warned in (("Who?", True), (PROMPTS["brief"], False)):
        config = CaptionConfig("qwen2vl", "nano", question=question)
        caption(Request(tmp_path / "meta.csv", config, run=RunOptions(fresh=True)))
        told = "nano is a toy that knows two questions" in capsys.readouterr().err
        assert told == warned
    for frames, warned in ((8, True), (4, False)):
        config = CaptionConfig("pllava", "nano", num_frames=frames)
        caption(Request(tmp_path / "meta.csv", config, run=RunOptions(fresh=True)))
        told = "with --num-frames 4. What it says of 8" in " ".join(capsys.readouterr().err.split())
        assert told == warned
    for shape, warned in (("4-12-12", True), ("2-4-4", False)):
        config = CaptionConfig("pllava", "nano", pooling_shape=shape)
        caption(Request(tmp_path / "meta.csv", config, run=RunOptions(fresh=True)))
        said = " ".join(capsys.readouterr().err.split())
        told = (
            f"trained with --pooling-shape 4-4-4. What it says with {shape} means nothing" in said
        )
        assert told == warned
