"""What the run of the notebooks left behind about their sliders; `pytest --nbmake` runs the notebooks first.

conftest.py moved every slider over its places in the notebook's own kernel and kept the outcome.
"""

import re
import statistics

import pytest

STATE = "application/vnd.jupyter.widget-state+json"

# What a chapter's sliders must let the reader change, by any of these names (without spaces and underscores).
DEMANDED = {
    "01": ["mu", "sigma", "width", "height", "steps"],
    "02": ["width", "height", "patch|row"],
    "03": ["pos.*", ".*theta", "axes.*|axis.*|split|rows"],
    "04": ["t", "guidance|w", "head", "block"],
    "05": ["t", "guidance|w", "head", "block"],
    "06": ["prompt", "seed", "(num)?steps", "guidance|w", "width", "height", ".*strength"],
}


@pytest.fixture
def notebooks(executed_notebooks):
    if not executed_notebooks:
        pytest.skip("this run executed no notebook")
    return executed_notebooks


def widgets(notebook):
    """The widgets' states as a browser would get them: model id → (name of its class, state)."""
    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    return {key: (each["model_name"], each["state"]) for key, each in states.items()}


def moves(notebooks):
    """(notebook, drawing, one control at one place) for all."""
    for name, notebook in notebooks.items():
        for panel in notebook.metadata.get("sweep", []):
            for move in panel["moves"]:
                yield name, panel["draw"], move


def test_no_slider_breaks_its_picture_at_any_place(notebooks):
    broken = [
        f"{name}, {draw}: {move['control']} = {move['value']!r}\n{move['error']}"
        for name, draw, move in moves(notebooks)
        if move["error"]
    ]
    assert not broken, "\n\n".join(broken)


def test_every_panel_is_shown(notebooks):
    """`explore(…);` makes a panel that nobody sees: the semicolon tells IPython to show nothing."""
    for name, notebook in notebooks.items():
        shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        boxes = {
            model for model, (_, state) in widgets(notebook).items() if "flux-panel" in state.get("_dom_classes", [])
        }
        views = {
            o["data"].get("application/vnd.jupyter.widget-view+json", {}).get("model_id") for o in shown if "data" in o
        }
        assert boxes <= views, f"{name}: {len(boxes - views)} panels are not shown"


def test_every_chapter_has_the_sliders_it_needs(notebooks):
    missing = []
    for name, notebook in notebooks.items():
        controls = [c["name"] for panel in notebook.metadata.get("sweep", []) for c in panel["controls"]]
        words = [re.sub(r"[\s_]", "", control.lower()) for control in controls]
        for pattern in DEMANDED.get(name[:2], []):
            if not any(re.fullmatch(pattern, word) for word in words):
                missing.append(f"{name} has no slider for {pattern}; it has {', '.join(sorted(set(controls)))}")
    assert not missing, "\n".join(missing)


def test_every_panel_can_be_reset(notebooks):
    for name, notebook in notebooks.items():
        models = widgets(notebook)
        resets = [
            state for model, state in models.values() if model == "ButtonModel" and state["description"] == "Reset"
        ]
        panels = notebook.metadata.get("sweep", [])
        assert len(resets) == len(panels), f"{name}: {len(panels)} panels, {len(resets)} Reset buttons"


def test_every_control_says_what_it_is(notebooks):
    for name, notebook in notebooks.items():
        for model, state in widgets(notebook).values():
            if "value" in state and "description" in state and not model.startswith(("HTML", "Label", "FloatProgress")):
                assert state["description"].strip(), f"{name}: a {model} without a description"


def test_pictures_have_alternative_text(notebooks):
    for name, notebook in notebooks.items():
        drawn = [state["value"] for model, state in widgets(notebook).values() if model == "HTMLModel"]
        for image in [image for html in drawn for image in re.findall(r"<img[^>]*>", html)]:
            alt = re.search(r'alt="([^"]*)"', image)
            assert alt and len(alt[1]) >= 15, f"{name}: a picture whose alternative text is {alt and alt[1]!r}"


def test_no_error_hides_in_a_widget(notebooks):
    for name, notebook in notebooks.items():
        for model, state in widgets(notebook).values():
            assert "flux-error" not in str(state.get("value")), f"{name}: {state['value'][:300]}"
            errors = [each for each in state.get("outputs", []) if each["output_type"] == "error"]
            assert not errors, f"{name}: a {model} holds {errors}"


def test_sliders_are_quick(notebooks, record_property):
    seconds = {}
    for name, _, move in moves(notebooks):
        if move["control"] != "Reset":
            seconds.setdefault(name, []).append(move["seconds"])
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    times = ", ".join(f"{name[:2]} {1000 * each:.0f} ms" for name, each in medians.items())
    record_property("measured", f"median time to redraw: {times}")
    slow = {name: each for name, each in medians.items() if each > 3}
    assert not slow, f"more than three seconds, even for a busy machine: {slow}"
