"""environment.yml asks conda for what pyproject.toml asks pip for. conda itself is not run: its file is parsed here."""

import platform
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import run

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}  # whatever has another name on conda-forge
environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
specs = [rattler.MatchSpec(each) for each in environment["dependencies"] if isinstance(each, str)]


def bounds(name):
    """What pyproject.toml allows of a package of conda's; pip comes with every Python."""
    if name == "python":
        return SpecifierSet(project["requires-python"])
    bounds = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    return bounds[CONDA_NAMES.get(name, name)]


def test_only_conda_forge_is_asked():
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_pip_installs_the_package_itself_and_nothing_else():
    [pip] = [each for each in environment["dependencies"] if isinstance(each, dict)]
    assert pip == {"pip": ["-e .[dev]"]}
    assert "pip" in {spec.name.normalized for spec in specs}, "conda warns unless pip is named"


@pytest.mark.parametrize("spec", [spec for spec in specs if spec.name.normalized != "pip"], ids=str)
def test_bounds_are_those_of_pyproject(spec):
    name = spec.name.normalized
    assert SpecifierSet(str(spec.version)) == bounds(name)


@pytest.mark.parametrize("name", [spec.name.normalized for spec in specs if spec.version is not None])
def test_the_tested_version_satisfies_them(name):
    [spec] = [each for each in specs if each.name.normalized == name]
    tested = run.TORCH.partition("==")[2] if name == "pytorch" else platform.python_version()
    assert rattler.VersionSpec(str(spec.version)).matches(rattler.Version(tested))
    assert tested in bounds(name)


@pytest.mark.parametrize("wrong", ["pytorch >=>2", "python >=3.11,<<4"])
def test_a_specification_that_conda_would_refuse_is_refused_here(wrong):
    with pytest.raises(Exception, match="parse|invalid|more than"):
        rattler.MatchSpec(wrong)


def test_torch_is_the_version_that_run_py_pins():
    tested = run.TORCH.partition("==")[2]
    assert version("torch").partition("+")[0] == tested
    assert f"# {tested} is the version tested" in (ROOT / "pyproject.toml").read_text("utf-8")


def test_every_requirement_has_an_upper_bound():
    extras = [each for group in project["optional-dependencies"].values() for each in group]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name != "flux-edu":
            assert re.search(r"<|==", str(requirement.specifier)), f"{requirement} may become anything"
