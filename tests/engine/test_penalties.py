"""What repeating costs, by slots: as counted anew from all tokens at every step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcap_cli.checkpoint.generation import Generation
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine.penalties import Penalties, Repetition

VOCAB = 6
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)


def factors(ids: list[int], penalties: Penalties) -> np.ndarray:
    """By the definition of transformers: what was there, and what would repeat n tokens."""
    found = np.ones(VOCAB, np.float32)
    found[[token for token in ids if token < VOCAB]] = penalties.repetition
    size = penalties.ngram_size
    for end in range(size, len(ids) + 1) if size else ():
        *before, last = ids[end - size : end]
        if before == ids[len(ids) - size + 1 :] and last < VOCAB:
            found[last] = 0
    return found


@given(tokens, tokens, st.integers(0, 4), st.sampled_from([1.0, 1.3]))
def test_factors(prompt, more, size, penalty):
    penalties = Penalties(penalty, size)
    repetition = Repetition(slots=2, vocab=VOCAB)
    repetition.begin(1, np.array(prompt), penalties)
    ids = [*prompt]
    for token in more:
        np.testing.assert_array_equal(repetition.factors[1], factors(ids, penalties))
        repetition.append(1, token)
        ids.append(token)
    np.testing.assert_array_equal(repetition.factors[1], factors(ids, penalties))
    assert repetition.any([0, 1]) == (penalties != Penalties())
    repetition.free(1)
    assert not repetition.any([0, 1])
    assert (repetition.factors == 1).all()


def test_a_place_of_the_video_may_lie_outside_the_vocabulary():
    repetition = Repetition(slots=1, vocab=VOCAB)
    repetition.begin(0, np.array([9, 9, 9]), Penalties(1.5, 2))
    assert repetition.factors[0].tolist() == [1] * VOCAB


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        ({}, {}, Penalties()),
        ({}, {"repetition_penalty": 1.05, "no_repeat_ngram_size": 3}, Penalties(1.05, 3)),
        ({"repetition_penalty": 1.0}, {"repetition_penalty": 1.05}, Penalties()),
        ({"no_repeat_ngram_size": 0}, {"no_repeat_ngram_size": 3}, Penalties()),
        ({"repetition_penalty": 1.2, "no_repeat_ngram_size": 4}, {}, Penalties(1.2, 4)),
    ],
)
def test_the_users_penalties_come_before_the_checkpoints(asked, own, expected):
    config = CaptionConfig("qwen2vl", "nano", **asked)
    assert Penalties.of(config, Generation((0,), **own)) == expected


def test_a_second_try_is_always_penalised_more():
    assert Penalties().stronger() == Penalties(1.2, 5)
    assert Penalties(1.05, 8).stronger() == Penalties(1.2, 5)
    assert Penalties(1.5, 3).stronger() == Penalties(1.5 * 1.1, 3)
