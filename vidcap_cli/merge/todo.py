"""The table of rows still to do that a merge writes (``--missing``)."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from vidcap_cli.merge.spill import faults_named
from vidcap_cli.merge.target import Target
from vidcap_cli.statuses import PASSING, Status

Add = Callable[[pa.Table, pa.ChunkedArray], None]


@contextmanager
def rows_to_do(
    folder: Path, schema: pa.Schema, target: Target, write: Callable[[pa.Table], None]
) -> Iterator[Add]:
    """Hand out a function that takes rows of META and their statuses, and writes those without a
    caption for a table in ``folder``.

    Rows that another try alone does not help come last: a command with ``--limit`` would begin
    with them every time, and might never come to the others. Until the block ends they lie in
    a file without a name in ``folder``.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        # A stream: in the other format all tables would have to share their dictionaries.
        aside = pa.ipc.new_stream(file, schema)

        def add(rows: pa.Table, statuses: pa.ChunkedArray) -> None:
            todo = target.todo(rows.filter(pc.not_equal(statuses, Status.OK)), folder)
            left = statuses.filter(pc.not_equal(statuses, Status.OK))
            again = pc.is_in(left, pa.array([*PASSING, Status.MISSING], left.type))
            write(todo.filter(again))
            with faults_named(folder):
                aside.write_table(todo.filter(pc.invert(again)))

        yield add
        with faults_named(folder):
            aside.close()
            file.seek(0)
        for batch in pa.ipc.open_stream(file):
            write(pa.Table.from_batches([batch]))
