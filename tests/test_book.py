"""The book's builder: links that lead on, widgets that need no kernel, pages that fetch nothing.

`python run.py book` builds all of it and checks every page; here a small one is built where Sphinx is installed.
"""

import importlib.util
import inspect
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from tables import equations, tags

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("book", ROOT / "docs" / "build.py")
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)
READY = importlib.util.find_spec("sphinx_book_theme") and importlib.util.find_spec("mathjax")


@pytest.fixture(scope="module")
def notebooks():
    return {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


@pytest.fixture
def links(notebooks):
    return book.Links(notebooks)


# ---------------------------------------------------------------- links


def test_every_link_of_every_notebook_leads_somewhere(notebooks, links):
    """The headings they name exist; what they become names pages, labels and functions only."""
    for name, notebook in notebooks.items():
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                for target in re.findall(r"\]\(([^)\s]+)\)", links.rewrite(name, cell.source)):
                    assert re.match(r"https?://|#sec-|img/|\w+\.ipynb$", target), f"{name}: {target}"


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("[2.1](02_patchify.ipynb#Eq.-2.1-·-Noise)", r"\[2\.1\]\(#sec-02-patchify-\d+\)"),
        ("[here](#Eq.-1.1-·-The-straight-path)", r"\[here\]\(#sec-01-schedule-\d+\)"),
        ("[next](02_patchify.ipynb)", r"\[next\]\(02_patchify\.ipynb\)"),
        ("[`rope.rope`](../flux_edu/rope.py)", r"\{py:obj\}`rope\.rope <flux_edu\.rope\.rope>`"),
        ("[`interpolate`](../flux_edu/schedule.py)", r"\{py:obj\}`interpolate <flux_edu\.schedule\.interpolate>`"),
        ("[the file](../flux_edu/rope.py)", r"\{py:mod\}`the file <flux_edu\.rope>`"),
        ("[`x.flow_loss`](../flux_edu/train/objectives.py)", r"\{py:obj\}`x\.flow_loss <flux_edu\.x\.flow_loss>`"),
        ("[out](https://arxiv.org/abs/1)", r"\[out\]\(https://arxiv\.org/abs/1\)"),
        ("![a picture](img/flux.svg)", r"!\[a picture\]\(img/flux\.svg\)"),
    ],
)
def test_links_become_links_of_the_book(links, written, becomes):
    assert re.fullmatch(becomes, links.rewrite("01_schedule", written))


@pytest.mark.parametrize("wrong", ["[x](#No-such-heading)", "[x](02_patchify.ipynb#Nor-this)", "[x](99_more.ipynb)"])
def test_a_link_that_leads_nowhere_stops_the_build_and_is_named(links, wrong):
    with pytest.raises(SystemExit, match="01_schedule: "):
        links.rewrite("01_schedule", wrong)


def test_a_link_to_a_page_that_is_not_built_is_left_as_text(notebooks):
    few = book.Links({"01_schedule": notebooks["01_schedule"]})
    assert few.rewrite("01_schedule", "see [rows](02_patchify.ipynb#Eq.-2.1-·-Noise).") == "see rows."


def test_every_equation_gets_a_label_and_its_functions(notebooks, links):
    for number, [(name, _)] in tags().items():
        cells = [dict(cell) for cell in notebooks[name].cells]
        links.labelled(name, cells)
        text = "\n".join(cell["source"] for cell in cells)
        assert text.count(f"({book.label(number)})=") == 1
        for function, _ in equations()[number][1]:
            assert f"{{py:obj}}`{function} <flux_edu.{function}>`" in text


def test_headings_in_code_fences_are_none():
    cells = [
        {"cell_type": "markdown", "source": "# One\n```\n# no\n```\n## Two"},
        {"cell_type": "code", "source": "# no"},
    ]
    assert [text for _, _, text in book.headings(cells)] == ["One", "Two"]


def test_a_numbered_matrix_keeps_its_number(links):
    assert links.rewrite("01_schedule", r"$$ a \\ b \tag{9.9} $$") == r"$$ a \cr  b \tag{9.9} $$"
    assert links.rewrite("01_schedule", r"$$ a \\ b $$") == r"$$ a \\ b $$"


# ---------------------------------------------------------------- widgets


def test_the_sliders_that_play_exist(notebooks):
    code = [cell.source for notebook in notebooks.values() for cell in notebook.cells if cell.cell_type == "code"]
    calls = dict(call for source in code if (call := book.panel_call(source)))
    for name, (chapter, slider) in book.FRAMES.items():
        low, high, step = calls[name][slider]
        draw = book.drawing(chapter, name)
        assert low < high and low <= book.default_of(draw, slider) <= high
        assert slider in inspect.signature(draw).parameters


@pytest.mark.parametrize("limits", [(0, 1, 0.01), (-3, 3, 0.05), (1, 40, 1), (0, 5, 1), (256, 2048, 64)])
def test_frames_stand_on_the_sliders_own_steps(limits):
    low, high, step = limits
    values = book.spread(*limits)
    assert (
        values[0] == low and values[-1] == high and len(values) <= book.FRAME_COUNT and len(set(values)) == len(values)
    )
    assert all(abs((value - low) / step - round((value - low) / step)) < 1e-6 for value in values)


def test_a_slider_becomes_pictures_and_a_native_range(tmp_path):
    widgets = book.Widgets(new_notebook(), tmp_path)
    shown = widgets.frames("explore(plots.gated_unit, gate=(-4, 4, 0.1))")
    assert shown.count("<img ") == len(list((tmp_path / "frames").glob("*.png"))) == book.FRAME_COUNT
    assert shown.count(" hidden>") == book.FRAME_COUNT - 1 and 'type="range"' in shown and 'aria-label="gate"' in shown
    assert len(set(re.findall(r'alt="([^"]+)"', shown))) == book.FRAME_COUNT
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
    widgets = book.Widgets(notebook, tmp_path)
    assert "widgets" not in notebook.metadata
    panel = widgets.as_html("box", "explore(paint, seed=(0, 9, 1))")
    assert '<img alt="a fox"' in panel and "In the notebook you move: seed." in panel and "Reset" not in panel
    question = widgets.as_html("ask", "predict('01')")
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
        "notebooks/x.html fetches http://a.example/b.png",
        "notebooks/x.html has a picture without alternative text: a.png",
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


@pytest.mark.skipif(not READY, reason="the extra `book` is not installed")
def test_a_small_book_is_built_and_a_broken_link_is_not(tmp_path, monkeypatch):
    """Two pages and one module; Sphinx runs as for the whole, warnings as errors."""
    monkeypatch.setattr(book, "BOOK", tmp_path)
    monkeypatch.setattr(book, "modules", lambda: ["flux_edu.schedule"])
    kernel = nbformat.read(ROOT / "notebooks" / "01_schedule.ipynb", as_version=4).metadata.kernelspec
    info = {"name": "python", "pygments_lexer": "ipython3"}
    cells = [
        new_markdown_cell(cell.source)
        for cell in nbformat.read(ROOT / "notebooks" / "01_schedule.ipynb", as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    cells.append(new_code_cell("2 + 2", outputs=[new_output("execute_result", {"text/plain": "4"}, execution_count=1)]))

    def executed(names):
        return {"01_schedule": new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": info})}

    monkeypatch.setattr(book, "executed", executed)
    assert book.main(["01_schedule"]) == 0
    page = (tmp_path / "html" / "notebooks" / "01_schedule.html").read_text("utf-8")
    assert "api/schedule.html#flux_edu.schedule.time_shift" in page and "_static/mathjax/tex-mml-chtml.js" in page
    cells[0].source += "\n\n{py:obj}`x <flux_edu.schedule.no_such_function>`"
    assert book.main(["01_schedule"]) != 0


def test_every_python_file_of_the_package_with_an_equation_has_a_page():
    files = {
        file.removesuffix(".py").replace("/", ".") for _, functions in equations().values() for _, file in functions
    }
    assert files <= set(book.modules())
