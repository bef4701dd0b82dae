"""Every exercise of every notebook has a check that its solution passes and a wrong answer does not."""

import contextlib
import io
import re
from importlib import import_module

import mutation
import pytest
from readme_tables import ROOT, cells

from flux_edu.learn import check

CHAPTERS = sorted(path.stem for path in (ROOT / "flux_edu" / "exercises").glob("chapter_*.py"))
MODULES = {name[-2:]: import_module(f"flux_edu.exercises.{name}") for name in CHAPTERS}
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
NUMBERS = [number for module in MODULES.values() for number in module.CHECKS]


def told(number, answer):
    """What the reader sees, and whether the answer passed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        passed = check(number, answer)
    return printed.getvalue(), passed


def solution(number):
    return MODULES[f"{int(number.split('.')[0]):02}"].SOLUTIONS[number]


def as_yet_unwritten(*args, **kwargs):
    raise NotImplementedError


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_notebook_and_checks_name_the_same_exercises(chapter):
    sources = [cell["source"] for cell in cells(NOTEBOOKS[chapter])]
    headings = re.findall(
        r"^### Exercise (\d+\.\d+) · .+\((?:difficulty )?[●○]+, \d+ min\)", "\n".join(sources), re.MULTILINE
    )
    checked = [n for source in sources for n in re.findall(r'^check\("(\d+\.\d+)"', source, re.MULTILINE)]
    module = MODULES.get(chapter)
    assert headings == checked == (list(module.CHECKS) if module else [])
    assert module is None or set(module.SOLUTIONS) == set(module.CHECKS)
    if chapter not in ("00", "17"):  # the map and the glossary have none
        assert 2 <= len(headings) <= 4
    assert "\n".join(sources).count("<summary>Hint") >= len(headings)
    assert "\n".join(sources).count("<summary>Solution") >= len(headings)


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_stubs_are_typed_and_wait_for_the_reader(chapter):
    for cell in cells(NOTEBOOKS[chapter]):
        if cell["cell_type"] == "code" and re.search(r'^check\("', cell["source"], re.MULTILINE):
            assert re.search(r"def \w+\(.*\)\s*->", cell["source"], re.DOTALL), cell["source"]
            assert "raise NotImplementedError" in cell["source"] and '"""' in cell["source"]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_right(number):
    printed, passed = told(number, solution(number))
    assert passed and printed == f"✓ {number}  right\n", printed


@pytest.mark.parametrize("number", NUMBERS)
def test_an_unwritten_answer_is_told_what_to_do(number):
    printed, passed = told(number, as_yet_unwritten)
    assert not passed and "not written yet" in printed


@pytest.mark.parametrize("number", NUMBERS)
def test_a_nearly_right_answer_is_wrong(number):
    """1 % too large; an answer that is not made of floats comes back as nothing at all."""
    printed, passed = told(number, mutation.perturbed(solution(number)))
    if passed:  # whole numbers, names, yes or no: perturbing changed nothing
        printed, passed = told(number, lambda *args, **kwargs: None)
    assert not passed and printed.startswith("✗"), printed
