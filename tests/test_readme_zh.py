"""README.zh.md is README.md in Chinese: same headings, commands, links, tables; and the glossary's words."""

import re

import pytest
from tables import NOTEBOOK, ROOT, mirrored

from flux_edu.teaching import glossary

ENGLISH = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "README.zh.md").read_text("utf-8")
HAN = re.compile("[\u4e00-\u9fff]")
BLOCK = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def outline(text):
    """Every heading's level, every picture, table and code block, in order: what a reader sees from afar."""
    text = BLOCK.sub("```", text)
    parts = re.findall(r"^(#+) |^(```)|^(\|[-|]+\|)$|^(!)\[|^(\*) ", text, re.MULTILINE)
    return ["".join(part) for part in parts]


def links(text):
    """Where links lead, in order of their targets; the two pages link each other."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return sorted("README" if target.startswith("README") else target for target in targets)


def commands(text):
    """The lines of the code blocks without what stands two spaces behind them."""
    return [
        re.split(r" {2,}", line)[0] for block in BLOCK.findall(text) for line in block.splitlines() if line[0] != " "
    ]


def test_both_have_the_same_build():
    assert outline(CHINESE) == outline(ENGLISH)


def test_headings_are_translated():
    for heading in re.findall(r"^## (.+)$", CHINESE, re.MULTILINE):
        assert HAN.search(heading), f"{heading!r} is not Chinese"


def test_links_lead_to_the_same_places():
    assert links(CHINESE) == links(ENGLISH)


def test_commands_are_the_same():
    assert commands(CHINESE) == commands(ENGLISH)
    inline = [sorted(re.findall(r"`((?:python|pip|conda|py) [^`]+)`", text)) for text in (CHINESE, ENGLISH)]
    assert inline[0] == inline[1]


def test_numbers_in_prose_are_the_same():
    """Papers, versions, sizes: every number of two digits or with a point stands in both pages."""
    numbers = [set(re.findall(r"\d+\.\d[\d.]*\d|\d\.\d|\d{2,}", text)) for text in (CHINESE, ENGLISH)]
    assert numbers[0] == numbers[1]


def test_the_notebooks_have_the_same_rows():
    assert mirrored(CHINESE, ENGLISH) == CHINESE, "run `python docs/make/tables.py`, then translate what is new"


def test_what_a_reader_reads_is_chinese():
    english = [name for name, words, _ in NOTEBOOK.findall(CHINESE) if not HAN.search(words)]
    assert not english, f"translate in README.zh.md: {english}"


@pytest.mark.parametrize(
    "term",
    "token velocity modulation gate scale shift latent padding guidance_distillation rectified_flow schedule".split(),
)
def test_words_are_those_of_the_glossary(term):
    [word] = [word for word in glossary.words() if word.term == term.replace("_", " ")]
    assert word.zh in CHINESE, f"{word.term} is {word.zh} in the glossary"


def test_lines_are_paragraphs():
    """A line break between Chinese letters would show as a space."""
    for line, after in zip(CHINESE.splitlines(), CHINESE.splitlines()[1:], strict=False):
        if HAN.match(line[-1:]) and HAN.match(after[:1]):
            pytest.fail(f"broken inside a paragraph: {line[-20:]} / {after[:20]}")
