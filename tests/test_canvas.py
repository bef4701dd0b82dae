"""The canvas that remembers words: its pictures are those of matplotlib's own, the first time and from memory."""

import ast
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from flux_edu.teaching import explore, plots
from flux_edu.teaching.plots import canvas, style


def own(fig):
    """What matplotlib's canvas draws."""
    plain = FigureCanvasAgg(fig)
    plain.draw()
    return np.asarray(plain.buffer_rgba())[..., :3]


def figure(text="a word", size=10.0, colour="black", alpha=1.0, angle=0, width=3.0):
    fig, ax = style.new_figure(width=width, height=2)
    ax.plot([0, 1], [0, 1])
    ax.set_title(r"$\mu(L)$ and a word")
    ax.text(0.5, 0.5, text, size=size, color=colour, alpha=alpha, rotation=angle, clip_on=True)
    return fig


@pytest.fixture(autouse=True)
def empty_memory():
    canvas.WORDS.clear()
    canvas.SIZES.clear()
    canvas.HEIGHTS.clear()


def assert_alike(a, b):
    assert a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 2


FIGURES = ["time_shift_curve", "rope_spectrum", "token_places", "block_costs", "euler_paths", "stride_two"]


@pytest.mark.parametrize("name", FIGURES)
def test_first_and_remembered_pictures_are_matplotlibs(name):
    draw = getattr(plots, name)
    expected = own(draw())
    assert_alike(canvas.pixels(draw()), expected)
    count = len(canvas.WORDS)
    assert_alike(canvas.pixels(draw()), expected)
    assert 0 < count == len(canvas.WORDS)  # the second time nothing was new


VARIED = [
    {"text": "another word"},
    {"text": ""},
    {"size": 14.5},
    {"colour": "red"},
    {"alpha": 0.5},
    {"angle": 90},
    {"angle": 33},
    {"width": 3.7},
]


@pytest.mark.parametrize("change", VARIED, ids=str)
def test_a_word_is_taken_for_another_never(change):
    canvas.pixels(figure())
    assert_alike(canvas.pixels(figure(**change)), own(figure(**change)))


def test_the_font_is_remembered_as_it_was():
    fig = figure()
    canvas.pixels(fig)
    fig.axes[0].texts[0].set_size(20)  # changes the very object that came with the word
    assert_alike(canvas.pixels(fig), own(fig))
    assert_alike(canvas.pixels(figure()), own(figure()))


def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(canvas, "MOST", 20)
    for i in range(30):
        assert_alike(canvas.pixels(figure(f"word {i}")), own(figure(f"word {i}")))
    assert len(canvas.WORDS) <= 20 and len(canvas.SIZES) <= 20


def test_an_array_stays_as_it_was_when_its_figure_is_drawn_again():
    fig = figure()
    before = canvas.pixels(fig)
    kept = before.copy()
    fig.axes[0].plot([0, 1], [1, 0])
    assert (canvas.pixels(fig) != before).any() and (before == kept).all()


def test_a_png_of_the_same_pixels():
    with Image.open(io.BytesIO(canvas.png(figure()))) as picture:
        assert (np.asarray(picture) == canvas.pixels(figure())).all()


@pytest.mark.parametrize("name", ["rope_spectrum", "block_costs", "euler_paths"])
def test_axes_stand_still_while_a_slider_moves_and_reset_brings_the_same_picture(name):
    draw = getattr(plots, name)
    first = {"rope_spectrum": "log10_theta", "block_costs": "side", "euler_paths": "num_steps"}[name]
    ends = {"log10_theta": (2.0, 6.0, 0.5), "side": (256, 2048, 64), "num_steps": (1, 40, 1)}[first]
    panel = explore(draw, **{first: ends})
    picture = panel.picture.value
    seen = []
    panel.draw = lambda **values: seen.append(draw(**values)) or seen[-1]
    panel.controls[first].value = ends[1]
    assert panel.picture.value != picture and panel.error is None
    assert [tuple(ax.get_position(original=True).bounds) for ax in seen[0].axes] == [p.bounds for p in panel.places]
    panel.set(**panel.first)
    assert panel.picture.value == picture


# ---------------------------------------------------------------- a figure used again


def explored():
    """Every `explore(plots.NAME, slider=(low, high, step), …)` of the notebooks."""
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "explore(plots." in re.sub(r"\s", "", source):
                for call in ast.walk(ast.parse(source)):
                    if isinstance(call, ast.Call) and ast.unparse(call).startswith("explore(plots."):
                        name = ast.unparse(call.args[0]).removeprefix("plots.")
                        literal = [key for key in call.keywords if isinstance(key.value, ast.Tuple | ast.List)]
                        ends = {key.arg: ast.literal_eval(key.value) for key in literal}
                        yield pytest.param(name, ends, id=f"{path.stem[:2]}-{name}")


@pytest.mark.parametrize(("name", "ends"), list(explored()))
def test_a_figure_used_again_is_like_a_new_one(name, ends):
    """At every end of every slider, whatever was drawn before."""
    draw, kept = getattr(plots, name), {}
    with style.redrawing(kept):
        canvas.pixels(draw())
    for key, value in [(key, value) for key, values in ends.items() for value in ends_of(values)]:
        with style.redrawing(kept):
            again = draw(**{key: value})
        assert_alike(canvas.pixels(again), canvas.pixels(draw(**{key: value})))


def ends_of(values):
    """Of a slider both ends, with a point where its steps have one; of a menu all."""
    kind = float if any(isinstance(value, float) for value in values) else lambda value: value
    return [kind(value) for value in values[:2]] if isinstance(values, tuple) else values


def test_two_figures_at_once_are_two():
    kept = {}
    for _ in range(2):
        with style.redrawing(kept):
            one, other = style.new_figure()[0], style.new_figure()[0]
        assert one is not other


def test_outside_of_a_panel_every_figure_is_new():
    kept = {}
    with style.redrawing(kept):
        inside = style.new_figure()[0]
    assert style.new_figure()[0] is not inside and not style.KEPT.last


def test_a_cell_that_draws_beside_a_panel_has_its_own_figure():
    kept, found = {}, []
    for _ in range(2):
        with style.redrawing(kept):
            beside = threading.Thread(target=lambda: found.append(style.new_figure()[0]))
            beside.start()
            beside.join()
            found.append(style.new_figure()[0])
    cell, panel, cell_again, panel_again = found
    assert panel is panel_again and len({id(fig) for fig in (cell, cell_again, panel)}) == 3


def with_colours(n):
    fig, ax = style.new_figure()
    fig.colorbar(ax.imshow(n * np.eye(n)), ax=ax)
    return fig


def with_a_small_one_inside(n):
    fig, ax = style.new_figure()
    fig.add_axes((0.6, 0.6, 0.2, 0.2)).imshow(np.eye(n))
    return fig


@pytest.mark.parametrize(("draw", "again"), [(with_colours, True), (with_a_small_one_inside, False)])
def test_a_scale_of_colours_is_used_again_and_what_cannot_be_taken_away_is_made_anew(draw, again):
    kept, figures = {}, []
    for n in (3, 5, 3):
        with style.redrawing(kept):
            figures.append(draw(n))
        assert_alike(canvas.pixels(figures[-1]), canvas.pixels(draw(n)))
    assert (figures[0] is figures[1] is figures[2]) == again


@pytest.mark.parametrize("C", [16, 5])
def test_axes_whose_places_are_drawn_with_letters_are_used_again(C):
    kept = {}
    for n in (3, 5, 3):
        x, z = torch.full((3, 16, 16), n / 5), torch.arange(n * C * 6.0).reshape(n, C, 2, 3)[-1]
        with style.redrawing(kept):
            fig = plots.latent_maps(x, z)
        assert_alike(canvas.pixels(fig), canvas.pixels(plots.latent_maps(x, z)))


def test_a_word_at_the_edge_is_cut_like_matplotlibs():
    def at_the_edge():
        fig = Figure(figsize=(2, 2.3))  # 2.3 · 100 pixels are 229.99999999999997 of them
        for i, (x, y) in enumerate([(0, 0), (1, 1), (0.98, 0.2), (-0.01, 0.7)]):
            fig.text(x, y, f"$x^{i}$ long word", rotation=40 * i)
        return fig

    for _ in range(2):
        assert_alike(canvas.pixels(at_the_edge()), own(at_the_edge()))
