"""Chapter 14, the errata: each verdict is borne out by its two forms, each entry of the notebook is whole."""

import dataclasses
import re
from collections import Counter
from urllib.parse import unquote

import nbformat
import pytest
import torch
from tables import ROOT, equations

from flux_edu.teaching import errata
from flux_edu.teaching.errata import CHECKS, entry
from flux_edu.teaching.plots import chapter_14 as plots

VERDICTS = ("wrong", "imprecise", "missing", "out of date", "right")
ENTRY = re.compile(
    r"### No\. (?P<number>\d+) · (?P<topic>.+)\n\n> (?P<quote>.+)\n(?:> (?P<english>\*.+\*)\n)?\n"
    r"\*\*(?P<verdict>.+?)\.\*\* .+\n\n(?:Eq\. (?P<equations>.+); )?\[(?P<chapter>\d\d) · .+\]\((?P=chapter)_.+\)\."
)
CELLS = nbformat.read(ROOT / "notebooks" / "14_errata.ipynb", 4).cells
TEXTS = [cell.source for cell in CELLS if cell.cell_type == "markdown" and "### No. " in cell.source]
ENTRIES = [ENTRY.search(text) for text in TEXTS]
each_entry = pytest.mark.parametrize("found", ENTRIES, ids=lambda found: found["number"])
each_check = pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: f"{check.number}")

# ---------------------------------------------------------------- the entries, as they stand in the notebook


def test_every_number_is_there_once_and_every_check_is_run_under_it():
    assert sorted(int(found["number"]) for found in ENTRIES) == list(range(1, len(ENTRIES) + 1))
    run = {}
    for before, cell in zip(CELLS, CELLS[1:], strict=False):
        for number in re.findall(r"^run\((\d+)\)", cell.source, re.MULTILINE):
            run[int(number)] = before.source
    assert run.keys() == CHECKS.keys() and set(range(1, 50)) - CHECKS.keys() == {19}
    assert all(f"### No. {number} · " in text for number, text in run.items())


def numbers_of(found):
    return re.findall(r"\((.+?)\)", found["equations"] or "")


@each_entry
def test_an_entry_is_whole(found):
    number, text = int(found["number"]), found.string
    assert len(found["quote"]) <= 160, "a short quotation, two lines at most"
    assert bool(re.search("[\u4e00-\u9fff]", found["quote"])) == bool(found["english"]), "Chinese is translated"
    verdict = found["verdict"].lower()
    assert verdict in VERDICTS and verdict == getattr(CHECKS.get(number), "verdict", verdict)
    assert number in CHECKS or "\n\nSource: " in text, "a verdict needs a check or a source"
    assert set(numbers_of(found)) <= equations().keys()


def test_the_table_says_what_the_entries_say():
    text = next(cell.source for cell in CELLS if "at a glance" in cell.source)
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\(#(.+)\) \| ([\w ]+) \| (.*) \| (\d\d) \|$", text, re.MULTILINE)
    assert len(rows) == len(ENTRIES)
    for (number, topic, anchor, verdict, numbers, chapter), found in zip(rows, ENTRIES, strict=True):
        assert number == found["number"] and topic.lower() == found["topic"].lower()
        assert unquote(anchor) == f"No. {number} · {found['topic']}".replace("`", "").replace(" ", "-")
        assert verdict == found["verdict"].lower() and chapter == found["chapter"]
        assert numbers == ", ".join(numbers_of(found))
    counts = Counter(found["verdict"].lower() for found in ENTRIES)
    assert ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS) + "." in text


# ---------------------------------------------------------------- the checks


@each_check
def test_the_notes_form_fails_and_the_right_form_passes(check):
    notes, right = entry.evaluate(check)
    assert entry.agrees(right, check.expected)
    assert entry.agrees(notes, check.expected) == (check.verdict == "right")


@each_check
def test_a_check_calls_the_package(check):
    """The right side is no second copy of the formula: its module takes a name of the package that it uses."""
    code = entry.source_of(check).split("def ")[-1]
    module = __import__(check.right_form.__module__, fromlist=["_"])
    used = [getattr(module, word, None) for word in re.findall(r"\w+", code)]
    home = [getattr(each, "__module__", type(each).__module__) for each in used]
    assert any(each.startswith("flux_edu.") for each in home if each), code


def test_a_verdict_that_does_not_hold_is_noticed():
    sign = CHECKS[1]
    with pytest.raises(AssertionError, match="No. 1: the right form gives"):
        entry.evaluate(dataclasses.replace(sign, right_form=sign.notes_form))
    with pytest.raises(AssertionError, match="called 'wrong', but the notes' form gives"):
        entry.evaluate(dataclasses.replace(sign, notes_form=sign.right_form))
    with pytest.raises(AssertionError, match="called 'right', but"):
        entry.evaluate(dataclasses.replace(sign, verdict="right"))


def test_both_forms_get_the_same_random_numbers_and_leave_the_readers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert entry.evaluate(CHECKS[10]) == entry.evaluate(CHECKS[10])
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_agree_to_a_thousandth_and_whole_numbers_exactly():
    assert entry.agrees(torch.tensor([1.0, 2.0]), (1.0005, 2.0)) and not entry.agrees((1.0, 2.0), (1.01, 2.0))
    assert entry.agrees((9216, 3072), (9216, 3072)) and not entry.agrees(37_748_992, 37_761_280)
    assert not entry.agrees(float("nan"), 3.0) and not entry.agrees((1, 2, 3), (1, 2)) and entry.agrees("a", "a")
    assert entry.readable((0.123456, (True, 11_901_408_320))) == "(0.1235, (True, 11,901,408,320))"


def test_run_shows_both_forms_and_what_they_give(capsys):
    errata.run(1)
    printed = capsys.readouterr().out
    assert "✗ the notes     (1.9, 1.5)" in printed and "✓ right         (0.3, -0.7)" in printed
    assert "def sign_notes" in printed or "IPython.core.display.Code" in printed
    for number in (0, 19):
        with pytest.raises(ValueError, match="there are 1 to 49, 19 left out"):
            errata.run(number)


# ---------------------------------------------------------------- figures


def test_what_the_figures_say_is_so():
    assert "at t = 0.240" in plots.mu_directions(1.15).get_label()
    added, turned = plots.scores_by_distance(seed=3)
    assert abs(turned[0] + turned[1]).max() < 1e-6 and abs(added[0] + added[1]).max() > 1
    levels, right, notes = plots.walks(5)
    assert levels[0] == 1 and levels[-1] == 0
    assert right[-1] == pytest.approx([0.8, 0.0, -0.9], abs=1e-6)
    assert notes[-1] == pytest.approx([-1.8, 2.4, 1.3], abs=1e-6)
