"""The engines: from the prompts of some rows to their token ids, on MindSpore."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vidcap_cli.config import CaptionConfig
from vidcap_cli.models import Prompt


@dataclass(frozen=True, slots=True)
class Generated:
    """The new token ids of one row, the end token left out, and why they end: stop or length."""

    ids: list[int]
    finish_reason: str


class OutOfMemoryError(Exception):
    """The device had no room for a prompt."""


class Engine(Protocol):
    """Captions rows together, at most ``slots`` at a time."""

    slots: int

    def generate(
        self, prompts: Sequence[Prompt], stop: Callable[[], bool]
    ) -> list[Generated] | None:
        """Decode ``prompts`` greedily, results in their order; None when ``stop()`` turned true.

        Raises OutOfMemoryError when they do not fit.
        """


def load_engine(config: CaptionConfig) -> Engine:
    """The engine that ``config.engine`` names, its weights loaded."""
    from vidcap_cli.engine.reference import ReferenceEngine  # noqa: PLC0415 - imports MindSpore

    return ReferenceEngine(config)
