"""The book in Chinese: what is to be translated, the catalogues, and the translated texts.

python docs/translation.py      bring the catalogues up to date with the English texts, and say what is to be done

A catalogue, docs/locale/zh_CN/NAME.po, has a message for each paragraph of a page, or for each text of the live map. A
paragraph that has changed since it was translated is marked "fuzzy": until somebody has looked at it, its page shows
the English one. Formulas, links, code and numbers must be the same in both languages (`differences`).
"""

import ast
import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from flux_edu.teaching.exercises import chapter  # noqa: E402
from flux_edu.teaching.language import translate_numbers  # noqa: E402

LOCALE = ROOT / "docs" / "locale" / "zh_CN"
CHAPTERS = ["00_map", "01_schedule", "02_patchify", "03_rope", "04_double_stream", "05_single_stream", "06_sampling"]
SOURCES = {  # a catalogue and what it translates
    **{name: [f"notebooks/{name}.ipynb"] for name in CHAPTERS},
    "QUESTIONS": ["docs/QUESTIONS.md"],
    "WHAT_FLUX_IS_NOT": ["docs/WHAT_FLUX_IS_NOT.md"],
    "start": ["docs/start.md"],
    "live_map": ["docs/live_map/index.html", "docs/live_map/words.js"],
    "panels": [],  # what the package says in these chapters: panel_texts
    "pictures": [],  # their alternative texts: picture_texts
}

# ---------------------------------------------------------------- texts in a file

SEPARATOR = re.compile(r"(^```.*?^```$|^\$\$.*?\$\$$|\n{2,})", re.MULTILINE | re.DOTALL)  # of Markdown's paragraphs
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')  # of JavaScript
SCRIPT = re.compile(r"(<script.*?</script>|<pre.*?</pre>)", re.DOTALL)  # what is code in it
SHOWN = re.compile(r'(?<=>)[^<>]+(?=<)|(?<=aria-label=")[^"]+|(?<=name="description" content=")[^"]+')  # of a page

CODE = re.compile(r"`[^`]+`")
FORMULA = re.compile(r"\$[^$]+\$")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")
NAME = re.compile(r"\{[\w:.]*\}|</?\w[^>]*>|@[a-z ]+@")  # filled in later, or a tag
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])(\d+(?:,\d{3})*(?:\.\d+)?)[\s-]*(million|billion|万|亿)?")
MONTHS = "January February March April May June July August September October November December".split()
MONTH = re.compile(rf"\b({'|'.join(MONTHS)})\b(?= \d{{4}})")  # Chinese counts them
UNITS = {"": 1, "million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8}


def replace(text: str, suffix: str, new: Callable[[str], str]) -> str:
    """A file's text with `new` of every text in it that is to be translated."""
    if suffix == ".js":
        return STRING.sub(lambda literal: json.dumps(chosen(json.loads(literal[0]), new), ensure_ascii=False), text)
    if suffix == ".html":
        parts = SCRIPT.split(text)
        parts[::2] = [SHOWN.sub(lambda shown: chosen(shown[0], new), part) for part in parts[::2]]
        return "".join(parts)
    parts = SEPARATOR.split(text)
    parts[::2] = [chosen(part, new) for part in parts[::2]]
    return "".join(parts)


def chosen(text: str, new: Callable[[str], str]) -> str:
    """`new` of what has words; white space around it, formulas alone and tags alone stay."""
    words = text.strip()
    bare = LINK.sub("]", CODE.sub("", FORMULA.sub("", NAME.sub("", words))))
    return text.replace(words, new(words)) if re.search(r"[A-Za-z]{2}", bare) else text


def pieces(path: str) -> list[str]:
    """The texts of a file that hold what is to be translated: its own, or those of a notebook's cells."""
    text = (ROOT / path).read_text("utf-8")
    if not path.endswith(".ipynb"):
        return [text]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]


def kind(path: str) -> str:
    return Path(path).suffix.replace(".ipynb", ".md")


def messages(name: str) -> dict[str, None]:
    """The English texts of a catalogue, in order, each once."""
    if name == "panels":
        return dict.fromkeys(panel_texts())
    if name == "pictures":
        return dict.fromkeys(picture_texts())
    texts: dict[str, None] = {}
    for path in SOURCES[name]:
        for piece in pieces(path):
            replace(piece, kind(path), lambda text: texts.setdefault(text) or text)
    return texts


def panel_texts() -> Iterator[str]:
    """What panels, exercises and questions of the chapters say: labels of controls, diagnoses, choices, results."""
    for path in [*sorted((ROOT / "flux_edu" / "teaching").rglob("*.py")), ROOT / "docs" / "panels.py"]:
        for call in calls(path.read_text("utf-8"), "translate"):
            yield from (part.value for part in call.args if isinstance(part, ast.Constant))
    for name in CHAPTERS:
        for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]:
            for call in calls("".join(cell["source"]), "explore") if cell["cell_type"] == "code" else ():
                yield from (keyword.arg.replace("_", " ") for keyword in call.keywords if keyword.arg)
    yield from re.findall(r'\bsay\("([^"]+)"', (ROOT / "docs" / "paint.js").read_text("utf-8"))
    for name in CHAPTERS[1:]:
        exercises = chapter(name[:2])
        for exercise in exercises.EXERCISES:
            yield from (*exercise.mistakes, exercise.advice)
        for question in exercises.QUESTIONS:
            yield from (question.text, *question.choices, question.result, question.why)


def calls(code: str, name: str) -> list[ast.Call]:
    """Every call of a function in a piece of code, in order."""
    nodes = ast.walk(ast.parse(code))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


def picture_texts() -> list[str]:
    """The alternative texts of what the executed chapters show and draw, with {0}, {1} … in place of numbers."""
    alts, patterns = [], []
    for name in CHAPTERS:
        notebook = json.loads((ROOT / "build" / "executed" / f"{name}.ipynb").read_text("utf-8"))
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                page = "".join(output.get("data", {}).get("text/html", ""))
                alts += [html.unescape(alt) for alt in re.findall(r'<img[^>]* ?alt="([^"]*)"', page)]
        alts += [move["alt"] for panel in notebook["metadata"].get("sweep", []) for move in panel["moves"]]
    for alt in alts:
        translate_numbers(alt, lambda pattern: patterns.append(pattern) or pattern)
    return patterns


# ---------------------------------------------------------------- catalogues


def read(name: str) -> Catalog:
    path = LOCALE / f"{name}.po"
    return read_po(BytesIO(path.read_bytes()), "zh_CN") if path.exists() else Catalog("zh_CN")


def update(name: str, texts: Iterable[str]) -> None:
    """Bring a catalogue up to date: what is new has no translation, what is like an old text gets that one, fuzzy."""
    template, catalogue, file = Catalog(), read(name), BytesIO()
    for text in texts:
        template.add(text)
    catalogue.update(template, update_header_comment=False)
    catalogue.obsolete.clear()
    catalogue.header_comment = f"# {name} in Chinese; see docs/translation.py"
    write_po(file, catalogue, width=110, no_location=True)
    lines = file.getvalue().decode().splitlines(keepends=True)
    dated = ('"POT-Creation-Date', '"PO-Revision-Date', '"Last-Translator', '"Language-Team', '"Generated-By')
    LOCALE.mkdir(parents=True, exist_ok=True)
    (LOCALE / f"{name}.po").write_text("".join(line for line in lines if not line.startswith(dated)), encoding="utf-8")


@cache
def translations(name: str) -> dict[str, str]:
    """English → Chinese, of what is current."""
    return {message.id: message.string for message in read(name) if message.id and message.string and not message.fuzzy}


# ---------------------------------------------------------------- what must be the same


def differences(english: str, chinese: str) -> list[str]:
    """What of code, formulas, links, names in braces and numbers stands in one of them alone."""
    found = []
    for pattern in (CODE, FORMULA, LINK, NAME):
        here, there = (set(pattern.findall(text)) for text in (english, chinese))
        found += [str(one) for one in sorted(here ^ there, key=str)]
        english, chinese = pattern.sub(" ", english), pattern.sub(" ", chinese)
    here, there = (
        {f"{float(digits.replace(',', '')) * UNITS[unit]:.12g}" for digits, unit in NUMBER.findall(text)}
        for text in (MONTH.sub(lambda month: f"{MONTHS.index(month[0]) + 1} ", english), chinese)
    )
    return found + sorted(here ^ there)


def main() -> None:
    for name in SOURCES:
        texts = messages(name)
        update(name, texts)
        translations.cache_clear()
        done = translations(name)
        print(f"{name}: {sum(text in done for text in texts)} of {len(texts)} paragraphs")
        for text, chinese in done.items():
            for difference in differences(text, chinese):
                print(f"  {difference!r} stands in one language alone: {text[:60]!r}")


if __name__ == "__main__":
    sys.exit(main())
