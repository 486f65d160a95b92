"""What a second question costs: 64 clips asked one and two, in seconds of one rank.

``python tests/benchmarks/questions.py``: the bundled nano Qwen2-VL, decoding of frames counted in,
with one slot and with eight; "apart" shares nothing between the two. Seconds are those of the clock
and, on a machine that has more to do the truer ones, of the processor.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

from vidcap_cli import video
from vidcap_cli.config import CaptionConfig
from vidcap_cli.engine import Engine, Request, load_engine
from vidcap_cli.processors import Captioner, load_captioner

NANO = Path(str(resources.files("vidcap_cli") / "nano"))
QUESTIONS = {"detailed": "Describe the video in detail", "brief": "Describe the video briefly"}
CLIPS, TRIES = 64, 5

Answers = dict[tuple[int, int], list[int]]


def requests(captioner: Captioner, questions: list[str], *, shared: bool) -> Iterator[Request]:
    """What a rank asks about the clips."""
    clips = sorted((NANO / "clips").glob("*.mp4"))
    for row in range(CLIPS):
        clip = video.read_frames(str(clips[row % len(clips)]), captioner.rule)
        first = captioner.prompt(clip.frames)
        prompts = [first, *(captioner.asked(first, question) for question in questions[1:])]
        for number, prompt in enumerate(prompts):
            known = row if shared and len(prompts) > 1 else None
            yield Request(row, replace(prompt, video=known), question=number)


def answered(engine: Engine, wanted: Iterator[Request]) -> Answers:
    """The tokens of each answer, by row and question."""
    answers = engine.answers(lambda wait: next(wanted, None), lambda: False)  # noqa: ARG005
    return {(it.row_id, it.question): it.generated.ids for it in answers if it.generated}


def seconds(runs: list[Callable[[], Answers]]) -> list[tuple[float, float, Answers]]:
    """Of each the least of some tries, by the clock and of the processor, and what it gave.

    They take turns, so that what else the machine does meets all of them.
    """
    least = [(float("inf"), float("inf"), Answers()) for _ in runs]
    for _ in range(TRIES):
        for number, run in enumerate(runs):
            began, spent = time.perf_counter(), time.process_time()
            found = run()
            clock, processor = time.perf_counter() - began, time.process_time() - spent
            least[number] = (*map(min, least[number][:2], (clock, processor)), found)
    return least


def measure(slots: int) -> list[str]:
    """Lines about an engine of so many slots."""
    config = CaptionConfig("qwen2vl", str(NANO / "qwen2vl"), question=QUESTIONS, slots=slots)
    captioner, engine = load_captioner(config), load_engine(config)

    def run(number: int, *, shared: bool = True) -> Answers:
        asked = [*QUESTIONS.values()][:number]
        return answered(engine, requests(captioner, asked, shared=shared))

    run(2)  # compiles
    one, two, apart = seconds([partial(run, 1), partial(run, 2), partial(run, 2, shared=False)])
    assert two[2] == apart[2]
    assert one[2] == {key: ids for key, ids in two[2].items() if key[1] == 0}
    return [
        f"{slots} slots, {what}: one question {one[i]:.2f} s, two {two[i]:.2f} "
        f"({two[i] / one[i]:.2f} times), apart {apart[i]:.2f} ({apart[i] / one[i]:.2f} times)"
        for i, what in enumerate(("clock", "processor"))
    ]


def main() -> None:
    """Print what each number of slots took."""
    for slots in (1, 8):
        print("\n".join(measure(slots)), flush=True)


if __name__ == "__main__":
    main()
