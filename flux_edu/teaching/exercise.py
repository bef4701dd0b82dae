"""Check a reader's answer to an exercise."""

from collections.abc import Callable

from flux_edu.teaching.exercises import CHAPTERS, chapter
from flux_edu.teaching.exercises.exercise import Exercise
from flux_edu.teaching.language import translate


def find(number: object) -> Exercise:
    """The exercise of this number. ValueError, with those that there are, if there is none."""
    name = str(number).partition(".")[0].zfill(2)
    if name not in CHAPTERS:
        raise ValueError(
            f'there is no exercise {number!r}: chapters 1 to {int(CHAPTERS[-1])} have some, the first one is "1.1"'
        )
    exercises = {exercise.number: exercise for exercise in chapter(name).EXERCISES}
    if number not in exercises:
        quoted = ", ".join(f'"{there}"' for there in exercises)
        raise ValueError(f"there is no exercise {number!r}: chapter {int(name)} has {quoted}, numbers in quotes")
    return exercises[number]


def check(number: object, answer: Callable) -> bool:
    """Try the reader's function for an exercise, "1.2"; say whether it is right, and if not what the likely mistake is.

    The exercises stand in `exercises`, a file a chapter.
    """
    exercise = find(number)
    try:
        diagnosis = exercise.diagnose(answer)
    except NotImplementedError:
        todo = translate("not written yet: replace the line that raises NotImplementedError, then run it again")
        print(f"○ {number}  {todo}")
        return False
    except Exception as error:
        diagnosis = translate("your function stopped with {}").format(f"{type(error).__name__}: {error}")
    print(f"✗ {number}  {diagnosis}" if diagnosis else translate("✓ {}  right").format(number))
    return diagnosis is None
