"""Options from files and the environment become words before those that were typed."""

import pytest

from tests.test_cli import refusal, vidcap
from vidcap_cli.errors import UsageError
from vidcap_cli.presets import presets


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(*typed: str) -> list[str]:
    return presets(typed).words


def test_nothing_is_added_without_a_file_or_variable():
    assert words("qwen2vl", "m.csv") == words("inspect") == words() == []


def test_a_file_is_for_all_commands_and_its_tables_are_for_one(folder):
    (folder / "vidcap.toml").write_text(
        "bs = 4\nmax-new-tokens = 50\nfps = 2\nprefix = 'ohwx, '\n"
        "[qwen2vl]\nbs = 8\nall_columns = true\nskip_if_existing = false\n"
        "[llava]\nnum_frames = 3\n"
    )
    common = ["--max-new-tokens", "50", "--prefix", "ohwx, "]
    own = ["--bs", "8", *common[:2], "--fps", "2", *common[2:], "--all-columns"]
    assert words("qwen2vl") == own
    assert words("llava") == ["--bs", "4", *common, "--num-frames", "3"]
    assert words("merge", "a.vidcap") == ["--prefix", "ohwx, "]


def test_typed_words_beat_variables_and_those_beat_files(folder, monkeypatch):
    (folder / "vidcap.toml").write_text("fps = 2\nbs = 4\noutput = 'a.csv'\nmodel = 'nano'\n")
    monkeypatch.setenv("VIDCAP_BS", "8")
    monkeypatch.setenv("VIDCAP_FRESH", "yes")
    monkeypatch.setenv("VIDCAP_DRY_RUN", "0")
    typed = ["m.csv", "--fps=1", "-o", "b.csv", "--pretrained_model_name_or_path", "x"]
    found = presets(["qwen2vl", *typed])
    assert found.words == ["--bs", "8", "--fresh"]
    assert str(found) == "VIDCAP_BS: --bs 8; VIDCAP_FRESH: --fresh"


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("VIDCAP_FSP", "VIDCAP_FPS"), ("VIDCAP_MODLE", "VIDCAP_MODEL"), ("VIDCAP_B", "VIDCAP_BS")],
)
def test_a_variable_that_is_nearly_an_option_is_refused(folder, monkeypatch, variable, meant):
    monkeypatch.setenv(variable, "2")
    with pytest.raises(UsageError, match=f"^{variable}: .* did you mean {meant}"):
        words("qwen2vl")


@pytest.mark.parametrize("variable", ["VIDCAP_CACHE", "VIDCAP_NODE_SECONDS", "VIDCAP_OWNER_NOTE"])
def test_other_variables_are_left_alone(folder, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert words("qwen2vl") == []


def test_a_typed_question_beats_a_prompt_of_a_file(folder):
    (folder / "vidcap.toml").write_text("prompt = 'brief'\n")
    assert words("qwen2vl") == ["--prompt", "brief"]
    assert words("qwen2vl", "--question", "What moves?") == []
    assert words("qwen2vl", "--prompt", "motion") == []


@pytest.mark.parametrize("question", ["{a = 'Who?', b = 'Why?'}", "['a=Who?', 'b=Why?']"])
def test_several_questions_are_a_table_or_a_list(folder, question):
    (folder / "vidcap.toml").write_text(f"question = {question}\n")
    assert words("qwen2vl") == ["--question", "a=Who?", "--question", "b=Why?"]


def test_a_project_file_has_a_table_for_vidcap(folder):
    (folder / "pyproject.toml").write_text("[tool.other]\n[tool.vidcap.qwen2vl]\nfps = 1\n")
    assert str(presets(["qwen2vl"])) == "pyproject.toml: --fps 1"
    (folder / "pyproject.toml").write_text("this is [not TOML\n")  # and not ours to judge
    assert words("qwen2vl") == []


def test_another_file_may_be_named(folder, monkeypatch):
    (folder / "vidcap.toml").write_text("fps = 1\n")
    (folder / "mine.toml").write_text("fps = 2\n")
    monkeypatch.setenv("VIDCAP_CONFIG", str(folder / "mine.toml"))
    assert words("qwen2vl") == ["--fps", "2"]
    monkeypatch.setenv("VIDCAP_CONFIG", "nowhere.toml")
    with pytest.raises(UsageError, match=r"nowhere\.toml: cannot be read"):
        presets(["qwen2vl"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fsp = 2\n", r"vidcap\.toml: there is no option fsp; did you mean fps\?"),
        ("[llava]\nfps = 2\n", r": \[llava\]: there is no option fps; vidcap llava --help lists"),
        (
            "[inspect]\nall = true\n",
            r": \[inspect\] is not read; tables are for .*, merge\.",
        ),
        ("[qwen]\nfps = 2\n", r"\[qwen\] is not read; .*; did you mean \[qwen2vl\]\?"),
        ("[merge]\nallow-missing = true\n", r"\[merge\]: allow-missing is no option for a file; "),
        ("allow_missing = true\n", r"vidcap\.toml: allow_missing is no option for a file; give it"),
        ("fps = \n", r"vidcap\.toml: is not TOML .*mend it"),
    ],
)
def test_what_a_file_says_wrong_is_told_with_the_remedy(folder, text, words):
    (folder / "vidcap.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        presets(["qwen2vl"])


def test_a_flag_in_the_environment_is_1_or_0(monkeypatch):
    monkeypatch.setenv("VIDCAP_FRESH", "perhaps")
    with pytest.raises(UsageError, match=r"VIDCAP_FRESH=perhaps: write 1 or 0\."):
        presets(["qwen2vl"])


def test_the_command_says_which_options_it_was_given(folder):
    (folder / "vidcap.toml").write_text("model = 'nano'\n[qwen2vl]\nfps = 'many'\n")
    (folder / "m.csv").write_text("path\na.mp4\n")
    err = refusal("qwen2vl", "m.csv", cwd=folder, code=2)
    assert err.startswith("vidcap: options from vidcap.toml: --model nano --fps many Usage:")
    assert "Invalid value for '--fps'" in err
    code, out, err = vidcap("qwen2vl", "m.csv", "--fps", "2", "--dry-run", "-q", cwd=folder)
    assert (code, err) == (1, "")  # there is no such video
    assert "nothing was captioned" in out


def test_help_needs_no_file_that_is_right(folder):
    (folder / "vidcap.toml").write_text("fsp = 2\n")
    assert vidcap("qwen2vl", "--help", cwd=folder)[0] == 0
