"""Predict first: what will happen if …? Choose an answer, then let an experiment decide.

The questions stand in `exercises.questions`. No right answer is written down there: a question carries an experiment,
and every choice says what must hold of the number that the experiment gives.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import ipywidgets as W
from IPython.display import display

from flux_edu.io.advice import collect


@dataclass(frozen=True, eq=False)  # two questions are never the same one
class Question:
    """One question of a notebook: `measure` runs the experiment, `choices` maps an answer to what must hold of it."""

    notebook: str  # its number, "01"
    section: str  # the heading under which the notebook explains it
    text: str
    choices: dict[str, Callable[[float], bool]]
    said: str  # how the measured number is told, with {} in its place
    why: str
    measure: Callable[[], float]


@dataclass(frozen=True)
class Outcome:
    """What the experiment gave, and the one choice that it bears out."""

    measured: float
    right: str
    told: str


def questions(notebook: str | None = None) -> list[Question]:
    """All questions, or those of one notebook ("1" and "01" are the same)."""
    found = import_module("flux_edu.teaching.exercises.questions").QUESTIONS
    if notebook is None:
        return list(found)
    some = [question for question in found if int(question.notebook) == int(notebook)]
    if not some:
        there = ", ".join(dict.fromkeys(question.notebook for question in found))
        raise ValueError(f"there is no question for notebook {notebook}; there are some for {there}")
    return some


@cache
def run(question: Question) -> Outcome:
    """Make the experiment. Exactly one choice must fit what comes of it."""
    with collect():  # an experiment may use unusual values; the package's advice about them is not for the reader
        measured = question.measure()
    right = [choice for choice, holds in question.choices.items() if holds(measured)]
    if len(right) != 1:
        raise AssertionError(f"{question.text!r} gave {measured}, and {len(right)} of its choices hold: {right}")
    return Outcome(measured, right[0], question.said.format(measured))


class Ask(W.VBox):
    """A question with its choices and a button; the experiment runs when the button is pressed, and not before."""

    def __init__(self, question: Question):
        self.question = question
        self.guess = W.RadioButtons(
            options=list(question.choices), value=None, description="Your guess", layout=W.Layout(width="max-content")
        )
        self.guess.style.description_width = "initial"
        self.button = W.Button(description="Run the experiment", icon="play", layout=W.Layout(width="180px"))
        self.result = W.HTML()
        self.button.on_click(self._run)
        text = W.HTML(f"<b>{html.escape(question.text)}</b>")
        super().__init__([text, self.guess, self.button, self.result], layout=W.Layout(margin="0 0 1.2em 0"))

    def _run(self, _=None) -> None:
        if self.guess.value is None:
            self.result.value = '<p role="status">Choose first: a guess that turns out wrong is what one remembers.</p>'
            return
        try:
            outcome = run(self.question)
        except Exception as error:  # a callback has nobody to raise to
            told = html.escape(f"{type(error).__name__}: {error}")
            self.result.value = f'<pre role="alert" class="flux-error" style="color: #b00020">{told}</pre>'
            return
        verdict = "✓ As you said" if outcome.right == self.guess.value else f"✗ No: {outcome.right}"
        lines = [f"<b>{html.escape(verdict)}.</b> {html.escape(outcome.told)}", html.escape(self.question.why)]
        lines.append(f"<i>See “{html.escape(self.question.section.replace('`', ''))}”.</i>")
        self.result.value = f'<p role="status" style="line-height: 1.6">{"<br>".join(lines)}</p>'


def predict(notebook: str) -> None:
    """Show the questions of a notebook: choose, run, read. Nothing is computed until a button is pressed."""
    for question in questions(notebook):
        display(Ask(question))
