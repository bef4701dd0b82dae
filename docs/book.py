"""The book: the executed notebooks and the package's pages as a site that needs neither kernel nor network.

python run.py book                          all of it, in build/book/html
python docs/book.py NAME [NAME ...]         a part, for example 01_schedule

Notebooks are taken from build/executed where `python run.py test` has left them, and executed where it has not.
Every equation is linked to its function and back (links.py); widgets become what they show without a kernel
(panels.py). A link that leads nowhere, a picture without alternative text and anything that a page would fetch from
elsewhere stop the build.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
EXECUTED = ROOT / "build" / "executed"
BOOK = ROOT / "build" / "book"
PATHS = [str(ROOT), str(DOCS), str(DOCS / "make")]
sys.path[:0] = PATHS

from panels import Broken, Widgets, widget_states  # noqa: E402  it lies beside this file

MATHJAX = ("tex-mml-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y/assistive-mml.js", "../LICENSE")
VIEW = "application/vnd.jupyter.widget-view+json"
PAGELESS = ("teaching", "weights")  # rooms whose modules have no page of their own


# ---------------------------------------------------------------- executed notebooks


def executed(names: list[str]) -> dict[str, nbformat.NotebookNode]:
    """The notebooks with their outputs; those that were not executed, or changed since, are executed now."""
    stale = [name for name in names if not is_fresh(name)]
    if stale:
        print(f"executing {', '.join(stale)}", flush=True)
        paths = [str(ROOT / "notebooks" / f"{name}.ipynb") for name in stale]
        if subprocess.call([sys.executable, "-m", "pytest", "--nbmake", "-q", *paths], cwd=ROOT):
            raise Broken("a notebook does not run; the lines above say why")
    return {name: nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4) for name in names}


def is_fresh(name: str) -> bool:
    """True when what was executed is what the notebook says now, and to its end: every widget has a state."""
    path = EXECUTED / f"{name}.ipynb"
    if not path.exists():
        return False
    now, then = (nbformat.read(file, as_version=4) for file in (ROOT / "notebooks" / f"{name}.ipynb", path))
    same = [(cell.cell_type, cell.source) for cell in now.cells] == [
        (cell.cell_type, cell.source) for cell in then.cells
    ]
    return same and views(then) <= set(widget_states(then.metadata))


def views(notebook: nbformat.NotebookNode) -> set[str]:
    """The widgets that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return {output.data[VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})}


# ---------------------------------------------------------------- what Sphinx reads


def still(notebook: nbformat.NotebookNode, static: Path) -> nbformat.NotebookNode:
    """A notebook without anything that asks for a kernel; files that its panels need go to `static`."""
    widgets = Widgets(notebook, static)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if VIEW in output.get("data", {}):
                output.data = {"text/html": widgets.as_html(output.data[VIEW]["model_id"], cell.source)}
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    return notebook


def modules() -> list[str]:
    """The modules that have a page: all but what only notebooks import, and command lines."""
    paths = sorted((ROOT / "flux_edu").glob("*.py")) + sorted((ROOT / "flux_edu").glob("*/*.py"))
    paths = [path for path in paths if path.parent.name not in PAGELESS and not path.stem.startswith("__")]
    return [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]


def stage(names: list[str]) -> Path:
    """Everything that Sphinx reads, in build/book/source."""
    source = BOOK / "source"
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("notebooks", "docs", "api", "_static"):
        (source / folder).mkdir(parents=True)
    for name in ("SETUP.md", "SOURCES.md"):
        shutil.copy(DOCS / name, source / "docs")
    for name in ("book.css", "book.js"):
        shutil.copy(DOCS / name, source / "_static")
    shutil.copy(DOCS / "conf.py", source)
    shutil.copytree(ROOT / "notebooks" / "img", source / "notebooks" / "img")
    copy_mathjax(source / "_static" / "mathjax")
    notebooks = executed(names)
    for name, notebook in notebooks.items():
        nbformat.write(still(notebook, source / "_static"), source / "notebooks" / f"{name}.ipynb")
    titles = [module.removeprefix("flux_edu.") for module in modules()]
    for title in titles:
        page = (
            f"# {title}\n\n```{{eval-rst}}\n.. automodule:: flux_edu.{title}\n   :members:\n   :undoc-members:\n```\n"
        )
        (source / "api" / f"{title}.md").write_text(page, encoding="utf-8")
    index = (DOCS / "index.md").read_text("utf-8")
    index = index.replace("@notebooks@", "\n".join(f"notebooks/{name}" for name in notebooks))
    index = index.replace("@modules@", "\n".join(f"api/{title}" for title in titles))
    (source / "index.md").write_text(index, encoding="utf-8")
    return source


def copy_mathjax(target: Path) -> None:
    """The parts of MathJax that the pages ask for, from the package django-static-mathjax (no Django is needed)."""
    spec = find_spec("mathjax")
    if spec is None:
        raise Broken('the book\'s libraries are missing: pip install -e ".[book]", or `python run.py book`')
    home = Path(spec.origin).parent / "static" / "mathjax" / "es5"
    for part in MATHJAX:
        if (home / part).is_dir():
            shutil.copytree(home / part, target / part)
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home / part, target / Path(part).name if part.startswith("..") else target / part)


# ---------------------------------------------------------------- what the pages must not do


def faults(site: Path) -> list[str]:
    """What the built pages fetch from elsewhere, and their pictures without alternative text."""
    lines = []
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        for tag in re.findall(r"<(?!a\b)\w[^>]*>", path.read_text("utf-8")):
            lines += [
                f"{name} fetches {far}" for far in re.findall(r'(?:src|href|data|poster)="((?:https?:)?//[^"]*)', tag)
            ]
            if tag.startswith("<img") and not re.search(r'\balt="[^"]', tag):
                lines.append(f"{name} has a picture without alternative text: {tag[:80]}")
    for path in site.rglob("*.css"):
        far = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text("utf-8", errors="replace"))
        lines += [f"{path.relative_to(site)} fetches {address}" for address in far]
    return lines


def main(names: list[str]) -> int:
    start = time.perf_counter()
    there = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    if unknown := [name for name in names if name not in there]:
        raise Broken(f"there is no notebook {', '.join(unknown)}; there are {', '.join(there)}")
    source, site = stage(sorted(names) or there), BOOK / "html"
    shutil.rmtree(site, ignore_errors=True)
    options = ["-n", "-W", "--keep-going", "-q", "-j", "2", "-d", BOOK / "doctrees"]
    options += ["-t", "part"] if names else []  # of a part, links to what is not in it are allowed
    command = [sys.executable, "-m", "sphinx", *options, source, site]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS))
    if code := subprocess.call([str(part) for part in command], env=environment):
        return code
    if lines := faults(site):
        print("\n".join(lines), file=sys.stderr)
        return 1
    megabytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {megabytes:.0f} MB, {time.perf_counter() - start:.0f} s: open {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
