"""Notebook 14 from the list: a section a part of the notes, an explanation and a check an entry."""

import hashlib
import json
import re
from collections import Counter
from itertools import groupby
from pathlib import Path

from flux_edu.teaching.errata import ERRATA, VERDICTS, Erratum

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
PATH = NOTEBOOKS / "14_errata.ipynb"
REPOSITORIES = {
    "flux": "black-forest-labs/flux",
    "x-flux": "XLabs-AI/x-flux",
    "diffusers": "huggingface/diffusers",
    "OminiControl": "Yuanshi9815/OminiControl",
}

OPENING = """# 14 · The errata

This walkthrough follows a set of reading notes on FLUX.1's code. Here they are checked line by line, in their own order. After this notebook you know what to believe in them, and you have seen numbers for every verdict.

**About 40 minutes** to read all of it, one minute to look up one line. A laptop is enough: no GPU, no download."""  # noqa: E501

CONVENTIONS = """> **Conventions.** t = 1 is noise, t = 0 the picture · v = ε − x₀ · text tokens before image tokens · RoPE turns adjacent pairs of channels (2j, 2j+1) · a patch is read channel first, (c ph pw) · a modulation is (shift, scale, gate).

![FLUX.1 from prompt to picture: text encoders, noise, schedule, the blocks, the Euler loop and the decoder; the notes speak of all of it except the encoders' and the decoder's inside](img/flux.svg)

How to read an entry (勘误):

* The quotation is as it stands in the notes. Then come the verdict, the right form, its equations and the section that treats it at length.
* `run(n)` shows two small functions, the notes' form and the right form, which calls the package. It prints what both give beside a value that neither computed. It stops with an error if the verdict does not hold.
* Verdicts: **wrong**, **imprecise** (true with a condition, or of another quantity than the words say), **missing** (left out or unexplained; the notes' form is then what a reader would fill in), **out of date**, **right**.
* The numbers are names that do not change, so they do not follow the order of the notes.

Before you run a cell, say which value you expect. That is the exercise in every one of them."""  # noqa: E501

IMPORTS = """import torch

from flux_edu.teaching import check, explore
from flux_edu.teaching.errata import run
from flux_edu.teaching.plots import chapter_14 as plots"""

# what stands below an entry's words, and below its `run`
FIGURES = {
    12: (
        "The figure has the same shift twice. In which of the two does a larger μ move the curve to the right?",
        "explore(plots.mu_directions, mu=(-1, 3.5, 0.05), steps=(4, 50, 1))",
    ),
    1: (
        "The figure walks with the true velocity, so only the sign is at stake. Does it help to take more steps?",
        "explore(plots.step_sign, steps=(1, 20, 1))",
    ),
    3: (
        "The figure has the scores of a query q and of its opposite −q with keys further and further away. Which of"
        " the two forms treats q and −q alike?",
        "explore(plots.added_or_turned, seed=(0, 20, 1))",
    ),
}

EXERCISES = [
    """## Exercises

### Exercise 14.1 · Where the wrong sign ends (difficulty ●○○, 5 min)

Predict first, on paper: a walk with the notes' sign begins at ε, and the velocity is the true one, ε − x₀, all the way. Where is it at t = 0? Then write it down.""",  # noqa: E501
    '''def where_it_ends(x_0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The last state of a walk from noise with x + (t_n - t_next) v, for v = noise - x_0."""
    raise NotImplementedError


check("14.1", where_it_ends);''',
    """<details><summary>Hint</summary>

The factors $t_n - t_{n+1}$ of all steps add up to $t_0 - t_N = 1$, however many steps there are.
</details>
<details><summary>Solution</summary>

`return noise + (noise - x_0)`: as far beyond the noise as the picture lies before it. More steps do not help.
</details>

### Exercise 14.2 · Where int() falls short (difficulty ●●○, 10 min)

Predict first: for N = 50 and strengths of whole per cents, how often does `int((1 - strength) * N)` miss a product that is a whole number? Then count. Take p = 0 … 100, strength = p / 100, and only those p for which (100 − p) N is a multiple of 100.""",  # noqa: E501
    '''def float_traps(num_steps: int) -> list[int]:
    """The p for which (100 - p) N / 100 is whole, and int((1 - p / 100) * N) is another number."""
    raise NotImplementedError


check("14.2", float_traps);''',
    """<details><summary>Hint</summary>

Compute the true index in whole numbers, `(100 - p) * N // 100`, and the other one in floating point.
</details>
<details><summary>Solution</summary>

```python
whole = [p for p in range(101) if (100 - p) * num_steps % 100 == 0]
return [p for p in whole if int((1 - p / 100) * num_steps) != (100 - p) * num_steps // 100]
```

For N = 50 there are seven of 51: 34, 56, 68, 78, 80, 90 and 92 per cent. The usual 80 is among them.
</details>

## What you now have

* Every statement of the notes with a verdict, and a number or a source behind the verdict.
* The four to remember first: the sign of the step, the term added to the scores, the direction of μ, and what strength means.
* A habit: write down what a formula's words predict, then let the code answer.

Back to [00 · The map](00_map.ipynb).""",  # noqa: E501
]


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
        f"> {readable(erratum.quote)}",
        f"**{erratum.verdict.capitalize()}.** {erratum.right}",
        "; ".join(filter(None, where)) + ".",
    ]
    if erratum.source:
        parts.append(f"Source: {linked(erratum.source)}.")
    if erratum.number in FIGURES:
        parts.append(FIGURES[erratum.number][0])
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


def sources() -> list[tuple[str, str]]:
    """The notebook's cells as (kind, source)."""
    cells = [("markdown", OPENING), ("markdown", CONVENTIONS), ("code", IMPORTS), ("markdown", table())]
    for part, errata in groupby(ERRATA, key=lambda erratum: erratum.part):
        title = f"## The notes on {part}\n\n"
        for erratum in errata:
            cells.append(("markdown", title + explanation(erratum)))
            title = ""
            lines = [f"run({erratum.number})"] if erratum.check else []
            lines += [FIGURES[erratum.number][1]] if erratum.number in FIGURES else []
            if lines:
                cells.append(("code", "\n".join(lines)))
    kinds = ("markdown", "code") * len(EXERCISES)
    return cells + list(zip(kinds, EXERCISES, strict=False))


def generated() -> str:
    """The whole file, without outputs."""
    cells = []
    for kind, source in sources():
        cell = {"cell_type": kind, "id": hashlib.sha256(source.encode()).hexdigest()[:8], "metadata": {}}
        cell |= {"execution_count": None, "outputs": []} if kind == "code" else {}
        cells.append(cell | {"source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
