"""The book: the executed notebooks and the package's pages as a site that needs neither kernel nor network.

python run.py book                          all of it, in build/book/html
python docs/build.py NAME [NAME ...]        a part, for example 01_schedule

Notebooks are taken from build/executed where `python run.py test` has left them, and executed where it has not.
Every equation is linked to its function and back; a link that leads nowhere, a picture without alternative text and
anything that a page would fetch from elsewhere stop the build.
"""

import ast
import html
import inspect
import json
import re
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import nbformat

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "build" / "executed"
BOOK = ROOT / "build" / "book"
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "make")]

from tables import equations, tags  # noqa: E402

# Sliders that the book plays without a kernel: name of the drawing → its file in plots, the slider that moves
FRAMES = {
    "straight_path": ("chapter_01", "t"),
    "time_shift_curve": ("chapter_01", "mu"),
    "step_sizes": ("chapter_01", "width"),
    "follow_patch": ("chapter_02", "column"),
    "rope_arrows": ("chapter_03", "position"),
    "time_embedding": ("chapter_04", "t"),
    "modulated_token": ("chapter_04", "scale"),
    "euler_paths": ("chapter_06", "num_steps"),
    "strength_levels": ("chapter_06", "strength"),
    "logit_normal_levels": ("chapter_09", "a"),
    "few_step_walks": ("chapter_11", "steps"),
    "gated_unit": ("chapter_16", "gate"),
}
FRAME_COUNT = 13
MATHJAX = ("tex-mml-chtml.js", "input/tex/extensions", "output/chtml/fonts", "a11y/assistive-mml.js", "../LICENSE")


class Broken(SystemExit):
    """Something that would make a page wrong; the message names it."""


# ---------------------------------------------------------------- labels and links


def label(number: str) -> str:
    """The label of an equation's section: "1.3" → eq-1-3."""
    return "eq-" + number.replace(".", "-")


def headings(cells: list[dict]) -> list[tuple[int, int, str]]:
    """(cell, line, text) of every heading in the markdown cells, code fences left out."""
    found = []
    for i, cell in enumerate(cells):
        fenced = False
        for j, line in enumerate(cell["source"].splitlines() if cell["cell_type"] == "markdown" else []):
            fenced ^= line.startswith("```")
            if not fenced and (match := re.match(r"#{1,6} +(.+)", line)):
                found.append((i, j, match[1].strip()))
    return found


def jupyter_anchor(heading: str) -> str:
    """What JupyterLab calls a heading in a link, its marks for code and emphasis left out."""
    return re.sub(r"[`*$]", "", unquote(heading)).replace(" ", "-")


class Links:
    """Labels for all headings of all notebooks, and the way from a notebook's links to them."""

    def __init__(self, notebooks: dict[str, nbformat.NotebookNode]):
        self.notebooks = set(notebooks)
        self.label_of: dict[tuple[str, str], str] = {}
        for name, notebook in notebooks.items():
            for k, (_, _, text) in enumerate(headings(notebook.cells)):
                self.label_of.setdefault((name, jupyter_anchor(text)), f"sec-{name}-{k}".replace("_", "-"))
        self.numbers_of: dict[tuple[str, str], list[str]] = {}
        for number, places in tags().items():
            for name, heading in places:
                self.numbers_of.setdefault((name, heading), []).append(number)

    def rewrite(self, name: str, source: str) -> str:
        """A markdown cell whose links lead to pages of the book, and whose numbered formulas Sphinx leaves whole."""
        # Sphinx puts a formula of several rows into a split environment, where no tag is allowed; with cr it does not
        source = re.sub(
            r"\$\$.+?\$\$",
            lambda m: m[0].replace("\\\\", r"\cr ") if r"\tag" in m[0] else m[0],
            source,
            flags=re.DOTALL,
        )
        return re.sub(
            r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)",
            lambda m: self.link(name, *m.groups()),
            source,
        )

    def link(self, name: str, text: str, target: str) -> str:
        if re.match(r"https?://", target):
            return f"[{text}]({target})"
        page, _, anchor = target.partition("#")
        if match := re.fullmatch(r"\.\./(flux_edu/.+)\.py", page):
            module, shown = match[1].replace("/", "."), text.strip("`")
            if not re.fullmatch(r"[\w.]+", shown) or shown.endswith(".py"):
                return f"{{py:mod}}`{shown} <{module}>`"
            return f"{{py:obj}}`{shown} <{f'flux_edu.{shown}' if '.' in shown else f'{module}.{shown}'}>`"
        page = page.removesuffix(".ipynb") or name
        if page not in self.notebooks:
            if (ROOT / "notebooks" / f"{page}.ipynb").exists():
                return text  # a part of the book is built, and that page is not in it
            raise Broken(f"{name}: the link to {target} leads out of the book")
        if not anchor:
            return f"[{text}]({page}.ipynb)"
        anchor = jupyter_anchor(anchor)
        if (page, anchor) not in self.label_of:
            raise Broken(f"{name}: {target} names a heading that {page} does not have")
        return f"[{text}](#{self.label_of[page, anchor]})"

    def labelled(self, name: str, cells: list[dict]) -> None:
        """Put labels above headings, and under an equation's heading the link to its function."""
        for i, j, text in reversed(headings(cells)):
            lines = cells[i]["source"].splitlines()
            numbers = self.numbers_of.get((name, text), [])
            marks = [f"({self.label_of[name, jupyter_anchor(text)]})=", *(f"({label(number)})=" for number in numbers)]
            functions = dict.fromkeys(fn for number in numbers for fn, _ in equations().get(number, ("", []))[1])
            code = [f"In the code: {', '.join(f'{{py:obj}}`{fn} <flux_edu.{fn}>`' for fn in functions)}", ""]
            lines[j : j + 1] = ["", *marks, lines[j], "", *(code if functions else [])]
            cells[i]["source"] = "\n".join(lines)


# ---------------------------------------------------------------- outputs that need no kernel


def picture_of(output: dict, code: str) -> str:
    """A painted picture as an <img>: PIL has no place for alternative text in a notebook."""
    alt = html.escape(f"Painted by the cell above, whose last line is: {code.strip().splitlines()[-1].strip()}")
    return f'<img alt="{alt}" src="data:image/png;base64,{output["data"]["image/png"].strip()}">'


class Widgets:
    """What is kept of a notebook's widgets: pictures, texts, choices, and figures that the browser computes."""

    def __init__(self, notebook: nbformat.NotebookNode, static: Path):
        self.models, self.static = widget_states(notebook.metadata), static
        notebook.metadata.pop("widgets", None)

    def below(self, key: str) -> list[tuple[str, dict]]:
        """A widget and all in it, in order."""
        model = self.models[key]
        children = [child.removeprefix("IPY_MODEL_") for child in model["state"].get("children", [])]
        return [(key, model), *(each for child in children for each in self.below(child))]

    def as_html(self, key: str, code: str) -> str:
        if key not in self.models:
            raise Broken(f"a widget of this cell has no state; execute the notebook again: {code}")
        parts, moved = [], []
        for each, model in self.below(key):
            state, kind = model["state"], model["model_name"]
            if kind == "HTMLModel":
                parts.append(state.get("value", ""))
            elif kind == "RadioButtonsModel":
                parts.append("<ul>" + "".join(f"<li>{html.escape(o)}</li>" for o in state["_options_labels"]) + "</ul>")
            elif kind == "AnyModel" and "LiveSchedule" in str(state.get("_anywidget_id", "")):
                return self.live(each, state)
            elif "description" in state and kind not in ("ButtonModel", "HTMLModel"):
                moved.append(state["description"])
        if frames := self.frames(code):
            return frames
        if moved and "explore(" in code:
            parts.append(f'<p class="flux-still">In the notebook you move: {html.escape(", ".join(moved))}.</p>')
        if any("Your guess" in str(model["state"].get("description")) for _, model in self.below(key)):
            parts.append('<p class="flux-still">In the notebook you choose, and an experiment answers.</p>')
        return f'<div class="flux-panel">{"".join(parts)}</div>'

    def live(self, key: str, state: dict) -> str:
        """An anywidget without Python: its own JavaScript, on a model that only remembers."""
        file = self.static / "live" / f"{key}.js"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(state["_esm"], encoding="utf-8")
        values = {
            name: value
            for name, value in state.items()
            if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")
        }
        return (
            f'<div class="flux-live" data-values="{html.escape(json.dumps(values))}"></div>'
            f'<script type="module">import widget from "../_static/live/{key}.js"; fluxLive(widget, "{key}")</script>'
        ).replace('class="flux-live"', f'class="flux-live" id="live-{key}"')

    def frames(self, code: str) -> str | None:
        """A slider of FRAMES as a row of pictures drawn now, and a native range input that chooses one."""
        from flux_edu.teaching.panel import explore

        call = panel_call(code)
        if call is None or call[0] not in FRAMES:
            return None
        name, sliders = call
        chapter, moving = FRAMES[name]
        draw, limits = drawing(chapter, name), sliders[moving]
        values, panel = spread(*limits), explore(draw, **{moving: limits})
        first = min(range(len(values)), key=lambda k: abs(values[k] - default_of(draw, moving)))
        folder = self.static / "frames"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        for k, value in enumerate(values):
            panel.set(**{moving: value})
            if panel.error:
                raise Broken(f"{name}, {moving} = {value}: {panel.error}")
            found = re.search(r'alt="([^"]*)".*base64,([^"]+)"', panel.picture.value)
            (folder / f"{name}-{k}.png").write_bytes(b64decode(found[2]))
            hidden = "" if k == first else " hidden"
            pictures.append(
                f'<img alt="{found[1]}" data-value="{value:g}" src="../_static/frames/{name}-{k}.png"{hidden}>'
            )
        word = moving.replace("_", " ")
        others = [other.replace("_", " ") for other in sliders if other != moving]
        still = (
            f' <span class="flux-still">The notebook also moves {html.escape(", ".join(others))}.</span>'
            if others
            else ""
        )
        return (
            f'<div class="flux-frames"><label>{word} <input type="range" min="0" max="{len(values) - 1}"'
            f' value="{first}" aria-label="{word}"></label> <output>{values[first]:g}</output>'
            + still
            + "".join(pictures)
            + "</div>"
        )


def panel_call(code: str) -> tuple[str, dict[str, object]] | None:
    """name and sliders of `explore(plots.name, …)` in a cell, if its last call is one with plain numbers."""
    try:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return None
    for call in calls:
        if getattr(call.func, "id", "") == "explore" and ast.unparse(call.args[0]).startswith("plots."):
            sliders = {}
            for keyword in call.keywords:
                try:
                    sliders[keyword.arg] = ast.literal_eval(keyword.value)
                except ValueError:
                    sliders[keyword.arg] = None
            return ast.unparse(call.args[0]).removeprefix("plots."), sliders
    return None


def drawing(chapter: str, name: str):
    """The function of this name in a file of plots."""
    return getattr(import_module(f"flux_edu.teaching.plots.{chapter}"), name)


def spread(low: float, high: float, step: float) -> list[float]:
    """At most FRAME_COUNT values from low to high, both ends among them, all on the slider's own steps."""
    count = round((high - low) / step)
    places = sorted({round(k * count / (FRAME_COUNT - 1)) for k in range(FRAME_COUNT)})
    whole = all(isinstance(each, int) for each in (low, high, step))
    return [low + place * step if whole else round(low + place * step, 6) for place in places]


def default_of(draw, name: str) -> float:
    """Where a slider begins."""
    return inspect.signature(draw).parameters[name].default


# ---------------------------------------------------------------- staging


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
    both = [nbformat.read(each, as_version=4) for each in (ROOT / "notebooks" / f"{name}.ipynb", path)]
    now, then = ([(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in both)
    return now == then and views(both[1]) <= set(widget_states(both[1].metadata))


def widget_states(metadata: dict) -> dict[str, dict]:
    """What a notebook's metadata know of its widgets."""
    return metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})


def views(notebook: nbformat.NotebookNode) -> set[str]:
    """The widgets that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [output.get("data", {}).get("application/vnd.jupyter.widget-view+json") for output in outputs]
    return {view["model_id"] for view in found if view}


def stage_notebook(name: str, notebook: nbformat.NotebookNode, links: Links, source: Path) -> None:
    """A notebook as the book shows it: linked, and without anything that asks for a kernel."""
    widgets = Widgets(notebook, source / "_static")
    links.labelled(name, notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = links.rewrite(name, cell.source)
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if view := data.get("application/vnd.jupyter.widget-view+json"):
                output["data"] = {"text/html": widgets.as_html(view["model_id"], cell.source)}
            elif "image/png" in data:
                output["data"] = {"text/html": picture_of(output, cell.source)}
            elif "text/markdown" in data:
                output["data"] = {"text/markdown": links.rewrite(name, data["text/markdown"])}
            elif "text/html" in data:
                output["data"] = {"text/html": data["text/html"]}
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": notebook.metadata["language_info"],
    }
    nbformat.write(notebook, source / "notebooks" / f"{name}.ipynb")


def modules() -> list[str]:
    """The modules that have a page: chapters, tools and training, without figures, exercises and command lines."""
    paths = sorted((ROOT / "flux_edu").glob("*.py")) + sorted((ROOT / "flux_edu" / "train").glob("*.py"))
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return [name for name in names if not name.endswith(("__init__", "__main__"))]


def stage(names: list[str]) -> Path:
    """Everything that Sphinx reads, in build/book/source."""
    source = BOOK / "source"
    shutil.rmtree(source, ignore_errors=True)
    for folder in ("notebooks", "api", "_static"):
        (source / folder).mkdir(parents=True)
    for path in (ROOT / "docs").glob("*"):
        if path.suffix in (".css", ".js"):
            shutil.copy(path, source / "_static")
    shutil.copy(ROOT / "docs" / "conf.py", source)
    shutil.copytree(ROOT / "notebooks" / "img", source / "notebooks" / "img")
    copy_mathjax(source / "_static" / "mathjax")
    notebooks = executed(names)
    links = Links(notebooks)
    for name, notebook in notebooks.items():
        stage_notebook(name, notebook, links, source)
    for module in modules():
        title = module.removeprefix("flux_edu.")
        page = f"# {title}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n   :undoc-members:\n```\n"
        (source / "api" / f"{title}.md").write_text(page, encoding="utf-8")
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    index = index.replace("@notebooks@", "\n".join(f"notebooks/{name}" for name in names))
    index = index.replace("@modules@", "\n".join(f"api/{each.removeprefix('flux_edu.')}" for each in modules()))
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


class Page(HTMLParser):
    """What a page fetches from elsewhere, its pictures without alternative text, its ids and its links."""

    def __init__(self, text: str):
        super().__init__()
        self.fetched, self.bare, self.ids, self.links = [], [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, pairs):
        found = dict(pairs)
        self.ids.add(found.get("id"))
        if tag == "a":
            self.links.add(found.get("href") or "")
            return
        sources = [found.get(key) or "" for key in ("src", "srcset", "data", "poster")] + [found.get("href") or ""] * (
            tag == "link"
        )
        self.fetched += [each for each in sources if re.match(r"(https?:)?//", each)]
        if tag == "img" and not found.get("alt"):
            self.bare.append((found.get("src") or "")[:60])


def faults(site: Path) -> list[str]:
    """All that is wrong with the built pages."""
    pages = {path.relative_to(site).as_posix(): Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for name, page in pages.items():
        found += [f"{name} fetches {each}" for each in page.fetched]
        found += [f"{name} has a picture without alternative text: {each}" for each in page.bare]
    for css in site.rglob("*.css"):
        far = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", css.read_text("utf-8", errors="replace"))
        found += [f"{css.relative_to(site)} fetches {each}" for each in far]
    built = {name.removeprefix("notebooks/").removesuffix(".html") for name in pages if name.startswith("notebooks/")}
    for number, (_, functions) in equations().items():
        for notebook, _ in tags().get(number, []):
            if notebook not in built:
                continue
            chapter = pages[f"notebooks/{notebook}.html"]
            if label(number) not in chapter.ids:
                found.append(f"Eq. ({number}) has no place in {notebook}")
            for function, file in functions:
                api = f"api/{file.removeprefix('flux_edu/').removesuffix('.py').replace('/', '.')}.html"
                if not any(link.endswith(f"{api}#flux_edu.{function}") for link in chapter.links):
                    found.append(f"{notebook} does not link {function} at Eq. ({number})")
                if not any(link.endswith(f"notebooks/{notebook}.html#{label(number)}") for link in pages[api].links):
                    found.append(f"{api} does not link Eq. ({number})")
    return found


def main(names: list[str]) -> int:
    start = time.perf_counter()
    there = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    if unknown := [name for name in names if name not in there]:
        raise Broken(f"there is no notebook {', '.join(unknown)}; there are {', '.join(there)}")
    source, site = stage(sorted(names) or there), BOOK / "html"
    shutil.rmtree(site, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-n",
        "-W",
        "--keep-going",
        "-q",
        "-j",
        "2",
        "-d",
        BOOK / "doctrees",
        source,
        site,
    ]
    if code := subprocess.call([str(part) for part in command]):
        return code
    if found := faults(site):
        print("\n".join(found), file=sys.stderr)
        return 1
    megabytes = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    pages = len(list(site.rglob("*.html")))
    print(f"{pages} pages, {megabytes:.0f} MB, {time.perf_counter() - start:.0f} s: open {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
