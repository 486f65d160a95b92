"""Whose a directory is: only what vidcap made is ever emptied, moved away or removed.

A run directory carries a mark, ``vidcap-run.json``, written before anything else: an identity, and
that of the run it is to replace if it is a fresh start (``RUN_DIR.next``). Directories of versions
without the mark are known by a plan that can be read. Anything else in the way is refused by name.

Removal goes by name as well: it takes what vidcap puts into a run directory and leaves the rest, so
that a file that a user keeps there outlives the run.
"""

import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal
from uuid import uuid4

from vidcap_cli.atomic import atomic_write, is_temporary, probe, sweep
from vidcap_cli.errors import UsageError
from vidcap_cli.rundir.paths import RunDir

_FORMAT = "vidcap run"
_SHOWN = 3
# How ``acquire`` found a directory: a run of vidcap's, an empty folder of the user's, or not there.
Found = Literal["ours", "empty", "absent"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Identity ``id`` of a run directory; ``replaces`` is that of the run it takes the place of."""

    id: str
    replaces: str = ""
    format: str = _FORMAT


def read_mark(run: RunDir) -> Mark | None:
    """The mark of a directory, None when it carries none that can be read.

    A directory of a version without marks gets the identity ``"older"``.
    """
    try:
        fields = json.loads(run.mark.read_bytes())
        if fields["format"] != _FORMAT:
            return None
        return Mark(str(fields["id"]), str(fields["replaces"]))
    except FileNotFoundError:
        return Mark("older") if _is_older_run(run) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_older_run(run: RunDir) -> bool:
    from vidcap_cli.rundir.plan import Plan  # noqa: PLC0415 - the plan imports what this module serves

    try:
        Plan.from_json(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return run.rows.is_file()


def acquire(run: RunDir, *, replaces: str = "") -> Found:
    """Make ``run``'s directory vidcap's own, or find that it is; says how it was found.

    A new directory and an empty one get a mark. Raises UsageError, with what is in the way, for
    everything else, and where nothing can be written.
    """
    if run.path.is_symlink() and not run.path.exists():
        raise UsageError(f"{run.path} is a link to nothing; give another --run-dir.")
    if run.path.exists() and not run.path.is_dir():
        raise UsageError(f"{run.path} is a file; give another --run-dir.")
    found: Found = "empty" if run.path.exists() else "absent"
    try:
        if read_mark(run) is not None:
            probe(run.mark)
            return "ours"
        run.path.mkdir(parents=True, exist_ok=True)
        others = _foreign(run, known=())
        if others:
            raise UsageError(
                f"{run.path} is not a run directory that vidcap made ({_named(others)} in it), and "
                "it is left as it is; give another --run-dir, or a new or empty folder."
            )
        probe(run.mark)
        atomic_write(run.mark, json.dumps(asdict(Mark(uuid4().hex, replaces))).encode())
    except OSError as error:
        if found == "absent":
            with suppress(OSError):  # not empty: somebody else works there
                run.path.rmdir()
        raise UsageError(
            f"{run.path}: nothing can be written there ({error.strerror}); give another --run-dir."
        ) from error
    return found


def discard(run: RunDir, *, keep_folder: bool = False) -> list[str]:
    """Remove what vidcap made of a run directory, its mark last; the names of what stays.

    The folder goes too when it is empty then, unless ``keep_folder``: it was the user's. Does
    nothing to a directory that is not vidcap's.
    """
    if read_mark(run) is None or run.path.is_symlink():
        return [run.path.name]
    _remove(run, keep=(run.mark.name, run.lock.name))
    left = _foreign(run, known=(run.mark.name, run.lock.name))
    if not left:
        run.lock.unlink(missing_ok=True)
        run.mark.unlink(missing_ok=True)
        sweep(run.path)
        if not keep_folder:
            run.path.rmdir()
    return left


def empty(run: RunDir) -> None:
    """Remove all that vidcap put into its own run directory but the lock and the mark."""
    if read_mark(run) is not None:
        _remove(run, keep=(run.mark.name, run.lock.name))


def _remove(run: RunDir, keep: tuple[str, ...]) -> None:
    # The plan first: without it the rest is no run.
    run.plan.unlink(missing_ok=True)
    for name in _own(run):
        path = run.path / name
        if name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    sweep(run.path)


def _own(run: RunDir) -> tuple[str, ...]:
    files = (
        run.plan,
        run.rows,
        run.clips,
        run.finished,
        run.scope,
        run.summary,
        run.parts,
        run.attempts_folder,
        run.nodes_folder,
        run.logs,
    )
    return tuple(path.name for path in (*files, run.lock, run.held, run.mark))


def _foreign(run: RunDir, known: tuple[str, ...]) -> list[str]:
    """The names in a directory that are neither in ``known`` nor left by a commit cut off."""
    return sorted(
        path.name
        for path in run.path.iterdir()
        if path.name not in known and not is_temporary(path)
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
