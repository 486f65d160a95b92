"""A table of videos with what was found in them, in the columns that pipelines for training read.

Their names and meaning are those of Open-Sora (``tools/datasets/datautil.py``): ``aspect_ratio`` is
height / width, ``resolution`` height * width; a video that cannot be read has 0 frames, height and
width and no other value. A column of the table that has one of these names is replaced.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vidcap_cli.disk import check_output
from vidcap_cli.errors import UsageError
from vidcap_cli.inspect.videos import Survey
from vidcap_cli.merge.replacing import check_captions
from vidcap_cli.meta import with_names
from vidcap_cli.options import PATH
from vidcap_cli.table_writer import output_form, writing
from vidcap_cli.tables import ROWS, Table, open_table, selectable, table_form

PROBED = pa.schema(
    [
        ("num_frames", pa.int64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("aspect_ratio", pa.float64()),
        ("fps", pa.float64()),
        ("resolution", pa.int64()),
    ]
)


def check_probed(output: Path, target: Path) -> None:
    """Raise UsageError or TableError when ``output`` cannot be written for ``target``."""
    output_form(output)
    if output.resolve() == target.resolve():
        raise UsageError(f"{output}: is the table of videos itself; name another file with -o")
    check_output(output)
    check_captions(output, open_table(target) if table_form(target) else None)


def write_probed(
    table: Table | None,
    column: pa.ChunkedArray,
    places: Mapping[str, int],
    found: Survey,
    output: Path,
    *,
    drop: bool,
) -> int:
    """Write the rows of ``table`` with the columns ``PROBED``; the number of rows written.

    ``column`` are the names of its rows, which are all that there is without a table; ``places``
    those of their videos in ``found``, -1 for one that is not there. With ``drop`` only rows
    whose video can be read are written.
    """
    batches, schema = _rows(table, column)
    kept = pa.schema([field for field in schema if field.name not in PROBED.names])
    written = 0
    with writing(output, schema, output_form(output)) as write:
        for batch, names in batches:
            place = np.array([places[name] for name in names.to_pylist()], np.int64)
            readable = place >= 0
            readable[readable] = found.readable[place[readable]]
            own = (batch.column(field.name).cast(field.type) for field in kept)
            rows = pa.Table.from_arrays(
                [*own, *_columns(found, place, readable)],
                schema=schema,
            )
            rows = rows.filter(pa.array(readable)) if drop else rows
            write(rows)
            written += rows.num_rows
    return written


def _rows(
    table: Table | None, column: pa.ChunkedArray
) -> tuple[Iterator[tuple[Any, pa.Array]], pa.Schema]:
    """The rows of a table or a folder in blocks with their names, and the schema of those to
    write.
    """
    if table is None:
        rows = pa.table({PATH: column})
        parts = (rows.slice(start, ROWS) for start in range(0, rows.num_rows, ROWS))
        blocks: Iterator[tuple[Any, pa.Array]] = ((part, part[PATH]) for part in parts)
        kept = rows.schema
    else:
        blocks = with_names(table, table.batches())
        kept = table.schema
    others = [field for field in kept if field.name not in PROBED.names]
    return blocks, pa.schema([*selectable(pa.schema(others)), *PROBED])


def _columns(
    found: Survey, place: npt.NDArray[np.int64], readable: npt.NDArray[np.bool_]
) -> list[pa.Array]:
    frames, height, width = (
        np.where(readable, values[place], 0) for values in (found.frames, found.height, found.width)
    )
    fps = np.where(readable, found.fps[place], 0.0)
    none = ~readable
    return [
        pa.array(frames),
        pa.array(height),
        pa.array(width),
        pa.array(height / np.maximum(width, 1), mask=none),
        pa.array(fps, mask=none),
        pa.array(height * width, mask=none),
    ]
