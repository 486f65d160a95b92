"""The rank's loop: who is in the model with whom, what is shrunk or tried again, when it ends."""

import json

import pytest

from tests.rank.fakes import FakeDecoders, FakeEngine, Scene, clip, rows
from vidcap_cli.engine import Generated
from vidcap_cli.errors import OutOfMemoryError
from vidcap_cli.rank.said import Said
from vidcap_cli.rundir.events import Began, Committed, Done
from vidcap_cli.statuses import Flag, Status
from vidcap_cli.video import VideoError

NO_ROOM = OutOfMemoryError("no room")


def began(scene):
    return [row for event in scene.events if isinstance(event, Began) for row in event.rows]


def test_a_row_keeps_what_is_known_of_it_from_claim_to_result(tmp_path):
    videos = {1: clip(frames=3, side=6, flags=(Flag.HDR,))}
    scene = Scene(tmp_path, FakeEngine(slots=3), FakeDecoders(videos, late=(1,)), rows(5))
    scene.rows[1].attempts = 3
    scene.run()
    assert {row: result["text"] for row, result in scene.results.items()} == {
        row: f"{row} 7" for row in range(5)
    }
    result = scene.results[1]
    assert (result["path"], result["attempts"], result["reader"]) == ("1.mp4", 3, "fake")
    assert (result["frames"], result["height"], result["width"]) == (3, 6, 6)
    assert (result["prompt_tokens"], result["new_tokens"]) == (3, 2)
    assert (result["flags"], result["decode_s"], result["infer_s"]) == ("hdr", 0.5, 1.0)
    assert (result["rank"], result["model"]) == (0, "/models/some")
    assert sorted(began(scene)) == [*range(5)]
    assert scene.events[-1].rows == 5
    assert isinstance(scene.events[-1], Committed)
    assert 10**7 < scene.events[-1].memory < 10**11  # of this process, in bytes


def test_every_row_begins_before_it_is_done(tmp_path):
    scene = Scene(tmp_path, FakeEngine(slots=3), FakeDecoders({}), rows(9))
    scene.run()
    in_model = set()
    for event in scene.events:
        if isinstance(event, Began):
            in_model.update(event.rows)
        elif isinstance(event, Done):
            in_model.remove(event.row)
    assert not in_model


# --- isolation


@pytest.mark.parametrize("alone", [(0,), (2,), (5,), (1, 2), (0, 3, 5), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("slots", [1, 3])
def test_rows_that_may_kill_are_in_the_model_with_no_other(tmp_path, alone, slots):
    scene = Scene(tmp_path, FakeEngine(slots=slots), FakeDecoders({}), rows(6, alone=alone))
    scene.run()
    assert set(scene.results) == set(range(6))
    for together in scene.engine.together:
        assert len(together) == 1 or together.isdisjoint(alone)
    # The others go on sharing the model.
    others = [together for together in scene.engine.together if together.isdisjoint(alone)]
    if slots > 1 and len(alone) == 1:
        assert max(map(len, others)) > 1


def test_a_row_to_be_alone_that_is_tried_again_stays_alone(tmp_path):
    engine = FakeEngine(slots=3, faults={1: [NO_ROOM]})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(4, alone=(1,)))
    scene.run()
    assert scene.results[1]["flags"] == "shrunk"
    assert all(len(together) == 1 for together in engine.together if 1 in together)


def test_a_row_to_be_alone_without_frames_holds_up_nobody(tmp_path):
    videos = {1: VideoError(Status.MISSING_FILE, "there is no such file")}
    scene = Scene(tmp_path, FakeEngine(slots=4), FakeDecoders(videos), rows(4, alone=(1,)))
    scene.run()
    assert scene.results[1]["status"] == "missing_file"
    assert scene.engine.together[-1] == {0, 2, 3}


# --- shrinking


def test_a_clip_is_made_smaller_until_it_fits(tmp_path):
    videos = {0: clip(side=8), 1: clip(side=32, flags=(Flag.DAMAGED,))}
    scene = Scene(tmp_path, FakeEngine(room=8), FakeDecoders(videos), rows(2))
    scene.run()
    fits, large = scene.results[0], scene.results[1]
    assert (fits["height"], fits["flags"]) == (8, None)
    assert (large["height"], large["width"], large["flags"]) == (8, 8, "damaged,shrunk")
    assert large["text"] == "1 7"


def test_a_clip_that_never_fits_is_out_of_memory(tmp_path):
    scene = Scene(tmp_path, FakeEngine(room=0), FakeDecoders({}), rows(1))
    scene.run()
    assert scene.results[0]["status"] == "oom"
    assert scene.results[0]["error"].startswith("out of memory: the video needs more")
    assert began(scene) == []  # the model never saw it


def test_without_shrinking_a_large_clip_has_an_empty_caption(tmp_path):
    videos = {0: clip(side=32)}
    scene = Scene(tmp_path, FakeEngine(room=8), FakeDecoders(videos), rows(2), on_oom="empty")
    scene.run()
    assert [scene.results[row]["status"] for row in range(2)] == ["empty", "ok"]
    assert scene.results[0]["flags"] is None


# --- captions that repeat themselves


@pytest.mark.parametrize("retry", [False, True])
def test_a_caption_that_repeats_itself_says_so(tmp_path, retry):
    engine = FakeEngine(loops={0: 1, 1: 2}, long=(1,))
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(3), retry=retry)
    scene.run()
    once, twice, well = (scene.results[row] for row in range(3))
    assert (well["flags"], well["text"]) == (None, "2 7")
    if retry:  # the second one is kept where it is better, and the row says so
        assert engine.again == [0, 1]
        assert (once["flags"], once["text"], once["infer_s"]) == ("retried", "0 7", 2.0)
        assert (twice["flags"], twice["infer_s"]) == ("cut,repetitive,retried", 2.0)
    else:
        assert engine.again == []
        assert (once["flags"], once["infer_s"]) == ("repetitive", 1.0)
        assert twice["flags"] == "cut,repetitive"
    assert twice["text"] == "1 1 1 1 1 1 1 1 1"
    assert twice["logprob"] == pytest.approx(-0.1)


@pytest.mark.parametrize("fault", [NO_ROOM, ValueError("no")])
def test_a_caption_is_kept_when_the_second_try_fails(tmp_path, fault):
    engine = FakeEngine(loops={0: 1}, faults={0: []})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(2), retry=True)
    engine._after = lambda row: engine._faults[0].append(fault) if row == 0 else None
    scene.run()
    result = scene.results[0]
    assert (result["status"], result["text"]) == ("ok", "0 0 0 0 0 0 0 0 0")
    assert result["flags"] == "repetitive,retried"


def test_a_caption_is_kept_when_the_second_try_says_nothing(tmp_path):
    said = Said.of("so so so so so so so so", Generated([1] * 8, "stop"))
    assert said.retried(Said.of("", Generated([], "stop"))).text == said.text
    better = said.retried(Said.of("A dog.", Generated([1], "length")))
    assert (better.text, better.flags) == ("A dog.", (Flag.CUT, Flag.RETRIED))


# --- several questions


TWO = {"long": "Describe it in detail", "brief": "Describe it briefly"}


@pytest.mark.parametrize("slots", [1, 3])
def test_a_row_is_done_when_all_its_questions_are_answered(tmp_path, slots):
    engine = FakeEngine(slots=slots)
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(4), question=TWO)
    scene.run()
    assert sorted(began(scene)) == [*range(4)]
    for row in range(4):
        result, answers = scene.results[row], json.loads(scene.results[row]["answers"])
        assert (result["status"], result["text"], result["new_tokens"]) == ("ok", f"{row} 7", 4)
        assert [(name, it["text"], it["prompt"]) for name, it in answers.items()] == [
            (name, f"{row} 7", question) for name, question in TWO.items()
        ]
        assert result["infer_s"] == 2.0
        own = [request.prompt for request in engine.asked if request.row_id == row]
        assert [len(prompt.ids) for prompt in own] == [4, 5]
        assert own[0].vision is own[1].vision
        assert own[0].video == own[1].video is not None
    assert len({request.prompt.video for request in engine.asked}) == 4


def test_a_row_is_asked_its_own_question_if_it_has_one(tmp_path):
    engine, sizes = FakeEngine(), []
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(3))
    scene.rows[1].question = "What moves, and where?"
    engine.fits = lambda size: sizes.append(size.tokens) or True
    scene.run()
    assert [scene.results[row]["prompt"] for row in range(3)] == [
        "Who?", "What moves, and where?", "Who?",
    ]  # fmt: skip
    assert {it.row_id: len(it.prompt.ids) for it in engine.asked} == {0: 4, 1: 5, 2: 4}
    assert sizes == [4, 4 + len("What moves, and where?"), 4]


def test_one_question_alone_shares_nothing(tmp_path):
    engine = FakeEngine()
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(1))
    scene.run()
    assert engine.asked[0].prompt.video is None
    assert scene.results[0]["answers"] is None


def test_an_answer_is_kept_when_another_question_fails(tmp_path):
    engine = FakeEngine(slots=1, faults={0: [ValueError("no")]})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(2), question=TWO)
    scene.run()
    result, answers = scene.results[0], json.loads(scene.results[0]["answers"])
    assert (result["status"], result["text"]) == ("model_error", None)
    assert result["error"] == "ValueError: no"
    assert [it["text"] for it in answers.values()] == [None, "0 7"]
    assert scene.results[1]["status"] == "ok"


def test_a_question_without_a_word_is_named(tmp_path):
    scene = Scene(tmp_path, FakeEngine(silent=(0,)), FakeDecoders({}), rows(1), question=TWO)
    scene.run()
    result = scene.results[0]
    assert result["status"] == "empty"
    assert result["error"] == ("the model ended its answer to long, brief before the first word")


def test_all_questions_are_asked_again_about_a_smaller_clip(tmp_path):
    engine = FakeEngine(slots=2, faults={0: [NO_ROOM]})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(2), question=TWO)
    scene.run()
    assert (scene.results[0]["status"], scene.results[0]["height"]) == ("ok", 4)
    assert scene.results[0]["flags"] == "shrunk"
    assert [request.row_id for request in engine.asked].count(0) == 4


def test_each_answer_that_repeats_itself_is_tried_again(tmp_path):
    engine = FakeEngine(slots=1, loops={0: 1})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(1), question=TWO, retry=True)
    scene.run()
    assert [(request.question, request.again) for request in engine.asked] == [
        (0, False), (1, False), (0, True),
    ]  # fmt: skip
    answers = json.loads(scene.results[0]["answers"])
    assert [it["flags"] for it in answers.values()] == ["retried", None]
    assert scene.results[0]["flags"] == "retried"


# --- errors of the model


def test_out_of_memory_is_tried_once_more_with_a_smaller_clip(tmp_path):
    engine = FakeEngine(faults={0: [NO_ROOM], 1: [NO_ROOM, NO_ROOM]})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(3))
    scene.run()
    again, twice, beside = (scene.results[row] for row in range(3))
    assert (again["status"], again["height"], again["flags"]) == ("ok", 4, "shrunk")
    assert (twice["status"], twice["error"]) == ("oom", "out of memory: no room")
    assert (beside["status"], beside["flags"]) == ("ok", None)
    assert sorted(began(scene)) == [0, 0, 1, 1, 2]
    # The time of both tries is the rank's, that of the last one the caption's.
    assert again["infer_s"] == 1.0
    assert max(event.busy_s for event in scene.events if isinstance(event, Done)) == 5.0


def test_out_of_memory_with_the_smallest_clip_is_not_tried_again(tmp_path):
    videos = {0: clip(side=1)}
    engine = FakeEngine(faults={0: [NO_ROOM, AssertionError("tried again")]})
    scene = Scene(tmp_path, engine, FakeDecoders(videos), rows(1))
    scene.run()
    assert (scene.results[0]["status"], began(scene)) == ("oom", [0])


def test_without_shrinking_out_of_memory_is_not_tried_again(tmp_path):
    engine = FakeEngine(faults={0: [NO_ROOM, AssertionError("tried again")]})
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(2), on_oom="empty")
    scene.run()
    assert [scene.results[row]["status"] for row in range(2)] == ["empty", "ok"]


def test_an_exception_costs_its_row_alone(tmp_path):
    engine = FakeEngine(faults={1: [ValueError("a bug" * 500)]})
    scene = Scene(tmp_path, engine, FakeDecoders({2: clip(side=3)}), rows(4))
    scene.run()
    statuses = [scene.results[row]["status"] for row in range(4)]
    assert statuses == ["ok", "model_error", "model_error", "ok"]
    assert scene.results[1]["error"].startswith("ValueError: a bug")
    assert len(scene.results[1]["error"]) == 500
    assert scene.results[2]["error"] == "ValueError: three pixels are no picture"


def test_a_caption_without_a_word_is_none(tmp_path):
    scene = Scene(tmp_path, FakeEngine(silent=(0,)), FakeDecoders({}), rows(1))
    scene.run()
    result = scene.results[0]
    assert (result["status"], result["text"], result["finish_reason"]) == ("empty", None, "stop")


def test_a_caption_that_ends_at_the_longest_length_is_flagged(tmp_path):
    videos = {0: clip(flags=(Flag.HDR,))}
    scene = Scene(tmp_path, FakeEngine(long=(0, 2)), FakeDecoders(videos), rows(3))
    scene.run()
    flags = [scene.results[row]["flags"] for row in range(3)]
    assert flags == ["hdr,cut", None, "cut"]
    assert {scene.results[row]["status"] for row in range(3)} == {"ok"}


# --- stopping


def test_a_rank_that_is_to_stop_drops_what_is_in_the_model_and_commits_the_rest(tmp_path):
    engine = FakeEngine(slots=2)
    scene = Scene(tmp_path, engine, FakeDecoders({}), rows(9))
    engine._after = lambda row: scene.stop.on_signal(15, None) if row == 2 else None
    scene.run()
    assert set(scene.results) == {0, 1, 2}
    assert 3 in began(scene)  # it was in the model
    assert len(scene.decoders.submitted) < 9  # and not every row was claimed


def test_a_rank_that_waits_for_frames_stops(tmp_path):
    scene = Scene(tmp_path, FakeEngine(), FakeDecoders({}), rows(3))
    scene.decoders.ready = False
    looks = iter(range(9))

    def next_frame(timeout) -> None:
        if next(looks) == 2:
            scene.stop.asked = True

    scene.decoders.next = next_frame
    scene.run()
    assert scene.results == {}
    assert next(looks) == 3
    assert [event.state for event in scene.events] == ["waiting for frames"]
