"""The reference engine: the Hugging Face models through mindnlp, eagerly.

Slow, and the truth that other engines are tested against. mindnlp serves ``import torch`` and
``transformers`` from MindSpore once it is imported, so this module reads like PyTorch.
Rows of a batch are padded on the left and masked.
"""

import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# mindnlp points HF_ENDPOINT to a mirror unless it is set; where to download from is the user's.
os.environ.setdefault("HF_ENDPOINT", "https://huggingface.co")

# mindnlp imports all of diffusers, which no captioner uses: nearly half of a rank's start.
sys.modules.setdefault("mindnlp.diffusers", types.ModuleType("mindnlp.diffusers"))

import mindnlp  # noqa: F401 - must come before torch and transformers, which it replaces
import numpy as np
import torch
import transformers

from vidcap_cli.checkpoint.files import read_json, stored_type
from vidcap_cli.checkpoint.generation import read_generation
from vidcap_cli.checkpoint.layout import Layout
from vidcap_cli.checkpoint.settings import as_transformers_4
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Answer, Feed, Generated, Request
from vidcap_cli.engine.memory import check_weights, loading_weights
from vidcap_cli.engine.penalties import Penalties
from vidcap_cli.errors import ModelError
from vidcap_cli.families import family_for, part
from vidcap_cli.models.device import as_out_of_memory, select_device
from vidcap_cli.number_types import dtype_for
from vidcap_cli.processors import Size
from vidcap_cli.statuses import Doing


class ReferenceEngine:
    """One checkpoint, loaded by transformers under mindnlp.

    Nothing is compiled, so running out of memory costs no more than the row, on any device.
    """

    def __init__(self, config: CaptionConfig, say: Callable[[Doing], None]) -> None:
        folder = Path(config.model)
        device = select_device(config.device_target, config.memory_limit, compiled=False)
        dtype = dtype_for(config.dtype, stored_type(folder), device, compiled=False)
        layout = Layout.read(folder, config.family, config.lora_alpha)
        check_weights(layout.parameters(), dtype, config.memory_limit, device)
        self.slots = config.slots
        self._say = say
        self._max_new_tokens = config.max_new_tokens
        self._generation = read_generation(folder)
        self._penalties = Penalties.of(config, self._generation)
        family = family_for(config.family, read_json(folder / "config.json"))
        load = part(family.reference)
        with loading_weights():
            self._model: Any = load(folder, config, getattr(torch, dtype))
            if device == "Ascend":
                self._model.to("npu")

    def fits(self, size: Size) -> bool:  # noqa: ARG002
        """Always: what transformers needs for a prompt is not known beforehand."""
        return True

    def answers(self, feed: Feed, stop: Callable[[], bool]) -> Iterator[Answer]:
        """Decode greedily what ``feed`` gives, in batches of as many rows as there are slots."""
        while not stop():
            batch: list[Request] = []
            while len(batch) < self.slots and (request := feed(wait=True)):
                batch.append(request)
            if not batch:
                return
            yield from self._batch(batch, stop)

    def _batch(self, batch: Sequence[Request], stop: Callable[[], bool]) -> Iterator[Answer]:
        """Rows together; when that fails, each alone, so that one cannot fail the others."""
        self._say(Doing.CAPTIONING)
        began = time.monotonic()
        try:
            generated = self._generate(batch, stop)
        except Exception as error:  # noqa: BLE001 - the status of a row, or of several
            if len(batch) > 1:
                for request in batch:
                    if not stop():
                        yield from self._batch([request], stop)
                return
            seconds = time.monotonic() - began
            request, told = batch[0], as_out_of_memory(error) or error
            yield Answer(request.row_id, None, told, seconds, request.question)
            return
        seconds = (time.monotonic() - began) / len(batch)
        for request, row in zip(batch, generated or (), strict=generated is not None):
            yield Answer(request.row_id, row, None, seconds, request.question)

    def _generate(
        self, batch: Sequence[Request], stop: Callable[[], bool]
    ) -> list[Generated] | None:
        """Token ids of ``batch`` in its order; None when ``stop()`` turned true."""
        prompts = [request.prompt for request in batch]
        ids, mask = _pad_left([prompt.ids for prompt in prompts])
        vision = {
            name: self._tensor(np.concatenate([prompt.vision[name] for prompt in prompts]))
            for name in prompts[0].vision
        }
        confidence = _Confidence()
        stopping = _Stop(stop, confidence)
        output = self._model.generate(
            input_ids=self._tensor(ids),
            attention_mask=self._tensor(mask),
            **vision,
            do_sample=False,
            # Checkpoints ask for sampling with a vanishing temperature; greedy ignores these.
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=self._max_new_tokens,
            repetition_penalty=1.0,  # both are among the processors, row by row
            no_repeat_ngram_size=0,
            eos_token_id=list(self._generation.eos),
            pad_token_id=self._generation.eos[0],
            logits_processor=transformers.LogitsProcessorList([confidence, self._penalised(batch)]),
            stopping_criteria=transformers.StoppingCriteriaList([stopping]),
        )
        if stopping.stopped:
            return None
        new = output[:, ids.shape[1] :].tolist()
        log_probs = np.array(confidence.noted).T.tolist()
        return [self._until_end(*row) for row in zip(new, log_probs, strict=True)]

    def _penalised(self, batch: Sequence[Request]) -> "_Penalised":
        longest = max(len(request.prompt.ids) for request in batch)
        usual, stronger = self._penalties, self._penalties.stronger()
        return _Penalised(
            [longest - len(request.prompt.ids) for request in batch],
            [stronger if request.again else usual for request in batch],
        )

    def _tensor(self, array: np.ndarray[Any, Any]) -> Any:
        return torch.tensor(array).to(self._model.device)

    def _until_end(self, ids: list[int], log_probs: list[float]) -> Generated:
        ends = (index for index, token in enumerate(ids) if token in self._generation.eos)
        length = next(ends, len(ids))
        logprob = sum(log_probs[:length]) / length if length else None
        return Generated(ids[:length], "stop" if length < len(ids) else "length", logprob)


class _Confidence(transformers.LogitsProcessor):
    """Notes the log-probabilities of tokens; comes first, to see what no other has changed."""

    def __init__(self) -> None:
        self.noted: list[list[float]] = []  # by step those of all rows
        self._scores: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
        self._scores = torch.log_softmax(scores.float(), -1)
        return scores

    def note(self, tokens: Any) -> None:
        """Those of the ``tokens`` ``[n, 1]`` that were chosen last."""
        self.noted.append(torch.gather(self._scores, 1, tokens)[:, 0].tolist())


class _Penalised(transformers.LogitsProcessor):
    """transformers' processors for each row as if it were alone, without its padding."""

    def __init__(self, padding: Sequence[int], penalties: Sequence[Penalties]) -> None:
        self._rows = [
            (start, _processors(own)) for start, own in zip(padding, penalties, strict=True)
        ]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not any(processors for _, processors in self._rows):
            return scores
        rows = []
        for row, (start, processors) in enumerate(self._rows):
            own = scores[row : row + 1]
            for processor in processors:
                own = processor(input_ids[row : row + 1, start:], own)
            rows.append(own)
        return torch.cat(rows, 0)


def _processors(penalties: Penalties) -> list[Any]:
    found: list[Any] = []
    if penalties.repetition != 1.0:
        found.append(transformers.RepetitionPenaltyLogitsProcessor(penalties.repetition))
    if penalties.ngram_size:
        found.append(transformers.NoRepeatNGramLogitsProcessor(penalties.ngram_size))
    return found


class _Stop(transformers.StoppingCriteria):
    """Ends generation between two tokens when the rank is asked to leave.

    It is asked after every token, which ``confidence`` then notes.
    """

    def __init__(self, stop: Callable[[], bool], confidence: _Confidence) -> None:
        self._stop, self._confidence = stop, confidence
        self.stopped = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        self._confidence.note(input_ids[:, -1:])
        self.stopped = self.stopped or self._stop()
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool)


def load_published(folder: Path, config: CaptionConfig, dtype: Any) -> Any:
    """The model in ``folder`` as transformers has it, in ``dtype``.

    Strictly: a key that is missing or left over is an error, not a guess.
    """
    given = read_json(folder / "config.json")
    kind = getattr(transformers, family_for(config.family, given).reference_class)
    layout = Layout.read(folder, config.family)
    translated = as_transformers_4(given, tied=layout.text.tied)
    settings = None if translated == given else kind.config_class.from_dict(translated)
    model, report = kind.from_pretrained(
        folder,
        config=settings,
        dtype=dtype,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if wrong:
        lines = [f"{kind}: {', '.join(keys[:5])}" for kind, keys in wrong.items()]
        raise ModelError(f"the weights in {folder} do not fit its config.json. {'; '.join(lines)}")
    return model.eval()


def _pad_left(rows: Sequence[np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    """Token ids ``[n, longest]`` and their mask.

    Padded with each row's own first token.
    """
    longest = max(len(row) for row in rows)
    ids = np.stack([np.pad(row, (longest - len(row), 0), constant_values=row[0]) for row in rows])
    mask = np.stack([np.arange(longest) >= longest - len(row) for row in rows])
    return ids, mask.astype(np.int64)
