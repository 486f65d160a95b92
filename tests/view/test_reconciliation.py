"""The words of a merge's account."""

from vidcap_cli.merge.account import Example, Reconciliation, Tally
from vidcap_cli.view.reconciliation import show_merge


def test_one_result_is_one(capsys):
    none, one, two = Tally(), Tally(1, (Example(None, "x.mp4"),)), Tally(2)
    for unmatched, words in ((one, "1 result that fits no"), (two, "2 results that fit no")):
        account = Reconciliation("o.csv", 1, 1, {}, none, none, none, unmatched, unmatched)
        show_merge(account, as_json=False)
        told = capsys.readouterr().err
        assert f"{words} planned row\n" in told
        assert f"{words.split(' that')[0]} whose row_id and path disagree" in told
