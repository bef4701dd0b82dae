"""Guess first: what will happen if …? Choose an answer, then let an experiment decide.

The questions stand in `exercises`, a file a chapter. No right answer is written down there: a question carries an
experiment, and every choice says what must hold of the number that the experiment gives.
"""

import html
from dataclasses import dataclass
from functools import cache

import ipywidgets as W
import torch
from IPython.display import display

from flux_edu.io.advice import collect
from flux_edu.teaching.exercises import CHAPTERS, chapter
from flux_edu.teaching.exercises.question import Question
from flux_edu.teaching.language import translate


@dataclass(frozen=True)
class Outcome:
    """What the experiment gave, and the one choice that it bears out."""

    measured: float
    right: str
    sentence: str


def questions(notebook: str | int) -> list[Question]:
    """The questions of a notebook; 1, "1" and "01" are the same."""
    name = str(notebook).zfill(2)
    if name not in CHAPTERS or not chapter(name).QUESTIONS:
        there = ", ".join(name for name in CHAPTERS if chapter(name).QUESTIONS)
        raise ValueError(f"there is no question for notebook {notebook}; there are some for {there}")
    return chapter(name).QUESTIONS


@cache
@torch.no_grad()
def run(question: Question) -> Outcome:
    """Make the experiment. Exactly one choice must fit what comes of it."""
    with collect():  # an experiment may use unusual values; the package's advice about them is not for the reader
        measured = question.measure()
    right = [choice for choice, holds in question.choices.items() if holds(measured)]
    if len(right) != 1:
        raise RuntimeError(f"{question.text!r} gave {measured}, and {len(right)} of its choices hold: {right}")
    return Outcome(measured, right[0], translate(question.result).format(measured))


class Ask(W.VBox):
    """A question with its choices and a button; the experiment runs when the button is pressed, and not before."""

    def __init__(self, question: Question):
        self.question = question
        self.guess = W.RadioButtons(
            options=[(translate(choice), choice) for choice in question.choices],
            value=None,
            description=translate("Your guess"),
            layout=W.Layout(width="max-content"),
        )
        self.guess.style.description_width = "initial"
        self.button = W.Button(description=translate("Run the experiment"), icon="play", layout=W.Layout(width="180px"))
        self.result = W.HTML()
        self.button.on_click(self._run)
        text = W.HTML(f"<b>{html.escape(translate(question.text))}</b>")
        super().__init__([text, self.guess, self.button, self.result], layout=W.Layout(margin="0 0 1.2em 0"))

    def _run(self, _=None) -> None:
        if self.guess.value is None:
            first = translate("Choose first: a guess that turns out wrong is what one remembers.")
            self.result.value = f'<p role="status">{first}</p>'
            return
        try:
            outcome = run(self.question)
        except Exception as error:  # a callback has nobody to raise to
            message = html.escape(f"{type(error).__name__}: {error}")
            self.result.value = f'<pre role="alert" class="flux-error" style="color: #b00020">{message}</pre>'
            return
        as_said = outcome.right == self.guess.value
        verdict = translate("✓ As you said.") if as_said else translate("✗ No: {}.").format(translate(outcome.right))
        see = translate("See “{}”.").format(translate(self.question.section).replace("`", ""))
        lines = [f"<b>{html.escape(verdict)}</b> {html.escape(outcome.sentence)}"]
        lines += [html.escape(translate(self.question.why)), f"<i>{html.escape(see)}</i>"]
        self.result.value = f'<p role="status" style="line-height: 1.6">{"<br>".join(lines)}</p>'


def quiz(notebook: str | int) -> None:
    """Show the questions of a notebook: choose, run, read. Nothing is computed until a button is pressed."""
    for question in questions(notebook):
        display(Ask(question))
