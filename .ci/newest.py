"""Every test with the newest version of every library, whatever pyproject.toml's upper bounds say.

python .ci/newest.py [options]    make build/newest and run pytest in it; options go to pytest

What fails here will fail for readers once a bound is lifted: mend it, then lift the bound. What passes can be lifted.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import run  # noqa: E402  it lies at the root


def lifted(requirement):
    """A requirement without what keeps new versions out: "einops>=0.8,<0.9" becomes "einops>=0.8"."""
    name, bounds = re.fullmatch(r"([\w.\[\],-]+?)((?:[<>=!~].*)?)", requirement.replace(" ", "")).groups()
    lower = [bound for bound in bounds.split(",") if bound.startswith(">")]
    return name + ",".join(lower)


def wanted():
    """All that pyproject.toml names, extras of its own excepted, each once and lifted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for group in project["optional-dependencies"].values() for each in group]
    names = [each for each in project["dependencies"] + extras if not each.startswith(project["name"])]
    return sorted({lifted(each) for each in names})


def main(options):
    run.VENV = ROOT / "build" / "newest"
    pip = [run.venv_python(), "-m", "pip", "install"]  # into an empty place, so that everything is the newest
    cpu = ["--index-url", run.CPU_INDEX] if run.wants_cpu_wheel() else []
    steps = [
        [sys.executable, "-m", "venv", "--clear", run.VENV],
        [*pip, *cpu, "torch"],
        [*pip, "--only-binary=:all:", "hatchling", *[each for each in wanted() if not each.startswith("torch>")]],
        [*pip, "--no-deps", "-e", "."],
        [run.venv_python(), "-m", "pip", "list"],
        [run.venv_python(), "-m", "pytest", "--nbmake", *options],
    ]
    return next((code for code in map(run.call, steps) if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
