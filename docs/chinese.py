"""The Chinese pages: of the book, in html/zh, and of the notebooks for JupyterLab, in build/zh.

python docs/chinese.py      the notebooks and the catalogue of their panels in build/zh, and the page that GitHub shows

The cells of code are those of the English notebooks, byte for byte, so what they print and draw is taken from there.
A link to a page that is not translated leads to the English one.
"""

import hashlib
import html
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from search import Search  # noqa: E402
from translation import CHAPTERS, LINK, messages, replace, translations  # noqa: E402

from flux_edu.teaching.language import translate_numbers  # noqa: E402

LAB = ROOT / "build" / "zh"
PAGES = ["QUESTIONS", "WHAT_FLUX_IS_NOT"]
TRANSLATED = {f"notebooks/{name}.ipynb": name for name in CHAPTERS} | {f"docs/{name}.md": name for name in PAGES}
AFTER_FORMULA = re.compile(r"(?<=\$)(?=[：；])")  # where browsers would begin a line with the sign
ALT = re.compile(r'(?<= alt=")[^"]*')
PICTURES = re.compile(r'(?<=<script type="application/json">).*?(?=</script>)', re.DOTALL)  # of a panel
THEME = {"Color mode": "明暗", "System Settings": "跟随系统"}  # what the theme does not say in Chinese
CHECKED = re.compile(r"(?<=^○ \d\.\d  ).*", re.MULTILINE)  # what `check` prints of an exercise that is not done

QUERIES = {  # what the search of the Chinese pages finds among the first three
    "时间平移": "notebooks/01_schedule",
    "整流流": "notebooks/01_schedule",
    "更大的图 噪声水平": "notebooks/01_schedule",
    "分块": "notebooks/02_patchify",
    "位置编号": "notebooks/02_patchify",
    "旋转位置编码": "notebooks/03_rope",
    "通道对 角度": "notebooks/03_rope",
    "门控": "notebooks/04_double_stream",
    "应用调制": "notebooks/04_double_stream",
    "联合注意力 象限": "notebooks/04_double_stream",
    "最后一层": "notebooks/05_single_stream",
    "并行还是串行": "notebooks/05_single_stream",
    "欧拉步": "notebooks/06_sampling",
    "图生图": "notebooks/06_sampling",
    "求解器": "notebooks/06_sampling",
    "负面提示词": "docs/questions/02",
    "schnell 要几步": "docs/questions/12",
    "提示词权重": "docs/questions/18",
    "中文提示词": "docs/questions/20",
    "显卡放得下吗": "docs/questions/33",
    "TeaCache": "docs/questions/34",
    "归一化流 求逆": "docs/WHAT_FLUX_IS_NOT",
}

# ---------------------------------------------------------------- texts and links


def chinese(name: str) -> Callable[[str], str]:
    """Looks a text up in a catalogue; what is not there stays English."""
    known = translations(name)
    return lambda text: known.get(text, text)


def slug(heading: str) -> str:
    """What a link calls a heading."""
    return re.sub(r"[`*$]", "", heading.lstrip("# ")).replace(" ", "-")


@cache
def headings(name: str) -> dict[str, str]:
    """The headings of a page, English → Chinese."""
    texts = [text for text in messages(name) if text.startswith("#")]
    return {text.splitlines()[0].lstrip("# "): chinese(name)(text).splitlines()[0].lstrip("# ") for text in texts}


def relink(text: str, page: str, english: Callable[[str, str], str]) -> str:
    """A page's links: to translated pages by their Chinese headings; all others become `english(path, anchor)`."""

    def new(link: re.Match) -> str:
        target = link[1] or link[2]
        path, _, anchor = target.partition("#")
        if ":" in path:
            return link[0]
        whole = os.path.normpath(Path(page).parent / path) if path else page
        name = TRANSLATED.get(whole, "QUESTIONS" if "/questions/" in whole else "")
        if name:
            slugs = {slug(heading): slug(translated) for heading, translated in headings(name).items()}
            return link[0].replace(target, path + ("#" + slugs.get(anchor, anchor) if anchor else ""))
        return link[0].replace(target, english(whole, anchor))

    return LINK.sub(new, text)


# ---------------------------------------------------------------- notebooks for JupyterLab


def write_notebooks(folder: Path = LAB) -> None:
    """The chapters in FOLDER/notebooks, and what their panels say in FOLDER/locale.

    A notebook that the reader has changed stays; if its English source has changed too, it becomes NAME-yours.ipynb.
    """
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    record = folder / "written.json"
    hashes = json.loads(record.read_text("utf-8")) if record.exists() else {}
    for name in CHAPTERS:
        text, path = nbformat.writes(lab_notebook(name)), folder / "notebooks" / f"{name}.ipynb"
        if path.exists() and hashes.get(name) == digest(text):
            continue
        if path.exists() and hashes.get(name) != digest(path.read_text("utf-8")):
            names = (path.with_stem(f"{name}-yours{number}") for number in ("", *range(2, 1000)))
            kept = path.rename(next(free for free in names if not free.exists()))
            print(f"notebook {name} has changed since you wrote in it: yours is now {kept}")
        path.write_text(text, encoding="utf-8")
        hashes[name] = digest(text)
    record.write_text(json.dumps(hashes), encoding="utf-8")
    catalogue = Catalog("zh_CN")
    for texts in (translations("panels"), translations("pictures"), *map(headings, CHAPTERS)):
        for english, translated in texts.items():
            catalogue.add(english, translated)
    write_catalogue(catalogue, folder, "flux_edu")


def write_catalogue(catalogue: Catalog, folder: Path, domain: str) -> None:
    locale = folder / "locale" / "zh_CN" / "LC_MESSAGES"
    locale.mkdir(parents=True, exist_ok=True)
    with (locale / f"{domain}.mo").open("wb") as file:
        write_mo(file, catalogue)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lab_notebook(name: str) -> nbformat.NotebookNode:
    """A chapter in Chinese, not executed."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(replace(cell.source, ".md", chinese(name)), f"notebooks/{name}.ipynb", in_lab)
    return notebook


def in_lab(path: str, anchor: str) -> str:
    return f"../../../{path}" + ("#" + anchor if anchor else "")


# ---------------------------------------------------------------- pages of the book


def stage(english: Path, target: Path, front: str) -> None:
    """What Sphinx reads for html/zh, from what it has read for the English pages."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(english / "_static" / "mathjax", target / "_static" / "mathjax")
    for name in ("book.css", "book.js", "language.js"):
        shutil.copy(english / "_static" / name, target / "_static")
    painting = replace((english / "_static" / "paint.js").read_text("utf-8"), ".js", chinese("panels"))
    painting = painting.replace('"../engine/', '"../../engine/').replace('"../weights/', '"../../weights/')
    (target / "_static" / "paint.js").write_text(painting, encoding="utf-8")
    for name in ("conf.py", "scorer.js"):
        shutil.copy(english / name, target)
    shutil.copytree(english / "templates", target / "templates")
    shutil.copytree(english / "notebooks" / "img", target / "notebooks" / "img")
    theme = Catalog("zh_CN")
    for english_text, translated_text in THEME.items():
        theme.add(english_text, translated_text)
    write_catalogue(theme, target, "sphinx")
    (target / "docs").mkdir()
    for name in PAGES:
        text = replace((ROOT / "docs" / f"{name}.md").read_text("utf-8"), ".md", chinese(name))
        (target / "docs" / f"{name}.md").write_text(text, encoding="utf-8")
    (target / "start.md").write_text(front, encoding="utf-8")
    for name in CHAPTERS:
        if (english / "notebooks" / f"{name}.ipynb").exists():  # a part of the book may be built
            notebook = nbformat.read(english / "notebooks" / f"{name}.ipynb", as_version=4)
            nbformat.write(translated(notebook, name), target / "notebooks" / f"{name}.ipynb")


def link_pages(target: Path) -> None:
    """Let the links of the staged pages, once all stand there, lead to what is there."""
    for path in target.rglob("*.md"):
        page = path.relative_to(target).as_posix()
        path.write_text(relink(path.read_text("utf-8"), page, in_book(page)), encoding="utf-8")


def in_book(page: str) -> Callable[[str, str], str]:
    """How a page of html/zh calls what stands in html alone; conf.py knows the schemes en and en-part."""
    up = "../" * page.count("/")

    def address(path: str, anchor: str) -> str:
        stem, suffix = os.path.splitext(path)
        if suffix not in (".ipynb", ".md"):
            return up + path
        return f"en{'-part' if anchor else ''}:{up}../{stem}.html" + ("#" + anchor if anchor else "")

    return address


def translated(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """An executed notebook with its texts, and those of what its cells show, in Chinese."""
    page = f"notebooks/{name}.ipynb"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = relink(replace(cell.source, ".md", chinese(name)), page, in_book(page))
            cell.source = AFTER_FORMULA.sub("\u2060", source)
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = shown(output.data["text/html"]).replace('"../_static/', '"../../_static/')
            if "text" in output:
                output.text = CHECKED.sub(lambda said: chinese("panels")(said[0]), output.text)
    return notebook


def shown(page: str) -> str:
    """What a cell shows, with the words of panels and questions and the alternative texts in Chinese."""
    label, picture = chinese("panels"), lambda alt: translate_numbers(alt, chinese("pictures"))

    def with_alts(data: re.Match) -> str:
        moves = [move | {"alt": picture(move["alt"])} for move in json.loads(data[0])]
        return json.dumps(moves, ensure_ascii=False).replace("<", "\\u003c")

    page = ALT.sub(lambda alt: html.escape(picture(html.unescape(alt[0]))), page)
    page = PICTURES.sub(with_alts, page)
    return replace(page, ".html", lambda text: html.escape(label(html.unescape(text)), quote=False))


def unfound_queries(site: Path) -> list[str]:
    """The queries of QUERIES that do not find their page."""
    if not (site / "docs" / "QUESTIONS.html").exists():
        return []  # a book without its questions, as the tests build it
    search = Search(site)
    found = {query: search.find(query)[:3] for query in QUERIES}
    return [f"{query} finds {found[query]}, not {page}" for query, page in QUERIES.items() if page not in found[query]]


def github_page() -> str:
    """WHAT_FLUX_IS_NOT.md in Chinese, as docs/WHAT_FLUX_IS_NOT.zh.md has it."""
    text = replace((ROOT / "docs" / "WHAT_FLUX_IS_NOT.md").read_text("utf-8"), ".md", chinese("WHAT_FLUX_IS_NOT"))
    return text.replace("(WHAT_FLUX_IS_NOT.zh.md)", "(WHAT_FLUX_IS_NOT.md)")


if __name__ == "__main__":
    write_notebooks()
    (ROOT / "docs" / "WHAT_FLUX_IS_NOT.zh.md").write_text(github_page(), encoding="utf-8")
