"""What an entry of the errata is, and how its two forms are put to the test."""

import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number

import torch
from IPython.display import Code, display
from torch import Tensor

VERDICTS = ("wrong", "imprecise", "missing", "out of date", "right")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """A quantity as the notes have it and as it is: `notes_form` must miss `expected`, `right_form` must give it.

    expected is a number, a word or a row of them that neither form computed. Where the verdict is "right", both forms
    must give it. speaker is whose form the first one is: the notes' own, the reference's, or "a guess" where the notes
    are silent and a reader would fill something in.
    """

    what: str
    notes_form: Callable[[], object]
    right_form: Callable[[], object]
    expected: object
    uses: tuple[Callable, ...] = ()  # helpers of both forms that a reader should see
    speaker: str = "the notes"


@dataclass(frozen=True)
class Erratum:
    """One statement of the notes: where it stands, what it says, whether that holds, and what does.

    quote is as it stands in the notes, between `backticks` if it is code and $dollars$ if it is a formula. section is
    (notebook, heading) of the place that treats it. A verdict in words has no check and names its source instead.
    figure is a question and the line of code that draws the answer.
    """

    number: int
    part: str
    topic: str
    quote: str
    verdict: str
    right: str
    equations: tuple[str, ...] = ()
    section: tuple[str, str] | None = None
    check: Check | None = None
    source: str = ""
    figure: tuple[str, str] | None = None


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


def evaluate(erratum: Erratum) -> tuple[object, object]:
    """The value of the notes' form and of the right form, each from the same random numbers; raises unless the verdict
    holds."""
    check, values = erratum.check, []
    for form in (check.notes_form, check.right_form):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(erratum.number)
            values.append(plain(form()))
    notes, right = values
    assert agrees(right, check.expected), f"No. {erratum.number}: the right form gives {right}, not {check.expected}"
    assert agrees(notes, check.expected) == (erratum.verdict == "right"), (
        f"No. {erratum.number} is called {erratum.verdict!r}, but the notes' form gives {notes}"
    )
    return notes, right


def source_of(check: Check) -> str:
    """Both forms as they run, the notes' above, below what they share."""
    functions = (*check.uses, check.notes_form, check.right_form)
    return "\n".join(textwrap.dedent(inspect.getsource(each)) for each in functions)


def show_check(erratum: Erratum) -> None:
    """Display both forms, what they give, each under its speaker, and the verdict."""
    check = erratum.check
    if check is None:
        print(f"No. {erratum.number} is a matter of words; the source is {erratum.source}")
        return
    display(Code(source_of(check).strip(), language="python"))
    notes, right = evaluate(erratum)
    rows = [(check.speaker, notes), ("right", right)]
    marks = ["✓" if agrees(value, check.expected) else "✗" for _, value in rows]
    print(f"{check.what}: {readable(check.expected)}")
    for (name, value), mark in zip(rows, marks, strict=True):
        print(f"  {mark} {name:<13} {readable(value)}")
    print(f"No. {erratum.number}, {erratum.topic}: {erratum.verdict}")
