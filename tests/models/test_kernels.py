"""Every kernel computes what numpy computes, compiled and operator by operator."""

import math

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, nn

from tests.helpers.device import DEVICE
from vidcap_cli.models import rope
from vidcap_cli.models.decoder_config import DecoderConfig
from vidcap_cli.models.device import eagerly, select_device
from vidcap_cli.models.kernels import GroupedQueryAttention, Kernels, kernels_for
from vidcap_cli.models.kernels.ascend import AscendKernels
from vidcap_cli.models.kernels.cpu import CpuKernels
from vidcap_cli.models.kernels.native import NativeKernels

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16


FLAVOURS = {"none": CpuKernels, None: NativeKernels} if DEVICE == "CPU" else {None: AscendKernels}


@pytest.fixture(scope="module", params=FLAVOURS.values(), ids=lambda flavour: flavour.__name__)
def kernels(request) -> Kernels:
    select_device(DEVICE, compiled=True)
    native = next(name for name, flavour in FLAVOURS.items() if flavour is request.param)
    with pytest.MonkeyPatch.context() as patch:
        if native:
            patch.setenv("VIDCAP_NATIVE", native)
        made = kernels_for(DEVICE)
    assert type(made) is request.param
    return made


@pytest.fixture(scope="module")
def attention(kernels) -> GroupedQueryAttention:
    config = DecoderConfig(
        hidden=8, mlp=8, layers=1, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, vocab=8,
        rope_theta=1e4, rms_norm_eps=1e-6, mrope_section=None, tied=False, qkv_bias=True,
    )  # fmt: skip
    return kernels.grouped_query_attention(config, ms.float32)


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


@pytest.mark.parametrize("rows", [1, 4, 5, 128, 129])
def test_linear(kernels, rows):
    # Of more than 2^20 numbers: from there on a few rows go second on CPU.
    x, weight, bias = normal(rows, 1032), normal(1020, 1032) / 32, normal(1020)
    kept = kernels.weight(weight, ms.float32)
    close(both(kernels.linear, x, kept.asnumpy(), bias), x @ weight.T + bias)
    close(kernels.linear(Tensor(x), kept), x @ weight.T)


def test_linear_with_what_follows(kernels):
    x, weight, bias, residual = normal(5, 12), normal(20, 12), normal(20), normal(5, 20)
    kept, inner = kernels.weight(weight, ms.float32).asnumpy(), x @ weight.T + bias
    erf = np.vectorize(math.erf)(inner / np.sqrt(2))
    close(both(kernels.linear_gelu, x, kept, bias), inner * (1 + erf) / 2)
    close(both(kernels.linear_quick_gelu, x, kept, bias), inner / (1 + np.exp(-1.702 * inner)))
    close(both(kernels.linear_add, x, kept, bias, residual), inner + residual)


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


def test_a_sum_and_its_norm(kernels):
    x, delta, weight = normal(5, 12), normal(5, 12, seed=1), normal(12)

    def add_rms_norm(x, delta, weight) -> Tensor:
        total, normed = kernels.add_rms_norm(x, delta, weight, 1e-2)
        return kernels.concat((total, normed), 0)

    total = x + delta
    scale = 1 / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-2)
    expected = np.concatenate([total, total * scale * weight])
    close(both(add_rms_norm, x, delta, weight), expected)


def test_norms_of_16_bits_are_computed_in_32(kernels):
    if kernels.numbers(ms.float16) == ms.float32:
        pytest.skip("rows are float32 throughout")
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
    gates = [gate, up] if kernels.gate_tensors == 2 else [np.concatenate([gate, up])]

    def swiglu_mlp(x, down, *gates) -> Tensor:
        return kernels.swiglu_mlp(x, gates, down)

    kept = (kernels.weight(weight, ms.float32).asnumpy() for weight in (down, *gates))
    close(both(swiglu_mlp, x, *kept), expected)


def test_swiglu_with_biases(kernels):
    x, gate, up = normal(3, 8), normal(20, 8), normal(20, 8, seed=1)
    biases = normal(20), normal(20, seed=1)
    inner = x @ gate.T + biases[0]
    expected = inner / (1 + np.exp(-inner)) * (x @ up.T + biases[1])
    count, gates = kernels.gate_tensors, [gate, up]
    if count == 1:
        gates, biases = [np.concatenate(gates)], [np.concatenate(biases)]

    def swiglu(x, *tensors) -> Tensor:
        return kernels.swiglu(x, tensors[:count], tensors[count:])

    kept = (kernels.weight(weight, ms.float32).asnumpy() for weight in gates)
    close(both(swiglu, x, *kept, *biases), expected)


def test_rope_turns_each_pair_of_queries_and_keys_by_its_angle(kernels):
    head_dim, q_heads, kv_heads, theta = 8, 3, 2, 100.0
    widths = q_heads * head_dim, kv_heads * head_dim
    split = kernels.qkv_split(*widths, head_dim)
    positions, qkv = np.array([0, 3, 17]), normal(3, widths[0] + 2 * widths[1])
    angles = rope.rope(positions, head_dim, theta, None)
    tables = kernels.rope_tables(*angles, q_heads + kv_heads, ms.float32)

    def rotated(qkv, cos, sin) -> Tensor:
        return kernels.concat(split(qkv, (cos, sin)), 1)

    def plain(qkv) -> Tensor:
        return kernels.concat(split(qkv, ()), 1)

    found = both(rotated, qkv, *(table.asnumpy() for table in tables))
    # A pair as a complex number: the two halves of a head are its parts.
    turned, rest = np.split(qkv, [sum(widths)], 1)
    pairs = turned.reshape(3, q_heads + kv_heads, 2, head_dim // 2)
    angles = positions[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    pairs = (pairs[:, :, 0] + 1j * pairs[:, :, 1]) * np.exp(1j * angles)[:, None]
    turned = np.stack([pairs.real, pairs.imag], 2).reshape(3, -1)
    close(found, np.concatenate([turned, rest], 1))
    close(both(plain, qkv), qkv)
    assert [part.shape[1] for part in split(Tensor(qkv), ())] == [*widths, widths[1]]


def attended(q, k, v, hidden: np.ndarray | bool = False) -> np.ndarray:
    """Attention of rows ``[n, heads * D]``, head by head; ``hidden`` ``[n, m]`` is not seen."""
    dim = HEAD_DIM if q.shape[1] == HEADS * HEAD_DIM else 32
    group = q.shape[1] // k.shape[1]
    out = []
    for head in range(q.shape[1] // dim):
        mine = slice(head * dim, (head + 1) * dim)
        theirs = slice(head // group * dim, (head // group + 1) * dim)
        scores = q[:, mine] @ k[:, theirs].T / np.sqrt(dim)
        out.append(softmax(np.where(hidden, -np.inf, scores)) @ v[:, theirs])
    return np.concatenate(out, 1)


@pytest.mark.parametrize("patches", [24, 130, 150])
def test_patches_see_their_own_sequence_without_its_padding(kernels, patches):
    batch, padded, heads = 2, 24 if patches == 24 else 150, 2
    q, k, v = (normal(batch * padded, heads * 32, seed=seed) for seed in range(3))
    mask = kernels.patch_mask(patches, padded, batch, heads)

    split = kernels.qkv_split(heads * 32, heads * 32, 32)

    def self_attention(qkv, *masks) -> Tensor:
        hides = masks[0] if len(masks) == 1 else None
        return kernels.self_attention(qkv, (), split, batch=batch, heads=heads, mask=hides)

    masks, qkv = [] if mask is None else [mask.asnumpy()], np.concatenate([q, k, v], 1)
    found = both(self_attention, qkv, *masks).asnumpy().reshape(batch, padded, -1)
    for number in range(batch):
        rows = slice(number * padded, (number + 1) * padded)
        seen = slice(rows.start, rows.start + patches)
        np.testing.assert_allclose(
            found[number], attended(q[rows], k[seen], v[seen]), rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize(
    "windows", [[(1, 24)], [(2, 8), (1, 4)], [(1, 16), (2, 3)], [(4, 4), (1, 3), (2, 2), (1, 1)]]
)
def test_patches_see_their_window(kernels, windows):
    batch, padded, heads = 2, 24, 2
    q, k, v = (normal(batch * padded, heads * 32, seed=seed) for seed in range(3))
    mask = kernels.window_mask(np.array(windows), padded, batch, heads)

    split = kernels.qkv_split(heads * 32, heads * 32, 32)

    def self_attention(qkv, mask) -> Tensor:
        return kernels.self_attention(qkv, (), split, batch=batch, heads=heads, mask=mask)

    found = both(self_attention, np.concatenate([q, k, v], 1), mask.asnumpy()).asnumpy()
    assert np.isfinite(found).all()
    lengths = np.repeat(*np.array(windows).T[::-1])
    for sequence in range(batch):
        ends = sequence * padded + np.cumsum(lengths)
        for end, length in zip(ends, lengths, strict=True):
            rows = slice(end - length, end)
            expected = attended(q[rows], k[rows], v[rows])
            np.testing.assert_allclose(found[rows], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("rows", [5, 300])
def test_a_prompt_sees_what_came_before(attention, rows):
    q, k, v = (
        normal(rows, HEADS * HEAD_DIM),
        *(normal(rows, KV_HEADS * HEAD_DIM, seed=s) for s in (1, 2)),
    )
    masks = attention.first_masks(rows)

    def causal(q, k, v, *masks) -> Tensor:
        return attention.causal(q, k, v, masks)[0]

    def keys(q, k, v, *masks) -> Tensor:
        return attention.causal(q, k, v, masks)[1]

    later = np.triu(np.ones((rows, rows), bool), 1)
    arrays = (q, k, v, *(mask.asnumpy() for mask in masks))
    close(both(causal, *arrays), attended(q, k, v, later))
    kept = both(keys, *arrays).asnumpy()
    assert kept.shape == (attention.cache_rows, rows, attention.cache_width)
    np.testing.assert_array_equal(kept.transpose(1, 0, 2).reshape(rows, -1), k)


def test_a_later_block_sees_all_of_the_past(attention):
    past, rows = 300, 20
    q = normal(rows, HEADS * HEAD_DIM)
    k, v = (normal(past + rows, KV_HEADS * HEAD_DIM, seed=seed) for seed in (1, 2))
    with eagerly():
        q_by_head = attention.queries(Tensor(q))
        others = [attention.by_head(Tensor(x)) for x in (k[past:], k[:past], k, v)]
        names = ("k", "past", "keys", "values")
        found = attention.later(
            q_by_head, **dict(zip(names, others, strict=True)), masks=attention.later_masks(rows)
        )
        rows_found = attention.by_token(found)
    hidden = np.arange(past + rows)[None] > np.arange(rows)[:, None] + past
    close(rows_found, attended(q, k, v, hidden))
    row = Tensor(np.array([7], np.int32))
    np.testing.assert_array_equal(attention.token(q_by_head, row).asnumpy(), q[7:8])


def test_the_last_token_does_not_see_padding(attention):
    length, padded = 37, 64
    q = normal(1, HEADS * HEAD_DIM)
    k, v = (normal(padded, KV_HEADS * HEAD_DIM, seed=seed) for seed in (1, 2))
    padding = attention.padding_mask(length, padded).asnumpy()

    def last(q, k, v, padding) -> Tensor:
        return attention.last(q, attention.by_head(k), attention.by_head(v), padding)

    close(both(last, q, k, v, padding), attended(q, k[:length], v[:length]))


def test_embed(kernels):
    table, ids = normal(21, 6), np.array([20, 0, 20, 15], np.int32)
    kept = kernels.weight(table, ms.float32).asnumpy()
    np.testing.assert_array_equal(both(kernels.embed, kept, ids).asnumpy(), table[ids])


def test_gather_and_argmax(kernels):
    table, index = normal(7, 3), np.array([6, 0, 6], np.int32)
    np.testing.assert_array_equal(both(kernels.gather, table, index).asnumpy(), table[index])
    np.testing.assert_array_equal(both(kernels.argmax, table).asnumpy(), table.argmax(-1))
    # The first of equal ones, also where numbers are looked at part by part.
    wide = np.zeros((4, 3000), np.float32) - 2
    wide[0, [5, 2999]], wide[1, [1023, 1024]], wide[2, 2999] = 1, 3, -1
    np.testing.assert_array_equal(both(kernels.argmax, wide).asnumpy(), [5, 1023, 2999, 0])


@pytest.mark.parametrize("vocab", [7, 3000, 151_936])
def test_log_prob(kernels, vocab):
    logits, ids = 5 * normal(3, vocab), np.array([vocab - 1, 0, vocab // 2], np.int32)
    logits[1] += 1000  # what overflows unless the largest is taken away first
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    expected = wide[np.arange(3), ids] - np.log(np.exp(wide).sum(-1))
    close(both(kernels.log_prob, logits, ids), expected)


def test_penalised(kernels):
    logits, factors = normal(2, 40_000), np.ones((2, 40_000), np.float32)
    factors[:, ::3], factors[1, ::5] = 1.3, 0
    expected = np.where(logits < 0, logits * factors, logits / np.where(factors, factors, 1))
    expected[factors == 0] = -3e38
    np.testing.assert_array_equal(both(kernels.penalised, logits, factors).asnumpy(), expected)


@pytest.mark.parametrize("size", [3, 7, 9])
def test_split_and_concat(kernels, size):
    x = Tensor(normal(7, 2))
    pieces = kernels.split(x, size, 0)
    assert [piece.shape[0] for piece in pieces] == {3: [3, 3, 1], 7: [7], 9: [7]}[size]
    np.testing.assert_array_equal(kernels.concat(pieces, 0).asnumpy(), x.asnumpy())


class Step(nn.Cell):
    """Appends a token of each slot to its keys and values in a graph, and looks at them."""

    def __init__(self, kernels: Kernels, attention: GroupedQueryAttention) -> None:
        super().__init__(auto_prefix=False)
        self.kernels, self.attention = kernels, attention

    @ms.jit
    def construct(self, q, k, v, index, last, *caches):
        half = len(caches) // 2
        mask = self.attention.step_mask(last, caches[0].shape[-2])
        k, v = (x.reshape(-1, self.attention.cache_width) for x in (k, v))
        keys = self.kernels.update_cache(caches[:half], index, k)
        values = self.kernels.update_cache(caches[half:], index, v)
        return self.attention.step(q, keys, values, mask)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_slots_see_what_their_caches_hold(kernels, dtype):
    if kernels.layer_in_one:
        kernels = kernels_for(DEVICE, shared=True)  # the parts; test_native.py has the whole
    dtype = kernels.numbers(dtype)
    config = DecoderConfig(
        hidden=8, mlp=8, layers=1, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, vocab=8,
        rope_theta=1e4, rms_norm_eps=1e-6, mrope_section=None, tied=False, qkv_bias=True,
    )  # fmt: skip
    attention = kernels.grouped_query_attention(config, dtype)
    slots, length, prompt = 3, 32, 20
    rows, width = attention.cache_rows, attention.cache_width
    caches = [
        kernels.new_cache(f"{kind}_{dtype}", (slots * rows, length, width), dtype) for kind in "kv"
    ]
    assert all(len(cache) == kernels.cache_tensors for cache in caches)
    expected = np.zeros((2, slots, length, KV_HEADS * HEAD_DIM), np.float32)
    filled = np.stack([normal(prompt, KV_HEADS * HEAD_DIM, seed=seed) for seed in (1, 2)])
    expected[:, 1, :prompt] = filled
    with eagerly():
        by_head = [attention.by_head(Tensor(x).astype(dtype)) for x in filled]
        kernels.fill_cache(caches, rows, by_head)
    lengths, step = np.array([0, prompt, 0]), Step(kernels, attention)
    for turn in range(3):
        q = normal(slots, HEADS * HEAD_DIM, seed=10 + turn)
        k, v = (normal(slots, KV_HEADS * HEAD_DIM, seed=seed + turn) for seed in (20, 30))
        expected[:, np.arange(slots), lengths] = k, v
        last = np.repeat(lengths, rows)
        found = (
            step(
                *(Tensor(x).astype(dtype) for x in (q, k, v)),
                kernels.cache_index(last, length),
                Tensor(last.astype(np.int32).reshape(-1, 1, 1)),
                *(tensor for cache in caches for tensor in cache),
            )
            .astype(ms.float32)
            .asnumpy()
        )
        lengths = lengths + 1
        for slot in range(slots):
            keys, values = expected[:, slot, : lengths[slot]]
            close_to = attended(q[slot : slot + 1], keys, values)
            tolerance = 2e-5 if dtype == ms.float32 else 1e-2
            np.testing.assert_allclose(found[slot], close_to[0], rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(DEVICE != "CPU", reason="kernels in C are for CPU")
def test_each_device_has_its_flavour(monkeypatch):
    assert type(kernels_for("Ascend")) is AscendKernels
    assert type(kernels_for("CPU")) is NativeKernels
    monkeypatch.setenv("VIDCAP_NATIVE", "none")
    assert type(kernels_for("CPU")) is CpuKernels
