"""The book: the executed notebooks and the package's pages as a site that needs neither kernel nor network.

python run.py book                          all of it, in build/book/html, served on this machine and opened
python run.py book --no-open                built, and no more
python run.py book NAME [NAME ...]          a part, for example 01_schedule
python run.py book --pdf                    and its chapters as PDF in build/book/pdf, by a Chromium that is there

Notebooks are taken from build/executed where `python run.py test` has left them, and executed where it has not.
Every equation is linked to its function and back (links.py); widgets become what they show without a kernel
(panels.py); html/zh has the chapters 00 to 06 and two pages in Chinese (chinese.py). A link that leads nowhere, a
picture without alternative text and anything that a page would fetch from elsewhere stop the build.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import webbrowser
from argparse import ArgumentParser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
EXECUTED = ROOT / "build" / "executed"
BOOK = ROOT / "build" / "book"
PATHS = [str(ROOT), str(DOCS), str(DOCS / "make")]
sys.path[:0] = PATHS

import chinese  # noqa: E402  it lies beside this file
import live_map  # noqa: E402
from panels import Broken, Widgets, outside, widget_states  # noqa: E402
from printed import print_chapters  # noqa: E402
from search import unfound  # noqa: E402
from start import start_page  # noqa: E402
from translation import messages, translations  # noqa: E402

MATHJAX = ["startup.js", "core.js", "input/tex.js", "input/tex/extensions", "output/chtml.js", "output/chtml/fonts"]
MATHJAX += ["a11y/assistive-mml.js", "../LICENSE"]
VIEW = "application/vnd.jupyter.widget-view+json"
PORT = 8027  # always the same where it is free: what the browser keeps (the model) is kept for an address and port
PAGES = ["QUESTIONS", "NAMES", "WHAT_FLUX_IS_NOT", "WHAT_FLUX_IS_NOT.zh", "SETUP", "SOURCES"]
QUESTION = re.compile(r"^### ([^\n]+)\n\n(.+?)(?=\n\n##|\Z)", re.MULTILINE | re.DOTALL)
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
    """True when what was executed is what the notebook says now, and to its end: every widget has a state, every
    move of a panel a picture, and what its function draws from is kept as well."""
    path = EXECUTED / f"{name}.ipynb"
    if not path.exists():
        return False
    now, then = (nbformat.read(file, as_version=4) for file in (ROOT / "notebooks" / f"{name}.ipynb", path))
    same = [(cell.cell_type, cell.source) for cell in now.cells] == [
        (cell.cell_type, cell.source) for cell in then.cells
    ]
    panels = then.metadata.get("sweep", [])
    files = [move.get("file", "-") for panel in panels for move in panel["moves"]]
    files += [file for panel in panels for file in panel.get("inputs", {"": "-"}).values()]
    drawn = all((EXECUTED / "frames" / name / file).exists() for file in files)
    return same and drawn and views(then) <= set(widget_states(then.metadata))


def views(notebook: nbformat.NotebookNode) -> set[str]:
    """The widgets that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return {output.data[VIEW]["model_id"] for output in outputs if VIEW in output.get("data", {})}


# ---------------------------------------------------------------- what Sphinx reads


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What a cell printed as one text, in however many messages it came, without warnings."""
    kept: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stdout" and kept and kept[-1].get("name") == "stdout":
            kept[-1].text += output.text
        elif output.get("name") != "stderr":
            kept.append(output)
    return kept


def still(name: str, notebook: nbformat.NotebookNode, static: Path) -> nbformat.NotebookNode:
    """A notebook without anything that asks for a kernel; files that its panels need go to `static`."""
    widgets = Widgets(notebook, EXECUTED / "frames" / name, static)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if VIEW in output.get("data", {}):
                output.data = {"text/html": widgets.as_html(output.data[VIEW]["model_id"], cell.source)}
            elif "text/html" in output.get("data", {}):
                output.data["text/html"] = outside(output.data["text/html"], static)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    return notebook


def modules() -> list[str]:
    """The modules that have a page: all but what only notebooks import, and command lines."""
    paths = sorted((ROOT / "flux_edu").glob("*.py")) + sorted((ROOT / "flux_edu").glob("*/*.py"))
    paths = [path for path in paths if path.parent.name not in PAGELESS and not path.stem.startswith("__")]
    return [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]


def stage(names: list[str]) -> tuple[Path, Path]:
    """Everything that Sphinx reads, English in build/book/source and Chinese in build/book/source-zh."""
    source = BOOK / "source"
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("notebooks", "docs", "api", "_static"):
        (source / folder).mkdir(parents=True)
    for name in PAGES:
        shutil.copy(DOCS / f"{name}.md", source / "docs")
    if "QUESTIONS" in PAGES:
        question_pages(source / "docs")
    for name in ("book.css", "book.js", "live_map/language.js", "paint.js"):
        shutil.copy(DOCS / name, source / "_static")
    for name in ("conf.py", "scorer.js"):
        shutil.copy(DOCS / name, source)
    shutil.copytree(DOCS / "templates", source / "templates")
    shutil.copytree(ROOT / "notebooks" / "img", source / "notebooks" / "img")
    copy_mathjax(source / "_static" / "mathjax")
    notebooks = executed(names)
    front = start_page(notebooks, PAGES)
    chapters = {name: notebook for name, notebook in notebooks.items() if name in chinese.CHAPTERS}
    chinese_front = start_page(chapters, chinese.PAGES, chinese.chinese)
    for name, notebook in notebooks.items():
        nbformat.write(still(name, notebook, source / "_static"), source / "notebooks" / f"{name}.ipynb")
    titles = [module.removeprefix("flux_edu.") for module in modules()]
    for title in titles:
        page = (
            f"# {title}\n\n```{{eval-rst}}\n.. automodule:: flux_edu.{title}\n   :members:\n   :undoc-members:\n```\n"
        )
        (source / "api" / f"{title}.md").write_text(page, encoding="utf-8")
    package = "# The package\n\n```{toctree}\n:maxdepth: 1\n\n" + "\n".join(titles) + "\n```\n"
    (source / "api" / "index.md").write_text(package, encoding="utf-8")
    (source / "start.md").write_text(front, encoding="utf-8")
    target = BOOK / "source-zh"
    chinese.stage(source, target, chinese_front)
    if "QUESTIONS" in chinese.PAGES:
        question_pages(target / "docs", "全部问题")
    chinese.link_pages(target)
    return source, target


def question_pages(docs: Path, whole: str = "All questions") -> None:
    """Each question of QUESTIONS.md as a page of its own: Sphinx's search finds pages, and a title counts most."""
    page = (docs / "QUESTIONS.md").read_text("utf-8")
    (docs / "questions").mkdir()
    for number, (question, answer) in enumerate(QUESTION.findall(page), 1):
        answer = re.sub(r"\]\((?!https:)", "](../", answer)
        text = f"---\norphan: true\n---\n\n# {question}\n\n{answer}\n\n[{whole}](../QUESTIONS.md)\n"
        (docs / "questions" / f"{number:02}.md").write_text(text, encoding="utf-8")


def unfound_questions(source: Path, site: Path) -> list[str]:
    """What the search of a site does not find though somebody asks for it in these words."""
    page = source / "docs" / "QUESTIONS.md"
    return unfound(site, QUESTION.findall(page.read_text("utf-8"))) if page.exists() else []


def untranslated() -> list[str]:
    """Alternative texts that the catalogue does not have; a test holds it to have all else."""
    texts = translations("pictures")
    return [f"not in Chinese: {text}" for text in messages("pictures") if text not in texts]


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


def lighten(site: Path) -> None:
    """Leave out the theme's 2,000 icons, of which book.css draws a dozen, and the index where nobody searches."""
    for page in site.rglob("*.html"):
        unused = ["scripts/fontawesome"]
        if page.name != "search.html":
            unused += ["searchtools", "language_data", "searchindex"]
        text = re.sub(rf"<script[^>]*(?:{'|'.join(unused)})\.js[^>]*></script>", "", page.read_text("utf-8"))
        page.write_text(text, encoding="utf-8")
    for file in (site / "_static" / "scripts").glob("fontawesome.js*"):
        file.unlink()
    for file in site.rglob("pydata-sphinx-theme.css"):
        file.write_text(re.sub(r'\.fa-[\w-]+\{--fa:"[^"]*"\}', "", file.read_text("utf-8")), encoding="utf-8")


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


# ---------------------------------------------------------------- the site on this machine


class Site(SimpleHTTPRequestHandler):
    """Files of the site. Their types are said here: what a system knows of them differs, and some of it is wrong."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".wasm": "application/wasm",
        ".webp": "image/webp",
        ".svg": "image/svg+xml",
        ".safetensors": "application/octet-stream",
    }

    def log_message(self, *_):
        pass


def server(site: Path, port: int = PORT) -> ThreadingHTTPServer:
    """A server of this folder for this machine alone, at `port` or, where that is taken, at any free one."""
    handler = partial(Site, directory=str(site))
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)


def serve(site: Path) -> None:
    """Open the site in the browser, and serve it until Ctrl-C."""
    with server(site) as running:
        address = f"http://127.0.0.1:{running.server_port}/"
        print(f"the book is at {address} until you press Ctrl-C", flush=True)
        webbrowser.open(address)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


def print_all(site: Path) -> None:
    """The chapters of a built site as PDF."""
    names = sorted(path.stem for path in (site / "notebooks").glob("*.html"))
    with server(site, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        files = print_chapters(f"http://127.0.0.1:{running.server_port}/", names, BOOK / "pdf")
        running.shutdown()
    print(f"{len(files)} chapters, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB: {BOOK / 'pdf'}")


def main(arguments: list[str]) -> int:
    parser = ArgumentParser("python run.py book", description="Build the book, serve it on this machine and open it.")
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="a part of it, for example 01_schedule")
    parser.add_argument("--no-open", action="store_true", help="build it and end")
    parser.add_argument("--pdf", action="store_true", help="print the chapters to build/book/pdf")
    options = parser.parse_args(arguments)
    code = build(options.names)
    if not code and options.pdf:
        print_all(BOOK / "html")
    if not code and not options.no_open:
        serve(BOOK / "html")
    return code


def build(names: list[str]) -> int:
    """The site in build/book/html; 0, or the exit code of what has failed."""
    start = time.perf_counter()
    there = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    if unknown := [name for name in names if name not in there]:
        raise Broken(f"there is no notebook {', '.join(unknown)}; there are {', '.join(there)}")
    (source, chinese_source), site = stage(sorted(names) or there), BOOK / "html"
    shutil.rmtree(site, ignore_errors=True)
    tags = ["-t", "part"] if names else []  # of a part, links to what is not in it are allowed
    code = sphinx(source, site, *tags) or sphinx(chinese_source, site / "zh", "-t", "chinese", *tags)
    if code:
        return code
    live_map.install(site)
    lighten(site)
    lines = faults(site)
    if not names:
        lines += unfound_questions(source, site) + unfound_questions(chinese_source, site / "zh")
        lines += chinese.unfound_queries(site / "zh") + untranslated()
    if lines:
        print("\n".join(lines), file=sys.stderr)
        return 1
    files = [path for path in site.rglob("*") if path.is_file()]
    pages = sum(path.suffix == ".html" for path in files)
    models, rest = (
        sum(path.stat().st_size for path in files if (path.suffix == ".safetensors") is weights) / 1e6
        for weights in (True, False)
    )
    print(f"{pages} pages, {rest:.0f} MB and {models:.0f} MB of models, {time.perf_counter() - start:.0f} s: {site}")
    return 0


def sphinx(source: Path, site: Path, *tags: str) -> int:
    """Make the pages; Sphinx's exit code."""
    options = ["-n", "-W", "--keep-going", "-q", "-j", "2", "-d", source.with_name(f"{source.name}-doctrees"), *tags]
    command = [sys.executable, "-m", "sphinx", *options, source, site]
    return subprocess.call(list(map(str, command)), env=dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
