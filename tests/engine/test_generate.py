"""The slots of the compiled engine: refilled, keyed by row, one failure at a time."""

from dataclasses import replace

import numpy as np
import pytest

from tests.goldens.cases import noise
from tests.helpers import tiny

pytest.importorskip("mindspore")

from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Answer, Request, SpentError, feed_of, generate_all
from vidcap_cli.engine.generate import GraphEngine
from vidcap_cli.errors import ModelError, OutOfMemoryError, RunError
from vidcap_cli.models import model
from vidcap_cli.processors import Prompt, Size, load_captioner

SPEC = tiny.TinyQwen2VL(seed=2)
VIDEO = 256 + tiny.SPECIAL_TOKENS.index("<|video_pad|>")
CLIPS = [(seed, 2 * (seed % 3 + 1), 56, 28 * (seed % 4 + 2)) for seed in range(7)]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> CaptionConfig:
    folder = tiny.write_qwen2vl(tmp_path_factory.mktemp("tiny"), SPEC)
    return CaptionConfig("qwen2vl", str(folder), max_new_tokens=12, slots=3)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def engine(config, said) -> GraphEngine:
    return GraphEngine(config, said.append)


@pytest.fixture(scope="module")
def prompts(config) -> list[Prompt]:
    captioner = load_captioner(config)
    return [captioner.prompt(noise(*clip)) for clip in CLIPS]


@pytest.fixture(scope="module")
def alone(engine, prompts) -> list[list[int]]:
    # An end that some captions come to early: then slots are free at different times.
    engine._eos = (*engine._eos, generate_all(engine, prompts[1:2])[0].ids[3])
    rows = [generate_all(engine, [prompt])[0] for prompt in prompts]
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    return [row.ids for row in rows]


def answers(engine: GraphEngine, prompts: list[Prompt], stop=lambda: False) -> list[Answer]:
    requests = [Request(row_id, prompt) for row_id, prompt in enumerate(prompts)]
    return [*engine.answers(feed_of(requests), stop)]


def ids(answers: list[Answer]) -> dict[int, list[int]]:
    return {answer.row_id: answer.generated.ids for answer in answers if answer.generated}


def test_refilled_slots_write_what_each_row_writes_alone(engine, prompts, alone):
    found = answers(engine, prompts)
    assert ids(found) == dict(enumerate(alone))
    assert len(found) == len(prompts)
    assert [answer.row_id for answer in found] != sorted(answer.row_id for answer in found)
    assert all(answer.seconds > 0 for answer in found)


def test_what_prompts_share_is_computed_once(config, engine, prompts, monkeypatch):
    captioner = load_captioner(config)
    monkeypatch.setattr(model, "WORTH_KEEPING", 1)
    looks, tower = [], type(engine.model.vision)
    look, wholes = tower.__call__, []
    prefill = engine.model.decoder.prefill
    monkeypatch.setattr(tower, "__call__", lambda *given: looks.append(given) or look(*given))
    monkeypatch.setattr(
        engine.model.decoder, "prefill", lambda *given: wholes.append(given) or prefill(*given)
    )
    asked = [captioner.asked(prompt, "Why?") for prompt in prompts]
    apart = [generate_all(engine, [prompt])[0].ids for prompt in (*prompts, *asked)]
    both = enumerate(zip(prompts, asked, strict=True))
    pairs = [replace(p, video=number) for number, pair in both for p in pair]
    looks.clear()
    wholes.clear()
    found = [row.ids for row in generate_all(engine, pairs)]
    assert found == [ids for pair in zip(apart[:7], apart[7:], strict=True) for ids in pair]
    assert len(looks) == len(wholes) == len(prompts)
    assert found[0] != found[1]


def test_a_second_try_is_penalised_and_its_neighbours_are_not(config, engine, prompts, alone):
    stronger = engine._penalties.stronger()
    strict = GraphEngine(
        replace(
            config,
            repetition_penalty=stronger.repetition,
            no_repeat_ngram_size=stronger.ngram_size,
        ),
        lambda _: None,
    )
    strict._eos = engine._eos
    penalised = [generate_all(strict, [prompt])[0].ids for prompt in prompts]
    assert penalised != alone
    requests = [Request(row, prompt, again=row % 2 == 1) for row, prompt in enumerate(prompts)]
    found = ids([*engine.answers(feed_of(requests), lambda: False)])
    assert found == {row: (alone, penalised)[row % 2][row] for row in range(len(prompts))}
    assert ids(answers(engine, prompts)) == dict(enumerate(alone))


def test_rows_that_are_not_ready_are_not_waited_for(engine, prompts, alone):
    left = [Request(row_id, prompt) for row_id, prompt in enumerate(prompts)]
    waits = []

    def feed(*, wait: bool) -> Request | None:
        """One that is ready only when the engine has nothing else to do."""
        waits.append(wait)
        return left.pop(0) if wait and left else None

    assert ids([*engine.answers(feed, lambda: False)]) == dict(enumerate(alone))
    assert waits.count(True) == len(prompts) + 1
    assert waits.count(False) > len(prompts)


def test_a_prompt_that_fails_fails_alone(engine, prompts, alone):
    places = prompts[1].ids == VIDEO
    short = Prompt(np.delete(prompts[1].ids, np.flatnonzero(places)[:1]), prompts[1].vision)
    found = answers(engine, [prompts[0], short, *prompts[2:]])
    failed = [answer for answer in found if answer.error]
    assert [answer.row_id for answer in failed] == [1]
    assert isinstance(failed[0].error, ModelError)
    assert ids(found) == {row: row_ids for row, row_ids in enumerate(alone) if row != 1}


def test_a_step_that_fails_is_repeated_for_each_row_alone(engine, prompts, alone, monkeypatch):
    step, kept = engine._decoder.step, engine._decoder.kv_cache.lengths

    def failing(tokens: np.ndarray) -> object:
        if (kept > 0).sum() > 1:
            raise RuntimeError("Memory not enough: alloc failed")
        return step(tokens)

    monkeypatch.setattr(engine._decoder, "step", failing)
    assert ids(answers(engine, prompts)) == dict(enumerate(alone))


def test_memory_that_ends_in_the_device_is_told_apart(engine, prompts, monkeypatch):
    def failing(tokens: np.ndarray) -> object:
        raise RuntimeError("Memory not enough: alloc failed")

    monkeypatch.setattr(engine._decoder, "step", failing)
    found = answers(engine, prompts)
    assert sorted(answer.row_id for answer in found) == [*range(len(prompts))]
    assert {type(answer.error) for answer in found} == {OutOfMemoryError}
    assert not engine._decoder.kv_cache.lengths.any()


@pytest.mark.parametrize("when", ["step", "prefill"])
def test_where_graphs_do_not_survive_the_engine_ends_with_the_rows_that_it_ran(
    engine, prompts, alone, monkeypatch, when
):
    calls = []

    def failing(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > 2:  # with three rows in the making, or about to be
            raise RuntimeError("Memory not enough: alloc failed")
        return run(*arguments)

    owner = engine._decoder if when == "step" else engine.model.decoder
    run = getattr(owner, when)
    monkeypatch.setattr(engine, "_survives", False)
    with monkeypatch.context() as patch:
        patch.setattr(owner, when, failing)
        with pytest.raises(SpentError) as caught:
            answers(engine, prompts)
    assert caught.value.rows == ((0, 1, 2) if when == "step" else (2,))
    assert len(calls) == 3  # nothing was run after it
    for slot in range(engine.slots):
        engine._decoder.free(slot)
    assert ids(answers(engine, prompts)) == dict(enumerate(alone))


def test_other_errors_cost_a_row_where_graphs_do_not_survive_memory(engine, prompts, monkeypatch):
    monkeypatch.setattr(engine, "_survives", False)
    places = prompts[1].ids == VIDEO
    short = Prompt(np.delete(prompts[1].ids, np.flatnonzero(places)[:1]), prompts[1].vision)
    found = answers(engine, [prompts[0], short, *prompts[2:]])
    assert [answer.row_id for answer in found if answer.error] == [1]


def test_stopping_drops_what_is_in_the_making(engine, prompts, alone):
    steps = []
    found = answers(engine, prompts, lambda: len(steps) > 4 or steps.append(1))
    assert len(found) < len(prompts)
    assert not engine._decoder.kv_cache.lengths.any()
    assert ids(answers(engine, prompts[:1])) == {0: alone[0]}


def test_what_is_compiled_is_said_once(engine, prompts, alone, said):
    said.clear()
    answers(engine, prompts)
    assert set(said) == {"captioning"}


def test_a_limit_tells_what_fits(config, monkeypatch):
    engine = GraphEngine(config, lambda _: None)
    size, larger = Size(300, 64, 64), Size(30_000, 64, 64)
    engine._room = engine.model.need(size, config.max_new_tokens)
    assert engine.fits(size)
    assert not engine.fits(larger)


def test_a_limit_below_the_weights_is_an_error(config):
    from dataclasses import replace

    with pytest.raises(
        ModelError,
        match=r"a rank takes .* with its weights, before any video, more than --memory-limit",
    ):
        GraphEngine(replace(config, memory_limit=10_000_000), lambda _: None)
    with pytest.raises(ModelError, match=r"the weights take .* in float32, more than --memory-lim"):
        GraphEngine(replace(config, memory_limit=10_000), lambda _: None)


def test_a_number_type_that_the_device_lacks_is_refused_at_once(config, monkeypatch):
    monkeypatch.setenv("VIDCAP_NATIVE", "none")
    with pytest.raises(RunError, match="here use float32 or float16"):
        GraphEngine(replace(config, dtype="bfloat16"), [].append)
