"""The book's builder: links that lead on, widgets that need no kernel, pages that fetch nothing.

`python run.py book` builds all of it and checks every page; here a small one is built where Sphinx is installed.
"""

import importlib.util
import json
import re
import threading
import urllib.request
from pathlib import Path

import book
import chinese
import ipywidgets as W
import nbformat
import panels
import pytest
import start
import sweep
import tables
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from tables import equations

import run
from flux_edu.teaching.panel import explore

ROOT = Path(__file__).parents[1]
READY = importlib.util.find_spec("sphinx_book_theme") and importlib.util.find_spec("mathjax")


# ---------------------------------------------------------------- widgets


PAPERS = {"red paper": Image.new("RGB", (4, 4), "red"), "number": 3}


def draw(gate=0.0, note="short", bold=False, words="a word"):
    assert PAPERS
    picture = Image.new("RGB", (4, 4), (int(10 * gate) % 256, len(note), int(bold)))
    picture.info["alt"] = f"<{gate:g}> {note} {bold} {words}"
    return picture


@pytest.fixture
def swept(tmp_path):
    """A panel as a notebook's run leaves it: its sweep, and its pictures in a folder."""
    panel = explore(draw, gate=(-4, 4, 0.1), note=["short", "long"], bold=False, words="a word")
    (tmp_path / "frames").mkdir()
    return sweep.record(panel, tmp_path / "frames", 0)


def test_every_control_is_moved_from_the_first_picture_over_all_its_places(swept):
    places = {control["name"]: control["places"] for control in swept["controls"]}
    assert len(places["gate"]) == sweep.PLACES and places["gate"][::5] == ["-4", "0", "4"]
    assert places["note"] == ["short", "long"] and places["bold"] == ["no", "yes"]
    assert places["words"] == ["a word", *sweep.EXAMPLES["a"]]
    alts = [move["alt"] for move in swept["moves"]]
    assert len(set(alts)) == len(alts) == 10 + 1 + 1 + 4 + 1 and alts[-1] == "<0> short False a word"
    assert alts[0] == "<-4> short False a word" and alts[10] == "<0> long False a word"


def test_a_seed_is_moved_to_fewer_values():
    panel = explore(lambda seed=0: draw(seed), seed=(0, 9))
    assert [move.value for move in sweep.sweep(panel)] == [2, 4, 5, 7, 9, None]


def test_a_panel_becomes_native_controls_over_its_pictures(swept, tmp_path):
    widgets = panels.Widgets(new_notebook(metadata={"sweep": [swept]}), tmp_path / "frames", tmp_path / "static")
    widgets.models[swept["model"]] = widget("VBoxModel")
    page = widgets.as_html(swept["model"], "explore(draw)")
    assert page.count('type="range"') == 1 and page.count("<select") == 3 and "In the notebook" not in page
    assert swept["inputs"] == {"PAPERS.red paper": "0-PAPERS.red_paper.png"} and "PAPERS.red paper" in page
    assert (tmp_path / "static" / "frames" / "frames" / "0-PAPERS.red_paper.png").exists()
    assert '<img alt="&lt;0&gt; short False a word" src="../_static/frames/frames/0-Reset-0.webp"' in page
    copied = {file.name for file in (tmp_path / "static" / "frames" / "frames").glob("*.webp")}
    shown = json.loads(re.search(r'<script type="application/json">(.*)</script>', page)[1])
    assert copied == {picture["file"] for picture in shown} and shown[0]["alt"] == "<-4> short False a word"
    widgets.panels[swept["model"]]["moves"][3]["error"] = "ValueError: no such gate"
    with pytest.raises(SystemExit, match="gate = -1.6: ValueError: no such gate"):
        widgets.as_html(swept["model"], "explore(draw)")


@pytest.mark.parametrize(
    "limits", [(0, 1, 0.01), (-3, 3, 0.05), (1, 40, 1), (0, 5, 1), (256, 2048, 64), (256, 3840, 16)]
)
def test_places_stand_on_the_sliders_own_steps(limits):
    low, high, step = limits
    slider = W.interactive.widget_from_abbrev(limits, low + step)
    values = [value for _, value in sweep.places("width", slider, slider.value)]
    assert values[0] == low and values[-1] == high and slider.value in values
    assert len(set(values)) == len(values) <= sweep.PLACES + 1
    assert all(abs((value - low) / step - round((value - low) / step)) < 1e-6 for value in values)


def test_pictures_leave_the_page_and_are_loaded_when_seen(tmp_path):
    page = panels.outside('<img alt="a" src="data:image/png;base64,YWJj"> <img alt="b" src="b.png">', tmp_path)
    (file,) = (tmp_path / "pictures").iterdir()
    assert file.read_bytes() == b"abc" and 'src="b.png"' in page
    assert f'<img alt="a" loading="lazy" src="../_static/pictures/{file.name}">' in page


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
    widgets = panels.Widgets(notebook, tmp_path, tmp_path)
    assert "widgets" not in notebook.metadata
    assert '<img alt="a fox"' in widgets.as_html("box", "Box(...)")
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
        return book.main(["--no-open"])

    monkeypatch.setattr(book, "BOOK", tmp_path)
    monkeypatch.setattr(book, "PAGES", ["SETUP", "SOURCES"])  # the others link to all notebooks
    monkeypatch.setattr(chinese, "PAGES", [])
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
    assert "_static/mathjax/startup.js" in page and r"a \cr  b \tag{1.3}" in page
    module = (tmp_path / "html" / "api" / "schedule.html").read_text("utf-8")
    assert all(f'href="../notebooks/01_schedule.html#eq-1-{k}"' in module for k in range(1, 6))


@pytest.mark.skipif(not READY, reason="the extra `book` is not installed")
def test_links_that_lead_nowhere_stop_the_build_and_are_named(small_book, capfd):
    wrong = "[a](#No-such) [b](02_patchify.ipynb#Nor-this) [c](99_more.ipynb) [`no_name`](../flux_edu/schedule.py)"
    assert small_book(PAGES | {"02_patchify": [*PAGES["02_patchify"], wrong]}) != 0
    named = re.findall(r"02_patchify.*(No-such|Nor-this|99_more|no_name)", capfd.readouterr().err)
    assert set(named) == {"No-such", "Nor-this", "99_more", "no_name"}


def test_every_card_of_the_start_page_has_its_picture():
    notebooks = {path.stem: path.read_text("utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")}
    for name, picture in start.PICTURES.items():
        if not picture.startswith("_images/"):
            assert re.search(rf"explore\([\s\\n\",]*(plots\.)?{picture},", notebooks[name]), f"{name}: {picture}"


# ---------------------------------------------------------------- where it stands


def test_it_is_served_on_this_machine_alone_with_types_that_a_browser_runs(tmp_path):
    (tmp_path / "engine.wasm").write_bytes(b"\0asm")
    (tmp_path / "page.js").write_text("export default 1;")
    with book.server(tmp_path, 0) as first, book.server(tmp_path, first.server_port) as second:
        assert first.server_address[0] == "127.0.0.1" and second.server_port not in (0, first.server_port)
        threading.Thread(target=first.serve_forever, daemon=True).start()
        types = {}
        for name in ("engine.wasm", "page.js"):
            with urllib.request.urlopen(f"http://127.0.0.1:{first.server_port}/{name}") as answer:
                types[name] = answer.headers["Content-Type"], len(answer.read())
        first.shutdown()
    assert types == {"engine.wasm": ("application/wasm", 4), "page.js": ("text/javascript", 17)}


@pytest.mark.parametrize("code", [0, 3])
def test_it_is_opened_unless_one_says_so_or_it_could_not_be_built(monkeypatch, code):
    served, built = [], []
    monkeypatch.setattr(book, "serve", served.append)
    monkeypatch.setattr(book, "build", lambda names: built.append(names) or code)
    assert book.main(["--no-open", "01_schedule"]) == code and served == []
    assert book.main([]) == code and served == [book.BOOK / "html"] * (code == 0)
    assert built == [["01_schedule"], []]


def test_what_publishes_it_builds_it_as_the_check_does():
    """The workflow itself has not been seen to run."""
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text("utf-8"))["jobs"]["publish"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands == ["python run.py book --no-open"] and "run.py book --no-open" in (ROOT / ".ci/run").read_text()
    (upload,) = [step["with"]["path"] for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert ROOT / upload == book.BOOK / "html"


def test_a_codespace_sets_up_by_a_command_of_run_py():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    python, script, command = container["postCreateCommand"].split()
    assert (python, script) == ("python", "run.py") and command in run.COMMANDS
    assert book.PORT in container["forwardPorts"]


def test_addresses_stand_once_and_are_written_into_readme():
    known = '[project.urls]\nRepository = "https://code.example/flux/"\nDocumentation = "https://book.example"\n'
    urls = tables.addresses("[project]\n" + known)
    assert urls["Issues"] == "https://code.example/flux/issues" and tables.addresses("[project]\n") == {}
    for name in ("README.md", "README.zh.md"):
        page = (ROOT / name).read_text("utf-8")
        assert tables.addressed(page, tables.addresses()) == page, "run `python docs/make/tables.py`"
        new = tables.addressed(page, urls)
        assert "git clone https://code.example/flux flux_edu" in new and "ADDRESS" not in new
        assert "](https://book.example)" in new and tables.addressed(new, urls) == new


def test_every_python_file_of_the_package_with_an_equation_has_a_page():
    files = {
        file.removesuffix(".py").replace("/", ".") for _, functions in equations().values() for _, file in functions
    }
    assert files <= set(book.modules())
