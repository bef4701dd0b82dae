"""The tables that follow from the repository's files, brought up to date by `python docs/make/tables.py`.

docs/EQUATIONS.md        a person writes number, equation and functions; the links to notebook sections and tests follow
                         from the notebooks' \\tag and the tests' marks
README.md                the notebooks: a person writes what one learns, the minutes are those that the notebook names;
                         and the hours of the ways to read
README.zh.md             README.md's table of the notebooks, the translated column its own
both READMEs             the addresses of [project.urls] in pyproject.toml, where there are some
docs/SETUP.md            seconds and memory of the notebooks in the last `.ci/run`, which leaves them in build/executed
notebooks/00_map.ipynb   what each notebook teaches, and all equations
CONTRIBUTING.md          every file: of Python files the first line of their docstring, of others what a person writes
"""

import ast
import json
import re
import subprocess
import tomllib
from functools import cache
from itertools import groupby
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
NUMBER = r"(\d+\.\d+)"
FULL_ROW = re.compile(rf"^\| {NUMBER} \| (.+) \| (.+) \| (.*) \| (.*) \|$", re.MULTILINE)
NOTEBOOK = re.compile(r"^\| \[(\w+)\]\(notebooks/\1\.ipynb\) \| (.+) \| (.*) \|$", re.MULTILINE)
RUN = re.compile(r"^\| (\d\d_\w+) \| (.*) \| (.*) \|$", re.MULTILINE)
HOURS = re.compile(r"([(（])\d+( h: | 小时：)(\d\d(?:(?:, | – |、)\d\d)+)")  # "(15 h: 00 – 17", "(15 小时：00、01"
LINK = re.compile(r"\[`?([^`\]]+)`?\]\(\.\./([^)]+)\)")
FILES = re.compile(r"(## The files\n.*?```\n)(.*?)(```)", re.DOTALL)


# ---------------------------------------------------------------- what the repository says


@cache
def equations() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Number → (equation, functions as (name, file)), as docs/EQUATIONS.md has them."""
    rows = FULL_ROW.findall((ROOT / "docs" / "EQUATIONS.md").read_text("utf-8"))
    table = {number: (equation, LINK.findall(functions)) for number, equation, functions, _, _ in rows}
    assert len(table) == len(rows), "docs/EQUATIONS.md has two rows for one number"
    return table


def cells(path: Path) -> list[dict]:
    """A notebook's cells, each source as one string."""
    return [cell | {"source": "".join(cell["source"])} for cell in json.loads(path.read_text("utf-8"))["cells"]]


@cache
def tags() -> dict[str, list[tuple[str, str]]]:
    """Number → (notebook, heading above) wherever a formula carries it as \\tag{number}."""
    places = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        heading = ""
        for cell in cells(path):
            if cell["cell_type"] != "markdown":
                continue
            for line in cell["source"].splitlines():
                heading = line.lstrip("# ").strip() if re.match(r"#{1,3} ", line) else heading
                for number in re.findall(rf"\\tag\{{{NUMBER}\}}", line):
                    places.setdefault(number, []).append((path.stem, heading))
    return places


def marks(file: Path) -> set[str]:
    """The numbers of all equation marks in a test file; they are written as plain strings."""
    calls = (node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Call))
    marked = (call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "equation")
    return {arg.value for call in marked for arg in call.args if isinstance(arg, ast.Constant)}


@cache
def marked_files() -> dict[str, list[Path]]:
    """Number → the test files that carry it."""
    files: dict[str, list[Path]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for number in marks(file):
            files.setdefault(number, []).append(file)
    return files


# ---------------------------------------------------------------- the tables


def sections(number: str, folder: str) -> str:
    """Links to the notebook sections of an equation, from a page to which the notebooks lie in `folder`."""
    places = tags().get(number, [])
    return ", ".join(f"[{name[:2]}]({folder}{name}.ipynb#{heading.replace(' ', '-')})" for name, heading in places)


def full_row(row: re.Match) -> str:
    """A row of docs/EQUATIONS.md."""
    number, formula, functions, _, _ = row.groups()
    files = [path.relative_to(ROOT).as_posix() for path in marked_files().get(number, [])]
    tests = [f"[{Path(file).stem.removeprefix('test_')}](../{file})" for file in files]
    return f"| {number} | {formula} | {functions} | {sections(number, '../notebooks/')} | {', '.join(tests)} |"


def short_row(number: str, root: str, notebooks: str) -> str:
    """The row of an equation without its tests, for a page to which the two folders lie so."""
    formula, functions = equations()[number]
    links = " ".join(f"[`{name}`]({root}{file})" for name, file in functions)
    return f"| {number} | {formula} | {links} | {sections(number, notebooks)} |"


def minutes(name: str) -> int:
    """How long a notebook says that reading and trying it takes."""
    return int(re.search(r"\*\*About (\d+) minutes", cells(ROOT / "notebooks" / f"{name}.ipynb")[0]["source"])[1])


def filled(readme: str) -> str:
    """README or README.zh with the notebooks' minutes and, for each way to read, their sum in whole hours."""
    names = {name[:2]: name for name, *_ in NOTEBOOK.findall(readme)}
    unit = "分钟" if "分钟 |" in readme else "min"

    def hours(way: re.Match) -> str:
        chosen = sorted(names) if "–" in way[3] else re.findall(r"\d\d", way[3])
        return f"{way[1]}{round(sum(minutes(names[number]) for number in chosen) / 60)}{way[2]}{way[3]}"

    row = lambda m: f"| [{m[1]}](notebooks/{m[1]}.ipynb) | {m[2]} | {minutes(m[1])} {unit} |"  # noqa: E731
    return HOURS.sub(hours, NOTEBOOK.sub(row, readme))


def addresses(pyproject: str | None = None) -> dict[str, str]:
    """What [project.urls] of pyproject.toml knows of Repository, Issues and Documentation (the book's site)."""
    text = pyproject or (ROOT / "pyproject.toml").read_text("utf-8")
    urls = {name: url.rstrip("/") for name, url in tomllib.loads(text)["project"].get("urls", {}).items()}
    if "Repository" in urls:
        urls.setdefault("Issues", f"{urls['Repository']}/issues")
    return urls


def addressed(readme: str, urls: dict[str, str]) -> str:
    """README with the addresses: in the clone command, and as badges below its title. Without any it stays as it is."""
    code, book = urls.get("Repository"), urls.get("Documentation")
    badges = [f"[![ci]({code}/actions/workflows/ci.yml/badge.svg)]({code}/actions/workflows/ci.yml)"] if code else []
    badges += [f"[{'网页版' if 'zh.md' not in readme else 'The book'}]({book})"] if book else []
    if code:
        readme = re.sub(r"git clone \S+ flux_edu( *)(ADDRESS[^;；]*[;；] *)?", rf"git clone {code} flux_edu\1", readme)
    title, rest = readme.split("\n\n", 1)
    rest = re.sub(r"^\[(!\[ci\]|网页版|The book)[^\n]*\n\n", "", rest)
    return "\n\n".join([title, *([" · ".join(badges)] if badges else []), rest])


def measured(page: str) -> str:
    """docs/SETUP.md with seconds and memory of the notebooks that were executed last."""

    def run(row: re.Match) -> str:
        executed = ROOT / "build" / "executed" / f"{row[1]}.ipynb"
        if not executed.exists():
            return row[0]
        metadata = json.loads(executed.read_text("utf-8"))["metadata"]
        memory = f"{metadata['peak_mb'] / 1000:.1f} GB" if metadata.get("peak_mb") else row[3]
        return f"| {row[1]} | {metadata['seconds']:.0f} s | {memory} |"

    return RUN.sub(run, page)


def mirrored(chinese: str, english: str) -> str:
    """README.zh.md with the rows of README.md's notebooks, in English where a translation is missing."""
    words = {row[1]: row[2] for row in NOTEBOOK.finditer(chinese)}
    rows = [
        row[0].replace(f" | {row[2]} | ", f" | {words.get(row[1], row[2])} | ", 1).replace(" min |", " 分钟 |")
        for row in NOTEBOOK.finditer(english)
    ]
    first, *_, last = NOTEBOOK.finditer(chinese)
    return filled(chinese[: first.start()] + "\n".join(rows) + chinese[last.end() :])


def map_notebooks() -> list[str]:
    """The map's first table: what each notebook teaches, with README's words; not the map itself."""
    rows = NOTEBOOK.findall((ROOT / "README.md").read_text("utf-8"))
    lines = [f"| [{name}]({name}.ipynb) | {what} | {minutes} |" for name, what, minutes in rows if name != "00_map"]
    return ["| notebook | what you will be able to do | read and try |", "|---|---|---|", *lines]


def map_equations() -> list[str]:
    """The map's second table: number, equation, function and the notebook's section."""
    rows = [short_row(number, "../", "") for number in equations()]
    return ["| no. | equation | function | section |", "|---|---|---|---|", *rows]


MAP_TABLES = {"## What each notebook teaches": map_notebooks, "## All equations": map_equations}


def with_tables(source: str) -> str:
    """A markdown cell of the map with the table under each of those headings replaced by the right one."""
    for heading, table in MAP_TABLES.items():
        lines = "\n".join(table())
        source = re.sub(
            rf"(^{heading}\n(?:(?!#|\|).*\n)*)(?:\|.*\n)+", lambda m, t=lines: m[1] + t + "\n", source, flags=re.M
        )
    return source


# ---------------------------------------------------------------- the list of files


def tracked() -> list[str]:
    """The paths of the repository's files: committed or new, and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode("utf-8").split("\0")
    return sorted(name for name in names if name and (ROOT / name).is_file())


def first_line(path: Path) -> str:
    """The first line of a Python file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def listed(page: str) -> str:
    """CONTRIBUTING.md with a line a folder and below it a line a file; words of a person stay where they are.

    A file that is not Python has a line of its own where someone wrote one; else its folder's words speak for it.
    """
    block = FILES.search(page)[2]
    written, folder = {}, ""
    for line in block.splitlines():
        name, _, words = line.strip().partition(" ")
        folder = folder if line.startswith(" ") else name if name.endswith("/") else ""
        written[folder + name if line.startswith(" ") else name] = words.strip()
    lines = []
    for folder, names in groupby(sorted(tracked(), key=lambda name: (folder_of(name), name)), key=folder_of):
        package = ROOT / folder / "__init__.py"
        lines += [(folder, first_line(package) if package.exists() else written.get(folder, ""))] if folder else []
        for name in names:
            words = first_line(ROOT / name) if name.endswith(".py") else written.get(name, "")
            if words and not name.endswith("__init__.py"):
                lines.append((("  " if folder else "") + name.removeprefix(folder), words))
    return FILES.sub(lambda m: m[1] + "".join(f"{name:26} {words}\n" for name, words in lines) + m[3], page)


def folder_of(name: str) -> str:
    """ "tests/parity/x.py" → "tests/parity/"; "" at the root."""
    return name.rpartition("/")[0] + "/" if "/" in name else ""


def main() -> None:
    equations_path, readme, chinese, map_path = (
        ROOT / name for name in ("docs/EQUATIONS.md", "README.md", "README.zh.md", "notebooks/00_map.ipynb")
    )
    equations_path.write_text(FULL_ROW.sub(full_row, equations_path.read_text("utf-8")), encoding="utf-8")
    equations.cache_clear()
    contributing = ROOT / "CONTRIBUTING.md"
    contributing.write_text(listed(contributing.read_text("utf-8")), encoding="utf-8")
    readme.write_text(addressed(filled(readme.read_text("utf-8")), addresses()), encoding="utf-8")
    setup = ROOT / "docs" / "SETUP.md"
    setup.write_text(measured(setup.read_text("utf-8")), encoding="utf-8")
    translated = mirrored(chinese.read_text("utf-8"), readme.read_text("utf-8"))
    chinese.write_text(addressed(translated, addresses()), encoding="utf-8")
    notebook = nbformat.read(map_path, as_version=4)
    for cell in notebook.cells:
        cell.source = with_tables(cell.source) if cell.cell_type == "markdown" else cell.source
    nbformat.write(notebook, map_path)


if __name__ == "__main__":
    main()
