"""Every notebook in JupyterLab and Chromium: it runs, its sliders move by keyboard, what they show can be read.

    FLUX_EDU_BROWSER=1 python -m pytest tests/browser

needs Chromium or Chrome and about sixteen minutes. With FLUX_EDU_BROWSER=required, as in .ci/run, a skip is a failure.
Every notebook is left in build/executed as `pytest --nbmake` leaves it; `pytest --executed` then reads those.
"""

import base64
import json
import os
import statistics
import time
from pathlib import Path

import nbformat
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from lab import AT_REST, FOLLOWED, IDLE, LEFT, PANEL, PANELS, QUIET, WATCH, Lab, find_browser
from playwright.sync_api import TimeoutError as NothingCame
from playwright.sync_api import sync_playwright

from conftest import EXECUTED
from flux_edu import schedule

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTS, FOUR, LONGER = "plots", "the tiny FLUX at four steps", "longer walks of the tiny FLUX"
AIMS = {PLOTS: 0.1, FOUR: 0.5, LONGER: 2.0}  # seconds from a key to the new picture, on two quiet cores
BUSY = 2.5  # how much slower a busy machine may be
SECONDS = {kind: {} for kind in AIMS}  # what was measured: notebook → seconds, a key each


@pytest.fixture(scope="module")
def browser():
    if not os.environ.get("FLUX_EDU_BROWSER"):
        pytest.skip("set FLUX_EDU_BROWSER=1 to run every notebook in a real browser (about sixteen minutes)")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome was found on this machine")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, headless=True, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    with Lab(folder) as server:
        yield server


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def visit(server, browser, request):
    """A notebook, opened and run; the tests of one notebook share it."""
    visit = server.visit(browser, request.param)
    yield visit
    server.leave(visit)


@pytest.fixture(scope="module")
def meanwhile(server, browser, visit, request):
    """The next notebook opens and runs meanwhile: from the first test that asks for this, nothing is timed any more."""
    wanted = {item.callspec.params["visit"] for item in request.session.items if "visit" in item.fixturenames}
    later = [notebook for notebook in wanted if notebook.name > visit.name]
    if later:
        server.start(browser, min(later))


def picture(panel):
    """What a panel shows: the picture's alternative text and address, or the error in its place."""
    return panel.locator(".flux-picture").inner_html()


def kind_of(shown):
    """Which of the aims a picture has to meet."""
    return PLOTS if "pixelated" not in shown else FOUR if " 4 steps" in shown else LONGER


def press(visit, handle, key, patience=60):
    """Seconds from a key on a slider's handle to the next picture of its panel; None when none came.

    None has come when a second passes after the kernel was found at rest. (JupyterLab has sliders served beside the
    cells, so the kernel answers while it draws.)
    """
    handle.focus()
    visit.page.wait_for_function(IDLE, polling=20)  # nobody presses a key in the millisecond after the last picture
    visit.page.keyboard.press(key)
    at_rest = False
    for _ in range(patience):
        try:
            # every 20 ms: asked every frame, as by default, the page would draw 60 of them a second for the question
            visit.page.wait_for_function(FOLLOWED, timeout=1000, polling=20)
        except NothingCame:
            if at_rest:
                return None
            at_rest = visit.ask(AT_REST)["at_rest"]
        else:
            return visit.page.evaluate("() => window.fluxShown - window.fluxKey") / 1000
    return None


def moves(visit, panel, handle, key):
    """Whether a key brings a new picture; the seconds it took are kept under what the picture is."""
    took, shown = press(visit, handle, key), picture(panel)
    assert "flux-error" not in shown, shown[:500]
    if took is not None:
        SECONDS[kind_of(shown)].setdefault(visit.name, []).append(took)
    return took is not None


# ---------------------------------------------------------------- one notebook after the other


def test_it_runs_from_top_to_bottom(visit):
    notebook = visit.notebook()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            errors = [output for output in cell.outputs if output.output_type == "error"]
            assert not errors or "raises-exception" in cell.metadata.get("tags", []), errors
            assert cell.execution_count, f"not run: {cell.source}"
    assert visit.page.get_by_text("Click to show javascript error").count() == 0
    assert not visit.page_errors
    assert not visit.outside, "a notebook needs nothing from the network"


def test_sliders_move_by_keyboard_and_reset_brings_the_first_picture_back(visit):
    made = visit.ask(PANELS)["panels"]
    assert len(visit.panels()) == made, "a panel that was made is not shown"
    for panel in visit.panels():
        panel.scroll_into_view_if_needed()
        panel.locator(".flux-picture img").wait_for()
        panel.evaluate(WATCH)
        first, moved = picture(panel), False
        for handle in panel.locator(".noUi-handle").all():
            name = handle.get_attribute("aria-label")
            assert name, "a slider without a name for screen readers"
            before = picture(panel)
            now, top = (float(handle.get_attribute(f"aria-value{which}")) for which in ("now", "max"))
            forth, back, far = ("ArrowLeft", "ArrowRight", "Home") if now >= top else ("ArrowRight", "ArrowLeft", "End")
            if not moves(visit, panel, handle, forth):  # a step may change nothing that can be seen; the whole way does
                assert moves(visit, panel, handle, far), f"{visit.name}: nothing followed {name}"
            elif kind_of(first) != LONGER:  # seconds of work are seen once
                for key in (back, forth):
                    moves(visit, panel, handle, key)
            assert picture(panel) != before, f"{visit.name}: {name} moved, the picture did not"
            moved = True
        if moved:
            panel.get_by_role("button", name="Reset").click()
            visit.page.wait_for_function(
                "([panel, first]) => panel.querySelector('.flux-picture').innerHTML === first",
                arg=[panel.element_handle(), first],
                timeout=20_000,
            )
    assert not visit.page_errors


def the_schedule_in_the_browser_follows_the_hand(visit):
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
    told = statistics.median(frames)
    print(f"\nthe schedule in the browser: {1000 / told:.0f} frames a second while dragged", end=" ")
    assert told < 1000 / 60 * BUSY


def the_playground_paints_what_is_typed(visit):
    panel = visit.page.locator(f"{PANEL} .flux-panel", has=visit.page.get_by_label("prompt")).first
    panel.evaluate(WATCH)
    wanted = "a sticker tiger face on a green background"
    field = panel.get_by_label("prompt")
    field.fill(wanted)
    field.press("Enter")
    panel.locator(f".flux-picture img[alt*='{wanted}']").wait_for(timeout=20_000)
    seen = panel.locator(".flux-picture img").get_attribute("src")
    assert base64.b64decode(seen.partition(",")[2]).startswith(b"\x89PNG")


OWN = {
    "01_schedule.ipynb": the_schedule_in_the_browser_follows_the_hand,
    "06_sampling.ipynb": the_playground_paints_what_is_typed,
}


def test_what_only_this_notebook_has(visit):
    OWN.get(visit.name, lambda visit: None)(visit)


THEMES = {"true": "JupyterLab Light", "false": "JupyterLab Dark"}  # by what the page says of itself
COLOURS = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}  # the rules of axe that look at them


def test_a_screen_reader_and_weak_eyes_find_their_way(visit, meanwhile):
    """In the theme that the page has, and in the other: there it is the same page in other colours, only they count."""
    outputs = {"include": [[f"{PANEL} .jp-OutputArea-output"]]}
    if not visit.page.locator(outputs["include"][0][0]).count():
        return
    light = visit.page.evaluate("() => document.body.dataset.jpThemeLight")
    for turn, options in ((light, {}), ("false" if light == "true" else "true", {"runOnly": COLOURS})):
        if turn != light:
            visit.page.evaluate(
                f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{THEMES[turn]}'}})"
            )
            visit.page.wait_for_function("turn => document.body.dataset.jpThemeLight === turn", arg=turn)
        found = Axe().run(visit.page, context=outputs, options={"resultTypes": ["violations"]} | options)
        serious = {
            each["id"]: [node["html"][:200] for node in each["nodes"]][:3]
            for each in found.response["violations"]
            if each["impact"] in ("serious", "critical")
        }
        assert not serious, f"{visit.name}, {THEMES[turn]}: {json.dumps(serious, indent=1)}"


def test_what_was_run_is_kept(visit, meanwhile):
    """The last look at a notebook: what `pytest --nbmake` would have left, in the same place."""
    told, notebook = visit.ask(LEFT), visit.notebook()
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": told["state"]}
    notebook.metadata |= {"sweep": told["sweep"], "seconds": visit.seconds, "peak_mb": told["peak"]}
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / visit.name)


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
            told = ", ".join(f"{name} {each:.0f}" for name, each in medians.items())
            print(f"\nfrom a key to the new picture, {kind}: median {1000 * median:.0f} ms (ms by notebook: {told})")
        if median > BUSY * AIMS[kind]:
            slow[kind] = median
    assert not slow, f"more than {BUSY} times the aim of {AIMS}: {slow}"
