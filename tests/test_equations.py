"""Every equation has one number, one function, one notebook section and a test that notices when it is wrong."""

import ast
import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import mutation
import pytest
import readme_tables
from readme_tables import ROOT, equations, tags

CONTROL = ("1.1", "rope.rope")  # the tests of a number, with a function wrong that has nothing to do with it
NAMED = [(number, function) for number, (_, functions) in equations().items() for function, _ in functions]


def docstrings():
    """The numbers with which a line of some docstring of the package begins, as `Eq. (number):`."""
    found = set()
    for path in (ROOT / "flux_edu").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.update(re.findall(r"^Eq\. \((\d+\.\d+)\):", ast.get_docstring(node) or "", re.MULTILINE))
    return found


def in_order(numbers):
    return sorted(numbers, key=lambda number: tuple(map(int, number.split("."))))


def named(name):
    """The function or class that README calls `schedule.time_shift`, and what it is defined in."""
    module, *rest = mutation.find(name)
    owner = thing = import_module(module)
    for part in rest:
        owner, thing = thing, getattr(thing, part)
    return thing, owner


# ---------------------------------------------------------------- the four sets


def test_no_number_is_an_orphan():
    """A chapter whose notebook is not written yet has functions and tests only: README says so below its table."""
    written = {int(path.name[:2]) for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    waiting = {number for number in equations() if int(number.split(".")[0]) not in written}
    places = {
        "README's table": set(equations()),
        "a notebook": set(tags()) | waiting,
        "a docstring": docstrings(),
        "a test": set(mutation.marked_files()),
    }
    orphans = [
        f"({number}) stands in {' and '.join(has)}, but not in {' nor in '.join(set(places) - set(has))}"
        for number in in_order(set().union(*places.values()))
        if len(has := [place for place, numbers in places.items() if number in numbers]) < len(places)
    ]
    assert not orphans, "\n".join(orphans)
    assert {*map(str, range(1, 7))} <= {number.split(".")[0] for number in equations()}


def test_every_formula_stands_once():
    twice = {number: places for number, places in tags().items() if len(places) > 1}
    assert not twice, f"numbers with two \\tag: {twice}"


@pytest.mark.parametrize(("number", "function"), NAMED)
def test_the_function_of_the_readme_carries_the_number(number, function):
    thing, owner = named(function)
    assert (
        dict(equations()[number][1])[function]
        == Path(inspect.getsourcefile(inspect.unwrap(thing))).relative_to(ROOT).as_posix()
    ), f"README links {function} to another file"
    told = (thing.__doc__ or "") + (owner.__doc__ if isinstance(owner, type) else "")
    assert f"({number})" in told, f"the docstring of {function} does not name ({number})"


def test_the_links_of_the_readme_are_true():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme == readme_tables.filled(readme), "run `python tests/readme_tables.py`"


# ---------------------------------------------------------------- the tests bite


@pytest.fixture(scope="module")
def mutants():
    """(number, function) → what its marked tests say when the function is 1 % wrong; ("true", "") when none is."""
    jobs = [[mutation.TRUE, ""], CONTROL, *NAMED]
    command = [sys.executable, mutation.__file__, json.dumps(jobs)]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=1200)
    assert run.returncode == 0, run.stderr
    results = map(json.loads, run.stdout.splitlines())
    return {(result["number"], result["function"]): result for result in results}


def test_marked_tests_pass_with_the_true_functions(mutants):
    true = mutants[mutation.TRUE, ""]
    assert true["exit"] == 0, true["printed"]


def test_a_wrong_function_of_another_equation_fails_none(mutants):
    assert mutants[CONTROL]["exit"] == 0, mutants[CONTROL]["printed"]


@pytest.mark.parametrize(("number", "function"), NAMED)
def test_a_wrong_function_fails_a_test_of_its_number(number, function, mutants):
    result = mutants[number, function]
    assert result["exit"] != 5, f"no test is marked with ({number})"
    assert result["exit"] != 0, f"{function} was 1 % too large, and every test marked with ({number}) passed"
    assert result["exit"] == 1, f"the tests of ({number}) did not run:\n{result['printed']}"
