"""What a question is: choices, and an experiment that decides between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)  # two questions are never the same one
class Question:
    """A question to guess at. Its right answer is not written down: `measure` runs the experiment that finds it.

    `choices` maps an answer to what must hold of the measured number; the margins are wide, so that other weights of
    the tiny model do not change an answer.
    """

    section: str  # the heading under which the notebook explains it
    text: str
    choices: Mapping[str, Callable[[float], bool]]
    measure: Callable[[], float]
    result: str  # a sentence with {} in place of the measured number
    why: str
