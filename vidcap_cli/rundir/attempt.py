"""An attempt: one launch of the ranks, as the leading process describes it to them.

``attempt.json`` holds the configuration and how the remaining rows are cut into chunks. It is
written after ``todo.arrow`` and never changed.
"""

import json
from dataclasses import asdict, dataclass

from vidcap_cli.atomic import atomic_write
from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import RunError
from vidcap_cli.rundir.paths import AttemptDir

# Small chunks even out fast and slow ranks at the end; large ones keep the claims folder small.
_CHUNKS_PER_RANK = 50
_LARGEST_CHUNK = 64
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one launch is to do: ``rows`` rows in chunks of ``chunk``, by ``ranks`` ranks.

    Relative paths of videos resolve against each of ``bases`` in order. Rows in ``alone`` were in
    a model when its rank died: each is captioned with no other beside it, so that a second death
    has one culprit.
    """

    config: CaptionConfig
    rows: int
    chunk: int
    ranks: int
    bases: tuple[str, ...]
    alone: tuple[int, ...] = ()

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
            numbers = (attempt.rows, attempt.chunk, attempt.ranks, *alone)
            assert all(type(number) is int for number in numbers), "a number is none"
        except (OSError, *_DAMAGE) as error:
            raise RunError(
                f"{folder.config}: damaged or gone ({error}); repeat the command, which starts the "
                "ranks with a new one"
            ) from error
        return attempt


def chunk_size(rows: int, ranks: int) -> int:
    """Rows in a chunk, for ``rows`` rows divided among ``ranks`` ranks."""
    return max(1, min(rows // (ranks * _CHUNKS_PER_RANK), _LARGEST_CHUNK))
