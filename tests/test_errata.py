"""Chapter 14, the errata: each verdict is borne out by its two forms, each link leads to a heading, none is lost."""

import dataclasses
import re
from collections import Counter

import errata_notebook as notebook
import nbformat
import pytest
import torch
from tables import ROOT, equations

from flux_edu.teaching import errata
from flux_edu.teaching.errata import ERRATA, VERDICTS, entry
from flux_edu.teaching.plots import chapter_14 as plots

each_entry = pytest.mark.parametrize("erratum", ERRATA, ids=lambda erratum: f"{erratum.number}")
CHECKED = [erratum for erratum in ERRATA if erratum.check]
each_check = pytest.mark.parametrize("erratum", CHECKED, ids=lambda erratum: f"{erratum.number}")


def headings(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


# ---------------------------------------------------------------- the list


def test_every_number_is_there_once():
    assert sorted(erratum.number for erratum in ERRATA) == list(range(1, len(ERRATA) + 1))
    assert len(ERRATA) >= 34 and errata.find(34).verdict == "right"
    with pytest.raises(ValueError, match="no entry 0; the errata have 1 to"):
        errata.find(0)


@each_entry
def test_an_entry_is_whole(erratum):
    assert erratum.verdict in VERDICTS
    assert 0 < len(erratum.quote) <= 160 and "\n" not in erratum.quote, "a short quotation, two lines at most"
    assert erratum.right and erratum.topic and erratum.part
    assert erratum.check or erratum.source, "a verdict needs a check or a source"
    for number in erratum.equations:
        assert number in equations(), f"({number}) is no equation of docs/EQUATIONS.md"


@each_entry
def test_the_link_leads_to_a_heading(erratum):
    name, title = erratum.section
    assert title in headings(ROOT / "notebooks" / f"{name}.ipynb"), f"{name} has no heading {title!r}"
    target = re.search(r"\]\(([^)\s]+)\)$", notebook.section_link(erratum))
    assert target and target[1].startswith(f"{name}.ipynb#"), "a bracket or a space ends the link too early"


def test_anchors_are_those_of_jupyter():
    assert notebook.anchor("Where the notes are wrong: `max_shift` is no maximum").endswith("max_shift-is-no-maximum")
    assert notebook.anchor("[0, 1] (φ)") == "%5B0,-1%5D-%28φ%29"


# ---------------------------------------------------------------- the checks


@each_check
def test_the_notes_form_fails_and_the_right_form_passes(erratum):
    check = erratum.check
    notes, right = errata.evaluate(erratum)
    assert entry.agrees(right, check.expected)
    if erratum.verdict == "right":
        assert entry.agrees(notes, check.expected)
    else:
        assert not entry.agrees(notes, check.expected)


@each_check
def test_a_check_calls_the_package(erratum):
    """The right side is no second copy of the formula: its module takes a name of the package that it uses."""
    code = entry.source_of(erratum.check).split("def ")[-1]
    module = __import__(erratum.check.right_form.__module__, fromlist=["_"])
    used = [getattr(module, word, None) for word in re.findall(r"\w+", code)]
    home = [getattr(each, "__module__", type(each).__module__) for each in used]
    assert any(each.startswith("flux_edu.") for each in home if each), code


def test_a_verdict_that_does_not_hold_is_noticed():
    sign = errata.find(1)
    believed = dataclasses.replace(sign.check, right_form=sign.check.notes_form)
    with pytest.raises(AssertionError, match="No. 1: the right form gives"):
        errata.evaluate(dataclasses.replace(sign, check=believed))
    harmless = dataclasses.replace(sign.check, notes_form=sign.check.right_form)
    with pytest.raises(AssertionError, match="called 'wrong', but the notes' form gives"):
        errata.evaluate(dataclasses.replace(sign, check=harmless))
    with pytest.raises(AssertionError, match="called 'right', but"):
        errata.evaluate(dataclasses.replace(sign, verdict="right"))


def test_both_forms_get_the_same_random_numbers_and_leave_the_readers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    norm = errata.find(10)
    assert errata.evaluate(norm) == errata.evaluate(norm)
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
    errata.run(19)
    assert "arXiv 2506.15742" in capsys.readouterr().out


# ---------------------------------------------------------------- the notebook


def test_the_notebook_is_the_one_that_the_list_makes():
    assert notebook.PATH.read_text("utf-8") == notebook.generated(), "run `python docs/make/errata_notebook.py`"


def test_no_entry_is_lost_in_the_notebook():
    cells = nbformat.read(notebook.PATH, 4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert len(cells) <= 110
    assert Counter(re.findall(r"^run\((\d+)\)", code, re.MULTILINE)) == Counter(f"{each.number}" for each in CHECKED)
    titles = headings(notebook.PATH)
    assert [title for title in titles if title.startswith("No. ")] == [notebook.heading(each) for each in ERRATA]
    text = "\n".join(cell.source for cell in cells)
    assert r"\tag" not in text, "a number's formula stands in its chapter"
    for each in ERRATA:
        assert f"(#{notebook.anchor(notebook.heading(each))})" in text


def test_every_chinese_quotation_is_translated():
    assert {each.number for each in ERRATA if re.search("[\u4e00-\u9fff]", each.quote)} == set(notebook.ENGLISH)


def test_quotations_can_be_set_and_sources_followed():
    assert notebook.readable(r"\(\mu\)：a") == r"$\mu$：a"
    assert notebook.readable(r"$\text{add\_sampling\_metadata}$ is") == "`add_sampling_metadata` is"
    assert notebook.linked("x-flux#32, arXiv 2403.03206") == (
        "[x-flux#32](https://github.com/XLabs-AI/x-flux/issues/32),"
        " [arXiv 2403.03206](https://arxiv.org/abs/2403.03206)"
    )


# ---------------------------------------------------------------- figures


def test_what_the_figures_say_is_so():
    assert "at t = 0.240" in plots.mu_directions(1.15).get_label()
    added, turned = plots.scores_by_distance(seed=3)
    assert abs(turned[0] + turned[1]).max() < 1e-6 and abs(added[0] + added[1]).max() > 1
    levels, right, notes = plots.walks(5)
    assert levels[0] == 1 and levels[-1] == 0
    assert right[-1] == pytest.approx([0.8, 0.0, -0.9], abs=1e-6)
    assert notes[-1] == pytest.approx([-1.8, 2.4, 1.3], abs=1e-6)
