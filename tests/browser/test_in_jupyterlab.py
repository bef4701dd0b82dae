"""Notebooks in JupyterLab and Chromium, for what only a browser shows: keys move panels, pages can be read.

    FLUX_EDU_BROWSER=1 python -m pytest tests/browser

needs Chromium or Chrome, and what `python run.py test` has left in build/executed. Three notebooks, which together have
every kind of panel, run here from top to bottom; all are opened as executed, in both themes. With
FLUX_EDU_BROWSER=required, as in .ci/run, a skip is a failure.
"""

import base64
import json
import shutil
import statistics
import time
from pathlib import Path

import nbformat
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from lab import FOLLOWED, IDLE, PANEL, WATCH, Lab, Notebook7, open_browser
from playwright.sync_api import TimeoutError as NothingCame
from playwright.sync_api import expect

from conftest import EXECUTED
from flux_edu import schedule

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
RUN = ["01_schedule", "06_sampling", "12_tools"]
PLOTS, FOUR, LONGER = "plots", "the tiny FLUX at four steps", "longer walks of the tiny FLUX"
AIMS = {PLOTS: 0.15, FOUR: 0.5, LONGER: 2.0}  # seconds from a key to the new picture, on two quiet cores
BUSY = 2.5  # how much slower a busy machine may be
SECONDS = {kind: {} for kind in AIMS}  # what was measured: notebook → seconds, a key each


@pytest.fixture(scope="module")
def browser():
    with open_browser("open the notebooks in a real browser (about seven minutes)") as opened:
        yield opened


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks" / "img", folder / "notebooks" / "img")
    with Lab(folder) as server:
        yield server


@pytest.fixture(scope="module")
def page(server, browser):
    return server.open_page(browser)


@pytest.fixture(scope="module")
def visit(server, page, request):
    """A notebook, opened and run; the tests of one notebook share it."""
    server.open(page, ROOT / "notebooks" / f"{request.param}.ipynb", run=True)
    yield page
    server.close(page)


def picture(panel):
    """What a panel shows: the picture's alternative text and address, or the error in its place."""
    return panel.locator(".flux-picture").inner_html()


def kind_of(shown):
    """Which of the aims a picture has to meet."""
    return PLOTS if "pixelated" not in shown else FOUR if " 4 steps" in shown else LONGER


def key_for(control):
    """A key that changes a control for certain: a slider goes to its farther end, a menu to its next line."""
    if control.get_attribute("role") == "slider":
        now, low, high = (float(control.get_attribute(f"aria-value{name}")) for name in ("now", "min", "max"))
        return "Home" if now - low > high - now else "End"
    if control.evaluate("control => control.tagName === 'SELECT'"):
        return "ArrowDown" if control.evaluate("menu => menu.selectedIndex + 1 < menu.length") else "ArrowUp"
    return "Space"


def is_well(visit):
    """Nothing has gone wrong on the page, and nothing came from the network."""
    assert visit.page.get_by_text("Click to show javascript error").count() == 0
    assert not visit.page_errors
    assert not visit.outside, "a notebook needs nothing from the network"


# ---------------------------------------------------------------- three that run


each_that_runs = pytest.mark.parametrize("visit", RUN, indirect=True)


def ran(visit):
    """Every cell has run, and only those failed that were to."""
    for cell in visit.notebook().cells:
        if cell.cell_type == "code":
            errors = [output for output in cell.outputs if output.output_type == "error"]
            assert not errors or "raises-exception" in cell.metadata.get("tags", []), errors
            assert cell.execution_count, f"not run: {cell.source}"
    is_well(visit)


def move(visit, panels):
    """Each control of the panels changes its picture by keyboard, and Reset brings the first picture back."""
    for panel in panels:
        panel.scroll_into_view_if_needed()
        panel.locator(".flux-picture img").wait_for()
        panel.evaluate(WATCH)
        first = picture(panel)
        for control in panel.locator(".noUi-handle, select, input[type=checkbox], canvas").all():
            control.focus()
            visit.page.wait_for_function(IDLE, timeout=60_000, polling=20)  # no key comes while the last one is at work
            visit.page.keyboard.press(key := key_for(control))
            try:
                # every 20 ms: asked every frame, as by default, the page would draw 60 a second for the question
                visit.page.wait_for_function(FOLLOWED, timeout=60_000, polling=20)
            except NothingCame:
                pytest.fail(f"{visit.name}: no picture followed {key} on {control.evaluate('node => node.outerHTML')}")
            shown = picture(panel)
            assert shown != first and "flux-error" not in shown, shown[:500]
            took = visit.page.evaluate("() => window.fluxShown - window.fluxKey") / 1000
            SECONDS[kind_of(shown)].setdefault(visit.name, []).append(took)
            panel.get_by_role("button", name="Reset").click()
            visit.page.wait_for_function(
                "([panel, first]) => panel.querySelector('.flux-picture').innerHTML === first",
                arg=[panel.element_handle(), first],
                timeout=60_000,
            )
    is_well(visit)


@each_that_runs
def test_it_runs_from_top_to_bottom(visit):
    ran(visit)


@each_that_runs
def test_every_control_moves_its_picture_by_keyboard_and_reset_brings_the_first_back(visit):
    move(visit, visit.panels())


@pytest.mark.parametrize("visit", ["01_schedule"], indirect=True)
def test_the_schedule_in_the_browser_follows_the_hand(visit):
    card = visit.page.locator(".flux-live")
    card.scroll_into_view_if_needed()
    for label, keys in (("μ", ["ArrowRight"] * 7), ("σ", ["ArrowLeft"] * 5), ("μ", ["Home"]), ("σ", ["End"])):
        knob = card.get_by_role("slider", name=label)
        before = card.get_attribute("data-levels")
        knob.focus()
        for key in keys:
            visit.page.keyboard.press(key)
        visit.page.wait_for_function("([e, b]) => e.dataset.levels !== b", arg=[card.element_handle(), before])
        mu, sigma = (float(card.get_by_role("slider", name=each).input_value()) for each in "μσ")
        even = torch.linspace(1, 0, 9, dtype=torch.float64)
        expected = schedule.time_shift(mu, sigma, even).tolist()
        assert json.loads(card.get_attribute("data-levels")) == pytest.approx(expected, abs=1e-12)
    card.get_by_role("button", name="Reset").click()
    visit.page.wait_for_function("e => Number(e.querySelector('input').value) === 1.15", arg=card.element_handle())
    frames = card.evaluate("""async (card) => {
      const knob = card.querySelector("input"), times = [];
      for (let i = 0; i < 90; i++) {
        knob.value = -3 + i / 15;
        knob.dispatchEvent(new Event("input"));
        times.push(await new Promise(requestAnimationFrame));
      }
      return times.slice(1).map((time, i) => time - times[i]);
    }""")
    median = statistics.median(frames)
    print(f"\nthe schedule in the browser: {1000 / median:.0f} frames a second while dragged", end=" ")
    assert median < 1000 / 60 * BUSY


@pytest.mark.parametrize("visit", ["06_sampling"], indirect=True)
def test_the_playground_paints_what_is_typed(visit):
    panel = visit.page.locator(f"{PANEL} .flux-panel", has=visit.page.get_by_label("prompt")).first
    panel.evaluate(WATCH)
    prompt = "a sticker tiger face on a green background"
    field = panel.get_by_label("prompt")
    field.fill(prompt)
    field.press("Enter")
    panel.locator(f".flux-picture img[alt*='{prompt}']").wait_for(timeout=20_000)
    source = panel.locator(".flux-picture img").get_attribute("src")
    assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")


def test_the_first_notebook_runs_in_notebook_7_too_and_its_panels_move(browser, tmp_path_factory):
    """Of nine panels the first three are moved: they are all made alike."""
    folder = tmp_path_factory.mktemp("notebook7")
    shutil.copytree(ROOT / "notebooks" / "img", folder / "notebooks" / "img")
    with Notebook7(folder) as server:
        visit = server.open_page(browser)
        server.open(visit, ROOT / "notebooks" / f"{RUN[0]}.ipynb", run=True)
        own = "Cannot read properties of undefined (reading 'schema')"  # of the page itself, with any notebook
        assert visit.page_errors.count(own) <= 1
        visit.page_errors[:] = [error for error in visit.page_errors if error != own]
        ran(visit)
        move(visit, visit.panels()[:3])
        visit.page.close()


# ---------------------------------------------------------------- all of them, as executed


THEMES = ["JupyterLab Light", "JupyterLab Dark"]
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}  # the rules of axe that look at them


@pytest.mark.parametrize("name", NAMES)
def test_a_screen_reader_and_weak_eyes_find_their_way(server, page, name):
    """In the light theme, and in the dark one: there it is the same page in other colours, only they count."""
    if not (EXECUTED / f"{name}.ipynb").exists():
        pytest.skip("no executed notebooks: `python run.py test` leaves them in build/executed")
    server.open(page, EXECUTED / f"{name}.ipynb", run=False)
    made = len(nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4).metadata["sweep"])
    expect(page.page.locator(f"{PANEL} .flux-panel")).to_have_count(made, timeout=60_000)
    outputs = {"include": [[f"{PANEL} .jp-OutputArea-output"]]}
    for theme, options in zip(THEMES, ({}, {"runOnly": COLOURS}), strict=True):
        page.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        page.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
        result = Axe().run(page.page, context=outputs, options={"resultTypes": ["violations"]} | options)
        serious = {
            violation["id"]: [node["html"][:200] for node in violation["nodes"]][:3]
            for violation in result.response["violations"]
            if violation["impact"] in ("serious", "critical")
        }
        assert not serious, f"{name}, {theme}: {json.dumps(serious, indent=1)}"
    is_well(page)
    server.close(page)


# ---------------------------------------------------------------- all together


def matrix_rate() -> float:
    """FLOP a second: how fast the machine is that the times below were measured on."""
    a, taken = torch.randn(1024, 1024), []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        taken.append(time.perf_counter() - start)
    return 2 * len(a) ** 3 / min(taken)


def test_pictures_follow_a_key_quickly(capsys):
    if not any(SECONDS.values()):
        pytest.skip("no slider was moved")
    slow = {}
    with capsys.disabled():
        print(f"\nthis machine multiplies matrices at {matrix_rate() / 1e9:.0f} GFLOP/s (float32, all threads)")
    for kind, by_notebook in SECONDS.items():
        medians = {name[:2]: 1000 * statistics.median(each) for name, each in by_notebook.items()}
        median = statistics.median([second for each in by_notebook.values() for second in each] or [0])
        with capsys.disabled():
            times = ", ".join(f"{name} {each:.0f}" for name, each in medians.items())
            print(f"\nfrom a key to the new picture, {kind}: median {1000 * median:.0f} ms (ms by notebook: {times})")
        if median > BUSY * AIMS[kind]:
            slow[kind] = median
    assert not slow, f"more than {BUSY} times the aim of {AIMS}: {slow}"
