"""The compiled engine: slots that decode together and are refilled one by one.

Each step appends a token to every slot in use. A slot whose caption ends is free at once and takes
the next row, so that short captions do not wait for long ones. Slots know their row, and answers
carry its id: nothing depends on the order in which captions end.

Rows whose frames are not there yet are never waited for while a caption is in the making.
Prefilling takes the same device as decoding, so it is done when a slot is free, not earlier.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Answer, Feed, Generated, Request, SpentError, feed_of
from vidcap_cli.engine.group import Group
from vidcap_cli.engine.loading import load
from vidcap_cli.engine.penalties import Penalties, Repetition
from vidcap_cli.models.decoder import NextToken
from vidcap_cli.models.device import as_out_of_memory, graphs_survive
from vidcap_cli.models.kernels import Kernels
from vidcap_cli.processors import Prompt, Size
from vidcap_cli.statuses import Doing


@dataclass(slots=True)
class _Caption:
    """A caption in the making. ``log_prob`` is the sum of its tokens'; ``seconds`` is its share of
    the device's time.
    """

    request: Request
    ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    seconds: float = 0.0

    def finished(self, reason: str) -> Answer:
        logprob = self.log_prob / len(self.ids) if self.ids else None
        generated = Generated(self.ids, reason, logprob)
        return self._answer(generated, None)

    def failed(self, error: Exception) -> Answer:
        return self._answer(None, error)

    def _answer(self, generated: Generated | None, error: Exception | None) -> Answer:
        request = self.request
        return Answer(request.row_id, generated, error, self.seconds, request.question)


class GraphEngine:
    """One checkpoint, its decoding compiled; shared with the ranks of a ``group``, if any."""

    def __init__(
        self, config: CaptionConfig, say: Callable[[Doing], None], group: Group | None = None
    ) -> None:
        generation = read_generation(Path(config.model))
        self.slots = config.slots
        loaded = load(config, group.share, group.join) if group else load(config)
        self.model = loaded.model
        self._decoder = self.model.decoder
        self._run = group.together(loaded) if group else self.model
        self._room = group.room if group else loaded.room
        if self._room is not None:
            self._run.keep_to(self._room)
        self._survives = graphs_survive(loaded.device)
        self._say = say
        self._compiled: set[object] = set()
        self._eos = generation.eos
        self._most = config.max_new_tokens
        self._penalties = Penalties.of(config, generation)
        self._penalised = _Penalised(self._decoder.kernels)
        self._repetition = Repetition(config.slots, self._decoder.config.vocab)

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        """Decode greedily what ``feed`` gives until no more comes or ``stop()`` turns true.

        Raises SpentError when memory has run out and the device's graphs do not survive that.
        """
        running: dict[int, _Caption] = {}
        while not stop():
            while len(running) < self.slots and (request := feed(wait=not running)):
                slot = next(slot for slot in range(self.slots) if slot not in running)
                running[slot] = _Caption(request)
                yield from self._begin(slot, running)
            if not running:
                break
            try:
                yield from self._advance(running)
            except Exception as error:  # noqa: BLE001 - the status of a row, or of several
                told = self._survived(error, running.values())
                lost = [running.pop(slot) for slot in self._free(running)]
                if len(lost) == 1:
                    yield lost[0].failed(told)
                    continue
                for caption in lost:  # each by itself, so that one cannot fail the others
                    yield from self.answers(feed_of([caption.request]), stop)
        self._free(running)

    def fits(self, size: Size) -> bool:
        """Whether there is memory for a prompt and its caption."""
        return self._room is None or self.model.need(size, self._most) <= self._room

    def logits(self, prompt: Prompt, ids: list[int]) -> NDArray[np.float32]:
        """Logits ``[len(ids) + 1, vocab]`` after the prompt and after each of ``ids``, for tests.

        Takes the first slot: no caption may be in the making.
        """
        rows = [self._run.begin(0, prompt, len(ids)).logits.asnumpy()[0]]
        tokens = np.zeros(self.slots, np.int64)
        for token in ids:
            tokens[0] = token
            rows.append(self._run.step(tokens).logits.asnumpy()[0])
        self._run.free(0)
        return np.stack(rows)

    def _begin(self, slot: int, running: dict[int, _Caption]) -> Iterator[Answer]:
        """Prefill the row of ``slot`` and choose its first token; an answer if that ends it."""
        caption = running[slot]
        began = time.monotonic()
        try:
            request, prompt = caption.request, caption.request.prompt
            penalties = self._penalties.stronger() if request.again else self._penalties
            with self._compiling(self.model.shapes(prompt)):
                next_token = self._run.begin(slot, prompt, self._most)
            self._repetition.begin(slot, prompt.ids, penalties)
            token, log_prob = self._choose(next_token, [slot])[0]
        except Exception as error:  # noqa: BLE001 - the status of the row
            told = self._survived(error, [caption])
            self._free([slot])
            yield running.pop(slot).failed(told)
            return
        caption.seconds = time.monotonic() - began
        yield from self._append(slot, token, log_prob, running)

    def _advance(self, running: dict[int, _Caption]) -> Iterator[Answer]:
        """One step of all slots; the answers of those that it ends."""
        began = time.monotonic()
        tokens = np.zeros(self.slots, np.int64)
        for slot, caption in running.items():
            tokens[slot] = caption.ids[-1]
        with self._compiling({("step", self._decoder.kv_cache.length)}):
            chosen = self._choose(self._run.step(tokens), range(self.slots))
        share = (time.monotonic() - began) / len(running)
        for slot, caption in list(running.items()):
            caption.seconds += share
            yield from self._append(slot, *chosen[slot], running)

    def _append(
        self, slot: int, token: int, log_prob: float, running: dict[int, _Caption]
    ) -> Iterator[Answer]:
        caption = running[slot]
        self._repetition.append(slot, token)
        if token not in self._eos:
            caption.ids.append(token)
            caption.log_prob += log_prob
            if len(caption.ids) < self._most:
                return
        reason = "stop" if token in self._eos else "length"
        self._free([slot])
        yield running.pop(slot).finished(reason)

    def _choose(self, next_token: NextToken, slots: Sequence[int]) -> list[tuple[int, float]]:
        """The next token of the sequence in each of ``slots``, and its log-probability."""
        logits, ids, log_prob = next_token
        if self._repetition.any(slots):
            factors = self._repetition.factors[slots[0] : slots[-1] + 1]
            ids, log_prob = self._penalised(logits, Tensor(factors))
        return list(zip(ids.asnumpy().tolist(), log_prob.asnumpy().tolist(), strict=True))

    def _survived(self, error: Exception, captions: Iterable[_Caption]) -> Exception:
        """What ``error`` is to the ``captions`` that were run; SpentError where none can be now."""
        short = as_out_of_memory(error)
        if short and not self._survives:
            raise SpentError(short, [caption.request.row_id for caption in captions]) from error
        return short or error

    @contextmanager
    def _compiling(self, graphs: set[object]) -> Iterator[None]:
        """Say so while any of ``graphs`` runs for the first time, which compiles it."""
        self._say(Doing.CAPTIONING if graphs <= self._compiled else Doing.COMPILING)
        yield
        self._compiled |= graphs

    def _free(self, running: Iterable[int]) -> list[int]:
        slots = list(running)
        for slot in slots:
            self._run.free(slot)
            self._repetition.free(slot)
        return slots


class _Penalised(nn.Cell):  # type: ignore[misc]
    """The best token where some count for less, or not at all: see ``Repetition.factors``."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__(auto_prefix=False)
        self.kernels = kernels

    @ms.jit
    def construct(self, logits: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``logits`` ``[n, vocab]``, with its log-probability without the penalties."""
        ids = self.kernels.argmax(self.kernels.penalised(logits, factors))
        return ids, self.kernels.log_prob(logits, ids)
