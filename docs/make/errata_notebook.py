"""Notebook 14, written by `python docs/make/errata_notebook.py`.

errata.md, which lies beside this file, is what stands before the entries, behind two of them (exercises) and at the
end; the entries are the list in flux_edu.teaching.errata: an explanation and a check each, a section a part of the
notes.
"""

import hashlib
import re
from collections import Counter
from itertools import groupby
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from flux_edu.teaching.errata import ERRATA, VERDICTS, Erratum

PATH = Path(__file__).parents[2] / "notebooks" / "14_errata.ipynb"
FRAME = Path(__file__).with_name("errata.md")
ENTRIES = "<!-- the table of all entries, then every entry -->"
PLACE = re.compile(r"^<!-- (?:after No\. (\d+)|at the end) -->$", re.MULTILINE)
REPOSITORIES = {
    "flux": "black-forest-labs/flux",
    "x-flux": "XLabs-AI/x-flux",
    "diffusers": "huggingface/diffusers",
    "OminiControl": "Yuanshi9815/OminiControl",
}

ENGLISH = {
    9: "g: gate scalar (controls the weight of the residual branch)",
    11: "cross-modal attention",
    12: "when μ grows, the curve moves to the right",
    13: "μ: controls the position of the curve's centre",
    14: "when σ grows, the curve becomes steeper",
    15: "takes values in [0, 1]",
    16: "that is, computes from the resolution the parameter that adjusts the time steps; to 256 belongs μ = 0.5",
    17: "max_shift: the greatest value of the time adjustment",
    18: "shift: whether to adjust the time steps",
    26: "because the whole picture is cut into many small blocks of 2 × 2",
    27: "these img_ids record the number of each small block",
    28: "img_ids are the coordinates of the picture, txt_ids those of the text, at present 0",
    32: "one is CLIP, one is T5, for global and for local features of the text",
    37: "base_shift: the base value of the time adjustment",
    40: "its main structure comprises",
    42: "split_heads splits the tensor into the multi-head form",
    44: "MLP: multilayer perceptron (usually linear + activation + linear)",
    45: "the formulas describe completely the tensor operations and the flow of information in the code",
    46: "generates evenly spaced time step lengths from 1 to 0",
    48: "uses the dynamic modulation parameters (made of v) to normalise and affinely transform the features",
}


def anchor(heading: str) -> str:
    """The fragment under which Jupyter finds a heading; brackets are escaped, since they would end a link."""
    text = heading.replace("`", "").replace(" ", "-")
    return re.sub(r"[()\[\]<>]", lambda bracket: f"%{ord(bracket[0]):02X}", text)


def heading(erratum: Erratum) -> str:
    """The entry's own; a topic that begins with a word, and not with a name of the code, gets a capital."""
    topic = re.sub(r"^[a-z]{2,}(?!\w)", lambda word: word[0].capitalize(), erratum.topic)
    return f"No. {erratum.number} · {topic}"


def section_link(erratum: Erratum) -> str:
    """To the section that treats it; without one, nothing."""
    if erratum.section is None:
        return ""
    name, title = erratum.section
    return f"[{name[:2]} · {title}]({name}.ipynb#{anchor(title)})"


def linked(source: str) -> str:
    """Threads and papers named in a text, as links."""
    source = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)
    thread = lambda m: f"[{m[0]}](https://github.com/{REPOSITORIES[m[1]]}/issues/{m[2]})"  # noqa: E731
    return re.sub(r"(?<!\w)([\w-]+)#(\d+)", thread, source)


def readable(quote: str) -> str:
    r"""The quotation as Jupyter can set it: \( \) become dollars, names of arguments become code."""
    quote = re.sub(r"\\\(\s*(.*?)\s*\\\)", r"$\1$", quote)
    return re.sub(r"\$\\text\{([a-z_\\]+)\}\$", lambda m: f"`{m[1].replace(chr(92), '')}`", quote)


def explanation(erratum: Erratum) -> str:
    """The words of an entry."""
    numbers = ", ".join(f"({number})" for number in erratum.equations)
    where = [f"Eq. {numbers}" if numbers else "", section_link(erratum)]
    parts = [
        f"### {heading(erratum)}",
        f"> {readable(erratum.quote)}" + (f"  \n> *{ENGLISH[erratum.number]}*" if erratum.number in ENGLISH else ""),
        f"**{erratum.verdict.capitalize()}.** {erratum.right}",
        "; ".join(filter(None, where)) + ".",
    ]
    if erratum.source:
        parts.append(f"Source: {linked(erratum.source)}.")
    if erratum.figure:
        parts.append(erratum.figure[0])
    return "\n\n".join(parts)


def table() -> str:
    """All entries in one table, counted by verdict."""
    counts = Counter(erratum.verdict for erratum in ERRATA)
    lines = [
        f"## All {len(ERRATA)} at a glance",
        "",
        ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS) + ".",
        "",
        "| no. | in the notes | verdict | Eq. | treated in |",
        "|---|---|---|---|---|",
    ]
    for erratum in ERRATA:
        name = f"[{erratum.topic}](#{anchor(heading(erratum))})"
        chapter = erratum.section[0][:2] if erratum.section else "here"
        equations = ", ".join(erratum.equations)
        lines.append(f"| {erratum.number} | {name} | {erratum.verdict} | {equations} | {chapter} |")
    return "\n".join(lines)


def code_cell(source: str) -> NotebookNode:
    return new_code_cell(source, id=name_of(source))


def text_cell(source: str) -> NotebookNode:
    return new_markdown_cell(source, id=name_of(source))


def name_of(source: str) -> str:
    """A cell's id; it follows from its text, so that the same list makes the same file."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def cells_of(markdown: str) -> list[NotebookNode]:
    """A text as cells: a line of +++ begins a new one, a fence {code-cell} holds code."""
    cells = []
    for text, code in re.findall(r"(.*?)(?:^\+\+\+$|^```\{code-cell\}\n(.*?)\n```$|\Z)", markdown, re.M | re.S):
        cells += [text_cell(text.strip())] if text.strip() else []
        cells += [code_cell(code)] if code else []
    return cells


def entries(behind: dict[str, str]) -> list[NotebookNode]:
    """The cells of every entry: its words, then its check and its figure, and what stands `behind` its number."""
    cells = []
    for part, errata in groupby(ERRATA, key=lambda erratum: erratum.part):
        title = f"## The notes on {part}\n\n"
        for erratum in errata:
            cells.append(text_cell(title + explanation(erratum)))
            title = ""
            lines = [f"run({erratum.number})"] if erratum.check else []
            lines += [erratum.figure[1]] if erratum.figure else []
            cells += [code_cell("\n".join(lines))] if lines else []
            cells += cells_of(behind.pop(f"{erratum.number}", ""))
    return cells


def generated() -> str:
    """The whole file, without outputs."""
    before, after = FRAME.read_text("utf-8").split(ENTRIES)
    _, *placed = PLACE.split(after)
    behind = dict(zip(placed[::2], placed[1::2], strict=True))
    end = behind.pop(None)
    cells = [*cells_of(before), text_cell(table()), *entries(behind), *cells_of(end)]
    assert not behind, f"errata.md places something behind entries that do not exist: {sorted(behind)}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)) + "\n"


if __name__ == "__main__":
    PATH.write_text(generated(), encoding="utf-8", newline="\n")
    print(f"{PATH.name} written")
