"""The compiled decoder against itself: blocks, slots and caches change nothing."""

from itertools import pairwise

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from tests.helpers.device import DEVICE
from vidcap_cli.errors import ModelError
from vidcap_cli.models.decoder import FEWEST_TOKENS, Decoder
from vidcap_cli.models.decoder_config import SHORTEST, DecoderConfig
from vidcap_cli.models.decoder_graphs import DecoderGraphs
from vidcap_cli.models.device import select_device
from vidcap_cli.models.kernels import cpu, kernels_for

CONFIG = DecoderConfig(
    hidden=32, mlp=48, layers=2, heads=4, kv_heads=2, head_dim=16, vocab=90,
    rope_theta=10_000.0, rms_norm_eps=1e-6, mrope_section=None, tied=False, qkv_bias=True,
)  # fmt: skip
ON_CPU = pytest.mark.skipif(DEVICE != "CPU", reason="only there attention keeps its scores")
LONG = 2 * FEWEST_TOKENS + 133


def make_decoder(dtype, bits: int | None = None) -> Decoder:
    select_device(DEVICE, compiled=True)
    rng = np.random.default_rng(7)
    weights = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in CONFIG.shapes().items()
    }
    if bits is not None:
        scale = np.float32(2**bits)
        weights = {name: np.round(weight * scale) / scale for name, weight in weights.items()}
    return Decoder(CONFIG, weights.__getitem__, kernels_for(DEVICE), slots=3, dtype=dtype)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return make_decoder(ms.float32)


@pytest.fixture(autouse=True)
def _small_blocks(decoder, monkeypatch) -> None:
    monkeypatch.setattr(decoder, "score_bytes", 1)


def tokens(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab, count)


def prefilled(decoder: Decoder, ids: np.ndarray):
    return decoder.prefill(decoder.embed(ids), np.arange(len(ids)), np.arange(len(ids)))


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("length", "common", "rest"),
    [(40, 30, 7), (300, 300, 64), (LONG, LONG - 1, 1), (700, 300, 400)],
)
def test_a_prompt_that_begins_as_another_equals_itself_alone(decoder, length, common, rest):
    before = prefilled(decoder, tokens(20, length))
    ids = np.concatenate([tokens(20, length)[:common], tokens(21, rest)])
    places = np.arange(len(ids))
    after = decoder.extend(before, common, decoder.embed(ids), places[common:], places[common:])
    whole = prefilled(decoder, ids)
    assert (after.length, after.rope_delta) == (whole.length, whole.rope_delta)
    close(after.next_token.logits.asnumpy(), whole.next_token.logits.asnumpy())
    for ours, theirs in zip(after.values, whole.values, strict=True):
        close(ours.asnumpy()[:, : len(ids)], theirs.asnumpy()[:, : len(ids)])
    decoder.insert(2, after, 4)
    stepped = decoder.step(np.array([0, 0, 5])).logits.asnumpy()[2]
    decoder.free(2)
    close(stepped, prefilled(decoder, np.append(ids, 5)).next_token.logits.asnumpy()[0])


def test_a_prompt_in_blocks_equals_its_tokens_one_by_one(decoder):
    ids = tokens(1, LONG)
    whole = prefilled(decoder, ids).next_token.logits.asnumpy()[0]
    decoder.insert(1, prefilled(decoder, ids[: LONG - 40]), 60)
    for token in ids[LONG - 40 :]:
        logits = decoder.step(np.array([0, token, 0])).logits.asnumpy()[1]
    decoder.free(1)
    close(logits, whole)


def test_in_16_bits_a_token_sees_itself():
    # In float16 kernels may read converted copies of the caches, which could be made too early.
    decoder = make_decoder(ms.float16)
    ids = tokens(11, 60)
    decoder.insert(0, prefilled(decoder, ids[:50]), 10)
    for count in range(50, 60):
        logits = decoder.step(np.array([ids[count], 0, 0])).logits.asnumpy()[0]
        whole = prefilled(decoder, ids[: count + 1]).next_token.logits.asnumpy()[0]
        np.testing.assert_allclose(logits, whole, atol=0.01 * np.abs(whole).max())


@ON_CPU
@pytest.mark.parametrize("dtype", [ms.bfloat16, ms.float16])
def test_weights_of_16_bits_are_computed_with_in_32(dtype):
    # Numbers of 7 bits, which both types hold.
    ids, found = tokens(12, 300), []
    for number in (dtype, ms.float32):
        decoder = make_decoder(number, bits=7)
        decoder.insert(0, prefilled(decoder, ids[:290]), 10)
        for token in ids[290:]:
            found.append(decoder.step(np.array([token, 0, 0])).logits.asnumpy()[0])
    close(np.array(found[:10]), np.array(found[10:]))


def test_slots_of_different_length_do_not_touch_each_other(decoder):
    ids = [tokens(2, 5), tokens(3, 130), tokens(4, LONG)]
    more = tokens(5, 8)
    alone = []
    for row in ids:
        decoder.insert(0, prefilled(decoder, row), len(more))
        alone.append([decoder.step(np.array([t, 0, 0])).logits.asnumpy()[0] for t in more])
        decoder.free(0)
    for slot, row in enumerate(ids):
        decoder.insert(slot, prefilled(decoder, row), len(more))
    for step, token in enumerate(more):
        logits = decoder.step(np.full(3, token)).logits.asnumpy()
        for slot in range(3):
            close(logits[slot], alone[slot][step])
    for slot in range(3):
        decoder.free(slot)


def test_what_is_in_the_slots_moves_to_a_longer_cache_and_back(decoder):
    short, more = tokens(6, 20), tokens(7, 6)
    decoder.insert(0, prefilled(decoder, short), 100)
    expected = [decoder.step(np.array([t, 0, 0])).logits.asnumpy()[0] for t in more]
    decoder.free(0)
    decoder.insert(0, prefilled(decoder, short), 100)
    lengths, logits = [], []
    for step, token in enumerate(more):
        if step == 2:
            decoder.insert(2, prefilled(decoder, tokens(8, LONG)), 10)
        if step == 4:
            decoder.free(2)
            decoder.insert(1, prefilled(decoder, short), 10)
        logits.append(decoder.step(np.array([token, 0, 0])).logits.asnumpy()[0])
        lengths.append(decoder.kv_cache.length)
    decoder.free(0)
    decoder.free(1)
    assert lengths == [SHORTEST] * 2 + [1024] * 2 + [SHORTEST] * 2
    for ours, theirs in zip(logits, expected, strict=True):
        close(ours, theirs)


def test_a_prompt_that_fills_its_cache_to_the_last_token(decoder):
    ids = tokens(9, SHORTEST)
    decoder.insert(0, prefilled(decoder, ids[:-3]), 3)
    for token in ids[-3:]:
        logits = decoder.step(np.array([token, 0, 0])).logits.asnumpy()[0]
    assert decoder.kv_cache.length == SHORTEST
    decoder.free(0)
    close(logits, prefilled(decoder, ids).next_token.logits.asnumpy()[0])


@pytest.fixture(scope="module")
def with_scores() -> Decoder:
    """A decoder of the flavour that computes matrices of scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDCAP_NATIVE", "none")
        return make_decoder(ms.float32)


@ON_CPU
def test_blocks_are_larger_where_there_is_room(with_scores, monkeypatch):
    decoder, ids = with_scores, tokens(10, LONG)
    monkeypatch.setattr(decoder, "score_bytes", 1)
    in_blocks = prefilled(decoder, ids).next_token.logits.asnumpy()[0]
    monkeypatch.setattr(decoder, "score_bytes", 10**9)
    close(prefilled(decoder, ids).next_token.logits.asnumpy()[0], in_blocks)
    assert decoder._block_rows(LONG) == 2048
    monkeypatch.setattr(decoder, "score_bytes", decoder._score_bytes(600, LONG))
    assert decoder._block_rows(LONG) == 512


@ON_CPU
@pytest.mark.parametrize("length", [257, 700])
def test_parts_of_the_queries_equal_all_of_them(with_scores, monkeypatch, length):
    decoder, ids = with_scores, tokens(11, length)
    monkeypatch.setattr(decoder, "score_bytes", 10**9)
    in_parts = prefilled(decoder, ids)
    monkeypatch.setattr(cpu, "_CAUSAL_PART", 4096)
    monkeypatch.setattr(decoder, "_masks_of", (0, False))
    monkeypatch.setattr(
        decoder,
        "_graphs",
        DecoderGraphs(CONFIG, decoder.kernels, decoder._attention, decoder._sharding),
    )
    at_once = prefilled(decoder, ids)
    monkeypatch.setattr(decoder, "_masks_of", (0, False))
    close(in_parts.next_token.logits.asnumpy(), at_once.next_token.logits.asnumpy())
    for ours, theirs in zip(in_parts.keys, at_once.keys, strict=True):
        close(ours.asnumpy()[:, :length], theirs.asnumpy()[:, :length])


@ON_CPU
def test_what_a_prompt_needs_grows_with_its_length_alone(decoder):
    needs = [decoder.need(1 << power, 0) for power in range(13, 18)]
    assert all(2.1 > after / before > 1.9 for before, after in pairwise(needs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"rope_scaling\.rope_type 'yarn'"),
    ],
)
def test_what_the_decoder_does_not_know_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        DecoderConfig.read({"model_type": "llava", "text_config": change})


def test_sizes_that_llava_files_leave_out_are_those_of_llama_7b():
    config = DecoderConfig.read({"model_type": "llava", "text_config": {"vocab_size": 32064}})
    assert (config.hidden, config.mlp, config.layers, config.heads) == (4096, 11008, 32, 32)
    assert (config.kv_heads, config.head_dim, config.vocab, config.rope_theta) == (
        32,
        128,
        32064,
        1e4,
    )
