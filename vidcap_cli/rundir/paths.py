"""The run directory: every path in it.

::

    RUN_DIR/
      vidcap-run.json              the mark: vidcap made this directory
      plan.json, rows.parquet      what is to be captioned, written once
      clips.parquet                META with a row for each clip, where videos are cut
      scope.json                   which rows the last command was about, and what its table has
      summary.json                 how the last command ended, for programs
      finished.json                written last: the merged table exists
      lock, lock.held              held by the process that leads the run
      parts/part-0001-0000-00000.parquet      finished rows: attempt, rank, sequence
      parts/part-0001-0000-00000-00063.parquet  stands for these 64, which may still be there
      parts/part-….damaged         a part that was damaged, set aside; it counts no more
      attempts/0001/               one launch of the ranks
        attempt.json               configuration and chunk size
        todo.arrow                 the rows that were left, until it is over
        claims/000000              chunk 0 belongs to the rank named inside
        claimed-0000               the chunks that rank 0 has taken
        events-0000.jsonl          what rank 0 reports, and its journal of rows in flight
        error-0000.json            the exception that ended rank 0
        exit-0000.json             how rank 0 ended, written by the process that launched it
        exit-0000-1.json           the same once its node had started it again in this launch
        memory-0000.json           rows that rank 0 ran out of memory with, how to try them again
        stop, over                 marks: ranks are to leave; the launch has ended
        lease-0000-…/              rank 0 commits by way of it; once it is gone rank 0 cannot
        bin-0000/python            the interpreter that msrun is to start the ranks of node 0 with
      nodes/0000.json              node 0 is there, written anew every few seconds
      msrun_log/                   output of msrun and the ranks

    RUN_DIR.next, RUN_DIR.old      a fresh start until it has finished; what it then replaces

A file counts when its name fits its pattern exactly: temporary files never do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PART = re.compile(r"part-(\d{4,})-(\d{4,}|main)-(\d{5,})(?:-(\d{5,}))?\.(parquet|csv)")
_EXIT = re.compile(r"exit-(\d{4,})(?:-(\d+))?\.json")
_ATTEMPT = re.compile(r"\d{4,}")
_NEXT, _OLD = ".next", ".old"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names every file of the run directory at ``path``."""

    path: Path

    @property
    def mark(self) -> Path:
        """Says that vidcap made this directory; see ``ownership``."""
        return self.path / "vidcap-run.json"

    @property
    def plan(self) -> Path:
        """The plan: table, options and number of rows. Written after ``rows``."""
        return self.path / "plan.json"

    @property
    def rows(self) -> Path:
        """The planned rows: ``row_id, path``."""
        return self.path / "rows.parquet"

    @property
    def finished(self) -> Path:
        """Exists once the merged table does."""
        return self.path / "finished.json"

    @property
    def scope(self) -> Path:
        """Which rows the last command was about; see ``rundir.scope``."""
        return self.path / "scope.json"

    @property
    def summary(self) -> Path:
        """How the last command ended; see ``rundir.summary``."""
        return self.path / "summary.json"

    @property
    def lock(self) -> Path:
        """Locked by the one process that leads this run."""
        return self.path / "lock"

    @property
    def held(self) -> Path:
        """The lock besides, where the file system's does not hold on all nodes."""
        return self.path / "lock.held"

    @property
    def parts(self) -> Path:
        """The folder of part files."""
        return self.path / "parts"

    @property
    def clips(self) -> Path:
        """META with a row for each clip, where its own rows are not those planned."""
        return self.path / "clips.parquet"

    @property
    def attempts_folder(self) -> Path:
        """The folder of all launches."""
        return self.path / "attempts"

    @property
    def nodes_folder(self) -> Path:
        """What the nodes that serve the run say of themselves."""
        return self.path / "nodes"

    def node(self, number: int) -> Path:
        """What node ``number`` says of itself."""
        return self.nodes_folder / f"{number:04d}.json"

    @property
    def logs(self) -> Path:
        """Where msrun and the ranks write their output unless ``--log-dir`` says otherwise."""
        return self.path / "msrun_log"

    @property
    def next(self) -> "RunDir":
        """Where a run that is to replace this one works until it has finished."""
        return RunDir(Path(f"{self.path}{_NEXT}"))

    @property
    def old(self) -> "RunDir":
        """What this run has just replaced, until it is removed."""
        return RunDir(Path(f"{self.path}{_OLD}"))

    @property
    def settled(self) -> "RunDir":
        """The run itself, or the place of the one that it is to replace."""
        return RunDir(self.path.with_name(self.path.name.removesuffix(_NEXT)))

    @property
    def is_run(self) -> bool:
        """Whether a plan was written here."""
        return self.plan.is_file()

    def launch_logs(self, number: int, node: int, log_dir: Path | None) -> Path:
        """Where msrun and the ranks that ``node`` starts in launch ``number`` write.

        ``log_dir`` is ``--log-dir``.
        """
        folder = (log_dir or self.logs).absolute() / f"{number:04d}"
        return folder / f"node-{node:04d}" if node else folder

    def attempt(self, number: int) -> "AttemptDir":
        """The folder of launch ``number``, counted from 1."""
        return AttemptDir(self.attempts_folder / f"{number:04d}", number)

    def attempts(self) -> list["AttemptDir"]:
        """All launches so far, oldest first; only those whose ``attempt.json`` was written."""
        folder = self.attempts_folder
        if not folder.is_dir():
            return []
        names = sorted((p.name for p in folder.iterdir() if _ATTEMPT.fullmatch(p.name)), key=int)
        found = [self.attempt(int(name)) for name in names]
        return [attempt for attempt in found if attempt.config.is_file()]

    def part(
        self, attempt: int, rank: int | None, sequence: int, form: str, last: int | None = None
    ) -> Path:
        """The name of a part file; ``rank`` None is the leading process itself.

        One that stands for others has the numbers of the first and the ``last`` of them.
        """
        who = "main" if rank is None else f"{rank:04d}"
        until = "" if last is None else f"-{last:05d}"
        return self.parts / f"part-{attempt:04d}-{who}-{sequence:05d}{until}.{form}"

    def parts_of(self, attempt: int, rank: int) -> list[Path]:
        """The parts that a rank has committed in a launch."""
        return [path for path in self.part_files() if path.name.startswith(_begin(attempt, rank))]

    def next_sequence(self, attempt: int, rank: int) -> int:
        """A number that no part of a rank in a launch has, nor had before it was set aside."""
        names = (path.name for path in self.parts.glob(f"{_begin(attempt, rank)}*"))
        numbers = (int(match[4] or match[3]) for name in names if (match := _PART.match(name)))
        return max(numbers, default=-1) + 1

    def damaged_parts(self) -> list[Path]:
        """Parts that were set aside as damaged."""
        return sorted(self.parts.glob("part-*.damaged*"))

    def part_files(self) -> list[Path]:
        """Every committed part file, oldest attempt first."""
        return part_files(self.parts)


@dataclass(frozen=True, slots=True)
class AttemptDir:
    """Names every file of one launch of the ranks."""

    path: Path
    number: int

    @property
    def config(self) -> Path:
        """Configuration and chunk size; its existence makes the attempt real."""
        return self.path / "attempt.json"

    @property
    def todo(self) -> Path:
        """The rows left when the attempt began, as an Arrow file that ranks map into memory."""
        return self.path / "todo.arrow"

    @property
    def claims(self) -> Path:
        """The folder of claimed chunks."""
        return self.path / "claims"

    def claim(self, chunk: int) -> Path:
        """Exists once a rank has taken ``chunk``."""
        return self.claims / f"{chunk:06d}"

    def claimed(self, rank: int) -> Path:
        """The chunks that ``rank`` has taken, a line each."""
        return self.path / f"claimed-{rank:04d}"

    def events(self, rank: int) -> Path:
        """What ``rank`` reports."""
        return self.path / f"events-{rank:04d}.jsonl"

    def error(self, rank: int) -> Path:
        """The exception that ended ``rank``."""
        return self.path / f"error-{rank:04d}.json"

    def exit(self, rank: int, start: int = 0) -> Path:
        """How ``rank`` ended that its node had started ``start`` times before in this launch."""
        again = f"-{start}" if start else ""
        return self.path / f"exit-{rank:04d}{again}.json"

    def memory(self, rank: int) -> Path:
        """The rows that ``rank`` ran out of memory with."""
        return self.path / f"memory-{rank:04d}.json"

    @property
    def stop(self) -> Path:
        """Exists once the ranks of all nodes are to commit and leave."""
        return self.path / "stop"

    @property
    def over(self) -> Path:
        """Exists once the leading process counts on nothing more from this launch."""
        return self.path / "over"

    def lease(self, rank: int, name: str) -> Path:
        """The folder by way of which ``rank`` commits, of the start that ``name`` tells."""
        return self.path / f"lease-{rank:04d}-{name}"

    def leases(self, rank: int | None = None) -> list[Path]:
        """The folders by way of which ``rank``, or any, can still commit."""
        return list(self.path.glob(f"lease-{'[0-9]*' if rank is None else f'{rank:04d}'}-*"))

    def programs(self, node: int) -> Path:
        """The folder that comes first on the PATH of msrun."""
        return self.path / f"bin-{node:04d}"

    def errors(self) -> Iterator[Path]:
        """The records of exceptions written so far."""
        return self.path.glob("error-[0-9]*.json")

    def exits(self) -> list[Path]:
        """The exit records written so far, by rank, and for each in the order of its starts."""
        found = ((_EXIT.fullmatch(path.name), path) for path in self.path.glob("exit-*.json"))
        numbered = ((int(match[1]), int(match[2] or 0), path) for match, path in found if match)
        return [path for _, _, path in sorted(numbered)]


def _begin(attempt: int, rank: int) -> str:
    """How the names of a rank's parts in a launch begin."""
    return f"part-{attempt:04d}-{rank:04d}-"


def part_files(folder: Path) -> list[Path]:
    """The committed part files in ``folder``, ordered by attempt, writer and sequence.

    Those for which another stands are not among them.
    """
    if not folder.is_dir():
        return []
    matches = [match for path in folder.iterdir() if (match := _PART.fullmatch(path.name))]
    # The one that stands for most comes first of those that begin with the same.
    matches.sort(key=lambda m: (int(m[1]), m[2], int(m[3]), -int(m[4] or m[3])))
    found: list[Path] = []
    before, until = ("", ""), -1
    for match in matches:
        first, last = int(match[3]), int(match[4] or match[3])
        if before == (match[1], match[2]) and first <= until:
            continue
        before, until = (match[1], match[2]), last
        found.append(folder / match[0])
    return found


def sequences_of(part: Path) -> tuple[int, int]:
    """The first and the last sequence number that a part file stands for."""
    match = _PART.fullmatch(part.name)
    assert match
    return int(match[3]), int(match[4] or match[3])


def attempt_of(part: Path) -> int | None:
    """The attempt that wrote a part file, or None when the name is not a part file's."""
    match = _PART.fullmatch(part.name)
    return int(match[1]) if match else None
