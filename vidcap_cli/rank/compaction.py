"""Compaction: many small parts of a rank become a large one, so that a long run leaves few files.

A rank commits every few seconds: 64 ranks would leave five million files in a month. Of 64 parts of
a kind one is made that says by its name which it stands for; readers pass over those, and then they
go. A row is written once more each time there are 64 times as many.
"""

from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from vidcap_cli.errors import DamagedPartError
from vidcap_cli.rundir.parts import commit_part, read_part
from vidcap_cli.rundir.paths import RunDir, sequences_of

TOGETHER = 64
_MOST_BYTES = 64 << 20  # of parts that become one: what is in them is held in memory


def compact(run: RunDir, attempt: int, rank: int, by_way_of: Path) -> None:
    """Make one part of the last ``TOGETHER`` of a rank in a launch, if so many are of a kind.

    ``by_way_of`` as in ``atomic.committing``. A part that is damaged stays as it is, and what
    would be made one with it.
    """
    while True:
        last = run.parts_of(attempt, rank)[-TOGETHER:]
        kinds = {_kind(part) for part in last}
        if len(last) < TOGETHER or len(kinds) > 1:
            return
        if sum(part.stat().st_size for part in last) > _MOST_BYTES:
            return
        try:
            together = pa.concat_tables(map(read_part, last))
        except DamagedPartError:
            return
        first, end = sequences_of(last[0])[0], sequences_of(last[-1])[1]
        form = last[0].suffix.removeprefix(".")
        commit_part(run.part(attempt, rank, first, form, end), together, by_way_of)
        for part in last:
            with suppress(FileNotFoundError):
                part.unlink()


def _kind(part: Path) -> int:
    """How often what is in a part has been put together, as far as its name tells."""
    first, end = sequences_of(part)
    kind = 0
    while TOGETHER**kind < end - first + 1:
        kind += 1
    return kind
