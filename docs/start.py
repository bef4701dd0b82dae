"""The book's start page, English or Chinese: docs/start.md with README's readers, ways to read and notebooks."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from tables import NOTEBOOK
from translation import replace

Chinese = Callable[[str], Callable[[str], str]]
ROOT = Path(__file__).resolve().parents[1]
ENGLISH = {
    "lesson": "You will be able to {}.",
    "picture": "A picture of this chapter",
    "site": "",  # the way to the folder of pictures
    "first": "The chapters",
    "second": "More",
    "rest": "",
    "package": "The package <api/index>",
}
CHINESE = {
    "lesson": "{}",
    "picture": "本章的一张图",
    "site": "../",
    "first": "各章",
    "second": "更多",
    "rest": "\n\n07 到 18 各章目前只有英文，见[目录](en:../start.html)。",
    "package": "",
}
PICTURES = {  # a card shows the first picture of its notebook's first panel, or of this one, or a drawing
    "00_map": "_images/tiny_sheet.png",
    "01_schedule": "time_shift_curve",
    "03_rope": "rope_arrows",
    "04_double_stream": "word_map",
    "05_single_stream": "inside",
    "06_sampling": "easel",
    "07_text_encoders": "reach",
    "08_autoencoder": "round_trip",
    "09_training": "composed",
    "12_tools": "into",
    "14_errata": "step_sign",
    "17_glossary": "_images/flux.svg",
}


def start_page(notebooks: dict[str, nbformat.NotebookNode], pages: list[str], chinese: Chinese | None = None) -> str:
    """The page's text; `notebooks` as they ran, `pages` the names of those that stand beside them.

    `chinese(catalogue)` looks texts up: with it the page is Chinese, and README.zh.md is what it draws on.
    """
    readme = (ROOT / ("README.zh.md" if chinese else "README.md")).read_text("utf-8")
    words = CHINESE if chinese else ENGLISH
    cards = [
        card(name, words["lesson"].format(lesson), minutes, notebooks[name], words, chinese)
        for name, lesson, minutes in NOTEBOOK.findall(readme)
        if name in notebooks
    ]
    parts = {
        "for whom": re.search(r"\*\*(?:For whom:\*\*|适合谁\*\*：).*?(?=\n\n)", readme, re.DOTALL)[0],
        "ways": re.search(r"## (?:Three ways to read|三种读法)\n\n(.*?)\n\n##", readme, re.DOTALL)[1],
        "chapters": '<div class="flux-cards">\n' + "\n".join(cards) + "\n</div>" + words["rest"],
        "first": words["first"],
        "second": words["second"],
        "notebooks": "\n".join(f"notebooks/{name}" for name in notebooks),
        "pages": "\n".join([*(f"docs/{name}" for name in pages), words["package"]]),
    }
    page = (ROOT / "docs" / "start.md").read_text("utf-8")
    if chinese:
        page = replace(page, ".md", chinese("start"))
    return re.sub(r"@([a-z ]+)@", lambda word: parts[word[1]], page)


def title(notebook: nbformat.NotebookNode) -> str:
    """A notebook's first heading."""
    return next(line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))


def card(name: str, lesson: str, minutes: str, notebook: nbformat.NotebookNode, words: dict, chinese: Chinese) -> str:
    """A notebook: its picture, its title, what one learns, how long it takes."""
    heading = chinese(name)(title(notebook)) if chinese else title(notebook)
    return (
        f'<a class="flux-card" href="notebooks/{name}.html">{picture(name, notebook, words)}'
        f"<b>{html.escape(heading[2:])}</b><span>{html.escape(lesson)}</span><i>{minutes}</i></a>"
    )


def picture(name: str, notebook: nbformat.NotebookNode, words: dict) -> str:
    """What a card shows; what it is about is said by the title below it."""
    address = PICTURES.get(name, "")
    if not address.startswith("_images/"):
        panels = notebook.metadata.get("sweep", [])
        files = [panel["moves"][-1]["file"] for panel in panels if address in ("", panel["draw"])]
        if not files:
            return ""  # a notebook without panels
        address = f"_static/frames/{name}/{files[0]}"
    return f'<img src="{words["site"]}{address}" alt="{words["picture"]}" loading="lazy">'
