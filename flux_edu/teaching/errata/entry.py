"""How a statement of the reading notes is put to the test: its form, the right one, and a value for both."""

import inspect
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number

import torch
from IPython.display import Code, display
from torch import Tensor

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """A statement of the notes put to the test: `notes_form` must miss `expected`, `right_form` must give it.

    number and verdict are those of the entry in notebook 14. expected is a number, a word or a row of them that neither
    form computed. Where the verdict is "right", both forms must give it. speaker is whose form the first one is: the
    notes' own, the reference's, or "a guess" where the notes are silent and a reader would fill something in.
    """

    number: int
    verdict: str
    what: str
    notes_form: Callable[[], object]
    right_form: Callable[[], object]
    expected: object
    uses: tuple[Callable, ...] = ()  # helpers of both forms that a reader should see
    speaker: str = "the notes"


def plain(value: object) -> object:
    """Tensors as numbers or tuples, so that values compare and print alike."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return tuple(plain(each) for each in value) if isinstance(value, list | tuple) else value


def agrees(value: object, expected: object) -> bool:
    """Equal; where a float is expected, to one part in a thousand. NaN agrees with nothing."""
    value, expected = plain(value), plain(expected)
    if isinstance(expected, tuple):
        same_length = isinstance(value, tuple) and len(value) == len(expected)
        return same_length and all(map(agrees, value, expected))
    if isinstance(expected, Number) and isinstance(value, Number) and not isinstance(expected, int):
        return math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=1e-5)
    return value == expected


def readable(value: object) -> str:
    """A value as a reader wants it: four digits, millions in groups of three."""
    value = plain(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(readable(each) for each in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and value >= 1_000_000 else str(value)


def evaluate(check: Check) -> tuple[object, object]:
    """The value of the notes' form and of the right form, each from the same random numbers; raises unless the verdict
    holds."""
    values = []
    for form in (check.notes_form, check.right_form):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check.number)
            values.append(plain(form()))
    notes, right = values
    assert agrees(right, check.expected), f"No. {check.number}: the right form gives {right}, not {check.expected}"
    assert agrees(notes, check.expected) == (check.verdict == "right"), (
        f"No. {check.number} is called {check.verdict!r}, but the notes' form gives {notes}"
    )
    return notes, right


def source_of(check: Check) -> str:
    """Both forms as they run, the notes' above, below what they share; without marks for the linter."""
    functions = (*check.uses, check.notes_form, check.right_form)
    code = "\n".join(textwrap.dedent(inspect.getsource(each)) for each in functions)
    return re.sub(r" +# (noqa|fmt): \S+", "", code)


def show_check(check: Check) -> None:
    """Display both forms, what they give, each under its speaker, and the verdict."""
    display(Code(source_of(check).strip(), language="python"))
    notes, right = evaluate(check)
    rows = [(check.speaker, notes), ("right", right)]
    marks = ["✓" if agrees(value, check.expected) else "✗" for _, value in rows]
    print(f"{check.what}: {readable(check.expected)}")
    for (name, value), mark in zip(rows, marks, strict=True):
        print(f"  {mark} {name:<13} {readable(value)}")
    print(f"No. {check.number}: {check.verdict}")
