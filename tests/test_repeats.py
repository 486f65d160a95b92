"""Captions that repeat themselves: a rank's short way to the answer is the rule of ``inspect``."""

import random

import numpy as np
import pytest

from vidcap_cli.repeats import is_repetitive, loops, numbered, words_of


def by_rule(text: str) -> bool:
    words = numbered(words_of(text))
    return bool(loops(words, np.array([0, len(words)]))[0])


@pytest.mark.parametrize(
    ("text", "repetitive"),
    [
        ("a man walks his dog through the park and the dog barks at a man", False),
        ("no no no no no", True),
        ("no no no no", False),
        ("very good very good very good very good", True),
        ("very good very good very good", False),
        ("the red ball the red ball the red ball", True),
        ("", False),
    ],
)
def test_the_shortest_loops_are_found(text, repetitive):
    assert is_repetitive(text) == by_rule(text) == repetitive


def test_one_caption_is_judged_as_many_are():
    chance = random.Random(3)
    found = set()
    for _ in range(3000):
        many = [f"w{number}" for number in range(chance.choice([2, 4, 9, 40]))]
        words = chance.choices(many, k=chance.randrange(60))
        phrase = words[: chance.randrange(1, 12)] * chance.randrange(5)
        place = chance.randrange(len(words) + 1)
        text = " ".join(words[:place] + phrase + words[place:])
        assert is_repetitive(text) == by_rule(text), text
        found.add(is_repetitive(text))
    assert found == {False, True}
