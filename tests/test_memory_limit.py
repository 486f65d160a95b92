"""A video too large for the memory: shown smaller, or left without a caption; never a dead run."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.commands import rows_of, vidcap

# 36,000 tokens of the first clip at this size: its patches alone take more than the limit.
LARGE = ("--resize", "exact", "--height", "700", "--width", "1260", "--fps", "8")
LIMIT = "1.3G"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("large")
    for name, frames in (("long", 64), ("short", 2)):
        with av.open(str(place / f"{name}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=Fraction(8))
            stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
            stream.options = {"x264-params": "threads=1"}
            for index in range(frames):
                pixels = np.full((180, 320, 3), 40 + 2 * index, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            file.mux(stream.encode())
    (place / "meta.csv").write_text("path\nlong.mp4\nshort.mp4\n")
    return place


def caption(
    folder: Path, output: str, *arguments: str, model: str = "nano"
) -> tuple[int, str, list[dict[str, str]]]:
    code, _, err = vidcap(
        *("qwen2vl", "meta.csv", "--model", model, "--max-new-tokens", "8", "--all-columns"),
        *("-o", output, *LARGE, *arguments),
        cwd=folder,
    )
    return code, err, rows_of(folder / output) if (folder / output).exists() else []


@pytest.mark.parametrize("model", ["nano", pytest.param("nano2.5", marks=pytest.mark.slow)])
def test_it_is_shown_smaller_and_says_so(folder, model):
    limit = ("--memory-limit", LIMIT)
    code, err, (long, short) = caption(folder, f"shrunk-{model}.csv", *limit, model=model)
    assert code == 0, err
    assert (long["caption_status"], long["caption_flags"]) == ("ok", "shrunk,cut")
    assert int(long["caption_height"]) < 700
    assert int(long["caption_width"]) < 1260
    assert int(long["caption_prompt_tokens"]) < 30_000
    assert (short["caption_status"], short["caption_flags"]) == ("ok", "cut")
    assert (short["caption_height"], short["caption_width"]) == ("700", "1260")


@pytest.mark.slow
def test_or_gets_no_caption(folder):
    arguments = ("--memory-limit", LIMIT, "--on-oom", "empty")
    code, err, (long, short) = caption(folder, "empty.csv", *arguments)
    assert code == 3, err
    assert (long["caption_status"], long["text"]) == ("empty", "")
    assert long["caption_error"].startswith("out of memory")
    assert short["caption_status"] == "ok"


def test_a_limit_that_the_weights_exceed_ends_the_run_with_what_to_do(folder):
    code, err, _ = caption(folder, "never.csv", "--memory-limit", "50M")
    assert code == 1
    assert "more than --memory-limit 50.0 MB allows" in err


@pytest.mark.parametrize("text", ["much", "12 parsecs", "-1G"])
def test_a_limit_that_is_no_size_is_a_usage_error(folder, text):
    code, err, _ = caption(folder, "never.csv", "--memory-limit", text)
    assert code == 2
    assert "such as 12G" in " ".join(err.replace("│", " ").split())
