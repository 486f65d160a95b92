"""The words that results and events carry: one set for every writer and reader of them.

They are strings on the disk, in columns, JSON and lines of events. A table or part of another
version may hold a word that is not here: readers of columns take it as it stands.
"""

from enum import StrEnum


class Status(StrEnum):
    """What became of a row."""

    OK = "ok"  # captioned
    MISSING_FILE = "missing_file"
    DOWNLOAD_ERROR = "download_error"  # a file elsewhere that does not come
    DECODE_ERROR = "decode_error"  # no frames: damaged, not a video
    DECODE_TIMEOUT = "decode_timeout"
    REJECTED = "rejected"  # the model does not take such a frame
    EMPTY = "empty"  # the model ended before the first word
    OOM = "oom"  # out of memory, however small the video is made
    MODEL_ERROR = "model_error"
    CRASHED = "crashed"  # the rank died twice with this row in the model
    MISSING = "missing"  # not done yet; never in a part


# Another try of the same file may end otherwise.
PASSING = frozenset(
    {Status.DOWNLOAD_ERROR, Status.DECODE_TIMEOUT, Status.OOM, Status.MODEL_ERROR, Status.CRASHED}
)
FAILED = tuple(status for status in Status if status not in (Status.OK, Status.MISSING))


class Flag(StrEnum):
    """What is to be known of a caption; most are about its frames, see ``vidcap_cli.video``."""

    FRAME_RATE = "frame_rate"
    DAMAGED = "damaged"
    TRUNCATED = "truncated"
    SHRUNK = "shrunk"  # for want of memory
    HDR = "hdr"
    ANAMORPHIC = "anamorphic"
    CUT = "cut"  # the caption ended at --max-new-tokens
    REPETITIVE = "repetitive"  # it says the same again and again
    RETRIED = "retried"  # for that it was decoded once more


class Doing(StrEnum):
    """What a rank is doing, or how it left in good order."""

    STARTING = "starting"
    LOADING = "loading model"  # until its weights are in memory
    WAITING = "waiting for frames"
    COMPILING = "compiling"
    CAPTIONING = "captioning"
    FINISHED = "finished"  # no row was left to claim
    STOPPED = "stopped"  # it was asked to leave
