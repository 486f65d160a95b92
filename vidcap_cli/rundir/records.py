"""Records: what a launch and its end leave in the run directory, each a small JSON file.

``Attempt`` describes a launch to the ranks, ``RankExit`` and ``RankError`` say how a rank ended,
``ShortRows`` what is to be tried again otherwise, ``Finished`` that the merged table exists. Each
is written whole or not at all. What a damaged one means is said at its ``read``.
"""

import json
import signal
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vidcap_cli.atomic import atomic_write
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rundir.paths import AttemptDir, RunDir

# A row in the model at this many deaths of a rank is left out.
DEATHS_TO_GIVE_UP = 2
# What reading a file that holds something else raises.
_DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one launch is to do: ``rows`` rows in chunks of ``chunk``, by ``ranks`` ranks.

    Relative paths of videos resolve against each of ``bases`` in order. Rows in ``alone`` were in
    a model when its rank died: each is captioned with no other beside it, so that a second death
    has one culprit. ``captioned`` rows had a caption before. Written after ``todo.arrow``.
    """

    config: CaptionConfig
    rows: int
    chunk: int
    ranks: int
    bases: tuple[str, ...]
    alone: tuple[int, ...] = ()
    captioned: int = 0

    @property
    def chunks(self) -> int:
        """How many chunks there are to claim."""
        return -(-self.rows // self.chunk)

    def write(self, folder: AttemptDir) -> None:
        """Make the attempt real."""
        atomic_write(folder.config, json.dumps(asdict(self), ensure_ascii=False).encode())

    @classmethod
    def read(cls, folder: AttemptDir) -> "Attempt":
        """The attempt that was written to ``folder``; RunError when it is damaged or gone."""
        try:
            fields = json.loads(folder.config.read_bytes())
            config = CaptionConfig.from_json(json.dumps(fields.pop("config")))
            bases, alone = tuple(fields.pop("bases")), tuple(fields.pop("alone", ()))
            attempt = cls(config=config, bases=bases, alone=alone, **fields)
            numbers = (attempt.rows, attempt.chunk, attempt.ranks, attempt.captioned, *alone)
            assert all(type(number) is int for number in numbers), "a number is none"
        except _DAMAGE as error:
            raise RunError(
                f"{folder.config}: damaged or gone ({error}); repeat the command, which starts the "
                "ranks with a new one"
            ) from error
        return attempt


def group_size(folder: AttemptDir) -> int:
    """How many ranks of a launch share a model; 1 where a damaged record does not tell."""
    try:
        return Attempt.read(folder).config.tensor_parallel
    except RunError:
        return 1


@dataclass(frozen=True, slots=True)
class RankExit:
    """How a rank ended: an exit code, or a negative signal number, and the rows it then had.

    ``rows`` were in the model at that moment.
    """

    rank: int
    code: int
    rows: tuple[int, ...] = ()

    def write(self, folder: AttemptDir, start: int = 0) -> None:
        """Record it in the run directory; ``start`` as in ``AttemptDir.exit``."""
        atomic_write(folder.exit(self.rank, start), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> "RankExit | None":
        """The record in ``path``; None when it is damaged, which costs no more than a count."""
        try:
            fields = json.loads(path.read_bytes())
            numbers = [fields["rank"], fields["code"], *fields["rows"]]
        except _DAMAGE:
            return None
        if any(type(number) is not int for number in numbers):
            return None
        return cls(numbers[0], numbers[1], tuple(numbers[2:]))

    @property
    def words(self) -> str:
        """How it ended, for people."""
        if self.code >= 0:
            return f"left with exit code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = f"signal {-self.code}"
        hint = " (out of memory?)" if -self.code == signal.SIGKILL else ""
        return f"was killed by {name}{hint}"


def read_exits(folder: AttemptDir) -> list[RankExit]:
    """How the ranks of a launch ended, as far as it is recorded and the records are whole.

    Those of a rank that was started again come in that order.
    """
    return [end for path in folder.exits() if (end := RankExit.read(path))]


def deaths_of(exits: Iterable[RankExit]) -> Counter[int]:
    """At how many of these ends a row was in the model, for rows that were."""
    return Counter(row for end in exits for row in end.rows)


def left_out(deaths: int) -> str:
    """Why a row that was in the model at so many deaths of a rank is given up."""
    return f"in the model at {deaths} deaths of a rank, so it was left out"


@dataclass(frozen=True, slots=True)
class RankError:
    """The exception that ended a rank, as it left it. ``expected``: the message says all."""

    rank: int
    time: float
    message: str
    type: str
    expected: bool
    traceback: str

    def write(self, folder: AttemptDir) -> None:
        """Record it in the run directory."""
        atomic_write(folder.error(self.rank), json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> "RankError":
        """The record in ``path``; one that is damaged becomes a record that says so."""
        try:
            fields = json.loads(path.read_bytes())
            error = cls(**fields)
            words = (error.message, error.type, error.traceback)
            if type(error.rank) is int and all(isinstance(word, str) for word in words):
                return replace(error, time=float(error.time), expected=bool(error.expected))
        except _DAMAGE:
            pass
        number = int("".join(filter(str.isdigit, path.stem)) or 0)
        message = f"rank {number} failed, and {path} is damaged; the log of the rank says why"
        return cls(number, 0.0, message, "RunError", expected=True, traceback=message)


def read_errors(folder: AttemptDir) -> list[RankError]:
    """The exceptions that ended ranks of a launch, the earliest first."""
    found = [RankError.read(path) for path in folder.errors()]
    return sorted(found, key=lambda error: error.time)


@dataclass(frozen=True, slots=True)
class ShortRows:
    """Rows that were in the model when memory ran out, and how a rank tries them again.

    Each of ``alone`` and ``smaller`` is captioned with no other beside it, each of ``smaller`` with
    a smaller clip, too.
    """

    alone: frozenset[int] = frozenset()
    smaller: frozenset[int] = frozenset()

    def add(self, folder: AttemptDir, rank: int) -> None:
        """Record them beside those that are recorded."""
        before = self.read(folder, rank)
        fields = {
            "alone": sorted(before.alone | self.alone),
            "smaller": sorted(before.smaller | self.smaller),
        }
        atomic_write(folder.memory(rank), json.dumps(fields).encode())

    @classmethod
    def read(cls, folder: AttemptDir, rank: int) -> "ShortRows":
        """The rows recorded for ``rank``; none of a damaged record, which costs another try."""
        try:
            fields = json.loads(folder.memory(rank).read_bytes())
            rows = cls(frozenset(fields["alone"]), frozenset(fields["smaller"]))
        except _DAMAGE:
            return cls()
        sound = all(type(row) is int for row in rows.alone | rows.smaller)
        return rows if sound else cls()


@dataclass(frozen=True, slots=True)
class Finished:
    """The merged table exists: ``planned`` rows, ``rows`` of them asked for, ``failed`` of those
    without a caption.
    """

    planned: int
    rows: int
    failed: int

    def write(self, run: RunDir) -> None:
        """Record it in the run directory."""
        atomic_write(run.finished, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, run: RunDir) -> "Finished | None":
        """The record of ``run``, None when it has not finished; RunError when it is damaged."""
        try:
            done = json.loads(run.finished.read_bytes())
            return cls(int(done["planned"]), int(done["rows"]), int(done["failed"]))
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            raise RunError(
                f"{run.finished}: damaged ({error}); vidcap inspect {run.path} tells what is there."
            ) from error
