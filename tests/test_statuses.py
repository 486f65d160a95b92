"""The words on the disk never change: tables and runs of older versions have them."""

from vidcap_cli.statuses import FAILED, PASSING, Doing, Flag, Status


def test_the_words_are_those_of_every_version():
    assert set(Status) == {
        "ok", "missing_file", "download_error", "decode_error", "decode_timeout", "rejected",
        "empty", "oom", "model_error", "crashed", "missing",
    }  # fmt: skip
    assert set(Flag) == {
        "frame_rate", "damaged", "truncated", "shrunk", "hdr", "anamorphic", "cut", "repetitive",
        "retried",
    }  # fmt: skip
    assert set(Doing) == {
        "starting", "loading model", "waiting for frames", "compiling", "captioning", "finished",
        "stopped",
    }  # fmt: skip


def test_a_row_that_failed_has_a_result_and_no_caption():
    assert set(FAILED) == set(Status) - {"ok", "missing"}
    assert set(FAILED) > PASSING
