"""What a reader installs: the package with its base requirements alone, and the wheel in a place of its own."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from flux_edu.io.images import read_metadata

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
IMPORT = """
import json, sys
absent, statements = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(absent))  # None: neither `import` nor `find_spec` finds them
failed = {}
for statement in statements:
    try:
        exec(statement, {"__name__": "notebook"})
    except ImportError as error:
        failed[statement] = str(error)
print("FAILED " + json.dumps(failed))
"""


def plain(name):
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(requirements):
    """The names of these distributions and of all that they need, as pip would install them here."""
    needed, queue = set(), [(Requirement(each), "") for each in requirements]
    while queue:
        requirement, extra = queue.pop()
        key = plain(requirement.name), *sorted(requirement.extras)
        if key in needed or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        needed.add(key)
        for chosen in ["", *requirement.extras]:
            queue += [(Requirement(each), chosen) for each in metadata.requires(requirement.name) or []]
    return {name for name, *_ in needed}


def modules_of_extras():
    """Names that can be imported here and could not be with the base requirements alone."""
    base = with_dependencies(PROJECT["dependencies"]) | {"flux-edu"}
    providers = metadata.packages_distributions()
    return sorted(name for name, places in providers.items() if not base & {plain(place) for place in places})


def imports_of(notebook):
    """Every import statement of a notebook's code cells, one name each."""
    cells = [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse("".join(cell["source"])))]
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def failures(absent, statements):
    """Which statements raise ImportError in a fresh Python where these modules are absent."""
    command = [sys.executable, "-c", IMPORT, json.dumps([absent, statements])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.rpartition("FAILED ")[2])


def test_extras_are_told_from_what_the_base_brings():
    extras = modules_of_extras()
    assert {"accelerate", "sentencepiece", "diffusers", "jupyterlab", "beartype", "pytest"} - set(extras) <= {
        "sentencepiece"  # not installed for the tests
    }
    assert not {"torch", "numpy", "transformers", "IPython", "ipywidgets", "flux_edu", "PIL"} & set(extras)


def test_every_notebook_and_every_module_imports_without_extras():
    modules = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "flux_edu").rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in modules if path.stem != "__main__")
    statements = sorted({line for notebook in NOTEBOOKS for line in imports_of(notebook)})
    assert len(statements) > 50 and len(names) > 100
    assert not failures(modules_of_extras(), statements + [f"import {name}" for name in names])


def test_a_module_that_needs_an_extra_would_be_found():
    assert set(failures(["accelerate"], ["import accelerate", "import json"])) == {"import accelerate"}


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder into which the wheel of this checkout is installed, as `pip install` would from an index."""
    folder, pip = tmp_path_factory.mktemp("wheel"), [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    local = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *local, "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", *local, "--target", folder / "elsewhere", wheel], check=True)
    return folder / "elsewhere"


def test_everything_of_the_package_is_in_the_wheel(elsewhere):
    listed = subprocess.run(["git", "ls-files", "flux_edu"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git clone: nothing says which files belong here")
    missing = [name for name in listed.stdout.splitlines() if not (elsewhere / name).is_file()]
    assert not [name for name in missing if (ROOT / name).exists()]


def test_the_wheel_paints_somewhere_else(elsewhere, tmp_path):
    [script] = (elsewhere / "bin").glob("flux-edu*")  # pip writes .exe on Windows
    options = ["sample", "a fox", "--model", "tiny-schnell", "--width", "64", "--height", "64", "--out", "fox.png"]
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    command = [script, *options] if os.name == "nt" else [sys.executable, script, *options]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert read_metadata(tmp_path / "fox.png")["model"] == "tiny-schnell"
    where = [sys.executable, "-c", "import flux_edu; print(flux_edu.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(elsewhere / "flux_edu" / "__init__.py")
