"""What the output of a command and its run directory are called unless the user says it."""

from pathlib import Path

from vidcap_cli.rundir.selection import Selection
from vidcap_cli.table_text import bare_name


def default_output(meta: Path, family: str, form: str | None) -> Path:
    """``{meta}_caption_{family}{ext}``: Parquet for Parquet, else CSV, unless ``form`` says so."""
    form = form or ("parquet" if meta.suffix.lower() == ".parquet" else "csv")
    meta = meta.absolute()
    name = meta.name if meta.is_dir() else Path(bare_name(meta)).stem
    return meta.with_name(f"{name}_caption_{family}.{form}")


def default_run_dir(output: Path, selection: Selection | None = None) -> Path:
    """Where a run lives unless ``--run-dir`` says otherwise: beside its output.

    That of a shard has its number in its name.
    """
    if selection and selection.is_shard:
        return output.with_suffix(f".{selection.shard}-of-{selection.of}.vidcap")
    return output.with_suffix(".vidcap")
