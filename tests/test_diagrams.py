"""The drawings in notebooks/img are those that docs/make/diagrams.py makes, well-formed, and say what they show."""

from pathlib import Path
from xml.etree import ElementTree

import diagrams
import pytest

IMG = Path(__file__).parents[1] / "notebooks" / "img"


@pytest.mark.parametrize("name", diagrams.drawings())
def test_files_are_what_the_module_draws(name):
    drawn = diagrams.drawings()[name]
    assert (IMG / name).read_text("utf-8") == drawn, "run `python docs/make/diagrams.py`"
    assert ElementTree.fromstring(drawn).find("{http://www.w3.org/2000/svg}title").text


def test_an_unknown_part_is_named():
    with pytest.raises(ValueError, match="called sofa"):
        diagrams.network(["sofa"])
