"""Committed notebooks are clean, explain more than they compute, copy nothing, and run within a laptop's means."""

import ast
import inspect
import os
import pkgutil
import re
import statistics
import sys
from functools import cache
from importlib import import_module
from urllib.parse import unquote

import nbformat
import pytest
from tables import ROOT

import flux_edu

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONVENTIONS = (
    "**Conventions.** t = 1 is noise, t = 0 the picture · v = ε − x₀ · text tokens before image tokens · RoPE turns"
    " adjacent pairs of channels (2j, 2j+1) · a patch is read channel first, (c ph pw) · a modulation is (shift, scale,"
    " gate)."
)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@cache
def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def sources(path, cell_type):
    return [cell.source for cell in read(path).cells if cell.cell_type == cell_type]


def lines_of(code):
    """The lines of a cell that say something: not blank, no comment alone."""
    return [line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]


# ---------------------------------------------------------------- the file


@each_notebook
def test_no_trace_of_a_run_is_committed(path):
    notebook = read(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}, "run nbstripout"  # a bare `widgets` breaks GitHub
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None, f"run nbstripout: {cell.source[:60]}"
            assert set(cell.metadata) <= {"tags"}, f"run nbstripout: {cell.metadata}"


@each_notebook
def test_nothing_is_installed_or_downloaded(path):
    for code in sources(path, "code"):
        command = re.search(
            r"^\s*[%!]|\bpip\b|\bconda\b|urlopen|urlretrieve|requests\.|hf_hub|snapshot_download|wget|curl", code, re.M
        )
        assert not command, f"{command[0]!r} in {code[:80]}"


@each_notebook
def test_a_kernel_without_the_package_is_told_what_to_do(path, monkeypatch):
    first = sources(path, "code")[0]
    exec(first, {})
    monkeypatch.setitem(sys.modules, "flux_edu", None)
    with pytest.raises(ModuleNotFoundError, match="no flux_edu in this kernel: README says how to add it"):
        exec(first, {})


# ---------------------------------------------------------------- how it reads


@each_notebook
def test_code_comes_in_small_cells(path):
    lengths = [len(code.splitlines()) for code in sources(path, "code")]
    assert max(lengths) <= 30, "the longest cell"
    assert statistics.median(lengths) <= 8, "the median cell"


@each_notebook
def test_there_is_at_least_as_much_prose_as_code(path):
    words = {kind: sum(len(source.split()) for source in sources(path, kind)) for kind in ("markdown", "code")}
    assert words["markdown"] >= words["code"], words


@each_notebook
def test_it_opens_with_the_conventions(path):
    text = "\n\n".join(sources(path, "markdown")[:4])
    assert re.match(r"# .+\n\n", text), "a title and what one will be able to do"
    assert CONVENTIONS in re.sub(r"[>\s]+", " ", text)


@cache
def package_bodies():
    """Every function of the package with its lines, without blanks, comments and docstring."""
    bodies = []
    for module_info in pkgutil.walk_packages(flux_edu.__path__, "flux_edu."):
        if ".train" in module_info.name or module_info.name.endswith("__main__"):
            continue
        source = inspect.getsource(import_module(module_info.name))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                if body:
                    text = "\n".join(source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno])
                    bodies.append((f"{module_info.name}.{node.name}", [line.strip() for line in lines_of(text)]))
    return bodies


@each_notebook
def test_no_function_of_the_package_is_copied(path):
    for code in sources(path, "code"):
        lines = [line.strip() for line in lines_of(code)]
        windows = {tuple(lines[i : i + 5]) for i in range(len(lines) - 4)}
        for name, body in package_bodies():
            copied = windows & {tuple(body[i : i + 5]) for i in range(len(body) - 4)}
            assert not copied, f"five lines of {name} stand in a cell; show() it instead:\n{copied.pop()}"


# ---------------------------------------------------------------- links and pictures


@cache
def anchors(path):
    """What JupyterLab calls the headings of a notebook."""
    lines = re.sub(r"```.*?```", "", "\n".join(sources(path, "markdown")), flags=re.DOTALL)
    return {re.sub(r"[`*$]", "", title).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", lines, re.MULTILINE)}


@each_notebook
def test_links_to_files_notebooks_and_headings_lead_somewhere(path):
    for text in sources(path, "markdown"):
        for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
            if re.match(r"https?:|mailto:|attachment:", "".join(target)):
                continue
            file, _, heading = "".join(target).partition("#")
            page = path.parent / file if file else path
            assert page.exists(), f"{file} does not exist"
            assert not heading or unquote(heading) in anchors(page), f"{page.name} has no heading {heading}"


@each_notebook
def test_pictures_in_the_text_say_what_they_show(path):
    for text in sources(path, "markdown"):
        for alt in re.findall(r"!\[([^\]]*)\]\(", text):
            assert len(alt) >= 15, f"alternative text {alt!r} says nothing"
        assert not re.findall(r"<img(?![^>]*alt=)", text)


# ---------------------------------------------------------------- what a run showed


def test_a_notebook_needs_little_time_and_memory(executed_notebooks, record_property):
    if not executed_notebooks:
        pytest.skip("this run executed no notebook")
    rows = [(name, each.metadata["seconds"], each.metadata["peak_mb"]) for name, each in executed_notebooks.items()]
    total = sum(seconds for _, seconds, _ in rows)
    means = [f"{name} {seconds:.0f} s, {f'{peak} MB' if peak else 'memory not known'}" for name, seconds, peak in rows]
    record_property("measured", f"{'; '.join(means)}; together {total:.0f} s")
    assert all(peak is None or peak < 2000 for _, _, peak in rows), "a kernel held more than 2 GB"
    if os.environ.get("CI"):  # two run at a time, with a core each
        core = sum(seconds for name, seconds, _ in rows if name < "07")
        assert core <= 360, "notebooks 00 to 06 together take more than six minutes"
        assert total <= 900, "all notebooks together take more than fifteen minutes"


def test_no_cell_failed_or_warned(executed_notebooks):
    for name, notebook in executed_notebooks.items():
        for cell in notebook.cells:
            expected = "raises-exception" in cell.metadata.get("tags", [])
            for output in cell.get("outputs", []):
                assert output.output_type != "error" or expected, f"{name}: {cell.source[:60]}"
                assert not (output.get("name") == "stderr" and "Warning" in output.text), f"{name}: {output.text}"


def test_every_picture_has_words(executed_notebooks):
    """A picture that ends a cell comes without alternative text: `show_picture(picture, "what it shows")` has one."""
    for name, notebook in executed_notebooks.items():
        for cell in notebook.cells:
            bare = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
            assert not bare, f"{name}: {cell.source[-60:]}"


def test_an_executed_notebook_is_a_valid_file(executed_notebooks):
    for notebook in executed_notebooks.values():
        nbformat.validate(notebook)
