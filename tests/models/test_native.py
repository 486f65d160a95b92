"""The kernels in C, those of other processors too, as far as this one can run their sources."""

import ctypes
import importlib.util
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vidcap_cli import native
from vidcap_cli.errors import UsageError

SOURCES = sorted(Path(native.__file__).parent.glob("*.c"))
# What was built and runs here.
HERE = [name for name, needs in native._NEEDS.items() if needs <= native._processor_flags()]
# What 128 and 512 bits at a time are compiled to without the instructions for it.
WIDTHS = [16, 64]
DTYPES = ["float32", "float16", "bfloat16"]


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """What is kept of ``weight``: the nearest number, of two the even one."""
    if dtype == "float32":
        return weight
    if dtype == "float16":
        return weight.astype(np.float16).astype(np.float32)
    bits = weight.view(np.uint32)
    kept = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32)


def pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def product(library, x, weights, dtype: str, bias=None) -> np.ndarray:
    """``multiply`` of ``library``, whatever MindSpore makes of it."""
    (rows, columns), (n, _) = x.shape, weights[0].shape
    depth = columns + columns % 2 if dtype == "bfloat16" else columns
    kind = DTYPES.index(dtype)
    kept = [np.empty((n, depth), np.float32 if kind == 0 else np.uint16) for _ in weights]
    sizes = [ctypes.c_int64(size) for size in (n, columns, depth)]
    for weight, to in zip(weights, kept, strict=True):
        library.pack(pointer(weight), pointer(to), *sizes, kind)
    y = np.full((rows, n), np.nan, np.float32)
    both = (ctypes.c_void_p * 2)(*(it.ctypes.data for it in kept))
    library.multiply(
        pointer(x), both, pointer(bias), pointer(y), ctypes.c_int64(rows), *sizes, kind
    )
    return y


@pytest.fixture(scope="module", params=[*HERE, *WIDTHS])
def library(request, tmp_path_factory) -> ctypes.CDLL:
    if request.param in HERE:
        return ctypes.CDLL(str(Path(native.__file__).with_name(f"{request.param}.so")))
    made = tmp_path_factory.mktemp("native") / "kernels.so"
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-O1", "-mcpu=baseline", "-std=gnu11", "-fPIC",
         "-shared", f"-DVECTOR_BYTES={request.param}", "-o", str(made), *map(str, SOURCES),
         "-lpthread", "-lm"],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(made))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [*range(1, 14), 19, 96, 131])
def test_products_are_those_of_the_rounded_weights(library, rows, dtype):
    # Whole panels and a part of one, one block of columns and several, odd numbers of them.
    for n, k in ((67, 53), (32, 384), (5, 901)):
        compare(library, rows, n, k, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_larger_than_every_block(library, dtype):
    compare(library, 1100, 550, 1600, dtype)


def compare(library, rows: int, n: int, k: int, dtype: str) -> None:
    """``rows`` of [rows, k] with weights [n, k], with a bias, and gated, against numpy."""
    rng = np.random.default_rng([rows, n])
    x = rng.normal(0, 1, (rows, k)).astype(np.float32)
    weight, up = rng.normal(0, k**-0.5, (2, n, k)).astype(np.float32)
    bias = rng.normal(0, 1, n).astype(np.float32)
    exact = x.astype(np.float64) @ rounded(weight, dtype).astype(np.float64).T
    # On matrix registers a row is two bfloat16 numbers: 16 bits of it instead of 24.
    close = {"rtol": 0, "atol": 3e-5 if dtype == "float32" else 1e-4}
    np.testing.assert_allclose(product(library, x, [weight], dtype), exact, **close)
    np.testing.assert_allclose(product(library, x, [weight], dtype, bias), exact + bias, **close)
    gated = exact / (1 + np.exp(-exact)) * (x.astype(np.float64) @ rounded(up, dtype).T)
    np.testing.assert_allclose(product(library, x, [weight, up], dtype), gated, **close)


def test_numbers_out_of_the_ordinary(library):
    x = np.ones((1, 4), np.float32)
    weight = np.zeros((3, 4), np.float32)
    weight[0, 1], weight[1, 2] = np.nan, np.inf
    for dtype in DTYPES:
        found = product(library, x, [weight], dtype)[0]
        assert np.isnan(found[0])
        assert found[1:].tolist() == [np.inf, 0]
    # Gates so large or so small that an exponential would not hold them.
    gate = np.array([[1000, 0, 0, 0], [-1000, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    found = product(library, x, [gate, np.ones((3, 4), np.float32)], "float32")[0]
    np.testing.assert_allclose(found, [4000, 0, 0], atol=1e-30)


def test_products_of_several_threads_at_once(library):
    library.set_threads(3)
    rng = np.random.default_rng(3)
    x, weight = rng.normal(0, 1, (7, 64)), rng.normal(0, 1, (999, 64))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    expected, wrong = x @ weight.T, []

    def repeat() -> None:
        for _ in range(100):
            if not np.allclose(product(library, x, [weight], "float32"), expected, atol=1e-4):
                wrong.append(1)

    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kernels_are_chosen_by_what_the_processor_has(monkeypatch):
    here = native.library()
    assert here is not None, "the package was built without its kernels"
    monkeypatch.setenv("VIDCAP_NATIVE", here.stem)
    assert native.library() == here
    monkeypatch.setenv("VIDCAP_NATIVE", "none")
    assert native.library() is None
    monkeypatch.setenv("VIDCAP_NATIVE", "axv2")
    with pytest.raises(UsageError, match="VIDCAP_NATIVE=axv2: amx, avx512, avx2, neon or none"):
        native.library()
    monkeypatch.delenv("VIDCAP_NATIVE")
    monkeypatch.setattr(native, "_processor_flags", lambda: frozenset({"sse2"}))
    assert native.library() is None
    if platform.machine() == "x86_64":
        new = native._NEEDS["avx512"] | {"sse2"}
        monkeypatch.setattr(native, "_processor_flags", lambda: new)
        assert native.library() == here.with_name("avx512.so")
        monkeypatch.setattr(native, "_processor_flags", lambda: new | native._NEEDS["amx"])
        assert native.library() == here.with_name("amx.so")


def test_the_build_makes_what_is_looked_for():
    place = Path(native.__file__).parent
    spec = importlib.util.spec_from_file_location("build", place / "build.py")
    assert spec is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert {name for variants in build._VARIANTS.values() for name in variants} == set(
        native._NEEDS
    )
    assert all((place / f"{name}.so").exists() for name in build._VARIANTS[platform.machine()])
