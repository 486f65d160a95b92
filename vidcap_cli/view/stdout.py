"""What a caption command writes to stdout: captions without a table, and how it ended as JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vidcap_cli.checkpoint.files import read_json
from vidcap_cli.merge.columns import STATUS
from vidcap_cli.meta import BOUNDS
from vidcap_cli.options import PATH
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.spans import named, span
from vidcap_cli.view.summary import captions_table


def print_captions(table: Path, columns: Sequence[str]) -> None:
    """Print the captions in a table that is not kept, each with what its row is called, and its
    column where there are several.
    """
    rows = _rows(table, [PATH, *BOUNDS, *columns])
    names = [named(row[PATH], span(*(row.get(name) for name in BOUNDS))) for row in rows]
    captions_table(
        (f"{name} [{column}]" if len(columns) > 1 else name, row[column])
        for name, row in zip(names, rows, strict=True)
        for column in columns
    )


def print_json(run: RunDir, table: Path | None, columns: Sequence[str], *, shown: bool) -> None:
    """Print how the command ended; where ``table`` is not kept (``shown``), with its captions.

    A shard writes none.
    """
    told: dict[str, Any] = {"output": table and str(table), "run": str(run.path)}
    if table and shown:
        told = dict.fromkeys(told)
        told["videos"] = _rows(table, [PATH, *BOUNDS, *columns, STATUS])
    told = read_json(run.summary) | told
    sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=1) + "\n")


def _rows(table: Path, columns: list[str]) -> list[dict[str, Any]]:
    there = pq.read_schema(table).names
    rows: list[dict[str, Any]] = pq.read_table(
        table, columns=[name for name in columns if name in there]
    ).to_pylist()
    return rows
