"""Names of modules and functions that notebooks, pages and docstrings give in backticks exist."""

import pkgutil
import re
from collections import defaultdict
from importlib import import_module

import nbformat
from tables import ROOT

import flux_edu

PAGES = ["README*.md", "CONTRIBUTING.md", "docs/*.md", "flux_edu/**/*.md", "flux_edu/**/*.py", "notebooks/*.ipynb"]
DOTTED = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\([^`]*\))?`")
FILES = ("py", "md", "toml", "json", "safetensors", "c", "js", "css", "html", "yml")
TENSORS = ("weight", "bias", "alpha", "scale")
ELSEWHERE = ("torch", "F", "nn", "math", "Image", "W", "fig", "live", "out")  # libraries, names inside a cell


def test_names_of_modules_and_functions_exist():
    owners = defaultdict(list, flux_edu=[flux_edu])  # modules by their last name, classes and functions by theirs
    for info in pkgutil.walk_packages(flux_edu.__path__, "flux_edu."):
        if not info.name.endswith("__main__"):
            module = import_module(info.name)
            owners["plots" if ".plots." in info.name else info.name.split(".")[-1]].append(module)
            for name, value in vars(module).items():
                owners[name] += [value] if getattr(value, "__module__", None) == info.name else []
    unknown = []
    for path in (path for pattern in PAGES for path in sorted(ROOT.glob(pattern))):
        text = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, 4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for name in DOTTED.findall(text):
            first, *rest = name.split(".")
            if (
                rest[-1] not in FILES + TENSORS
                and first not in ELSEWHERE
                and not any(has(owner, rest) for owner in owners[first])
            ):
                unknown.append(f"{path.name}: `{name}`")
    assert not unknown, "no module, class or function of the package"


def has(owner, names):
    for name in names:
        owner = getattr(owner, name, None)
    return owner is not None
