"""How far a command has come where nobody sees a bar."""

from vidcap_cli.view import progress


def test_a_line_now_and_then(monkeypatch, capfd):
    seconds = iter([0.0, 10.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with progress.Progress("videos measured", 4000) as shown:
        for _ in range(4):
            shown.advance(1000)
    assert (
        capfd.readouterr().err == "2,000 of 4,000 videos measured\n4,000 of 4,000 videos measured\n"
    )
