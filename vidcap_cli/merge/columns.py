"""The columns that captions add to a table, and how a captioned table shows where they are.

META's columns stay in META's order. After them come the captions, ``caption_status``,
``caption_error`` and ``caption_flags``, then, if asked for, all else that is known. A column of
META that has one of these names is refused; with ``overwrite`` it is left out, and the new one
stands at the end like any other: so the four always follow each other, and the one before
``caption_status`` holds the captions, whatever it is called.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from vidcap_cli.errors import TableError, UsageError
from vidcap_cli.options import PATH, TEXT
from vidcap_cli.rundir.parts import SCHEMA
from vidcap_cli.tables import Table, quoted

STATUS = "caption_status"
_BESIDE = ("status", "error", "flags")
_ANSWERS, _OTHERS = "answers", "caption_others"
_REST = tuple(
    name for name in SCHEMA.names if name not in ("row_id", PATH, TEXT, *_BESIDE, _ANSWERS)
)
_OWN = (*(f"caption_{name}" for name in (*_BESIDE, *_REST, _ANSWERS)), _OTHERS)


@dataclass(frozen=True, slots=True)
class CaptionColumns:
    """Which columns are written: ``caption`` is the name of the one with the captions, unless
    ``questions`` name one each.

    ``overwrite``: they take the place of columns of META that have their names. ``everything``
    adds all that is known of a result, and ``others`` the captions that were not taken.
    """

    caption: str = TEXT
    overwrite: bool = False
    everything: bool = False
    others: bool = False
    questions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        reserved = (PATH, *_OWN)
        for flag, name in (
            ("--caption-column ", self.caption),
            *((f"--question {name}=…: ", name) for name in self.questions),
        ):
            if name in reserved:
                raise UsageError(
                    f"{flag}{name}: vidcap's own name for something else; choose another"
                )
        if not self.caption.strip() or not self.caption.isprintable():
            raise UsageError(f"--caption-column {self.caption!r}: not a name; choose another")

    @property
    def results(self) -> tuple[str, ...]:
        """The columns of ``parts.SCHEMA`` that are read, in order: the text comes first, and the
        answers to questions with names last.
        """
        rest = _REST if self.everything else ()
        return (TEXT, *_BESIDE, *rest, *([_ANSWERS] if self.questions else ()))

    @property
    def captions(self) -> tuple[str, ...]:
        """What the columns with captions are called in the table."""
        return self.questions or (self.caption,)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called in the table."""
        beside = (f"caption_{name}" for name in self._beside)
        return (*self.captions, *beside, *([_OTHERS] if self.others else []))

    @property
    def _beside(self) -> tuple[str, ...]:
        """The columns of ``parts.SCHEMA`` that are written as they are."""
        return tuple(name for name in self.results[1:] if self.everything or name != _ANSWERS)

    def check(self, table: Table) -> None:
        """Raise TableError when ``table`` has a column that would have to be overwritten.

        UsageError when that is the one with the paths.
        """
        for name in (table.path_column, *table.ranges):
            if name in self.names:
                what = "paths" if name == table.path_column else "ranges"
                raise UsageError(
                    f"{table.path}: the column `{name}` holds the {what}, and the captions "
                    "would replace it; choose another --caption-column, or rename it"
                )
        taken = [name for name in table.schema.names if name in self.names]
        if not taken or self.overwrite:
            return
        listed = quoted(taken)
        if {*taken} & {*self.captions} and not self.questions:
            remedy = "--overwrite-column replaces it, --caption-column NAME names another"
        else:
            remedy = "--overwrite-column replaces it"
        if len(taken) > 1:
            remedy = remedy.replace("replaces it", "replaces them")
        if STATUS in taken:  # another column alone is no place for what stands beside captions
            remedy = remedy.replace(
                ", --caption-column NAME names another",
                ", with --caption-column NAME all but the captions",
            )
        if not set(taken) <= {*self.captions, STATUS, *(f"caption_{name}" for name in _BESIDE)}:
            remedy += "; or leave out --all-columns"
        columns = f"the column {listed} is" if len(taken) == 1 else f"the columns {listed} are"
        raise TableError(
            f"{table.path}: {columns} already there, where the captions would go. {remedy}"
        )

    def kept(self, schema: pa.Schema) -> pa.Schema:
        """META's columns that stay, with what pandas noted about them.

        Where the status of other captions is overwritten all else goes that vidcap told of them.
        """
        replaced = {*self.names, *(_OWN if STATUS in schema.names else ())}
        dropped = [name for name in schema.names if name in replaced]
        if not dropped:
            return schema
        fields = [field for field in schema if field.name not in dropped]
        return pa.schema(fields, _without(dict(schema.metadata or {}), dropped))

    def added(self, schema: pa.Schema) -> pa.Schema:
        """The columns of the final table for a META with ``schema``."""
        final = self.kept(schema)
        results = (*[TEXT] * len(self.captions), *self._beside, *([TEXT] if self.others else []))
        for name, result in zip(self.names, results, strict=True):
            final = final.append(pa.field(name, SCHEMA.field(result).type))
        return final


def _without(metadata: dict[bytes, bytes], dropped: Sequence[str]) -> dict[bytes, bytes]:
    """Metadata of a schema without pandas' note on columns that are gone.

    pandas would make the new column what the note says of the old one.
    """
    note = metadata.pop(b"pandas", None)
    try:
        pandas = json.loads(note or b"")
        pandas["columns"] = [
            column
            for column in pandas["columns"]
            if column.get("field_name", column["name"]) not in dropped
        ]
        pandas["index_columns"] = [
            index for index in pandas["index_columns"] if index not in dropped
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return metadata
    return {**metadata, b"pandas": json.dumps(pandas).encode()}


def columns_before(names: Sequence[str], captions: str, meta: Sequence[str]) -> list[str]:
    """The columns of a table right before the one with its captions, up to one that META has."""
    found: list[str] = []
    for name in reversed(names[: names.index(captions)]):
        if name in (*meta, PATH):
            break
        found.insert(0, name)
    return found


def caption_column(names: Sequence[str], wanted: str = TEXT) -> str | None:
    """The column of a table that holds its captions, or None when it has none.

    In a table that vidcap wrote it is the one before ``caption_status``; else ``wanted``, else
    ``text``, as the original scripts called it.
    """
    four = [STATUS, "caption_error", "caption_flags"]
    place = names.index(STATUS) if STATUS in names else 0
    if place and list(names[place : place + 3]) == four and names[place - 1] != PATH:
        return names[place - 1]
    return next((name for name in (wanted, TEXT) if name in names), None)
