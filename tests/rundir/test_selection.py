"""Which rows a command is about, and how many a limit leaves for later."""

import pytest

from vidcap_cli.rundir.selection import Selection


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(), ""),
        (Selection(20), ""),
        (Selection(4), "6 rows of the table come after --limit 4"),
        (Selection(9), "1 row of the table comes after --limit 9"),
        (Selection(6, 0, 3), "2 rows of shard 0/3 come after --limit 6"),
        (Selection(6, 2, 3), "1 row of shard 2/3 comes after --limit 6"),
    ],
)
def test_rows_after_a_limit_are_those_that_the_run_goes_on_with(selection, words):
    assert selection.beyond_words(10) == words
    assert selection.beyond(10) == int(words.split()[0] if words else 0)
