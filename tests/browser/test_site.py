"""The built book in a browser: its sliders move by keys, nothing is cut off, a page is light, and it can be printed.

python run.py book --no-open, then FLUX_EDU_BROWSER=1 python run.py test tests/browser/test_site.py
"""

import gzip
import json
import re

import book
import chinese
import pytest
from axe_playwright_python.sync_playwright import Axe
from lab import open_browser
from printed import print_chapters
from web import SITE, serve_book

MB = 1_000_000
PACKED = re.compile(r"\.(webp|png|woff2?)")  # files that are compressed already
# What reaches beyond its box or the window, displayed formulas and panels among it.
CUT = """() => [...document
  .querySelectorAll("article :is(pre, .flux-frames, div.math, div > mjx-container, div:has(> table), table, img)")]
  .filter((e) => e.getBoundingClientRect().width)
  .filter((e) => e.scrollWidth > e.clientWidth + 2 || e.getBoundingClientRect().right > document.body.clientWidth + 1)
  .map((e) => `${e.tagName} ${e.textContent.trim().slice(0, 60)}`)"""
# Displayed formulas that reach beyond their box and cannot be scrolled.
HIDDEN = """() => [...document.querySelectorAll("article div.math")]
  .filter((e) => e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).overflowX !== "auto")
  .map((e) => e.textContent)"""
PAGES = "start notebooks/01_schedule notebooks/06_sampling notebooks/08_autoencoder notebooks/18_faster"
PAGES += " docs/NAMES api/flux2.model genindex"
SLIDERS = '.flux-frames input[type="range"]'


@pytest.fixture(scope="module")
def browser():
    with open_browser("read the built book in a real browser") as opened:
        yield opened


@pytest.fixture(scope="module")
def address(browser):
    with serve_book() as address:
        yield address


@pytest.fixture
def read(browser, address):
    """Opens a page of the book at a width; what went wrong on it fails the test."""
    pages, errors = [], []

    def opened(name, width=1280, **how):
        page = browser.new_page(viewport={"width": width, "height": 900}, **how)
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((address, "data:", "blob:")) or errors.append(request.url)
        )
        assert page.goto(address + name, wait_until="load").ok, name
        page.wait_for_function(
            "() => !window.MathJax || MathJax.startup?.promise?.then(() => (window.typeset = true)) && window.typeset"
        )
        return page

    yield opened
    for page in pages:
        page.close()
    assert not errors, errors


def test_every_slider_of_the_first_chapter_moves_by_keys_from_the_first_picture(read):
    page = read("notebooks/01_schedule.html")
    assert page.locator(SLIDERS).count() > 20
    for slider in page.locator(SLIDERS).all():
        panel = slider.locator("xpath=ancestor::div[contains(@class, 'flux-frames')]")
        picture, words = panel.locator("> img"), slider.locator("xpath=following-sibling::output")
        before = picture.get_attribute("src"), words.text_content()
        slider.focus()
        page.keyboard.press("Home" if slider.input_value() == slider.get_attribute("max") else "ArrowRight")
        after = picture.get_attribute("src"), words.text_content()
        assert before[0] != after[0] and before[1] != after[1] == slider.get_attribute("aria-valuetext")
        picture.evaluate("(img) => img.decode()")
        assert picture.get_attribute("alt")
    schedule = page.locator(".flux-frames").nth(2).locator("input").all()  # one slider moves, and the others go back
    schedule[1].focus()
    page.keyboard.press("End")
    assert schedule[0].input_value() == schedule[0].get_attribute("data-first")
    page.keyboard.press("Home")
    assert schedule[1].input_value() == "0"


@pytest.mark.parametrize("name", PAGES.split())
def test_nothing_is_cut_off_on_a_screen_1280_pixels_wide(read, name):
    page = read(f"{name}.html")
    assert page.evaluate(CUT) == []
    narrow = read(f"{name}.html", width=360, color_scheme="dark")
    assert narrow.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert narrow.evaluate(HIDDEN) == []


@pytest.mark.parametrize("name", ["index", "start", "notebooks/06_sampling", "notebooks/14_errata"])
def test_a_page_s_first_view_is_light(read, record_property, name):
    """The lightest pages and the heaviest ones, as a server sends them that does not compress."""
    answers = []
    page = read("search.html")
    page.on("response", lambda answer: answers.append(answer))
    page.context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    page.goto(page.url.replace("search", name), wait_until="networkidle")
    bodies = [(answer.url, answer.body()) for answer in answers]
    plain = sum(len(body) for _, body in bodies) / MB
    packed = sum(len(body if PACKED.search(url) else gzip.compress(body)) for url, body in bodies) / MB
    record_property(
        "measured", f"the first view of {name}: {plain:.1f} MB, {packed:.1f} MB from a server that compresses"
    )
    assert plain <= 2


def test_the_site_is_small_and_no_panel_is_a_still_picture():
    files = [path for path in SITE.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert sum(path.stat().st_size for path in files) <= 120 * MB
    for path in (SITE / "notebooks").glob("*.html"):
        page, notebook = path.read_text("utf-8"), json.loads((book.EXECUTED / f"{path.stem}.ipynb").read_text("utf-8"))
        panels = notebook["metadata"]["sweep"]
        assert page.count('class="flux-frames"') == len(panels), path.stem
        movable = [panel for panel in panels if any(len(control["places"]) > 1 for control in panel["controls"])]
        assert len(movable) == len(panels) and "In the notebook you move" not in page, path.stem


def test_headings_step_down_and_the_package_is_folded(read):
    page = read("notebooks/01_schedule.html")
    sizes = [
        page.locator(f"article {tag}").first.evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)")
        for tag in ("h1", "h2", "h3")
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    captions = page.locator(".bd-sidebar-primary .caption-text").all_text_contents()
    assert captions[0] == "The chapters"
    assert not page.locator('.bd-sidebar-primary a[href*="api/rope.html"]').first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_panels_can_be_used_without_seeing(read, scheme):
    page = read("notebooks/01_schedule.html", color_scheme=scheme)
    found = Axe().run(page, context=".flux-controls").response["violations"]
    assert not [each["id"] for each in found if each["impact"] in ("serious", "critical")]


def test_the_page_paints_when_asked(read):
    page = read("notebooks/06_sampling.html")
    panel = page.locator('.flux-frames[data-draw="easel"]')
    panel.locator(".flux-load").click()
    page.wait_for_function(
        "(e) => e.textContent.startsWith('Painted')", arg=panel.locator(".flux-status").element_handle(), timeout=60_000
    )
    first = panel.locator("> img").get_attribute("src")
    panel.get_by_label("prompt").fill("a sticker rocket on a green background")
    page.wait_for_function(
        "([e, first]) => e.src !== first", arg=[panel.locator("> img").element_handle(), first], timeout=30_000
    )
    assert "rocket" in panel.locator("> img").get_attribute("alt") and first.startswith("data:image/png")


def test_a_chapter_can_be_printed(address, tmp_path):
    (file,) = print_chapters(address, ["02_patchify"], tmp_path)
    assert file.read_bytes().startswith(b"%PDF") and file.stat().st_size > 200_000


# ---------------------------------------------------------------- Chinese


@pytest.mark.parametrize("name", ["index", "start", "notebooks/01_schedule", "notebooks/06_sampling", "docs/QUESTIONS"])
def test_a_chinese_page_is_whole_and_has_an_english_one(read, name):
    page = read(f"zh/{name}.html")
    assert page.evaluate("() => document.documentElement.lang") == "zh-CN"
    assert not page.locator("img").evaluate_all(
        "(all) => all.filter((e) => e.complete && !e.naturalWidth).map((e) => e.src)"
    )
    assert page.evaluate(CUT) == []
    narrow = read(f"zh/{name}.html", width=360, color_scheme="dark")
    assert narrow.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.locator("a.flux-language").first.click()
    assert page.evaluate("() => document.documentElement.lang") == "en" and f"/{name}.html" in page.url


def test_who_reads_chinese_is_offered_it_and_may_decline(read, browser):
    english = read("notebooks/01_schedule.html")
    assert english.locator(".flux-offer").count() == 0
    page = read("notebooks/01_schedule.html", locale="zh-CN")
    page.locator(".flux-offer button").click()
    page.reload()
    assert page.locator(".flux-offer").count() == 0, "asked once"
    page = read("index.html", locale="zh-CN")
    page.locator(".flux-offer a").click()
    assert page.url.endswith("/zh/index.html") and page.locator(".flux-offer").count() == 0


def test_a_slider_of_a_chinese_chapter_moves_and_its_search_finds_what_is_asked(read):
    page = read("zh/notebooks/01_schedule.html")
    slider = page.locator(SLIDERS).first
    picture = slider.locator("xpath=ancestor::div[contains(@class, 'flux-frames')]").locator("> img")
    before = picture.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    picture.evaluate("(img) => img.decode()")
    assert picture.get_attribute("src") != before and re.search("[\u4e00-\u9fff]", picture.get_attribute("alt"))
    for query, expected in list(chinese.QUERIES.items())[:3]:
        results = read(f"zh/search.html?q={query}").locator("#search-results li a")
        results.nth(2).wait_for()
        first = [results.nth(i).get_attribute("href") for i in range(3)]
        assert any(expected in address for address in first), (query, first)
