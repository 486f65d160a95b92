"""Claims: how ranks divide the rows of an attempt without talking to each other.

The rows are cut into chunks; whoever creates the file of a chunk owns it. Creating a file
exclusively is atomic, also on shared folders, so no row is captioned twice and a slow rank
never holds up a fast one.
"""

import os
from collections.abc import Iterator

from vidcap_cli.rundir.paths import AttemptDir

# Small chunks even out fast and slow ranks at the end; large ones keep the claims folder small.
_CHUNKS_PER_RANK = 50
_LARGEST_CHUNK = 64


def chunk_size(rows: int, ranks: int) -> int:
    """Rows in a chunk, for ``rows`` rows divided among ``ranks`` ranks."""
    return max(1, min(rows // (ranks * _CHUNKS_PER_RANK), _LARGEST_CHUNK))


def own_chunks(attempt: AttemptDir, rank: int) -> list[int]:
    """The chunks that an earlier process of ``rank`` has claimed."""
    numbered = (path for path in attempt.claims.iterdir() if path.name.isdigit())
    return sorted(int(path.name) for path in numbered if path.read_bytes() == _owner(rank))


def any_unclaimed(attempt: AttemptDir, chunks: int) -> bool:
    """Whether one of ``chunks`` belongs to no rank."""
    return any(not attempt.claim(chunk).exists() for chunk in range(chunks))


def claim_chunks(attempt: AttemptDir, chunks: int, rank: int) -> Iterator[int]:
    """Yield the numbers of chunks that ``rank`` now owns, until all ``chunks`` are taken."""
    for chunk in range(chunks):
        try:
            file = os.open(attempt.claim(chunk), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(file, "wb") as claim:
            claim.write(_owner(rank))
        yield chunk


def _owner(rank: int) -> bytes:
    """What a claim holds."""
    return f"{rank}\n".encode()
