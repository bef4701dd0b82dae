"""The live map, the book's first page: its files, the engine's, and the paintings that stand there from the start.

python docs/live_map.py FOLDER      the page alone, in FOLDER; `python -m http.server -d FOLDER` serves it

`install` is what docs/book.py calls.
"""

import ast
import json
import re
import shutil
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "live_map"
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "docs" / "make")]

from chinese import chinese  # noqa: E402  it lies beside this file
from engine_files import copy_engine  # noqa: E402
from paintings import painted  # noqa: E402
from tables import equations, marked_files, tags  # noqa: E402  in docs/make
from translation import replace, translations  # noqa: E402

IMPORTS = '<script type="importmap">{"imports": {"../live_map/words.js": "./live_map/words.js"}}</script>'
CHINESE_PAGE = {  # what is another in the Chinese page, beside its words
    '<html lang="en">': '<html lang="zh-CN">',
    'href="live_map/style.css"': 'href="../live_map/style.css"',
    '<script type="module" src="live_map/': f'{IMPORTS}\n<script type="module" src="../live_map/',
    '<script src="live_map/': '<script src="../live_map/',
    'href="api/index.html"': 'href="../api/index.html"',
    'hreflang="zh" lang="zh" href="zh/index.html">中文': 'hreflang="en" lang="en" href="../index.html">English',
}

# ---------------------------------------------------------------- the page in the site


def links(number: str) -> dict:
    """An equation as docs/EQUATIONS.md has it, and where the book derives, computes and tests it."""
    equation, functions = equations()[number]
    notebook = tags()[number][0][0]
    return {
        "equation": equation,
        "section": f"notebooks/{notebook}.html#eq-{number.replace('.', '-')}",
        "functions": [[name, f"api/{module_of(file)}.html#flux_edu.{name}"] for name, file in functions],
        "test": f"live_map/tests.html#eq-{number.replace('.', '-')}",
    }


def marked_tests(number: str) -> list[tuple[str, str]]:
    """(file, source) of the test functions that are marked with an equation."""
    found = []
    for path in marked_files()[number]:
        source = path.read_text("utf-8")
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef):
                continue
            if any(f'equation("{number}")' in ast.unparse(mark).replace("'", '"') for mark in node.decorator_list):
                first = min(mark.lineno for mark in node.decorator_list)
                lines = source.splitlines()[first - 1 : node.end_lineno]
                found.append((path.relative_to(ROOT).as_posix(), "\n".join(lines)))
    return found


def tests_page() -> str:
    """Every equation with the tests that hold its function to it, as one page."""
    parts = []
    for number, (equation, _) in equations().items():
        tests = "".join(
            f"<h3>{escape(file)}</h3><pre tabindex=0><code>{escape(code)}</code></pre>"
            for file, code in marked_tests(number)
        )
        formula = re.sub(r"`(.+?)`", r"<code>\1</code>", escape(equation))
        anchor = f"eq-{number.replace('.', '-')}"
        parts.append(f"<section id={anchor}><h2>Eq. {number}</h2><p class=formula>{formula}</p>{tests}</section>")
    return (PAGE / "tests.html").read_text("utf-8").replace("<!-- the tests -->", "\n".join(parts))


def module_of(file: str) -> str:
    return file.removeprefix("flux_edu/").removesuffix(".py").replace("/", ".")


def first_page(site: Path) -> str:
    """What the book says of itself on start.html, to stand below the map; nothing where there is no book around it."""
    page = site / "start.html"
    found = page.exists() and re.search(r"<article[^>]*>(.*?)</article>", page.read_text("utf-8"), re.DOTALL)
    lower = re.compile(r"(</?h)([1-3])\b")  # the page has a first heading of its own
    return lower.sub(lambda tag: f"{tag[1]}{int(tag[2]) + 1}", found[1]) if found else ""


def install(site: Path) -> None:
    """The page and all it needs, in the site's folder."""
    target = site / "live_map"
    shutil.copytree(PAGE, target, ignore=shutil.ignore_patterns("*.html"), dirs_exist_ok=True)
    shutil.copytree(painted(), target / "painted", dirs_exist_ok=True)
    copy_engine(site)
    book = {number: links(number) for number in equations()}
    (target / "equations.json").write_text(json.dumps(book, ensure_ascii=False), encoding="utf-8")
    (target / "tests.html").write_text(tests_page(), encoding="utf-8")
    page = (PAGE / "index.html").read_text("utf-8")
    (site / "index.html").write_text(page.replace("<!-- the book -->", first_page(site)), encoding="utf-8")
    install_chinese(site / "zh", page, book)


def install_chinese(site: Path, page: str, book: dict) -> None:
    """The page in Chinese: it has words and addresses of its own, and all else from the English one."""
    target = site / "live_map"
    target.mkdir(parents=True, exist_ok=True)
    words = replace((PAGE / "words.js").read_text("utf-8"), ".js", chinese("live_map"))
    (target / "words.js").write_text(words, encoding="utf-8")
    table = dict(re.findall(r"^\| ([\d.]+) \| (.*?) \|", "\n".join(translations("00_map").values()), re.MULTILINE))
    for number, known in book.items():
        known["equation"] = table.get(number, known["equation"])
        if not (site / known["section"].partition("#")[0]).exists():
            known["section"] = f"../{known['section']}"
        known["functions"] = [[name, f"../{address}"] for name, address in known["functions"]]
        known["test"] = f"../{known['test']}"
    (target / "equations.json").write_text(json.dumps(book, ensure_ascii=False), encoding="utf-8")
    page = replace(page, ".html", chinese("live_map")).replace("<!-- the book -->", first_page(site))
    for there, here in CHINESE_PAGE.items():
        if there not in page:
            raise ValueError(f"the live map has no {there!r} any more, which its Chinese page replaces")
        page = page.replace(there, here)
    (site / "index.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    install(folder)
