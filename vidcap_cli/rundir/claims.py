"""Claims: how ranks divide the rows of an attempt without talking to each other.

The rows are cut into chunks; whoever creates the file of a chunk owns it. Creating a file
exclusively is atomic, also on shared folders, so no row is captioned twice and a slow rank
never holds up a fast one.
"""

import os
from collections.abc import Iterator
from itertools import chain

from vidcap_cli.rundir.paths import AttemptDir

# Small chunks even out fast and slow ranks at the end; large ones keep the claims folder small.
_CHUNKS_PER_RANK = 50
_LARGEST_CHUNK = 64


def chunk_size(rows: int, ranks: int) -> int:
    """Rows in a chunk, for ``rows`` rows divided among ``ranks`` ranks."""
    return max(1, min(rows // (ranks * _CHUNKS_PER_RANK), _LARGEST_CHUNK))


def own_chunks(attempt: AttemptDir, rank: int) -> list[int]:
    """The chunks that an earlier process of ``rank`` has claimed.

    The one that it claimed at the moment of its death may not be among them: that is left to the
    next launch.
    """
    try:
        lines = attempt.claimed(rank).read_text(encoding="ascii").split("\n")
    except FileNotFoundError:
        return []
    return sorted({int(line) for line in lines[:-1]})


def any_unclaimed(attempt: AttemptDir, chunks: int) -> bool:
    """Whether one of ``chunks`` belongs to no rank."""
    return len(_taken(attempt)) < chunks


def claim_chunks(attempt: AttemptDir, chunks: int, rank: int, ranks: int = 1) -> Iterator[int]:
    """Yield the numbers of chunks that ``rank`` now owns, until all ``chunks`` are taken.

    Each of ``ranks`` begins at another place, so that they hardly ever want the same chunk: to try
    all that others have taken would cost a call of the file system for each.
    """
    taken: set[int] = set()
    first = chunks * (rank % ranks) // ranks
    for chunk in chain(range(first, chunks), range(first)):
        if chunk in taken:
            continue
        try:
            file = os.open(attempt.claim(chunk), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            taken = _taken(attempt)
            continue
        with os.fdopen(file, "wb") as claim:
            claim.write(f"{rank}\n".encode())
        with attempt.claimed(rank).open("ab", buffering=0) as own:
            own.write(f"{chunk}\n".encode())
        yield chunk


def _taken(attempt: AttemptDir) -> set[int]:
    """The chunks that have an owner."""
    return {int(path.name) for path in attempt.claims.iterdir() if path.name.isdigit()}
