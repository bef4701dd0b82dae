"""What keeps this alive: bounds, the weekly run with the newest of everything, warnings as errors."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("newest", ROOT / ".ci" / "newest.py")
newest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(newest)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))


@pytest.mark.parametrize(
    ("bounded", "free"),
    [
        ("einops>=0.8,<0.9", "einops>=0.8"),
        ("ruff==0.17.6", "ruff"),
        ("huggingface_hub >=1, <3", "huggingface_hub>=1"),
        ("resvg-py>=0.5,<0.6", "resvg-py>=0.5"),
        ("accelerate", "accelerate"),
        ("some-thing[with,extras]>=2,!=2.1,<3", "some-thing[with,extras]>=2"),
    ],
)
def test_upper_bounds_are_lifted(bounded, free):
    assert newest.lifted(bounded) == free


def test_every_library_is_asked_for_once_and_without_an_upper_bound():
    requirements = [Requirement(each) for each in newest.wanted()]
    names = {each.name for each in requirements}
    assert {"torch", "transformers", "pytest", "jupyterlab", "diffusers"} <= names and "flux-edu" not in names
    assert len({str(each) for each in requirements}) == len(names)
    assert not re.search(r"<|==|~=", " ".join(map(str, requirements)))


def test_a_failing_step_ends_it_with_its_exit_code(monkeypatch):
    made = []

    def call(command):
        made.append([str(part) for part in command])
        return 3 if "--no-deps" in command else 0

    monkeypatch.setattr(newest.run, "call", call)
    monkeypatch.setattr(newest.run, "VENV", newest.run.VENV)  # put back afterwards
    monkeypatch.setattr(newest.run, "wants_cpu_wheel", lambda: True)
    assert newest.main(["-q"]) == 3
    assert len(made) == 4 and newest.run.CPU_INDEX in made[1] and str(Path("build", "newest")) in made[1][0]


def test_github_runs_it_every_week():
    text = workflow("rot.yml")
    on = text.get("on", text.get(True))  # YAML 1.1 reads the key `on` as true
    [cron] = on["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", cron["cron"]) and "workflow_dispatch" in on
    assert {"run": "python .ci/newest.py"} in text["jobs"]["libraries"]["steps"]
    [conda] = [step for step in text["jobs"]["conda"]["steps"] if "conda" in step.get("uses", "")]
    assert (ROOT / conda["with"]["environment-file"]).exists()


def test_every_change_is_checked_by_the_command_that_readers_are_given():
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert '"$python" run.py test' in lines and "python run.py test   " in (ROOT / "README.md").read_text("utf-8")
    assert {"run": "bash .ci/run"} in workflow("ci.yml")["jobs"]["everything"]["steps"]


def test_what_the_workflows_run_exists():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for name in re.findall(r"[\w./]+\.(?:py|ipynb|sh)\b|\.ci/run", path.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{path.name} runs {name}"


def test_warnings_are_errors_and_no_test_takes_that_back():
    assert PYPROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    for path in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^pytestmark = pytest\.mark\.filterwarnings", path.read_text("utf-8"), re.M), path.name
