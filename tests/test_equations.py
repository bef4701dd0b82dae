"""Every equation has one number, one function, one notebook section and a test that notices when it is wrong."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import mutation
import pytest
import tables
from tables import ROOT, equations, tags

CONTROL = ("1.1", "rope.rope")  # the tests of a number, with a function wrong that has nothing to do with it
NAMED = [(number, function) for number, (_, functions) in equations().items() for function, _ in functions]


def docstrings():
    """The numbers with which a line of some docstring of the package begins, as `Eq. (number):`."""
    numbers = set()
    for path in (ROOT / "flux_edu").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                numbers.update(re.findall(r"^Eq\. \((\d+\.\d+)\):", ast.get_docstring(node) or "", re.MULTILINE))
    return numbers


def in_order(numbers):
    return sorted(numbers, key=lambda number: tuple(map(int, number.split("."))))


def named(name):
    """The function or class that the table calls `schedule.time_shift`, and what it is defined in."""
    module, *rest = mutation.find(name)
    owner = thing = import_module(module)
    for part in rest:
        owner, thing = thing, getattr(thing, part)
    return thing, owner


# ---------------------------------------------------------------- the four sets


def test_no_number_is_an_orphan():
    places = {
        "docs/EQUATIONS.md": set(equations()),
        "a notebook": set(tags()),
        "a docstring": docstrings(),
        "a test": set(tables.marked_files()),
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
def test_the_function_of_the_table_carries_the_number(number, function):
    thing, owner = named(function)
    assert (
        dict(equations()[number][1])[function]
        == Path(inspect.getsourcefile(inspect.unwrap(thing))).relative_to(ROOT).as_posix()
    ), f"docs/EQUATIONS.md links {function} to another file"
    docstring = (thing.__doc__ or "") + (owner.__doc__ if isinstance(owner, type) else "")
    assert f"({number})" in docstring, f"the docstring of {function} does not name ({number})"


def test_the_links_of_the_tables_are_true():
    full, readme = ((ROOT / name).read_text("utf-8") for name in ("docs/EQUATIONS.md", "README.md"))
    assert full == tables.FULL_ROW.sub(tables.full_row, full), "run `python docs/make/tables.py`"
    assert readme == tables.filled(readme), "run `python docs/make/tables.py`"


# ---------------------------------------------------------------- the tests bite


@pytest.mark.parametrize(("number", "function"), NAMED)
def test_a_wrong_function_fails_a_test_of_its_number(number, function, capsys):
    """That they pass with the true function shows where they stand themselves."""
    code = mutation.exit_code(number, function)
    assert code != pytest.ExitCode.NO_TESTS_COLLECTED, f"no test is marked with ({number})"
    assert code != pytest.ExitCode.OK, f"{function} was 1 % too large, and every test marked with ({number}) passed"
    assert code == pytest.ExitCode.TESTS_FAILED, f"the tests of ({number}) did not run:\n{capsys.readouterr().out}"


def test_a_wrong_function_of_another_equation_fails_none():
    assert mutation.exit_code(*CONTROL) == pytest.ExitCode.OK


def names():
    return {(module.__name__, name): value for module in mutation.modules() for name, value in vars(module).items()}


@pytest.mark.parametrize("function", ["schedule.time_shift", "model.Flux.conditioning", "attention.QKNorm"])
def test_nothing_stays_wrong(function):
    def current():
        thing = named(function)[0]
        return thing.forward if isinstance(thing, type) else thing

    before, true = names(), current()
    with mutation.mutant(function):
        assert current() is not true
    assert current() is true and all(value is before[name] for name, value in names().items())
