"""The book's builder: links that lead on, widgets that need no kernel, pages that fetch nothing.

`python run.py book` builds all of it and checks every page; here a small one is built where Sphinx is installed.
"""

import importlib.util
import inspect
import re
from pathlib import Path

import book
import nbformat
import panels
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tables import equations

ROOT = Path(__file__).parents[1]
READY = importlib.util.find_spec("sphinx_book_theme") and importlib.util.find_spec("mathjax")


@pytest.fixture(scope="module")
def notebooks():
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


# ---------------------------------------------------------------- widgets


def test_the_sliders_that_play_exist(notebooks):
    code = [cell.source for notebook in notebooks.values() for cell in notebook.cells if cell.cell_type == "code"]
    calls = dict(call for source in code if (call := panels.panel_call(source)))
    for name, (chapter, slider) in panels.FRAMES.items():
        low, high, step = calls[name][slider]
        draw = panels.drawing(chapter, name)
        assert low < high and low <= panels.default_of(draw, slider) <= high
        assert slider in inspect.signature(draw).parameters


@pytest.mark.parametrize("limits", [(0, 1, 0.01), (-3, 3, 0.05), (1, 40, 1), (0, 5, 1), (256, 2048, 64)])
def test_frames_stand_on_the_sliders_own_steps(limits):
    low, high, step = limits
    values = panels.spread(*limits)
    assert (
        values[0] == low
        and values[-1] == high
        and len(values) <= panels.FRAME_COUNT
        and len(set(values)) == len(values)
    )
    assert all(abs((value - low) / step - round((value - low) / step)) < 1e-6 for value in values)


def test_a_slider_becomes_pictures_and_a_native_range(tmp_path):
    widgets = panels.Widgets(new_notebook(), tmp_path)
    shown = widgets.frames("explore(plots.gated_unit, gate=(-4, 4, 0.1))")
    assert shown.count("<img ") == len(list((tmp_path / "frames").glob("*.png"))) == panels.FRAME_COUNT
    assert (
        shown.count(" hidden>") == panels.FRAME_COUNT - 1 and 'type="range"' in shown and 'aria-label="gate"' in shown
    )
    assert len(set(re.findall(r'alt="([^"]+)"', shown))) == panels.FRAME_COUNT
    assert widgets.frames("explore(paint, steps=(1, 4, 1))") is None and widgets.frames("x = 1") is None


def widget(name, **state):
    return {"model_name": name, "state": state}


def test_what_else_there_is_becomes_its_pictures_and_words(tmp_path):
    notebook = new_notebook()
    models = {
        "box": widget("VBoxModel", children=["IPY_MODEL_row", "IPY_MODEL_picture"]),
        "row": widget("HBoxModel", children=["IPY_MODEL_slider", "IPY_MODEL_reset"]),
        "slider": widget("IntSliderModel", description="seed"),
        "reset": widget("ButtonModel", description="Reset"),
        "picture": widget("HTMLModel", value='<img alt="a fox" src="data:">', description=""),
        "ask": widget("VBoxModel", children=["IPY_MODEL_text", "IPY_MODEL_guess"]),
        "text": widget("HTMLModel", value="<b>Larger?</b>"),
        "guess": widget("RadioButtonsModel", _options_labels=["yes", "a < b"], description="Your guess"),
        "live": widget(
            "AnyModel", _anywidget_id="flux_edu.teaching.widgets.LiveSchedule", _esm="export default {}", mu=1.15
        ),
    }
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": models}}
    widgets = panels.Widgets(notebook, tmp_path)
    assert "widgets" not in notebook.metadata
    panel = widgets.as_html("box", "explore(paint, seed=(0, 9, 1))")
    assert '<img alt="a fox"' in panel and "In the notebook you move: seed." in panel and "Reset" not in panel
    question = widgets.as_html("ask", "quiz('01')")
    assert "<li>a &lt; b</li>" in question and "an experiment answers" in question
    live = widgets.as_html("live", "LiveSchedule()")
    assert (tmp_path / "live" / "live.js").read_text() == "export default {}" and "mu&quot;: 1.15" in live
    with pytest.raises(SystemExit, match="execute the notebook again"):
        widgets.as_html("gone", "explore(paint)")


# ---------------------------------------------------------------- pages


def test_what_a_page_must_not_do_is_seen(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "x.html").write_text(
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//cdn.example/x.css">'
        '<img src="a.png"><img src="http://a.example/b.png" alt="b"><a href="https://arxiv.org">fine</a>'
    )
    (tmp_path / "x.css").write_text("@import 'https://fonts.example/x'; a { background: url(data:image/png) }")
    assert book.faults(tmp_path) == [
        "notebooks/x.html fetches https://cdn.example/x.js",
        "notebooks/x.html fetches //cdn.example/x.css",
        'notebooks/x.html has a picture without alternative text: <img src="a.png">',
        "notebooks/x.html fetches http://a.example/b.png",
        "x.css fetches https://fonts.example/x",
    ]


def test_what_was_executed_must_be_what_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "EXECUTED", tmp_path)
    name = "17_glossary"
    assert not book.is_fresh(name)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert book.is_fresh(name)
    shown = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}}
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    code.outputs = [new_output("display_data", shown)]
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert not book.is_fresh(name), "it stopped before the states of its widgets were kept"
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"a": {}}}}
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert book.is_fresh(name)
    notebook.cells[0].source += " "
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    assert not book.is_fresh(name)


PAGES = {
    "01_schedule": [
        "# One",
        *(f"## Eq. 1.{k} · A `code` and *more*\n\n$$ a \\\\ b \\tag{{1.{k}}} $$" for k in range(1, 6)),
        "To [`interpolate`](../flux_edu/schedule.py), [`schedule.time_shift`](../flux_edu/schedule.py), [a"
        " file](../flux_edu/schedule.py), [two](02_patchify.ipynb#Eq.-9.9-·-%5B0,-1%5D-and-b),"
        " [up](#Eq.-1.2-·-A-code-and-more).",
    ],
    "02_patchify": ["# Two", "## Eq. 9.9 · [0, 1] and `b`", "Back to [one](01_schedule.ipynb)."],
}


@pytest.fixture
def small_book(tmp_path, monkeypatch):
    """Builds two pages and one module, as the whole is built: warnings are errors. Returns the exit code."""

    def build(pages):
        kernel = {"name": "python3", "display_name": "Python 3"}
        metadata = {"kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        answer = new_output("execute_result", {"text/plain": "4"}, execution_count=1)
        notebooks = {
            name: new_notebook(
                cells=[*map(new_markdown_cell, sources), new_code_cell("2 + 2", outputs=[answer])], metadata=metadata
            )
            for name, sources in (pages | {"13_real_flux": ["# Thirteen"]}).items()  # the set-up page links to it
        }
        monkeypatch.setattr(book, "executed", lambda names: notebooks)
        return book.main([])

    monkeypatch.setattr(book, "BOOK", tmp_path)
    monkeypatch.setattr(book, "modules", lambda: ["flux_edu.schedule"])
    return build


@pytest.mark.skipif(not READY, reason="the extra `book` is not installed")
def test_a_small_book_is_built_and_its_links_lead_on(small_book, tmp_path):
    assert small_book(PAGES) == 0
    page = (tmp_path / "html" / "notebooks" / "01_schedule.html").read_text("utf-8")
    links = re.findall(r'href="([^"#]*#[^"]+)"', page)
    for name in ("interpolate", "time_shift", "get_lin_function"):  # the last two stand below their equations only
        assert f"../api/schedule.html#flux_edu.schedule.{name}" in links
    assert "02_patchify.html#eq-9-9-0-1-and-b" in links and "#eq-1-2-a-code-and-more" in links
    assert "_static/mathjax/tex-mml-chtml.js" in page and r"a \cr  b \tag{1.3}" in page
    module = (tmp_path / "html" / "api" / "schedule.html").read_text("utf-8")
    assert all(f'href="../notebooks/01_schedule.html#eq-1-{k}"' in module for k in range(1, 6))


@pytest.mark.skipif(not READY, reason="the extra `book` is not installed")
def test_links_that_lead_nowhere_stop_the_build_and_are_named(small_book, capfd):
    wrong = "[a](#No-such) [b](02_patchify.ipynb#Nor-this) [c](99_more.ipynb) [`no_name`](../flux_edu/schedule.py)"
    assert small_book(PAGES | {"02_patchify": [*PAGES["02_patchify"], wrong]}) != 0
    named = re.findall(r"02_patchify.*(No-such|Nor-this|99_more|no_name)", capfd.readouterr().err)
    assert set(named) == {"No-such", "Nor-this", "99_more", "no_name"}


def test_every_python_file_of_the_package_with_an_equation_has_a_page():
    files = {
        file.removesuffix(".py").replace("/", ".") for _, functions in equations().values() for _, file in functions
    }
    assert files <= set(book.modules())
