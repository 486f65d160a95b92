"""How long the gallery of many rows takes: to be made, and in a browser.

``uv run python tests/benchmarks/gallery.py [ROWS] [THUMBNAILS]`` writes a table of made-up captions
over a few clips, makes its gallery, opens it in headless Chromium and prints seconds: from opening
the page to the first picture of it and to its first cards, until all rows are there, and what then
a search, a filter, an order and a page take until the cards are drawn.
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.captions import captions
from tests.helpers.browser import browser
from tests.helpers.captioned import write_captioned

# Until the change is on the screen: two frames later.
TIMED = """async (act) => {
  const began = performance.now();
  await eval(`(async () => {${act}})()`);
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return (performance.now() - began) / 1000;
}"""
ACTS = {
    "search of a word": "view.search = 'coffee'; show({ again: true })",
    "search of three letters": "view.search = 'the'; show({ again: true })",
    "no search": "view.search = ''; show({ again: true })",
    "filter by a flag": "view.flags.add(0); show({ again: true })",
    "no filter": "view.flags.clear(); show({ again: true })",
    "order by words": "view.sort = 'words'; show({ again: true })",
    "order by path": "view.sort = 'path'; show({ again: true })",
    "order by words again": "view.sort = 'words'; show({ again: true })",
    "next page": "turn(1)",
    "last page": "turn(pageCount() - 1)",
}


def write_table(folder: Path, rows: int) -> Path:
    write_captioned(folder, 1, clips=24)
    table = folder / "table.parquet"
    texts = list(captions(rows))
    failed = [row % 50 == 7 for row in range(rows)]
    columns = {
        "path": [f"clips/{row % 24:04}.mp4" for row in range(rows)],
        "text": [None if bad else text for bad, text in zip(failed, texts, strict=True)],
        "caption_status": ["oom" if bad else "ok" for bad in failed],
        "caption_error": [None] * rows,
        "caption_flags": ["hdr" if row % 40 == 3 else None for row in range(rows)],
    }
    pq.write_table(pa.table(columns), table)
    return table


def measure(page: Any, rows: int) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
    page.wait_for_selector(".card")
    print(f"{page.evaluate(paint):8.2f} s to the first paint")
    print(f"{page.evaluate('performance.now() / 1000'):8.2f} s to the first cards, at most")
    page.evaluate(
        """(all) => new Promise((done) => {
          const look = () => rows.count === all ? done() : setTimeout(look, 20);
          look();
        })""",
        rows,
    )
    print(f"{page.evaluate('performance.now() / 1000'):8.2f} s until all rows are there")
    for name, act in ACTS.items():
        print(f"{page.evaluate(TIMED, act):8.2f} s {name}")
    heap = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
    print(f"{heap:8.0f} MB of JavaScript")


def main(rows: int = 10_000, thumbnails: int = 0) -> None:
    with TemporaryDirectory() as place, browser() as chromium:
        folder = Path(place)
        table, html = write_table(folder, rows), folder / "gallery.html"
        began = time.monotonic()
        options = ["--html", str(html), "--thumbnails", str(thumbnails)]
        command = [sys.executable, "-m", "vidcap_cli", "inspect", str(table), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{time.monotonic() - began:8.2f} s to make the gallery of {rows:,} rows")
        size = sum(file.stat().st_size for file in folder.glob("gallery*/**/*"))
        print(f"{(size + html.stat().st_size) / 1e6:8.1f} MB")
        page = chromium.new_page(viewport={"width": 1360, "height": 900}, bypass_csp=True)
        page.goto(html.as_uri(), wait_until="commit")
        measure(page, rows)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
