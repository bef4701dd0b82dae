"""Every question is answered by its experiment, with exactly one choice right, and stands where a reader meets it."""

import dataclasses
import re
import sys

import ipywidgets as W
import pytest
from tables import ROOT, cells

from flux_edu.teaching import quiz
from flux_edu.teaching.exercises import CHAPTERS, chapter
from flux_edu.teaching.exercises.question import Question
from flux_edu.teaching.quiz import Ask, questions, run

NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
ASKED = [f"{number:02}" for number in range(1, 13)] + ["15", "16", "18"]
QUESTIONS = [(name, question) for name in CHAPTERS for question in chapter(name).QUESTIONS]
each_question = pytest.mark.parametrize(
    ("name", "question"), [pytest.param(name, q, id=f"{name} {q.text[:40]}") for name, q in QUESTIONS]
)


@each_question
def test_the_experiment_bears_out_exactly_one_choice(name, question):
    outcome = run(question)  # raises where none or two hold
    assert outcome.right in question.choices and len(question.choices) >= 2
    assert sum(holds(outcome.measured) for holds in question.choices.values()) == 1
    assert outcome.sentence != question.result, "the answer tells what was measured"


@each_question
def test_its_section_is_in_its_notebook(name, question):
    text = "\n".join(cell["source"] for cell in cells(NOTEBOOKS[name]))
    assert re.search(rf"^#+ {re.escape(question.section)}$", text, re.MULTILINE), question.section


def test_choices_are_not_given_away_by_their_place():
    places = [list(question.choices).index(run(question).right) for _, question in QUESTIONS]
    for place in (0, 1, 2):
        assert places.count(place) >= 0.15 * len(places), places


@pytest.mark.parametrize("notebook", ASKED)
def test_a_notebook_asks_before_it_tells(notebook):
    sources = [cell["source"] for cell in cells(NOTEBOOKS[notebook])]
    assert len(questions(notebook)) >= 1
    asked = [i for i, source in enumerate(sources) if re.search(rf'^quiz\("{notebook}"\)', source, re.MULTILINE)]
    assert len(asked) == 1, f'one cell says quiz("{notebook}")'
    assert "## Predict first" in sources[asked[0] - 1]
    assert asked[0] <= 4, "near the beginning, before the sections that explain"


def test_there_are_enough_and_a_number_may_be_written_short():
    assert 20 <= len(QUESTIONS) <= 40
    assert questions("1") == questions("01") == chapter("01").QUESTIONS


@pytest.mark.parametrize("notebook", ["77", "13", 99, ""])
def test_a_notebook_without_questions_is_told_where_there_are_some(notebook):
    with pytest.raises(ValueError, match=f"no question for notebook {notebook}; there are some for 01, 02, .*, 18$"):
        quiz(notebook)


# ---------------------------------------------------------------- choose, run, see

SIMPLE = Question(
    section="a heading",
    text="1 + 1?",
    choices={"2": lambda m: m == 2, "3": lambda m: m == 3},
    measure=lambda: 2,
    result="It is {}.",
    why="Count < on.",
)


def changed(**what):
    return dataclasses.replace(SIMPLE, **what)


def answered(question, guess):
    ask = Ask(question)
    ask.guess.value = guess
    ask.button.click()
    return ask.result.value


def test_a_guess_is_compared_with_the_experiment():
    assert "✓ As you said" in answered(SIMPLE, "2")
    wrong = answered(SIMPLE, "3")
    assert "✗ No: 2" in wrong and "It is 2." in wrong and "Count &lt; on." in wrong and "a heading" in wrong


def test_nothing_runs_before_a_choice_is_made_and_the_button_pressed():
    runs = []
    question = changed(measure=lambda: runs.append(1) or 2)
    ask = Ask(question)
    ask.button.click()
    assert "Choose first" in ask.result.value and not runs
    ask.guess.value = "3"
    assert not runs
    ask.button.click()
    ask.button.click()
    assert runs == [1], "an experiment is made once"


def test_an_experiment_that_decides_nothing_is_an_error_that_is_shown():
    for measured in (4, 2):
        both = {"2": lambda m: m == 2, "2 as well": lambda m: m == 2}
        question = changed(measure=lambda m=measured: m, choices=both)
        with pytest.raises(RuntimeError, match="of its choices hold"):
            run(question)
        assert 'role="alert"' in answered(question, "2")


def test_a_quiz_shows_a_panel_a_question(monkeypatch):
    shown = []
    monkeypatch.setattr(sys.modules[Ask.__module__], "display", shown.append)
    quiz("01")
    assert [ask.question for ask in shown] == questions("01")
    for ask in shown:
        assert isinstance(ask, W.VBox) and [choice for _, choice in ask.guess.options] == list(ask.question.choices)
        assert ask.guess.value is None and ask.guess.description and ask.button.description
