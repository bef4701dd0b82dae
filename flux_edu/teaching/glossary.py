"""The words of the walkthrough in English and Chinese, with formula, notebook and name in the code; notebook 17.

The words stand in glossary.json. A test holds them against the notebooks and against the package.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from types import ModuleType


@dataclass(frozen=True)
class Word:
    """One entry: `notebook` is the number of the one that explains it, `symbol` a name inside flux_edu or empty."""

    term: str
    zh: str
    formula: str
    notebook: str
    symbol: str
    also: tuple[str, ...] = ()  # other forms of the term


@cache
def words() -> tuple[Word, ...]:
    """All entries in the order of the English terms."""
    entries = json.loads((resources.files("flux_edu.teaching") / "glossary.json").read_text("utf-8"))
    return tuple(Word(**(entry | {"also": tuple(entry.get("also", ()))})) for entry in entries)


def resolve(symbol: str) -> object:
    """The function, class or module that a symbol names, e.g. "schedule.time_shift"."""
    value: object = import_module("flux_edu")
    for name in symbol.split("."):
        if isinstance(value, ModuleType) and not hasattr(value, name):
            import_module(f"{value.__name__}.{name}")
        value = getattr(value, name)
    return value


def find(text: str = "") -> list[Word]:
    """The words whose English or Chinese form, or name in the code, contains the text."""
    text = text.lower()
    return [
        word for word in words() if any(text in form.lower() for form in (word.term, word.zh, word.symbol, *word.also))
    ]


def table(rows: list[Word] | None = None, notebooks: dict[str, str] | None = None, chinese_first: bool = False) -> str:
    """A Markdown table of words. `notebooks` maps a number to the file's name, so that numbers become links."""
    rows = list(words() if rows is None else rows)
    heads = ["term", "中文"]
    if chinese_first:
        heads.reverse()
        rows.sort(key=lambda word: word.zh)
    lines = [f"| {' | '.join(heads)} | formula | notebook | in the code |", "|---|---|---|---|---|"]
    for word in rows:
        names = [word.term, word.zh][:: -1 if chinese_first else 1]
        where = f"[{word.notebook}]({notebooks[word.notebook]})" if notebooks else word.notebook
        lines.append(
            f"| {' | '.join(names)} | {word.formula} | {where} | {f'`{word.symbol}`' if word.symbol else ''} |"
        )
    return "\n".join(lines)
