"""The map notebook's two tables are README's; `python tests/test_map.py` brings them up to date."""

import json
import re

from readme_tables import EQUATION, NOTEBOOK, ROOT, cells, tags

MAP = ROOT / "notebooks" / "00_map.ipynb"


def notebook_table() -> list[str]:
    """What each notebook teaches, with README's words; not the map itself."""
    found = NOTEBOOK.findall((ROOT / "README.md").read_text("utf-8"))
    lines = [
        f"| [{name}]({name}.ipynb) | {what} | {minutes} |" for name, what, minutes, *_ in found if name != "00_map"
    ]
    return ["| notebook | what you will be able to do | read and try |", "|---|---|---|", *lines]


def equation_table() -> list[str]:
    """Number, equation, function and the notebook's section, with links that start in notebooks/."""
    lines = ["| no. | equation | function | section |", "|---|---|---|---|"]
    for number, equation, functions, _, _ in EQUATION.findall((ROOT / "README.md").read_text("utf-8")):
        places = tags().get(number, [])
        sections = [f"[{name[:2]}]({name}.ipynb#{heading.replace(' ', '-')})" for name, heading in places]
        functions = functions.replace("](flux_edu/", "](../flux_edu/")
        lines.append(f"| {number} | {equation} | {functions} | {', '.join(sections)} |")
    return lines


TABLES = {"## What each notebook teaches": notebook_table, "## All equations": equation_table}


def with_tables(source: str) -> str:
    """A markdown cell with the table under each of those headings replaced by the right one."""
    for heading, table in TABLES.items():
        lines = "\n".join(table())
        source = re.sub(
            rf"(^{heading}\n(?:(?!#|\|).*\n)*)(?:\|.*\n)+", lambda m, t=lines: m[1] + t + "\n", source, flags=re.M
        )
    return source


def test_the_maps_tables_are_those_of_the_readme():
    sources = [cell["source"] for cell in cells(MAP) if cell["cell_type"] == "markdown"]
    assert all(any(re.search(f"^{heading}$", source, re.M) for source in sources) for heading in TABLES)
    for source in sources:
        assert source == with_tables(source), "run `python tests/test_map.py`"


def test_the_map_paints_first_and_takes_about_a_dozen_steps():
    code = [cell["source"] for cell in cells(MAP) if cell["cell_type"] == "code"]
    assert "generate_image" in code[0] and len(code[0].splitlines()) <= 8
    assert 12 <= len(code) <= 17


if __name__ == "__main__":
    notebook = json.loads(MAP.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = with_tables("".join(cell["source"]))
            cell["source"] = text if isinstance(cell["source"], str) else text.splitlines(keepends=True)
    MAP.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
