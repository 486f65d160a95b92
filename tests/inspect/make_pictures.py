"""Draws .github/gallery.png, gallery-dark.png and inspect.svg, pictures of the README.

Run it after a change to the gallery or to what ``inspect`` shows of captions:
``uv run python tests/inspect/make_pictures.py``. It needs Chromium.
"""

import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.browser import browser, opened
from tests.helpers.captioned import write_captioned
from vidcap_cli.inspect import inspect
from vidcap_cli.inspect.report import draw
from vidcap_cli.inspect.rules import Fault
from vidcap_cli.options import InspectOptions

NAME = "meta_caption_qwen2vl.csv"
ROWS, WIDTH, HEIGHT = 320, 1240, 800


def draw_gallery(page: Path, target: Path, *, dark: bool = False) -> None:
    """The page as one sees it with a few captions searched for."""
    scheme = "dark" if dark else "light"
    view = {"width": WIDTH, "height": HEIGHT}
    with (
        browser() as chromium,
        opened(chromium, f"{page.as_uri()}#q=circle", viewport=view, color_scheme=scheme) as shown,
    ):
        shown.wait_for_selector(".card")
        shown.evaluate("document.fonts.ready")
        shown.screenshot(path=target)


def draw_report(table: Path, target: Path) -> None:
    """What the command prints on a terminal, with examples of two flags."""
    console = Console(
        record=True,
        width=114,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        _environ={},
    )
    console.print(Text(f"$ vidcap inspect {table.name}", style="bold"))
    report = inspect(table)
    left_out = {f"{fault}, for example" for fault in Fault if fault not in (Fault.LOOP, Fault.CUT)}
    sections = tuple(one for one in report.sections if one.title not in left_out)
    draw(replace(report, sections=sections), console)
    svg = console.export_svg(title="vidcap", unique_id="vidcap")
    target.write_text(svg, encoding="utf-8")


def main() -> None:
    """Make all of them."""
    with TemporaryDirectory() as place:
        os.chdir(place)
        table, page = Path(NAME), Path("gallery.html").absolute()
        write_captioned(Path(), ROWS).rename(table)
        inspect(table, InspectOptions(html=page))
        draw_gallery(page, ROOT / ".github" / "gallery.png")
        draw_gallery(page, ROOT / ".github" / "gallery-dark.png", dark=True)
        draw_report(table, ROOT / ".github" / "inspect.svg")


if __name__ == "__main__":
    main()
