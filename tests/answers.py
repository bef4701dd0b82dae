"""What a reader is told about an answer to an exercise, and the wrong answers that the tests of all chapters hold.

A test file keeps its wrong answers in `WRONG`: (number, answer, words of the diagnosis), or number → (answer, words).
"""

import contextlib
import io
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from flux_edu.teaching.exercise import check


def told(number: str, answer: Callable) -> str:
    """What `check` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        check(number, answer)
    return printed.getvalue()


def wrong_answers() -> dict[str, list[tuple[Callable, str]]]:
    """Number of an exercise → the wrong answers that some test file holds, each with words of its diagnosis."""
    found: dict[str, list[tuple[Callable, str]]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if re.search(r"^WRONG\b", path.read_text("utf-8"), re.MULTILINE):
            held = import_module(path.stem).WRONG
            if isinstance(held, dict):
                held = [(number, *case) for number, cases in held.items() for case in cases]
            for number, answer, words in held:
                found.setdefault(number, []).append((answer, words))
    return found
