"""The glossary names what exists, and the notebooks' Chinese words are the glossary's."""

import re

import pytest
from tables import ROOT, cells

from flux_edu.teaching import glossary

NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
HAN = "\u4e00-\u9fff"
BRACKET = re.compile(rf"([^.:;,()\n]{{0,60}}?)\s?\(([{HAN}][{HAN}、·]*?)[,)]")
each_word = pytest.mark.parametrize("word", glossary.words(), ids=lambda word: word.term)


def prose(path):
    return "\n\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "markdown")


def plain(text):
    return re.sub(r"[*`_\"“”]", "", text).strip().lower()


def test_words_are_sorted_and_named_once():
    terms = [word.term.lower() for word in glossary.words()]
    assert terms == sorted(terms) and len(set(terms)) == len(terms)
    assert len({word.zh for word in glossary.words()}) == len(terms), "two terms with one translation"
    assert len(terms) >= 60


@each_word
def test_a_word_is_explained_where_it_says(word):
    assert word.notebook in NOTEBOOKS, f"there is no notebook {word.notebook}"
    text = plain(prose(NOTEBOOKS[word.notebook]))
    assert word.zh in text, f"notebook {word.notebook} never says {word.zh}"
    assert any(plain(form) in text for form in (word.term, *word.also)), f"notebook {word.notebook}: no {word.term}"


@each_word
def test_a_name_in_the_code_exists(word):
    if word.symbol:
        assert glossary.resolve(word.symbol) is not None


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=lambda path: path.stem)
def test_words_in_brackets_agree_with_the_glossary(path):
    forms = {plain(form): word for word in glossary.words() for form in (word.term, *word.also)}
    for before, zh in BRACKET.findall(prose(path)):
        before = plain(before)
        said = [form for form in forms if re.search(rf"(^|\W){re.escape(form)}$", before)]
        if said:  # the longest: "time shift" and not "shift"
            word = forms[max(said, key=len)]
            assert zh == word.zh, f"{path.name}: “{before} ({zh})”, the glossary has {word.zh}"


def test_most_words_in_brackets_stand_in_the_glossary():
    """So that the test above compares something."""
    known = {word.zh for word in glossary.words()}
    used = {zh for path in NOTEBOOKS.values() for _, zh in BRACKET.findall(prose(path))}
    assert len(used) > 50 and len(used & known) / len(used) > 0.8, sorted(used - known)


def test_the_table_has_a_row_a_word_and_finds_from_every_side():
    for chinese_first in (False, True):
        lines = glossary.table(chinese_first=chinese_first).splitlines()
        assert len(lines) == len(glossary.words()) + 2
        assert all(line.count(" | ") == 4 for line in lines[2:]), "a bar inside a cell would break the table"
    assert [word.term for word in glossary.find("整流流")] == ["rectified flow"]
    assert "time shift" in [word.term for word in glossary.find("time_shift")]
    assert glossary.find("no such word") == []
    linked = glossary.table(glossary.find("常微分方程"), {"06": "06_sampling.ipynb"})
    assert "[06](06_sampling.ipynb)" in linked


def test_a_wrong_name_is_not_resolved():
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        glossary.resolve("schedule.time_shaft")
