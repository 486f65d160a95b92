"""The gallery in a browser: what one can do on the page, and what no text on it can."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.helpers.browser import browser, opened
from tests.helpers.captioned import COLUMNS, write_captioned
from tests.helpers.commands import rows_of
from vidcap_cli.cli import app
from vidcap_cli.errors import OK
from vidcap_cli.inspect.gallery import make

ROWS = 130  # three pages


def make_page(table: Path, *options: str) -> str:
    """The address of a gallery of ``table``."""
    page = table.with_name("gallery.html")
    done = CliRunner().invoke(app, ["inspect", str(table), "--html", str(page), *options])
    assert done.exit_code == OK, done.output
    return page.as_uri()


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, chromium) -> Path:
    return write_captioned(tmp_path_factory.mktemp("gallery"), ROWS, clips=12)


@pytest.fixture(scope="module")
def address(table: Path) -> str:
    return make_page(table)


@pytest.fixture
def page(chromium, address):
    with opened(chromium, address, viewport={"width": 1300, "height": 900}) as found:
        yield found


def told(page) -> str:
    return page.locator("#found").inner_text()


def shown(page) -> list[int]:
    """The rows of the cards, in order."""
    return [
        int(row) for row in page.locator(".card").evaluate_all("c => c.map(x => x.dataset.row)")
    ]


def search(page, text: str, count: str) -> None:
    page.fill("#search", text)
    page.wait_for_function(
        "text => document.querySelector('#found').textContent === text", arg=count
    )


def test_rows_are_there_in_order_with_all_that_is_known(page, table):
    rows = rows_of(table)
    assert told(page) == f"1–50 of {ROWS} rows"
    assert shown(page) == list(range(50))
    first, failed = page.locator(".card").nth(0), page.locator(".card").nth(7)
    assert first.locator(".caption").inner_text() == rows[0]["text"]
    assert first.locator(".path").inner_text() == "clips/0000.mp4"
    facts = first.locator(".facts").inner_text()
    words = len(re.findall(r"\w+", rows[0]["text"]))
    for fact in (
        f"{words} words",
        "8 frames",
        f"{rows[0]['caption_new_tokens']} tokens",
        "−0.2 log",
    ):
        assert fact in re.sub(r"\s+", " ", facts)
    assert failed.locator(".status").inner_text() == rows[7]["caption_status"]
    assert failed.locator(".none").inner_text() == rows[7]["caption_error"]
    failures = sum(row["caption_status"] != "ok" for row in rows)
    summary = page.locator("#summary").inner_text()
    assert summary.startswith(f"{ROWS} rows · {ROWS - failures} captioned · ")


def test_numbers_are_written_for_people(page):
    written = page.evaluate("() => [0, -0.001, -0.456, 12345.678, 7].map(figure)")
    assert written == ["0", "0", "−0.46", "12,345.68", "7"]


def test_search_finds_all_its_words_and_marks_them(page, table):
    rows = rows_of(table)
    found = [n for n, row in enumerate(rows) if "circle" in row["text"] and "noise" in row["text"]]
    assert found
    search(page, "NOISE circle", f"{len(found)} rows")
    assert shown(page) == found[:50]
    marked = page.locator(".card").first.locator("mark").all_inner_texts()
    assert {word.lower() for word in marked} == {"noise", "circle"}
    phrase = [n for n, row in enumerate(rows) if "for a test rather" in row["text"]]
    search(page, '"for a test rather"', f"{len(phrase)} rows")
    search(page, "rather test a for", f"{len(phrase)} rows")
    search(page, "(.*", "0 rows")
    search(page, "moov atom", f"{sum('moov' in row['caption_error'] for row in rows)} rows")
    search(page, "", f"1–50 of {ROWS} rows")


def test_filters_by_status_and_flag(page, table):
    rows = rows_of(table)
    statuses = Counter(row["caption_status"] for row in rows)
    for status, number in statuses.items():
        line = page.locator(".choice", has_text=status)
        assert line.locator(".count").inner_text() == str(number)
    page.check(".choice:has-text('oom') input")
    assert shown(page) == [n for n, row in enumerate(rows) if row["caption_status"] == "oom"]
    page.check(".choice:has-text('decode_error') input")
    assert len(shown(page)) == statuses["oom"] + statuses["decode_error"]
    page.click(".chip:has-text('oom')")
    page.click(".chip:has-text('decode_error')")
    assert told(page) == f"1–50 of {ROWS} rows"
    page.check(".choice:has-text('shrunk') input")
    assert shown(page) == [n for n, row in enumerate(rows) if row["caption_flags"] == "shrunk"]
    # Another chart counts what this filter leaves, its own what else it would.
    assert page.locator(".choice", has_text="decode_error").locator(".count").inner_text() == "0"
    assert int(page.locator(".choice", has_text="loop").locator(".count").inner_text()) > 0
    search(page, "nowhere", "0 rows")
    assert page.locator(".choice", has_text="shrunk").locator(".count").inner_text() == "0"


def test_sorting_puts_rows_without_a_value_last(page, table):
    tokens = [row["caption_new_tokens"] for row in rows_of(table)]
    known = sorted((n for n, t in enumerate(tokens) if t), key=lambda n: (int(tokens[n]), n))
    without = [n for n, t in enumerate(tokens) if not t]
    page.select_option("#sort", "tokens")
    assert shown(page) == known[:50]
    page.click("[aria-label='Last page']")
    assert shown(page) == [*known, *without][100:]
    page.click("#order")
    assert page.locator("#order").get_attribute("aria-pressed") == "true"
    assert shown(page)[0] == max(known, key=lambda n: int(tokens[n]))
    page.click("[aria-label='Last page']")
    assert shown(page)[-len(without) :] == without
    page.select_option("#sort", "path")
    assert page.locator(".path").first.inner_text().startswith("clips/gone/")


def test_pages(page):
    pages = page.locator("#pages")
    assert pages.inner_text().count("of 3") == 1
    assert page.locator("[aria-label='Page before']").is_disabled()
    page.click("[aria-label='Next page']")
    assert (told(page), shown(page)) == (f"51–100 of {ROWS} rows", list(range(50, 100)))
    page.fill("[aria-label='Page']", "3")
    page.press("[aria-label='Page']", "Enter")
    assert shown(page) == list(range(100, ROWS))
    assert page.locator("[aria-label='Next page']").is_disabled()
    page.fill("[aria-label='Page']", "99")
    page.press("[aria-label='Page']", "Enter")
    assert page.input_value("[aria-label='Page']") == "3"


def test_keyboard(page):
    focused = "document.activeElement.dataset.row"
    page.keyboard.press("ArrowRight")
    assert shown(page)[0] == 50
    page.keyboard.press("Shift+ArrowRight")
    assert shown(page)[0] == 100
    page.keyboard.press("k")
    assert page.evaluate(focused) == str(ROWS - 1)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate(focused) == "1"
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert page.evaluate(focused) == "0"  # there is nothing before
    page.keyboard.press("Enter")
    assert page.locator("#player").is_visible()
    page.keyboard.press("ArrowRight")  # the video's
    page.keyboard.press("Escape")
    assert not page.locator("#player").is_visible()
    assert shown(page)[0] == 0
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("j?/")
    assert page.input_value("#search") == "j?/"


def test_a_histogram_takes_a_range(page):
    bars = page.locator(".histogram", has_text="Words").first.locator("button")
    assert bars.count() > 3
    labels = [bar.get_attribute("aria-label") for bar in bars.all()]
    numbers = [int(re.search(r"(\d+) rows?$", label)[1]) for label in labels]
    most = numbers.index(max(numbers))
    bars.nth(most).click()
    low, high = map(int, re.search(r"Words (\d+) to (\d+):", labels[most]).groups())
    facts = page.locator(".card .facts").all_inner_texts()
    assert facts
    assert all(low <= int(re.search(r"(\d+)\s+words", fact)[1]) < high for fact in facts)
    assert bars.nth(most).get_attribute("aria-pressed") == "true"
    bars.nth(most - 1).click(modifiers=["Shift"])
    taken = page.locator(".chip").inner_text()
    assert taken.split(" to ")[0] == re.search(r"Words (\d+)", labels[most - 1])[1]
    page.locator(".chip").click()
    assert told(page) == f"1–50 of {ROWS} rows"


def test_the_way_to_the_captions_leaves_the_view(page):
    page.fill("#search", "circle")
    page.wait_for_function("() => location.hash === '#q=circle'")
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "cards"
    assert page.input_value("#search") == "circle"
    assert page.url.endswith("#q=circle")


def test_the_address_leads_back_to_the_view(page, chromium):
    page.check(".choice:has-text('ok') input")
    page.fill("#search", "the")
    page.wait_for_function("() => location.hash.includes('q=the')")
    page.select_option("#sort", "words")
    page.click("#order")
    page.keyboard.press("ArrowRight")
    before, rows = told(page), shown(page)
    assert before.startswith("51–")
    with opened(chromium, page.url) as again:
        again.wait_for_selector(".card")
        assert (told(again), shown(again)) == (before, rows)
        assert again.input_value("#search") == "the"
        assert again.is_checked(".choice:has-text('ok') input")
        again.evaluate("location.hash = '#q=square&status=nonsense&sort=nonsense&page=x'")
        again.wait_for_function("() => document.querySelector('#search').value === 'square'")
        assert again.input_value("#sort") == "row"


def test_the_video_plays(page):
    page.locator(".frames").nth(1).click()
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    assert page.locator("#player").get_by_text("clips/0001.mp4").is_visible()
    page.click("#player .close")
    assert page.locator("video").count() == 0


def test_a_row_without_a_video_says_so(page, table):
    row = next(n for n, r in enumerate(rows_of(table)) if r["caption_status"] == "missing_file")
    card = page.locator(f"[data-row='{row}']")
    assert card.locator(".blank").inner_text() == "no video here"
    assert card.locator("a").count() == 0


def test_colours(chromium, address):
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    with opened(chromium, address, color_scheme="dark") as page:
        page.wait_for_selector(".card")
        dark = page.evaluate(paper)
        page.click("#theme")
        assert page.locator("#theme").get_attribute("aria-label") == "Colours: light"
        light = page.evaluate(paper)
        assert light != dark
        page.reload()
        assert page.evaluate(paper) == light
    with opened(chromium, address, color_scheme="light") as page:
        assert page.evaluate(paper) == light


@pytest.mark.parametrize("width", [320, 390, 768, 1300])
def test_nothing_is_wider_than_the_window(chromium, address, width):
    with opened(chromium, address, viewport={"width": width, "height": 800}) as page:
        page.wait_for_selector(".card")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#filters").get_attribute("open") == ("" if width > 960 else None)


def test_controls_have_names(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, dialog, nav, ol")]
          .filter((it) => !["aria-label", "aria-labelledby"].some((name) => it.getAttribute(name))
            && !it.textContent.trim() && !it.labels?.[0]?.textContent.trim())
          .map((it) => it.outerHTML)"""
    )
    assert nameless == []


HOSTILE = [
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'><svg onload='window.hacked = 4'>",
    "<!--<script>",
    "{{script}} {{style}} \\u003c ${1} `x`",
    "\u2028 line \u2029 \u202e turned",
    "]]> & &lt;b&gt; \" ' \\",
    "한국어 中文 العربية 🎞️ \x07",
]


@pytest.mark.parametrize("beside", [False, True], ids=["one file", "a folder"])
def test_text_stays_text(tmp_path, chromium, monkeypatch, beside):
    if beside:
        monkeypatch.setattr(make, "ONE_FILE", 0)
    table = tmp_path / "<i onclick=a>& '\".csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for text in HOSTILE:
            row = {"path": f'x"> {text}', "text": text, "caption_status": "ok"}
            writer.writerow(row | {"caption_flags": f"{text.replace(',', '')}"})
            row |= {"text": "", "caption_status": f"bad {text}", "caption_error": text}
            writer.writerow(row)
    with opened(chromium, make_page(table)) as page:
        page.wait_for_selector(".card")
        assert page.locator("#title").inner_text() == table.name
        assert page.title() == f"{table.name} · vidcap"
        said = page.locator(".caption").evaluate_all("all => all.map((one) => one.textContent)")
        assert said == HOSTILE
        why = page.locator(".none").evaluate_all("all => all.map((one) => one.textContent)")
        assert why == HOSTILE
        paths = page.locator(".card .path").evaluate_all("all => all.map((one) => one.textContent)")
        assert paths[::2] == [f'x"> {text}' for text in HOSTILE]
        for box in page.locator(".choice input").all():
            box.check()
        page.fill("#search", "<script>")
        page.wait_for_selector("mark")
        assert page.locator(".card script, .card img, .card svg, .card b b, aside img").count() == 0
        assert page.evaluate("window.hacked") is None


def test_the_policy_lets_nothing_else_run_or_load(chromium, address):
    refused = """(markup) => new Promise((resolve) => {
      document.addEventListener("securitypolicyviolation", (it) => resolve(it.effectiveDirective));
      document.body.insertAdjacentHTML("beforeend", markup);
      document.querySelector("#probe")?.click();
    })"""
    page = chromium.new_page()
    page.goto(address)
    for markup, directive in {
        "<img src='https://example.invalid/x.png'>": "img-src",
        "<video src='https://example.invalid/x.mp4'></video>": "media-src",
        "<p id=probe onclick='window.hacked = 1'>x</p>": "script-src-attr",
        "<iframe src='https://example.invalid/'></iframe>": "frame-src",
    }.items():
        assert page.evaluate(refused, markup) == directive
    assert page.evaluate("window.hacked") is None
    page.close()


def test_a_large_gallery_loads_what_it_shows(tmp_path, chromium):
    table = write_captioned(tmp_path, 10_000, clips=3)
    address = make_page(table, "--thumbnails", "0")
    with opened(chromium, address) as page:
        page.wait_for_function(
            "() => document.querySelector('#found').textContent === '1–50 of 10,000 rows'"
        )
        page.keyboard.press("Shift+ArrowRight")
        assert shown(page) == list(range(9_950, 10_000))


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_searched_filtered_and_sorted(tmp_path, chromium):
    table = write_captioned(tmp_path, 100_000, clips=3)
    rows = rows_of(table)
    with opened(chromium, make_page(table, "--thumbnails", "0")) as page:
        search(page, "", "1–50 of 100,000 rows")
        found = [n for n, row in enumerate(rows) if "noise" in row["text"]]
        search(page, "noise", f"1–50 of {len(found):,} rows")
        assert shown(page) == found[:50]
        page.check(".choice:has-text('shrunk') input")
        found = [n for n in found if rows[n]["caption_flags"] == "shrunk"]
        assert told(page) == f"1–50 of {len(found):,} rows"
        page.select_option("#sort", "tokens")
        found.sort(key=lambda n: (int(rows[n]["caption_new_tokens"]), n))
        assert shown(page) == found[:50]
        page.click("[aria-label='Last page']")
        assert shown(page)[-1] == found[-1]
        page.click(".chip:has-text('shrunk')")
        search(page, "", "1–50 of 100,000 rows")
        page.select_option("#sort", index=0)  # that of the table
        page.click("[aria-label='Last page']")
        assert shown(page) == list(range(99_950, 100_000))


def test_pictures_and_rows_beside_the_page(tmp_path, chromium, monkeypatch):
    monkeypatch.setattr(make, "ONE_FILE", 0)
    table = write_captioned(tmp_path, 60, clips=3)
    with opened(chromium, f"{make_page(table)}#page=2") as page:
        page.wait_for_function(
            "() => document.querySelector('#found').textContent === '51–60 of 60 rows'"
        )
        assert shown(page) == list(range(50, 60))
        wide, strip = page.evaluate(
            """async () => {
              const image = new Image();
              image.src = stripOf(51);
              await image.decode();
              return [image.naturalWidth, rows.strips.get(51)];
            }"""
        )
        assert wide == strip[0] * strip[1]


def test_rows_that_are_gone_are_told(tmp_path, chromium, monkeypatch):
    monkeypatch.setattr(make, "ONE_FILE", 0)
    address = make_page(write_captioned(tmp_path, 3, clips=1), "--thumbnails", "0")
    (tmp_path / "gallery_files" / "rows-0.js").unlink()
    page = chromium.new_page()
    page.goto(address)
    page.wait_for_function("() => document.querySelector('#found').textContent.includes('cannot')")
    assert told(page) == "gallery_files/rows-0.js cannot be loaded"
    page.close()
