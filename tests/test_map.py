"""The map notebook paints first, and its two tables are README's and docs/EQUATIONS.md's."""

import re

from tables import MAP_TABLES, ROOT, cells, with_tables

MAP = ROOT / "notebooks" / "00_map.ipynb"


def test_the_maps_tables_are_those_of_the_pages():
    sources = [cell["source"] for cell in cells(MAP) if cell["cell_type"] == "markdown"]
    assert all(any(re.search(f"^{heading}$", source, re.M) for source in sources) for heading in MAP_TABLES)
    for source in sources:
        assert source == with_tables(source), "run `python docs/make/tables.py`"


def test_the_map_paints_first_and_takes_about_a_dozen_steps():
    _, *code = [cell["source"] for cell in cells(MAP) if cell["cell_type"] == "code"]  # one looks for the package
    assert "generate_image" in code[0] and len(code[0].splitlines()) <= 8
    assert 12 <= len(code) <= 17
