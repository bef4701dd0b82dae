"""Every exercise of every notebook has a check that its solution passes and a wrong answer does not."""

import re
from importlib import import_module

import mutation
import pytest
from answers import told, wrong_answers
from tables import ROOT, cells

CHAPTERS = sorted(path.stem for path in (ROOT / "flux_edu" / "teaching" / "exercises").glob("chapter_*.py"))
MODULES = {name[-2:]: import_module(f"flux_edu.teaching.exercises.{name}") for name in CHAPTERS}
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
NUMBERS = [number for module in MODULES.values() for number in module.CHECKS]


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
    assert told(number, solution(number)) == f"✓ {number}  right\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_an_unwritten_answer_is_told_what_to_do(number):
    assert told(number, as_yet_unwritten).startswith(f"○ {number}  not written yet")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_nearly_right_answer_is_wrong(number):
    """1 % too large; an answer that is not made of floats comes back as nothing at all."""
    printed = told(number, mutation.perturbed(solution(number)))
    if printed.startswith("✓"):  # whole numbers, names, yes or no: perturbing changed nothing
        printed = told(number, lambda *args, **kwargs: None)
    assert printed.startswith("✗"), printed


# ---------------------------------------------------------------- the audit


@pytest.fixture(scope="module")
def wrong():
    return wrong_answers()


def test_every_wrong_answer_is_one_to_an_exercise(wrong):
    assert set(wrong) <= set(NUMBERS), "the tests hold wrong answers to exercises that do not exist"


@pytest.mark.parametrize("number", NUMBERS)
def test_three_usual_mistakes_are_diagnosed_apart(number, wrong):
    """At least three wrong answers stand in the tests; each fails in the check, not by an error, with its own words."""
    assert len(wrong.get(number, [])) >= 3, "WRONG of this chapter's tests holds fewer than three"
    diagnoses = [told(number, answer).removeprefix(f"✗ {number}").strip() for answer, _ in wrong[number]]
    assert not any(each.startswith(("✓", "○")) for each in diagnoses), diagnoses
    by_name = {each for each in diagnoses if not each.startswith("your function stopped with")}
    assert len(by_name) >= 3, f"three different diagnoses, not {by_name}"
    assert all(len(each) >= 25 for each in by_name), f"a diagnosis says what to look for: {by_name}"


@pytest.mark.parametrize("chapter", [chapter for chapter in NOTEBOOKS if chapter in MODULES])
def test_an_exercise_is_whole(chapter):
    """Heading with difficulty and minutes, then the stub with its check, then a folded hint and a folded solution."""
    found = cells(NOTEBOOKS[chapter])
    stubs = [i for i, cell in enumerate(found) if re.search(r'^check\("', cell["source"], re.MULTILINE)]
    ends = [*stubs[1:], len(found)]
    for i, end in zip(stubs, ends, strict=True):
        number = re.search(r'^check\("(\d+\.\d+)"', found[i]["source"], re.MULTILINE)[1]
        assert re.search(rf"^### Exercise {re.escape(number)} · ", found[i - 1]["source"], re.MULTILINE), number
        behind = "".join(cell["source"] for cell in found[i + 1 : end])
        for what in ("Hint", "Solution"):
            folded = re.findall(rf"<details><summary>{what}</summary>\n\n(.+?)</details>", behind, re.DOTALL)
            assert len(folded) == 1 and len(folded[0].strip()) > 20, f"{number} has {len(folded)} folded {what}"
