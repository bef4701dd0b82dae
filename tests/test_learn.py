"""show, explore and check: what the notebooks add to the package."""

import html
import re
import types
from pathlib import Path

import ipywidgets as W
import jaxtyping
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.display import Code
from matplotlib.figure import Figure
from PIL import Image
from sweep import EXAMPLES, sweep

from flux_edu import attention, model, rope, schedule, single_stream
from flux_edu.teaching import panel as panels
from flux_edu.teaching import source as sources
from flux_edu.teaching.plots.html import picture_html
from flux_edu.teaching.plots.style import new_figure

# ---------------------------------------------------------------- show

SHOWN = [
    schedule.time_shift,
    rope.apply_rope,
    rope.EmbedND,
    attention.attention_explicit,
    single_stream.SingleStreamBlock,
    model.Flux.forward,
    model.Flux,
    panels.explore,
]


@pytest.mark.parametrize("fn", SHOWN, ids=lambda fn: fn.__qualname__)
def test_the_source_is_the_text_of_the_file_at_that_line(fn):
    head, _, text = sources.source(fn).partition("\n")
    path, line = re.fullmatch(r"# (flux_edu/[\w/]+\.py), line (\d+)", head).groups()
    lines = (Path(panels.__file__).parents[2] / path).read_text("utf-8").splitlines()
    start, shown = int(line) - 1, text.splitlines()
    assert lines[start : start + len(shown)] == shown
    assert re.match(r"\s*(def|class|@\w+)", shown[0])
    assert any(f"{fn.__name__}(" in row for row in shown[:4])
    after = lines[start + len(shown) :]
    indent = len(shown[0]) - len(shown[0].lstrip())
    rest = next((row for row in after if row.strip()), "")
    assert len(rest) - len(rest.lstrip()) <= indent  # nothing of the function is left out


def test_show_displays_every_source(monkeypatch):
    shown = []
    monkeypatch.setattr(sources, "display", shown.append)
    sources.show(schedule.time_shift, rope.rope)
    assert all(isinstance(one, Code) and one.language == "python" for one in shown)
    assert [one.data for one in shown] == [sources.source(schedule.time_shift), sources.source(rope.rope)]


# ---------------------------------------------------------------- explore


def draw(height: float = 0.5, kind: str = "plain", grid: bool = False, title: str = "a line") -> Figure:
    if kind == "broken":
        raise ValueError("a <broken> kind")
    fig, ax = new_figure(width=2, height=1)
    ax.plot([0, 1], [0, height])
    ax.grid(grid)
    fig.set_label(f"{title} up to {height:g}, {kind}, grid {grid}")
    return fig


def alt(panel: panels.Panel) -> str:
    return html.unescape(re.search(r'<img alt="([^"]*)"', panel.picture.value).group(1))


@pytest.fixture
def panel():
    return panels.explore(draw, height=(0.0, 2.0, 0.5), kind=["plain", "other"], grid=False, title="a line")


def button(panel) -> W.Button:
    return next(w for w in panel.children[0].children if isinstance(w, W.Button))


def test_every_kind_of_control_and_the_defaults_of_the_drawing(panel):
    kinds = {name: type(control) for name, control in panel.controls.items()}
    assert kinds == {"height": W.FloatSlider, "kind": W.Dropdown, "grid": W.Checkbox, "title": W.Text}
    assert panel.values() == {"height": 0.5, "kind": "plain", "grid": False, "title": "a line"}
    height = panel.controls["height"]
    assert (height.min, height.max, height.step) == (0.0, 2.0, 0.5)
    assert all(c.description == name for name, c in panel.controls.items())  # a handle has no name of its own
    assert alt(panel) == "a line up to 0.5, plain, grid False"
    assert panel.error is None and panel in panels.PANELS


def test_moving_a_control_draws_again(panel):
    panel.controls["height"].value = 2.0
    assert alt(panel).startswith("a line up to 2,")
    panel.controls["kind"].value = "other"
    panel.controls["grid"].value = True
    assert alt(panel) == "a line up to 2, other, grid True"
    panel.controls["title"].value = 'ends in "quotes" <b>'
    assert alt(panel).startswith('ends in "quotes" <b>')


def test_reset_brings_the_first_picture_back(panel):
    first = panel.picture.value
    panel.set(height=1.5, kind="other", grid=True)
    assert panel.picture.value != first
    button(panel).click()
    assert panel.picture.value == first
    assert panel.values() == panel.first


def test_set_draws_once():
    calls = []

    def counted(a: int = 1, b: int = 2) -> Figure:
        calls.append((a, b))
        return draw()

    panel = panels.explore(counted, a=(0, 3), b=(0, 3))
    panel.set(a=3, b=0)
    assert calls == [(1, 2), (3, 0)]


def test_sweep_goes_from_end_to_end(panel):
    *moves, first = sweep(panel)
    assert [(m.control, m.value) for m in moves] == [
        *[("height", value) for value in (0.0, 1.0, 1.5, 2.0)],  # 0.5 is where it begins
        ("kind", "other"),  # "plain" is what it begins with, as is no grid
        ("grid", True),
        *[("title", text) for text in EXAMPLES["a"]],
    ]
    assert all(m.error is None and 0 < m.seconds < 5 for m in moves) and first.control == "Reset"


def test_a_menu_of_labels_is_swept_by_its_values():
    panel = panels.explore(draw, height=[("low", 0.5), ("high", 2.0)])
    assert [(move.value, move.error) for move in sweep(panel)] == [(2.0, None), (None, None)]


def test_an_error_is_shown_in_the_panel_and_kept():
    panel = panels.explore(draw, kind=["plain", "broken"])
    panel.controls["kind"].value = "broken"  # does not raise: a callback has nobody to raise to
    assert 'role="alert"' in panel.picture.value and "<img" not in panel.picture.value
    assert "ValueError: a &lt;broken&gt; kind" in panel.picture.value
    assert "Traceback" in panel.error and "a <broken> kind" in panel.error
    button(panel).click()
    assert panel.error is None and "<img" in panel.picture.value  # Reset clears it
    assert [(m.value, m.error is not None) for m in sweep(panel)] == [("broken", True), (None, False)]


def test_a_drawing_that_is_broken_at_first_fails_its_cell():
    before = len(panels.PANELS)
    with pytest.raises(ValueError, match="broken"):
        panels.explore(lambda kind="broken": draw(kind=kind), kind=["broken", "plain"])
    assert len(panels.PANELS) == before


def test_an_unknown_slider_is_named():
    with pytest.raises(TypeError, match="draw has no parameter colour, width; it has height, kind, grid, title"):
        panels.explore(draw, width=(0, 1), colour=["red"], height=(0, 1, 0.1))


def test_alternative_text_is_required():
    def silent(a: int = 1) -> Figure:
        return new_figure()[0]

    with pytest.raises(ValueError, match=r"no alternative text.*set_label.*info\['alt'\]"):
        panels.explore(silent, a=(0, 2))
    with pytest.raises(ValueError, match="no alternative text"):
        picture_html(Image.new("RGB", (4, 4)))


def test_a_picture_of_pillow_is_shown_too():
    def paint(size: int = 8) -> Image.Image:
        picture = Image.new("RGB", (size, size), "red")
        picture.info["alt"] = f"a red square of {size} pixels"
        return picture

    panel = panels.explore(paint, size=(4, 16))
    assert alt(panel) == "a red square of 8 pixels"
    assert "pixelated" in panel.picture.value
    assert panel.picture.layout.min_height == "8px"


def test_a_figure_that_ends_a_cell_is_shown_with_its_alternative_text():
    """Figures here are unknown to pyplot, so they bring their own picture."""
    shown, _ = DisplayFormatter().format(draw(title="the last line"))
    assert shown["text/html"].startswith('<img alt="the last line up to 0.5, plain, grid False"')


def test_show_picture_shows_a_picture_with_words_and_leaves_it_as_it_was():
    picture = Image.new("RGB", (4, 4), "red")
    assert panels.show_picture(picture, 'a "red" square').data.startswith('<img alt="a &quot;red&quot; square"')
    assert "alt" not in picture.info


def test_something_else_is_refused():
    jaxtyping.config.update("jaxtyping_disable", True)  # else the types speak first
    try:
        with pytest.raises(TypeError, match="Figure or a PIL image, this one gave <class 'int'>"):
            panels.explore(lambda a=1: a, a=(0, 2))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_a_widget_of_ones_own_keeps_its_description():
    slider = W.FloatLogSlider(value=1, min=-2, max=1, description="gate")
    panel = panels.explore(draw, height=slider)
    assert panel.controls["height"] is slider and slider.description == "gate"


@pytest.mark.parametrize(("seconds", "live"), [(0.01, True), (0.6, False)])
def test_a_slow_drawing_waits_until_the_slider_is_let_go(monkeypatch, seconds, live):
    ticks = iter([0.0, seconds])
    monkeypatch.setattr(panels, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    panel = panels.explore(draw, height=(0.0, 2.0, 0.5))
    assert panel.controls["height"].continuous_update is live


def test_the_height_is_kept_so_that_the_page_does_not_jump(panel):
    assert panel.picture.layout.min_height == "100px"  # 1 inch at 100 dots
