"""The gallery of a run directory: its rows as they stand now, captioned, failed or left.

They are merged into a table in the temporary folder, which then is shown like any other. Of several
questions the answers to the first are shown.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from vidcap_cli.errors import RunError, UsageError
from vidcap_cli.inspect.gallery.make import Gallery, make_gallery
from vidcap_cli.inspect.judging import Captions, judge
from vidcap_cli.merge.merge import merge
from vidcap_cli.options import TEXT
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import Plan
from vidcap_cli.tables import open_table

_TRIES = 4


def make_gallery_of_run(wanted: Gallery, run: RunDir, plan: Plan) -> str:
    """Write the gallery of a run; says what is written.

    Raises UsageError when it has no captions of the name that is wanted, TableError where a part is
    damaged, and RunError where the disk does not give one.
    """
    columns = plan.questions or (TEXT,)
    column = wanted.column or columns[0]
    if column not in columns:
        raise UsageError(
            f"--caption-column {column}: {run.path} has captions called {', '.join(columns)}; name "
            "one of these."
        )
    with TemporaryDirectory(prefix="vidcap-") as folder:
        table = Path(folder) / "captions.parquet"
        _merge(run, table)
        captions = Captions.of(open_table(table), column)
        judged = judge(captions)
        return make_gallery(wanted, captions, judged, title=run.path.name, bases=plan.bases)


def _merge(run: RunDir, table: Path) -> None:
    """While its ranks join parts, one that was listed may be gone when it is read."""
    for left in reversed(range(_TRIES)):
        try:
            merge([run.path], table, all_columns=True, planned_paths=True, caption_column=TEXT)
        except RunError:
            if not left:
                raise
        else:
            return
