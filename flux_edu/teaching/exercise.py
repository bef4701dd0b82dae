"""Check a reader's answer to an exercise."""

from collections.abc import Callable
from importlib import import_module


def check(number: str, answer: Callable) -> bool:
    """Try the reader's function for exercise `number`; say whether it is right, and if not what the likely mistake is.

    The checks stand in `exercises`, a file a chapter: `CHECKS["1.2"]` raises AssertionError with the diagnosis.
    """
    chapter = import_module(f"flux_edu.teaching.exercises.chapter_{int(number.split('.')[0]):02}")
    if number not in chapter.CHECKS:
        raise ValueError(f"there is no exercise {number}; this chapter has {', '.join(chapter.CHECKS)}")
    try:
        chapter.CHECKS[number](answer)
    except NotImplementedError:
        print(f"○ {number}  not written yet: replace the line that raises NotImplementedError, then run the cell again")
    except AssertionError as diagnosis:
        print(f"✗ {number}  {diagnosis}")
    except Exception as error:
        print(f"✗ {number}  your function stopped with {type(error).__name__}: {error}")
    else:
        print(f"✓ {number}  right")
        return True
    return False
