"""Both flavours of every kernel compute what numpy computes, compiled and operator by operator."""

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn

from vidcap_cli.models import rope
from vidcap_cli.models.device import eagerly, select_device
from vidcap_cli.models.kernels import MASKED, CpuKernels, Kernels, kernels_for


@pytest.fixture(scope="module", params=[CpuKernels, Kernels])
def kernels(request) -> Kernels:
    select_device("CPU", compiled=True)
    return request.param()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 1, shape).astype(np.float32)


def close(found, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=2e-5, atol=2e-5)


class Compiled(nn.Cell):
    """One call of a kernel as a graph; None among ``tensors`` cannot reach one."""

    def __init__(self, call) -> None:
        super().__init__(auto_prefix=False)
        self.call = call

    @ms.jit
    def construct(self, *tensors):
        return self.call(*tensors)


def both(call, *arrays: np.ndarray):
    """The results of ``call``, compiled and not, which are equal."""
    tensors = [Tensor(array) for array in arrays]
    with eagerly():
        eager = call(*tensors)
    compiled = Compiled(call)(*tensors)
    np.testing.assert_allclose(compiled.asnumpy(), eager.asnumpy(), rtol=1e-5, atol=1e-5)
    return compiled


def softmax(scores: np.ndarray) -> np.ndarray:
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def attended(q, k, v, scale, mask=0.0) -> np.ndarray:
    return softmax(q @ k.swapaxes(1, 2) * scale + mask) @ v


def test_each_device_has_its_flavour():
    assert type(kernels_for("CPU")) is CpuKernels
    assert type(kernels_for("Ascend")) is Kernels


@pytest.mark.parametrize("rows", [1, 4, 5, 128, 129])
def test_linear(kernels, rows):
    # Of more than 2^20 numbers: from there on a few rows go second on CPU.
    x, weight, bias = normal(rows, 1032), normal(1020, 1032) / 32, normal(1020)
    close(both(kernels.linear, x, weight, bias), x @ weight.T + bias)
    close(kernels.linear(Tensor(x), Tensor(weight)), x @ weight.T)


def test_norms(kernels):
    x, weight, bias, eps = normal(5, 12) * 3 + 1, normal(12, seed=1), normal(12, seed=2), 1e-2

    def rms_norm(x, weight) -> Tensor:
        return kernels.rms_norm(x, weight, eps)

    def layer_norm(x, weight, bias) -> Tensor:
        return kernels.layer_norm(x, weight, bias, eps)

    scale = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    close(both(rms_norm, x, weight), x * scale * weight)
    close(both(rms_norm, x[:1], weight), (x * scale * weight)[:1])
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    close(both(layer_norm, x, weight, bias), expected * weight + bias)


def test_norms_of_16_bits_are_computed_in_32(kernels):
    # The squares leave float16 at 256; rows of 300 become ones all the same.
    x, ones, zeros = (Tensor(np.full(shape, value, np.float16))
                      for shape, value in (((3, 8), 300), ((8,), 1), ((8,), 0)))  # fmt: skip
    assert kernels.rms_norm(x, ones, 1e-6).dtype == ms.float16
    close(kernels.rms_norm(x, ones, 1e-6), np.ones((3, 8)))
    close(kernels.layer_norm(x, ones, zeros, 1e-6), np.zeros((3, 8)))


def test_swiglu_mlp(kernels):
    x, gate, up, down = normal(3, 8), normal(16, 8), normal(16, 8, seed=1), normal(8, 16)
    inner = x @ gate.T
    expected = (inner / (1 + np.exp(-inner)) * (x @ up.T)) @ down.T
    close(both(kernels.swiglu_mlp, x, gate, up, down), expected)


def test_rope_turns_each_pair_by_its_angle(kernels):
    head_dim, heads, theta = 8, 3, 100.0
    positions, x = np.array([0, 3, 17]), normal(3, heads * head_dim)
    tables = kernels.rope_tables(*rope.rope(positions, head_dim, theta, None), heads, ms.float32)
    cos, sin = (table.asnumpy() for table in tables)

    def apply_rope(x, cos, sin) -> Tensor:
        return kernels.apply_rope(x, cos, sin, head_dim)

    found = both(apply_rope, x, cos, sin)
    # A pair as a complex number: the two halves of a head are its parts.
    split = x.reshape(3, heads, 2, head_dim // 2)
    angles = positions[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turned = (split[:, :, 0] + 1j * split[:, :, 1]) * np.exp(1j * angles)[:, None]
    close(found, np.stack([turned.real, turned.imag], 2).reshape(x.shape))


def test_attention(kernels):
    q, k, v = normal(4, 6, 8), normal(4, 9, 8), normal(4, 9, 5)

    def attention(q, k, v) -> Tensor:
        return kernels.attention(q, k, v, 0.3)

    close(both(attention, q, k, v), attended(q, k, v, 0.3))


@pytest.mark.parametrize("queries", [6, 130])
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (4, None)])
def test_attention_does_not_see_what_a_mask_hides(kernels, queries, shape):
    q, k, v = normal(4, queries, 8), normal(4, 9, 8), normal(4, 9, 8, seed=1)
    hidden = np.random.default_rng(3).random((shape[0], shape[1] or queries, 9)) < 0.5
    hidden[..., 0] = False
    mask = np.where(hidden, np.float32(-3e4), np.float32(0))

    def attention(q, k, v, mask) -> Tensor:
        return kernels.attention(q, k, v, 0.3, mask=mask)

    close(both(attention, q, k, v, mask), attended(q, k, v, 0.3, mask))


def test_attention_sees_all_of_the_past(kernels):
    q, past, k, v = (
        normal(2, 3, 8),
        normal(2, 5, 8, seed=1),
        normal(2, 3, 8, seed=2),
        normal(2, 8, 8),
    )
    mask = kernels.causal_mask(3, 2).asnumpy()

    def attention(q, k, v, mask, past) -> Tensor:
        return kernels.attention(q, k, v, 0.3, mask=mask, past=past)

    found = both(attention, q, k, v, mask, past)
    whole = np.concatenate([np.zeros((*mask.shape[:2], 5)), mask], 2)
    close(found, attended(q, np.concatenate([past, k], 1), v, 0.3, whole))


@pytest.mark.parametrize("rows", [5, 300])
def test_causal_masks_hide_what_comes_later(kernels, rows):
    heads, group = 2, 3
    later = np.triu(np.full((rows, rows), MASKED), 1)
    whole = np.broadcast_to(kernels.causal_mask(rows, heads).asnumpy(), (heads, rows, rows))
    np.testing.assert_array_equal(whole, np.stack([later] * heads))
    start = 0
    for mask in kernels.causal_masks(rows, heads, group):
        found = mask.asnumpy()
        end = found.shape[2]
        found = np.broadcast_to(found, (heads, *found.shape[1:])).reshape(heads, group, -1, end)
        np.testing.assert_array_equal(found, np.broadcast_to(later[start:end, :end], found.shape))
        start = end
    assert start == rows


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_are_split_and_merged(kernels, heads):
    x = normal(2 * 5, heads * 4)

    def split_heads(x) -> Tensor:
        return kernels.split_heads(x, 4, 2)

    def merge_heads(x) -> Tensor:
        return kernels.merge_heads(x, 2)

    split = both(split_heads, x)
    expected = x.reshape(2, 5, heads, 4).transpose(2, 0, 1, 3).reshape(heads * 2, 5, 4)
    np.testing.assert_array_equal(split.asnumpy(), expected)
    merged = both(merge_heads, expected)
    np.testing.assert_array_equal(merged.asnumpy(), x)


def test_gather_and_argmax(kernels):
    table, index = normal(7, 3), np.array([6, 0, 6], np.int32)
    np.testing.assert_array_equal(both(kernels.gather, table, index).asnumpy(), table[index])
    columns = kernels.gather(Tensor(table), Tensor(np.array([2], np.int32)), 1)
    np.testing.assert_array_equal(columns.asnumpy(), table[:, 2:])
    np.testing.assert_array_equal(both(kernels.argmax, table).asnumpy(), table.argmax(-1))


@pytest.mark.parametrize("size", [3, 7, 9])
def test_split_and_concat(kernels, size):
    x = Tensor(normal(7, 2))
    pieces = kernels.split(x, size, 0)
    assert [piece.shape[0] for piece in pieces] == {3: [3, 3, 1], 7: [7], 9: [7]}[size]
    np.testing.assert_array_equal(kernels.concat(pieces, 0).asnumpy(), x.asnumpy())


class Writes(nn.Cell):
    """Appends to a cache in a graph, as a decode step does."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = kernels

    @ms.jit
    def construct(self, index, new, *cache):
        return self.kernels.update_cache(cache, index, new) + 0


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_caches_are_filled_and_appended_to(kernels, dtype):
    heads, length, head_dim = 4, 6, 3
    expected = np.zeros((heads, length, head_dim), np.float32)
    cache = kernels.new_cache(f"test_{dtype}", expected.shape, dtype)
    assert len(cache) == kernels.cache_tensors
    prompt, writes = np.round(normal(2, 4, head_dim)), Writes(kernels)
    with eagerly():
        kernels.fill_cache([cache], 2, [Tensor(prompt).astype(dtype)])
    expected[2:, :4] = prompt
    lengths = np.array([0, 0, 4, 4])
    for step in range(2):
        new = np.round(10 * normal(heads, head_dim, seed=step))
        index = kernels.cache_index(lengths, length)
        found = writes(index, Tensor(new).astype(dtype), *cache)
        expected[np.arange(heads), lengths] = new
        np.testing.assert_array_equal(found.asnumpy(), expected)
        lengths = lengths + 1
