"""The documented rules of merging, spelled out row by row in plain Python, on small random inputs.

Blocks, buckets and what is held in memory are made tiny, so that every way through the disk is
taken, and half of all paths have the same hash.
"""

import csv
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidcap_cli.config import CaptionConfig
from vidcap_cli.merge import matching, spill
from vidcap_cli.merge import merge as merge_module
from vidcap_cli.merge.account import EXAMPLES, Example, Reconciliation, Tally
from vidcap_cli.merge.merge import merge
from vidcap_cli.rundir.parts import Result, write_part
from vidcap_cli.rundir.paths import RunDir
from vidcap_cli.rundir.plan import make_plan
from vidcap_cli.tables import hashes

CONFIG = CaptionConfig("qwen2vl", "/models/qwen")
BY_ROW, LOOSE, BY_PATH = "by row", "loose", "by path"


@dataclass(frozen=True)
class Found:
    """A result as the rules see it."""

    row_id: int
    path: str
    status: str
    text: str | None
    error: str | None


@dataclass(frozen=True)
class Input:
    """A source: how its results find their rows, when it was written, and where it was named."""

    kind: str
    time: int
    given: int
    name: Path
    results: tuple[Found, ...]
    run: bool


@dataclass
class Model:
    """The candidates of every row, oldest first with their sources, and the results in none."""

    candidates: dict[int, list[tuple[int, Input, Found]]]
    unmatched: list[Example]
    mismatched: list[Example]


def matched(planned: list[str], inputs: list[Input], shown: int) -> Model:
    """Which results belong to which row; examples show the paths of the first rows alone."""
    model = Model({}, [], [])
    age = 0
    for source in sorted(inputs, key=lambda one: (one.time, one.given)):
        for one in source.results:
            age += 1
            if source.kind == BY_PATH:
                fits = [row for row, path in enumerate(planned) if path == one.path]
            else:
                fits = [one.row_id] if 0 <= one.row_id < len(planned) else []
            if source.kind == LOOSE and fits and planned[one.row_id] != one.path:
                path = planned[one.row_id] if one.row_id < shown else None
                detail = f"{one.path!r} in {source.name}"
                model.mismatched.append(Example(one.row_id, path, detail))
                continue
            if not fits:
                model.unmatched.append(Example(None, one.path, f"in {source.name}"))
            for row in fits:
                model.candidates.setdefault(row, []).append((age, source, one))
    return model


KEYS: dict[str, Any] = {
    "newest": lambda c: c[0],
    "oldest": lambda c: -c[0],
    "first": lambda c: (-c[1].given, -c[0]),
    "longest": lambda c: len(c[2].text or ""),
}


def expected(
    planned: list[str], inputs: list[Input], prefer: str, limit: int | None
) -> tuple[list[tuple[str, str, str]], dict[str, list[Example]]]:
    """The added columns of every row, and all examples of the account by what they are of."""
    rows = len(planned) if limit is None else min(limit, len(planned))
    model = matched(planned, inputs, rows)
    table = []
    examples: dict[str, list[Example]] = {"duplicates": [], "conflicts": []}
    for row in range(rows):
        found = model.candidates.get(row, [])
        captions = list(dict.fromkeys(c[2].text for c in found if c[2].status == "ok"))
        runs = {c[1].name for c in found if c[1].run}
        results = len(runs) + sum(not c[1].run for c in found)
        if results > 1:
            examples["duplicates"].append(Example(row, planned[row], f"{results} results"))
        best = max(found, key=lambda c: (c[2].status == "ok", KEYS[prefer](c), c[0]), default=None)
        status, text, error = ("missing", None, None)
        if best:
            status, text, error = best[2].status, best[2].text, best[2].error
        if len(captions) > 1:
            others = " | ".join(caption for caption in captions if caption != text)
            told = f"taken: {text} | not: {others}"
            examples["conflicts"].append(Example(row, planned[row], told))
        examples.setdefault(status, []).append(Example(row, planned[row], error))
        table.append((text or "", status, error or ""))
    return table, {**examples, "unmatched": model.unmatched, "mismatched": model.mismatched}


def tally(examples: list[Example]) -> Tally:
    return Tally(len(examples), tuple(examples[:EXAMPLES]))


def account(rows: int, examples: dict[str, list[Example]], out: Path, left: Path) -> Reconciliation:
    named = ("ok", "missing", "duplicates", "conflicts", "unmatched", "mismatched")
    return Reconciliation(
        out=str(out),
        rows=rows,
        ok=len(examples.get("ok", [])),
        failed={name: tally(e) for name, e in sorted(examples.items()) if name not in named},
        missing_table=str(left),
        **{name: tally(examples.get(name, [])) for name in named[1:]},
    )


names = st.sampled_from(["a", "b", "ü/b", "c", "d", "e"])
outcomes = st.one_of(
    st.tuples(st.just("ok"), st.sampled_from(["red", "blue", 'a "b", c', "longer\nyet"])),
    st.tuples(st.sampled_from(["oom", "crashed"]), st.sampled_from(["why", None])),
)


@st.composite
def inputs_of(draw: Any, planned: list[str], folder: Path) -> list[Input]:
    """Write some sources below ``folder``."""
    found = []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["run", "other run", "loose", "table"]))
        name = folder / f"{number}"
        time = draw(st.integers(0, 2))
        # Paths of a run are the planned ones; of others anything.
        listed = planned if kind == "run" else draw(st.lists(names, min_size=1, max_size=6))
        known = list(enumerate(listed))
        picked = draw(st.lists(st.sampled_from(known), max_size=8))
        ends = [draw(outcomes) for _ in picked]
        results = tuple(
            Found(row, path, status, *((words, None) if status == "ok" else (None, words)))
            for (row, path), (status, words) in zip(picked, ends, strict=True)
        )
        form = draw(st.sampled_from(["csv", "parquet"]))
        if kind == "table":
            name = folder / f"{number}.csv"
            table(name, results)
        else:
            write(name, listed, results, form, draw)
            if kind == "loose":
                shutil.move(name / "parts", folder / "parts")
                shutil.rmtree(name)
                (folder / "parts").rename(name)
                if not results:
                    continue
        how = LOOSE if kind == "loose" else BY_PATH
        if kind.endswith("run") and listed == planned:  # it has the same fingerprint
            how = BY_ROW
        for file in [name, *name.rglob("*")] if name.is_dir() else [name]:
            os.utime(file, (1_600_000_000 + time,) * 2)
        found.append(
            Input(
                how,
                time if results or kind == "table" else -1_600_000_000,
                len(found),
                name,
                results,
                kind.endswith("run"),
            )
        )
    return found


def write(name: Path, planned: list[str], results: tuple[Found, ...], form: str, draw: Any) -> None:
    """A run of ``planned`` with its results in one or two parts."""
    meta = name.parent / f"{name.name}-meta.csv"
    with meta.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([path] for path in planned)])
    run = RunDir(name)
    make_plan(meta, run, CONFIG)
    run.parts.mkdir()
    half = draw(st.integers(0, len(results)))
    for sequence, part in enumerate((results[:half], results[half:])):
        if part:
            rows = [Result(r.row_id, r.path, r.status, r.text, r.error) for r in part]
            write_part(run.part(1, 0, sequence, form), rows)


def table(name: Path, results: tuple[Found, ...]) -> None:
    """A table as vidcap writes it."""
    head = ["path", "text", "caption_status", "caption_error", "caption_flags"]
    lines = [[r.path, r.text or "", r.status, r.error or "", ""] for r in results]
    with name.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])


def read(path: Path, *columns: str) -> list[Any]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [tuple(row[column] for column in columns) for row in csv.DictReader(file)]
    return [row[0] for row in rows] if len(columns) == 1 else rows


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(merge_module, "ROWS", 3)
    monkeypatch.setattr(spill, "_PENDING", 200)
    monkeypatch.setattr(matching, "_PATHS", 2)
    monkeypatch.setattr(matching, "_MOST", 100)
    monkeypatch.setattr(matching, "hashes", lambda paths: hashes(paths) & 1)


@settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_the_rules(tmp_path_factory, tiny, data):
    folder = tmp_path_factory.mktemp("rules")
    planned = data.draw(st.lists(names, min_size=1, max_size=9), "planned")
    meta, out, left = (folder / name for name in ("meta.csv", "out.csv", "left.csv"))
    with meta.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path"], *([path] for path in planned)])
    inputs = data.draw(inputs_of(planned, folder), "inputs")
    prefer = data.draw(st.sampled_from(["newest", "oldest", "first", "longest"]), "prefer")
    limit = data.draw(st.sampled_from([None, None, 0, 1, 4, 20]), "limit")
    before = sorted(folder.rglob("*"))
    told = merge(
        [one.name for one in inputs], out, meta=meta, prefer=prefer, limit=limit, missing=left
    )
    rows, examples = expected(planned, inputs, prefer, limit)
    assert read(out, "path", "text", "caption_status", "caption_error") == [
        (path, *row) for path, row in zip(planned, rows, strict=False)
    ]
    assert read(left, "path") == [
        path for path, row in zip(planned, rows, strict=False) if row[1] != "ok"
    ]
    # Names of files are told apart by their hash alone, for a note.
    assert replace(told, notes=()) == account(len(rows), examples, out, left)
    assert sorted(folder.rglob("*")) == sorted([*before, out, left])
