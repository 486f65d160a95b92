"""A table with captions of nano clips as a run leaves it: good captions, bad ones, failures."""

import csv
from pathlib import Path

from numpy.random import default_rng

from tests.nano import world

COLUMNS = (
    "path", "text", "caption_status", "caption_error", "caption_flags", "caption_finish_reason",
    "caption_new_tokens", "caption_frames", "caption_infer_s", "caption_logprob",
)  # fmt: skip
_OPENINGS = (
    "", "Seen from the front, ", "Against plain ground, ", "Throughout the clip, ", "Quite alone, ",
    "In one piece, ", "With sharp edges, ", "As in a cartoon, ", "From beginning to end, ",
)  # fmt: skip
_LIKELY = [0.45, 0.13, *[0.06] * 7]  # one is a stock opening
_MORE = (
    "Its edge stays sharp while the background does not change.",
    "The camera does not move at all.",
    "The light is even from the first frame to the last.",
    "Nothing covers it at any time, and it keeps its size throughout.",
    "There is no shadow, as in a simple animation.",
    "A little noise lies over the whole picture.",
    "Two thirds of the frame are empty.",
    "The colours are strong, and the contrast between them is high.",
    "No text and no other object can be seen.",
    "The motion is even, without any pause or turn, until the clip ends.",
    "It looks like something that was drawn for a test rather than filmed.",
    "What little there is to see is seen at once.",
)
_FAILED = {
    "missing_file": "there is no such file",
    "decode_error": "moov atom not found",
    "oom": "out of memory, however small the video is made",
}


def write_captioned(folder: Path, rows: int, clips: int = 48, seed: int = 5) -> Path:
    """Write the table and its ``clips``, which the rows have in turn; the table."""
    rng = default_rng(seed)
    sentences = []
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(clips):
        clip = world.sample(rng)
        world.write(clip, folder / "clips" / f"{number:04}.mp4")
        sentences.append(world.sentence(clip, "qwen2vl"))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in range(rows):
            more = rng.permutation(_MORE)[: rng.integers(1, 7)]
            opening, said = rng.choice(_OPENINGS, p=_LIKELY), sentences[row % clips]
            first = opening + said[0].lower() + said[1:] if opening else said
            text = " ".join([first, *more])
            table.writerow(_row(row, f"clips/{row % clips:04}.mp4", text))
    return folder / "captions.csv"


def _row(row: int, path: str, text: str) -> dict[str, object]:
    found: dict[str, object] = {
        "path": path, "text": text, "caption_status": "ok", "caption_finish_reason": "stop",
        "caption_new_tokens": len(text) // 4, "caption_frames": 8 + row % 13,
        "caption_infer_s": round(len(text) / 90, 2),
        "caption_logprob": -0.2 - (row * 37 % 50) / 100,
    }  # fmt: skip
    if row % 29 == 7:
        failed = list(_FAILED)[row % len(_FAILED)]
        found |= {
            "text": "", "caption_status": failed, "caption_error": _FAILED[failed],
            "caption_finish_reason": "", "caption_new_tokens": "", "caption_logprob": "",
            "caption_frames": "", "caption_infer_s": "",
        }  # fmt: skip
        if failed == "missing_file":
            found["path"] = f"clips/gone/{row:04}.mp4"
    elif row % 17 == 3:
        found |= {"text": text[: len(text) * 2 // 3], "caption_finish_reason": "length"}
        found |= {"caption_flags": "cut"}
    elif row % 23 == 5:
        found["text"] = text + " The shape moves and moves" * 9
    elif row % 19 == 4:
        found["caption_flags"] = "shrunk"
    return found
