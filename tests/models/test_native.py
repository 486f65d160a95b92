"""The kernels in C, those of other processors too, as far as this one can run their sources."""

import ctypes
import importlib.util
import math
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
ACTIVATIONS = [None, "quick_gelu", "gelu", "swiglu"]


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """What is kept of ``weight``: the nearest number, of two the even one."""
    if dtype == "float32":
        return weight
    if dtype == "float16":
        return weight.astype(np.float16).astype(np.float32)
    bits = weight.view(np.uint32)
    kept = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return kept.astype(np.uint32).view(np.float32)


class Product(ctypes.Structure):
    """``product`` of ``native.h``."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("weights", ctypes.c_void_p * 2),
        ("biases", ctypes.c_void_p * 2),
        ("residual", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("m", "n", "k", "depth")),
        ("kind", ctypes.c_int),
        ("activation", ctypes.c_int),
    )


def pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def product(
    library, x, weights, dtype: str, bias=None, residual=None, activation: str | None = None
) -> np.ndarray:
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
    biases = bias if isinstance(bias, tuple) else (bias, None)
    biases = (ctypes.c_void_p * 2)(*(it if it is None else it.ctypes.data for it in biases))
    result = ACTIVATIONS.index(activation or ("swiglu" if len(weights) == 2 else None))
    it = Product(
        pointer(x), both, biases, pointer(residual), pointer(y), rows, n, columns, depth, kind,
        result,
    )  # fmt: skip
    library.multiply(ctypes.byref(it))
    return y


def call(library, name: str, *inputs: np.ndarray, shape: tuple[int, ...] = ()) -> np.ndarray:
    """The result of a kernel as MindSpore calls it, of the ``shape`` of the first of its inputs."""
    result = np.full_like(inputs[0], np.nan, shape=shape or None)
    arrays = [*inputs, result]
    shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    dtypes = [array.dtype.name.encode() for array in arrays]
    count = len(arrays)
    failed = getattr(library, name)(
        count,
        (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * count)(*(array.ndim for array in arrays)),
        (ctypes.c_void_p * count)(*map(ctypes.addressof, shapes)),
        (ctypes.c_char_p * count)(*dtypes),
        None,
        None,
    )
    assert not failed
    return result


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, hidden) -> np.ndarray:
    """Attention of a head ``[n, D]``; what is ``hidden`` is not seen."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.where(hidden, -np.inf, q @ k.T / np.sqrt(q.shape[1]))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


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


def test_what_becomes_of_a_product(library):
    rng = np.random.default_rng(4)
    for rows, n in ((3, 37), (40, 64)):
        x, residual = rng.normal(0, 1, (rows, 16)), rng.normal(0, 1, (rows, n))
        weight, bias = rng.normal(0, 1, (n, 16)), rng.normal(0, 1, n)
        x, residual, weight, bias = (a.astype(np.float32) for a in (x, residual, weight, bias))
        weight = rounded(weight, "bfloat16")
        inner = x.astype(np.float64) @ weight.T + bias
        erf = np.vectorize(math.erf)(inner / np.sqrt(2))
        expected = {
            None: inner,
            "quick_gelu": inner / (1 + np.exp(-1.702 * inner)),
            "gelu": inner * (1 + erf) / 2,
        }
        for activation, result in expected.items():
            found = product(library, x, [weight], "bfloat16", bias, residual, activation)
            np.testing.assert_allclose(found, result + residual, rtol=0, atol=1e-4)
            found = product(library, x, [weight], "bfloat16", bias, None, activation)
            np.testing.assert_allclose(found, result, rtol=0, atol=1e-4)


def test_swiglu_with_a_bias_of_each_product(library):
    rng = np.random.default_rng(5)
    for rows, n in ((1, 37), (3, 37), (40, 64)):
        x, gate, up = (rng.normal(0, 1, (size, 16)).astype(np.float32) for size in (rows, n, n))
        biases = tuple(rng.normal(0, 1, (2, n)).astype(np.float32))
        gate, up = rounded(gate, "bfloat16"), rounded(up, "bfloat16")
        inner = x.astype(np.float64) @ gate.T + biases[0]
        expected = inner / (1 + np.exp(-inner)) * (x.astype(np.float64) @ up.T + biases[1])
        found = product(library, x, [gate, up], "bfloat16", biases)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head_dim", [7, 80])
@pytest.mark.parametrize(
    "windows", [[(1, 50)], [(3, 16)], [(5, 8), (2, 4), (1, 2)], [(1, 1), (0, 0), (1, 49)]]
)
def test_patches_attend_to_their_own_window(library, windows, head_dim):
    heads, patches = 3, 50
    given, (q, k, v) = tower_rows(2, patches, heads, head_dim)
    windows_given = np.array(windows, np.int32)
    found = call(library, "window_attention", *given, windows_given, shape=q.shape)
    for sequence, head in np.ndindex(2, heads):
        end = 0
        for many, length in windows:
            for _ in range(many):
                one = sequence, slice(end, end + length), head
                expected = attended(q[one], k[one], v[one], np.zeros(length, bool))
                np.testing.assert_allclose(found[one], expected, rtol=0, atol=5e-5)
                end += length
        assert not found[sequence, end:, head].any()


def tower_rows(sequences: int, patches: int, heads: int, head_dim: int):
    """What the attention of a tower is given, and the queries, keys and values in it. Those of an
    even ``head_dim`` are to be turned.
    """
    rng = np.random.default_rng([patches, head_dim])
    qkv = rng.normal(0, 1, (sequences, patches, 3, heads, head_dim)).astype(np.float32)
    q, k, v = np.moveaxis(qkv, 2, 0)
    if head_dim % 2:
        return [qkv], (q, k, v)
    angles = rng.normal(0, 1, (sequences, patches, 1, head_dim // 2)).astype(np.float32)
    tables = [np.tile(table, 2).reshape(-1, head_dim) for table in (np.cos(angles), np.sin(angles))]

    def turned(x: np.ndarray) -> np.ndarray:
        """A pair as a complex number: the two halves of a head are its parts."""
        real, imaginary = np.split(x, 2, -1)
        pairs = (real + 1j * imaginary) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag], -1).astype(np.float32)

    return [qkv, *tables], (turned(q), turned(k), v)


def tower_heads(library, patches: int, seen: int, head_dim: int):
    """What each head of two sequences attends to, its q, k and v, and what it does not see."""
    heads = 3
    given, (q, k, v) = tower_rows(2, patches, heads, head_dim)
    found = call(library, "tower_attention", *given, np.array([seen], np.int32), shape=q.shape)
    for sequence, head in np.ndindex(2, heads):
        one = sequence, slice(None), head
        yield found[one], q[one], k[one], v[one], np.arange(patches) >= seen


@pytest.mark.parametrize("head_dim", [7, 16, 64, 80])
@pytest.mark.parametrize(("patches", "seen"), [(1, 1), (37, 30), (97, 97), (420, 385)])
def test_patches_attend_to_their_own_sequence(library, patches, seen, head_dim):
    for found, q, k, v, hidden in tower_heads(library, patches, seen, head_dim):
        expected = attended(q, k, v, hidden)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("head_dim", [16, 72, 128])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 500), (33, 33), (401, 401), (50, 800), (385, 769)]
)
def test_a_token_attends_to_those_before_it(library, queries, keys, head_dim):
    rng, heads, kv_heads = np.random.default_rng([queries, head_dim]), 4, 2
    q = rng.normal(0, 1, (queries, heads * head_dim)).astype(np.float32)
    k, v = rng.normal(0, 1, (2, kv_heads, keys, head_dim)).astype(np.float32)
    found = call(library, "prompt_attention", q, k, v)
    hidden = np.arange(keys) > np.arange(queries)[:, None] + keys - queries
    for head in range(heads):
        columns, group = slice(head * head_dim, (head + 1) * head_dim), head // 2
        expected = attended(q[:, columns], k[group], v[group], hidden)
        np.testing.assert_allclose(found[:, columns], expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (12, 2), (7, 1)])
@pytest.mark.parametrize("head_dim", [5, 16, 72, 128])
@pytest.mark.parametrize(
    ("dtype", "last"),
    [
        *(("float32", last) for last in ([0], [15], [255], [256], [700], [0, 520, 31], [256, 0])),
        ("bfloat16", [0, 520, 31]),
    ],
    ids=str,
)
def test_a_query_of_each_slot_attends_to_its_tokens(
    library, dtype, last, head_dim, heads, kv_heads
):
    rng, length, slots = np.random.default_rng([head_dim, heads, *last]), max(last) + 3, len(last)
    q = rng.normal(0, 1, (slots, heads * head_dim)).astype(np.float32)
    both = rng.normal(0, 1, (2, slots * kv_heads, length, head_dim)).astype(np.float32)
    k, v = rounded(both, dtype)
    rows = np.repeat(np.array(last, np.int32), kv_heads).reshape(-1, 1, 1)
    unused = np.arange(length) > rows[:, 0]
    k[unused] = v[unused] = np.nan  # what is not there yet is not looked at
    found = call(library, "step_attention", q, cache_of(k, dtype), cache_of(v, dtype), rows)
    np.testing.assert_allclose(found, step_of(q, k, v, last, kv_heads), rtol=0, atol=2e-5)


def cache_of(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """``numbers``, which are of ``dtype``, as a cache of that has them."""
    if dtype == "float32":
        return numbers.copy()
    return (numbers.view(np.uint32) >> 16).astype(np.uint16)


def step_of(q, k, v, last: list[int], kv_heads: int) -> np.ndarray:
    """What each slot's query sees of the tokens up to its last."""
    head_dim = k.shape[2]
    heads = q.shape[1] // head_dim
    seen = np.empty(q.shape)
    for slot, head in np.ndindex(len(last), heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        row, tokens = slot * kv_heads + head * kv_heads // heads, slice(last[slot] + 1)
        one = q[slot : slot + 1, columns]
        seen[slot, columns] = attended(one, k[row, tokens], v[row, tokens], hidden=False)[0]
    return seen


@pytest.mark.parametrize(
    ("dtype", "cached"), [*((dtype, "float32") for dtype in DTYPES), ("bfloat16", "bfloat16")]
)
@pytest.mark.parametrize("last", [[0], [300], [20, 0, 257], [5] * 9], ids=str)
def test_a_layer_of_a_step(library, last, cached, dtype):
    rng, slots, hidden, heads, kv_heads, head_dim, mlp = (
        np.random.default_rng(last), len(last), 40, 6, 2, 16, 56
    )  # fmt: skip
    q_width, kv_width = heads * head_dim, kv_heads * head_dim

    def normal(*shape: int) -> np.ndarray:
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 1
        return rng.normal(0, scale, shape).astype(np.float32)

    x, turn = rng.normal(0, 1, (slots, hidden)).astype(np.float32), normal(slots, head_dim // 2)
    cos, sin = (np.tile(table, 2) for table in (np.cos(turn), np.sin(turn)))
    norms, bias = (normal(hidden), normal(hidden)), normal(q_width + 2 * kv_width)
    shapes = [(len(bias), hidden), (hidden, q_width), (hidden, mlp), (mlp, hidden), (mlp, hidden)]
    weights = [normal(*shape) for shape in shapes]
    shape = (2, slots * kv_heads, max(last) + 2, head_dim)
    before = rounded(rng.normal(0, 1, shape).astype(np.float32), cached)
    k, v = (cache_of(numbers, cached) for numbers in before)
    rows = np.repeat(np.array(last, np.int32), kv_heads)
    kept = [packed_by(library, weight, dtype) for weight in weights]
    found = call(
        library, "decoder_layer_step", x, cos, sin, rows.reshape(-1, 1, 1),
        np.array([1e-6], np.float32), *norms, kept[0], bias, *kept[1:], k, v,
    )  # fmt: skip
    qkv, o_proj, down, gate, up = (rounded(weight, dtype).astype(np.float64) for weight in weights)
    q, new_k, new_v = np.split(normed(x, norms[0]) @ qkv.T + bias, [q_width, q_width + kv_width], 1)
    q, new_k = (turned(it, cos, sin) for it in (q, new_k))
    for cache, new, old in ((k, new_k, before[0]), (v, new_v, before[1])):
        ends = new.reshape(-1, head_dim).astype(np.float32)
        old[np.arange(len(rows)), rows] = rounded(ends, cached)
        found_there = native.widened(cache) if cached == "bfloat16" else cache
        # A number half-way between two may be rounded to either.
        off = 0.01 * np.abs(old) if cached == "bfloat16" else 0
        assert (np.abs(found_there - old) <= off + 1e-4).all()
    total = x + step_of(q, *before, last, kv_heads) @ o_proj.T
    inner = normed(total, norms[1])
    gated = inner @ gate.T
    total += gated / (1 + np.exp(-gated)) * (inner @ up.T) @ down.T
    near = 2e-4 if cached == "float32" else 5e-3
    np.testing.assert_allclose(found, total, rtol=0, atol=near)


def test_numbers_are_rounded_into_a_part_of_a_cache():
    if native.library() is None:
        pytest.skip("nothing was built that this processor runs")
    numbers = np.random.default_rng(3).normal(0, 1, (2, 5, 6)).astype(np.float32)
    numbers[0, 0] = 0, -0.0, np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 1e-40
    cache = np.full((4, 8, 6), 7, np.uint16)
    native.round_into(numbers, cache[1:3, :5])
    np.testing.assert_array_equal(native.widened(cache[1:3, :5]), rounded(numbers, "bfloat16"))
    assert (cache[[0, 3]] == 7).all()
    assert (cache[:, 5:] == 7).all()


def packed_by(library, weight: np.ndarray, dtype: str) -> np.ndarray:
    """``weight`` as ``library`` takes it, of an even number of columns."""
    kept = np.empty(
        weight.shape, {"float32": np.float32, "float16": np.float16}.get(dtype, np.uint16)
    )
    library.pack(
        pointer(weight), pointer(kept), *map(ctypes.c_int64, (*weight.shape, weight.shape[1])),
        DTYPES.index(dtype),
    )  # fmt: skip
    return kept


def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """RMSNorm."""
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Heads ``[slots, heads * D]`` with their rotary positions."""
    heads = x.reshape(len(x), -1, cos.shape[1])
    first, second = np.split(heads, 2, -1)
    other = np.concatenate([-second, first], -1)
    return (heads * cos[:, None] + other * sin[:, None]).reshape(x.shape)


def test_scores_that_grow_and_numbers_that_do_not_fit(library):
    # Every block of keys has larger scores than all before: earlier sums shrink to nothing.
    q, v = np.ones((1, 16), np.float32), np.arange(1200, dtype=np.float32)
    k = np.repeat(v[:, None] / 4, 16, 1)[None]
    v = np.repeat(v[:, None], 16, 1)[None]
    expected = attended(q, k[0], v[0], hidden=False)
    found = call(library, "prompt_attention", q, k, v)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # In the other order all but the first block weigh nothing.
    found = call(library, "prompt_attention", q, k[:, ::-1].copy(), v[:, ::-1].copy())
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    k[0, 3] = np.nan
    assert np.isnan(call(library, "prompt_attention", q, k, v)).all()


def fewest_rounded(library) -> float:
    """Rows that are rounded when that is wanted: where the processor multiplies bfloat16 numbers
    alone; on matrix registers, many at a time."""
    return {"amx": 64, "avx512bf16": 1}.get(Path(library._name).stem, math.inf)


def test_rows_are_rounded_where_that_is_wanted(library):
    rng = np.random.default_rng(8)
    x, weight = rng.normal(0, 1, (80, 96)), rng.normal(0, 0.1, (48, 96))
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    exact, near = (rows @ rounded(weight, "bfloat16").T for rows in (x, rounded(x, "bfloat16")))
    for rows in (1, 2, 9, 12, 13, 40, 63, 64, 80):
        expected, other = (near, exact) if rows >= fewest_rounded(library) else (exact, near)
        library.round_rows(1)
        found = product(library, x[:rows], [weight], "bfloat16")
        library.round_rows(0)
        np.testing.assert_allclose(found, expected[:rows], rtol=0, atol=1e-4)
        assert np.abs(found - other[:rows]).max() > 1e-3
        found = product(library, x[:rows], [weight], "bfloat16")
        np.testing.assert_allclose(found, exact[:rows], rtol=0, atol=1e-4)


@pytest.fixture
def rounding(library):
    """A library that rounds many rows, where its processor is faster with it."""
    library.round_rows(1)
    yield library
    library.round_rows(0)


@pytest.mark.parametrize("rows", [1, 3, 6, 7, 12, 13, 25, 48, 49, 250])
@pytest.mark.parametrize(("n", "k"), [(67, 53), (32, 384), (5, 901), (130, 1100)])
def test_products_of_rounded_rows(rounding, rows, n, k):
    rng = np.random.default_rng([rows, n, k])
    x, residual, gate, up, bias = (
        rng.normal(0, 1, shape).astype(np.float32)
        for shape in ((rows, k), (rows, n), (n, k), (n, k), (n,))
    )
    gate, up = gate / k**0.5, up / k**0.5
    near = rounded(x, "bfloat16") if rows >= fewest_rounded(rounding) else x
    gates, ups = (near.astype(np.float64) @ rounded(w, "bfloat16").T for w in (gate, up))
    found = product(rounding, x, [gate], "bfloat16", bias, residual)
    np.testing.assert_allclose(found, gates + bias + residual, rtol=0, atol=1e-4)
    if fewest_rounded(rounding) == 1:  # a slot's caption is the same whoever else has a slot
        alone = product(rounding, x[-1:], [gate], "bfloat16", bias, residual[-1:])
        np.testing.assert_array_equal(alone, found[-1:])
    found = product(rounding, x, [gate, up], "bfloat16")
    np.testing.assert_allclose(found, gates / (1 + np.exp(-gates)) * ups, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head_dim", [7, 64, 80])
@pytest.mark.parametrize(("patches", "seen"), [(64, 60), (97, 97), (420, 385)])
def test_rounded_patches_attend_to_their_own_sequence(rounding, patches, seen, head_dim):
    for found, q, k, v, hidden in tower_heads(rounding, patches, seen, head_dim):
        compare_rounded(rounding, found, q, k, v, hidden)


@pytest.mark.parametrize("head_dim", [16, 72, 128])
@pytest.mark.parametrize(("queries", "keys"), [(401, 401), (50, 801), (1, 70)])
def test_a_rounded_token_attends_to_those_before_it(rounding, queries, keys, head_dim):
    rng, heads, kv_heads = np.random.default_rng([queries, head_dim]), 4, 2
    q = rng.normal(0, 1, (queries, heads * head_dim)).astype(np.float32)
    k, v = rng.normal(0, 1, (2, kv_heads, keys, head_dim)).astype(np.float32)
    found = call(rounding, "prompt_attention", q, k, v)
    hidden = np.arange(keys) > np.arange(queries)[:, None] + keys - queries
    for head in range(heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        compare_rounded(
            rounding, found[:, columns], q[:, columns], k[head // 2], v[head // 2], hidden
        )


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 2), (12, 2), (7, 1)])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 96, 128, 256])
@pytest.mark.parametrize("last", [[0], [1], [15], [256], [700], [0, 521, 30]], ids=str)
def test_a_rounded_query_of_each_slot_attends_to_its_tokens(
    rounding, last, head_dim, heads, kv_heads
):
    rng, length, slots = np.random.default_rng([head_dim, heads, *last]), max(last) + 1, len(last)
    q = rng.normal(0, 1, (slots, heads * head_dim)).astype(np.float32)
    both = rng.normal(0, 1, (2, slots * kv_heads, length, head_dim)).astype(np.float32)
    k, v = rounded(both, "bfloat16")
    rows = np.repeat(np.array(last, np.int32), kv_heads).reshape(-1, 1, 1)
    unused = np.arange(length) > rows[:, 0]
    k[unused] = v[unused] = np.nan
    found = call(
        rounding, "step_attention", q, cache_of(k, "bfloat16"), cache_of(v, "bfloat16"), rows
    )
    # Weights are rounded, too: by 2^-9 of themselves at most.
    near = q if head_dim % 32 or fewest_rounded(rounding) > 1 else rounded(q, "bfloat16")
    size = step_of(near, k, np.abs(v), last, kv_heads)
    error = np.abs(found - step_of(near, k, v, last, kv_heads))
    assert (error <= size * 2**-8 + 2e-5).all()


def compare_rounded(library, found, q, k, v, hidden) -> None:
    """Keys and values are those of bfloat16; so are queries, scaled, and weights: 2^-9 of each."""
    exact = attended(q, k, v, hidden)
    near = attended(q, rounded(k, "bfloat16"), rounded(v, "bfloat16"), hidden)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.03)
    if Path(library._name).stem not in {"amx", "avx512bf16"}:
        np.testing.assert_allclose(found, exact, rtol=0, atol=5e-5)
        return
    assert np.abs(found - exact).max() > 1e-4
    assert ((found - near) ** 2).mean() < ((found - exact) ** 2).mean()


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
    with pytest.raises(
        UsageError, match="VIDCAP_NATIVE=axv2: amx, avx512bf16, avx512, avx2, neon or none"
    ):
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


def test_kernels_built_of_other_sources_are_refused(tmp_path, monkeypatch):
    """As after git pull, which brings new sources beside what was compiled before."""
    built = native.library()
    if built is None:
        pytest.skip("no kernels for this processor")
    for path in [*built.parent.glob("*.[ch]"), built]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(native, "_HERE", tmp_path)
    assert native.library() == tmp_path / built.name
    native._check_sources.cache_clear()
    with (tmp_path / "rows.c").open("a", encoding="utf-8") as source:
        source.write("/* new */\n")
    with pytest.raises(UsageError, match="uv sync --reinstall-package vidcap"):
        native.library()
    # What was built before libraries told their sources.
    monkeypatch.setattr(native.ctypes, "CDLL", lambda _: object())
    with pytest.raises(UsageError, match=f"{built.name}: these kernels are compiled, but of other"):
        native.library()
