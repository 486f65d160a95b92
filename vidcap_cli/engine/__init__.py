"""The engines: from the prompts of rows to their token ids, on MindSpore."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vidcap_cli.config import CaptionConfig
from vidcap_cli.errors import OutOfMemoryError, UsageError
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.statuses import Doing

if TYPE_CHECKING:
    from vidcap_cli.engine.group import Group

INSTALL_MINDNLP = "pip install 'vidcap[mindnlp]', under Python 3.11"


@dataclass(frozen=True, slots=True)
class Generated:
    """The new token ids of one row, the end token left out, and why they end: stop or length.

    ``logprob`` is the mean of their log-probabilities: natural, of the log-softmax in float32 of
    the model's own logits, before any penalty. None where there is no token.
    """

    ids: list[int]
    finish_reason: str
    logprob: float | None = None


class SpentError(Exception):
    """Memory ran out in a way that this process does not survive: it can run no more rows.

    ``rows`` were being run when it did. Others in the making are lost with the process.
    """

    def __init__(self, error: OutOfMemoryError, rows: Iterable[int]) -> None:
        super().__init__(str(error))
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True)
class Request:
    """A row to be captioned: the answer to one of its questions.

    ``again``: with stronger penalties, as the first one repeated itself.
    """

    row_id: int
    prompt: Prompt
    again: bool = False
    question: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: ``generated``, or the ``error`` that ended it.

    ``seconds`` is the time the engine spent on it, its share where rows were run together;
    ``question`` is that of the request.
    """

    row_id: int
    generated: Generated | None
    error: Exception | None
    seconds: float
    question: int = 0


class Feed(Protocol):
    """Where an engine gets its requests."""

    def __call__(self, *, wait: bool) -> Request | None:
        """The next request. With ``wait`` None means that no more will come, without it that
        none is ready now.
        """


class Engine(Protocol):
    """Captions rows, at most ``slots`` at a time."""

    slots: int

    def fits(self, size: Size) -> bool:
        """Whether there is memory for a prompt and its caption, as far as the engine knows."""

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        """Decode greedily what ``feed`` gives until no more comes or ``stop()`` turns true.

        Answers come in the order in which captions end; on ``stop()`` those in the making are
        dropped. Raises SpentError where running out of memory is no answer but the end.
        """


def feed_of(requests: Iterable[Request]) -> Feed:
    """A feed of requests that are all ready."""
    left = iter(requests)

    def feed(*, wait: bool) -> Request | None:  # noqa: ARG001 - there is nothing to wait for
        return next(left, None)

    return feed


def generate_all(engine: Engine, prompts: Sequence[Prompt]) -> list[Generated]:
    """Decode all of ``prompts``, results in their order; the first error of one is raised."""
    requests = [Request(number, prompt) for number, prompt in enumerate(prompts)]
    generated: dict[int, Generated] = {}
    for answer in engine.answers(feed_of(requests), lambda: False):
        if answer.error:
            raise answer.error
        assert answer.generated
        generated[answer.row_id] = answer.generated
    return [generated[number] for number in range(len(prompts))]


def has_mindnlp() -> bool:
    """Whether the reference engine is installed; nothing of it is imported."""
    return importlib.util.find_spec("mindnlp") is not None


def check_engine(name: str) -> None:
    """Raise UsageError for an engine that is not installed."""
    if name == "mindnlp" and not has_mindnlp():
        raise UsageError(
            f"--engine mindnlp needs packages that are not installed: {INSTALL_MINDNLP}. "
            "The compiled engine, --engine graph, needs none of them."
        )


def load_engine(
    config: CaptionConfig,
    say: Callable[[Doing], None] = lambda _: None,
    group: "Group | None" = None,
) -> Engine:
    """The engine that ``config.engine`` names, its weights loaded.

    ``say`` is told what the engine is doing: compiling or captioning. With a ``group``, which this
    rank leads, others have shares of the model.
    """
    make = import_engine(config.engine)
    return make(config, say, group) if group else make(config, say)


def import_engine(name: str) -> Callable[..., Engine]:
    """What makes the engine ``name``; to import it takes a second or more."""
    if name == "mindnlp":
        from vidcap_cli.engine.reference import ReferenceEngine  # noqa: PLC0415 - heavy

        return ReferenceEngine
    from vidcap_cli.engine.generate import GraphEngine  # noqa: PLC0415 - imports MindSpore

    return GraphEngine
