"""How long ``vidcap inspect`` takes for many captions, and how much memory.

``uv run python tests/benchmarks/captions.py [ROWS]`` writes a table of made-up captions, of 75
words in the mean: 2 % are copies of earlier ones, 4 % such copies with a word changed, 1 % loop and
1 % are cut off. Then it looks at it in a process of its own and prints seconds and the peak of
memory.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 50_000
KEPT = 20_000  # captions that later ones are copied from


def captions(rows: int) -> Iterator[str]:
    rng = np.random.default_rng(1)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    vocabulary = ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(8000)]
    kept: list[str] = []
    for _ in range(rows):
        words = [vocabulary[min(n, 8000) - 1] for n in rng.zipf(1.3, rng.integers(40, 110))]
        caption = ". ".join(" ".join(words[at : at + 15]) for at in range(0, len(words), 15)) + "."
        kind = rng.random()
        if kind < 0.06 and kept:
            caption = kept[rng.integers(len(kept))]
            if kind >= 0.02:
                caption = caption.replace(" ", " zebra ", 1)
        elif kind < 0.07:
            caption += " and a cup of coffee" * 6
        elif kind < 0.08:
            caption = caption[:-30]
        if len(kept) < KEPT:
            kept.append(caption)
        yield caption


def write(table: Path, rows: int) -> None:
    schema = pa.schema([("path", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(table, schema, compression="zstd") as writer:
        found = captions(rows)
        for start in range(0, rows, BLOCK):
            size = min(BLOCK, rows - start)
            paths = [f"clips/{start + row:09}.mp4" for row in range(size)]
            writer.write_table(pa.table([paths, [next(found) for _ in paths]], schema=schema))


def main(rows: int) -> None:
    with TemporaryDirectory() as folder:
        table = Path(folder) / "captions.parquet"
        write(table, rows)
        began = time.monotonic()
        command = [sys.executable, "-m", "vidcap_cli", "inspect", str(table)]
        subprocess.run(command, check=True)
        seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{rows:,} captions: {seconds:.0f} s, {used.ru_utime:.0f} s of CPU, "
          f"{used.ru_maxrss / 1e6:.2f} GB")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
