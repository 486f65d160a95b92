"""The help of a command on a terminal: names and defaults that are long are folded, never cut.

typer draws it with rich, whose tables end a word that is wider than its column with an ellipsis.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_WHOLE, _ROOMY = 80, 100  # columns with room for whole names, and for all names of an option


@contextmanager
def folding(parameters: list[Any]) -> Iterator[None]:
    """While it lasts, what typer draws of these parameters folds, at commas where it can."""
    from rich import columns  # noqa: PLC0415 - not for TAB
    from rich.table import Table  # noqa: PLC0415
    from typer import rich_utils  # noqa: PLC0415

    narrow = _WHOLE <= shutil.get_terminal_size().columns < _ROOMY

    class Folding(Table):
        def add_row(self, *cells: Any, **options: Any) -> None:
            super().add_row(*cells, **options)
            for column, cell in zip(self.columns, cells, strict=True):
                column.overflow = "fold"
                if narrow and str(cell).startswith("--"):
                    longest = max(map(len, str(cell).split()))
                    # With min_width the table gets wider than the terminal, which cuts letters.
                    column.width = max(longest, column.width or 0)

    spelled = [parameter.opts for parameter in parameters]
    for parameter in parameters:
        first, *others = parameter.opts
        parameter.opts = [first, *(f" {flag}" for flag in others)]
    for module in (rich_utils, columns):
        setattr(module, "Table", Folding)  # noqa: B010 - it has no setting for it
    try:
        yield
    finally:
        for module in (rich_utils, columns):
            setattr(module, "Table", Table)  # noqa: B010
        for parameter, flags in zip(parameters, spelled, strict=True):
            parameter.opts = flags
