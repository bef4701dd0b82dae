"""The book's start page: docs/start.md with what README says of readers, ways to read and notebooks."""

import html
import re
from pathlib import Path

import nbformat
from tables import NOTEBOOK

ROOT = Path(__file__).resolve().parents[1]
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


def start_page(notebooks: dict[str, nbformat.NotebookNode], pages: list[str]) -> str:
    """The page's text; `notebooks` as they ran, `pages` the names of those that stand beside them."""
    readme = (ROOT / "README.md").read_text("utf-8")
    cards = "\n".join(card(*row, notebooks[row[0]]) for row in NOTEBOOK.findall(readme) if row[0] in notebooks)
    parts = {
        "for whom": re.search(r"\*\*For whom:\*\*.*?(?=\n\n)", readme, re.DOTALL)[0],
        "ways": re.search(r"## Three ways to read\n\n(.*?)\n\n##", readme, re.DOTALL)[1],
        "chapters": f'<div class="flux-cards">\n{cards}\n</div>',
        "notebooks": "\n".join(f"notebooks/{name}" for name in notebooks),
        "pages": "\n".join(f"docs/{name}" for name in pages),
    }
    page = (ROOT / "docs" / "start.md").read_text("utf-8")
    return re.sub(r"@([a-z ]+)@", lambda word: parts[word[1]], page)


def card(name: str, lesson: str, minutes: str, notebook: nbformat.NotebookNode) -> str:
    """A notebook: its picture, its title, what one learns, how long it takes."""
    title = next(line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))
    return (
        f'<a class="flux-card" href="notebooks/{name}.html">{picture(name, notebook)}<b>{html.escape(title[2:])}</b>'
        f"<span>You will be able to {html.escape(lesson)}.</span><i>{minutes}</i></a>"
    )


def picture(name: str, notebook: nbformat.NotebookNode) -> str:
    """What a card shows; its words are those of the title below it."""
    address = PICTURES.get(name, "")
    if not address.startswith("_images/"):
        panels = notebook.metadata.get("sweep", [])
        files = [panel["moves"][-1]["file"] for panel in panels if address in ("", panel["draw"])]
        if not files:
            return ""  # a notebook without panels
        address = f"_static/frames/{name}/{files[0]}"
    return f'<img src="{address}" alt="A picture of this chapter" loading="lazy">'
