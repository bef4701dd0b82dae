"""The notebooks' exercises and questions, a file a chapter: `EXERCISES` for `check`, `QUESTIONS` for `quiz`."""

from importlib import import_module
from types import ModuleType

CHAPTERS = [f"{number:02}" for number in (*range(1, 17), 18)]  # 17 is the glossary


def chapter(name: str) -> ModuleType:
    """The chapter of this number, "01"; imported when it is asked for."""
    return import_module(f"{__name__}.chapter_{name}")
