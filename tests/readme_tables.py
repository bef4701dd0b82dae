"""README's two tables, read by tests and brought up to date by `python tests/readme_tables.py`.

Of the equations' table a person writes number, equation and functions; the links to notebook sections and tests follow
from the notebooks' \\tag and the tests' marks. Of the notebooks' table a person writes what one learns; the minutes are
those that the notebook names, seconds and memory those of the last `.ci/run`, which leaves them in build/executed
(`python run.py test` runs two notebooks at a time: what each took then is not written down). README.zh.md has the same
tables: of each row it keeps the translated column and takes all else from README.md, with the English words where a
translation is missing (tests/test_readme_zh.py then names the row).
"""

import json
import re
from functools import cache
from pathlib import Path

import mutation

ROOT = Path(__file__).parents[1]
NUMBER = r"(\d+\.\d+)"
EQUATION = re.compile(rf"^\| {NUMBER} \| (.+) \| (.+) \| (.*) \| (.*) \|$", re.MULTILINE)
NOTEBOOK = re.compile(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \| (.+) \| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)
LINK = re.compile(r"\[`?([^`\]]+)`?\]\(([^)]+)\)")
MAP = re.compile(r"^( *[\w./]+) {2,}(.+?)(?: {2,}(Eq\. .+))?$", re.MULTILINE)
MAP_BLOCK = re.compile(r"```\nREADME\.md.*?```", re.DOTALL)


@cache
def equations() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Number → (equation, functions as (name, file))."""
    rows = EQUATION.findall((ROOT / "README.md").read_text("utf-8"))
    found = {number: (equation, LINK.findall(functions)) for number, equation, functions, _, _ in rows}
    assert len(found) == len(rows), "README has two rows for one number"
    return found


def cells(path: Path) -> list[dict]:
    """A notebook's cells, each source as one string."""
    found = json.loads(path.read_text("utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


@cache
def tags() -> dict[str, list[tuple[str, str]]]:
    """Number → (notebook, heading above) wherever a formula carries it as \\tag{number}."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        heading = ""
        for cell in cells(path):
            if cell["cell_type"] != "markdown":
                continue
            for line in cell["source"].splitlines():
                heading = line.lstrip("# ").strip() if re.match(r"#{1,3} ", line) else heading
                for number in re.findall(rf"\\tag\{{{NUMBER}\}}", line):
                    found.setdefault(number, []).append((path.stem, heading))
    return found


def filled(readme: str) -> str:
    """The text of README with all that follows from the repository's own files."""

    def equation(row: re.Match) -> str:
        number, formula, functions, _, _ = row.groups()
        places = tags().get(number, [])
        sections = [f"[{name[:2]}](notebooks/{name}.ipynb#{heading.replace(' ', '-')})" for name, heading in places]
        files = [path.relative_to(ROOT).as_posix() for path in mutation.marked_files().get(number, [])]
        tests = [f"[{Path(file).stem.removeprefix('test_')}]({file})" for file in files]
        return f"| {number} | {formula} | {functions} | {', '.join(sections)} | {', '.join(tests)} |"

    def notebook(row: re.Match) -> str:
        name, learned, minutes, *measured = row.groups()
        path = ROOT / "notebooks" / f"{name}.ipynb"
        if path.exists() and (told := re.search(r"\*\*About (\d+) minutes", cells(path)[0]["source"])):
            minutes = f"{told[1]} min"
        return f"| [{name}](notebooks/{name}.ipynb) | {learned} | {minutes} | {' | '.join(measured)} |"

    return NOTEBOOK.sub(notebook, EQUATION.sub(equation, readme))


def measured(readme: str) -> str:
    """The text of README with seconds and memory of the notebooks that were executed last."""

    def notebook(row: re.Match) -> str:
        executed = ROOT / "build" / "executed" / f"{row[1]}.ipynb"
        if not executed.exists():
            return row[0]
        metadata = json.loads(executed.read_text("utf-8"))["metadata"]
        if not metadata.get("alone", True):
            return row[0]
        memory = f"{metadata['peak_mb'] / 1000:.1f} GB" if metadata.get("peak_mb") else row[5]
        return (
            f"| [{row[1]}](notebooks/{row[1]}.ipynb) | {row[2]} | {row[3]} | {metadata['seconds']:.0f} s | {memory} |"
        )

    return NOTEBOOK.sub(notebook, readme)


def mirrored(chinese: str, english: str) -> str:
    """README.zh.md with the rows of README.md's tables and map, the translated column its own."""
    notebooks = {row[0]: row[1] for row in NOTEBOOK.findall(chinese)}
    formulas = {row[0]: row[1] for row in EQUATION.findall(chinese)}
    files = {row[0]: row[1] for row in MAP.findall(MAP_BLOCK.search(chinese)[0])}
    for pattern, words in ((NOTEBOOK, notebooks), (EQUATION, formulas)):
        rows = [
            row[0].replace(f" | {row[2]} | ", f" | {words.get(row[1], row[2])} | ", 1)
            for row in pattern.finditer(english)
        ]
        first, *_, last = pattern.finditer(chinese)
        chinese = chinese[: first.start()] + "\n".join(rows) + chinese[last.end() :]
    lines = [
        f"{row[1]:27}{files.get(row[1], row[2])}{f'  {row[3]}' if row[3] else ''}"
        for row in MAP.finditer(MAP_BLOCK.search(english)[0])
    ]
    block = "\n".join(["```", *lines, "```"])
    return MAP_BLOCK.sub(lambda _: block, chinese)


if __name__ == "__main__":
    path, path_zh = ROOT / "README.md", ROOT / "README.zh.md"
    path.write_text(measured(filled(path.read_text("utf-8"))), encoding="utf-8")
    path_zh.write_text(mirrored(path_zh.read_text("utf-8"), path.read_text("utf-8")), encoding="utf-8")
