"""vidcap on MindSpore's own Ascend backend, with CANN's kernels substituted (see build.py)."""

import csv
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from tests.ascend.harness import REPOSITORY, StandIn

pytest.importorskip("mindspore")

SLOW = pytest.mark.slow
MODELS = ("llava", "pllava", "qwen2vl", "qwen25vl")  # the folders of the bundled ones
# What a decode step launches besides its layers: the embedding, the mask (the place of the last
# token as number of its type, and a comparison), the first norm, the head, its float32, the argmax,
# and the log-probability of that: a log-softmax, and a gathering.
AROUND_A_STEP = 9
A_LAYER = 13
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", REPOSITORY)


def caption_the_bundled_clips(stand_in, out, model, *options, devices):
    """Every clip gets the true sentence."""
    command, name = ("qwen2vl", "nano2.5") if model == "qwen25vl" else (model, "nano")
    words = (command, "--demo", "--model", name, *options, "-o", out)
    done = stand_in.vidcap(*words, devices=devices)
    assert done.returncode == 0, done.stdout + done.stderr
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [row[f"detail_{command}"] for row in rows]
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("model", "dtype", "ranks"),
    [
        ("llava", "float16", 2),
        *(
            pytest.param(model, dtype, ranks, marks=SLOW)
            for model in MODELS
            for dtype in ("float16", "bfloat16")
            for ranks in (1, 2)
            if (model, dtype, ranks) != ("llava", "float16", 2)
        ),
    ],
)
def test_every_bundled_clip_gets_its_caption(stand_in, tmp_path, model, dtype, ranks):
    options = ("--dtype", dtype, "--worker-num", str(ranks))
    caption_the_bundled_clips(stand_in, tmp_path / "captions.csv", model, *options, devices=ranks)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("llava", "float16"),
        pytest.param("qwen2vl", "bfloat16", marks=SLOW),
        pytest.param("qwen25vl", "float16", marks=SLOW),
        pytest.param("pllava", "float32", marks=SLOW),
    ],
)
def test_devices_that_share_a_model_caption_every_bundled_clip(stand_in, tmp_path, model, dtype):
    out = tmp_path / "captions.csv"
    options = ("--dtype", dtype, "--tensor-parallel", "2")
    caption_the_bundled_clips(stand_in, out, model, *options, devices=2)
    log = (out.with_suffix(".vidcap") / "msrun_log" / "0001" / "worker_1.log").read_text()
    assert f"weights in {dtype} on Ascend, AscendKernels, share 2 of 2" in log


def test_without_hccl_a_model_cannot_be_shared(stand_in, tmp_path):
    done = stand_in.vidcap("llava", "--demo", "--tensor-parallel", "2", devices=2, PYTHONPATH="")
    assert done.returncode == 2
    assert "needs CANN's Python package hccl" in " ".join(done.stderr.split())


@pytest.mark.parametrize("tests", ["test_kernels.py", pytest.param("test_decoder.py", marks=SLOW)])
def test_kernels_and_decoder_compute_there_what_they_compute_here(stand_in, tests):
    command = (*PYTEST, "-c", REPOSITORY / "pyproject.toml", REPOSITORY / "tests/models" / tests)
    done = stand_in.run(*command, VIDCAP_TEST_DEVICE="Ascend", PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def phases(run, family: str, dtype: str):
    done = run(sys.executable, "-m", "tests.ascend.phases", family, dtype)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(
    scope="module", params=["llava", *(pytest.param(f, marks=SLOW) for f in MODELS[1:])]
)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def there(stand_in: StandIn):
    return partial(phases, partial(stand_in.run, PYTHONPATH=str(REPOSITORY)))


@pytest.fixture(scope="module")
def here():
    run = partial(subprocess.run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return partial(phases, lambda *command: run(command))


@SLOW
def test_fused_kernels_equal_plain_ones(there, here, family):
    plain = np.array(here(family, "float32")["logits"])
    fused = np.array(there(family, "float32")["logits"])
    scale = np.abs(plain).max()
    np.testing.assert_allclose(fused, plain, atol=1e-4 * scale, rtol=0)
    half = np.array(there(family, "float16")["logits"])
    np.testing.assert_allclose(half, plain, atol=2e-2 * scale, rtol=0)


def test_a_step_launches_few_kernels(there, family):
    found = there(family, "bfloat16")
    launches = {phase: sum(counts.values()) for phase, counts in found["launches"].items()}
    print(f"{family}, {found['decoder']} + {found['tower']} layers: {launches}")
    assert launches["step"] == A_LAYER * found["decoder"] + AROUND_A_STEP
    assert launches["prefill"] <= 12 * found["decoder"] + 12
    assert launches["vision"] <= 17 * found["tower"] + 14
    assert launches["insert"] == 2 * found["decoder"]
