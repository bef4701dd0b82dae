"""The pages of questions: every answer leads to a heading, every number is borne out, every refutation is a test."""

import json
import math
import re
from functools import cache
from importlib.util import find_spec
from urllib.parse import unquote

import nbformat
import pytest
import torch
from book import QUESTION
from loose_numbers import ELSEWHERE, numbers
from search import Search, unfound
from tables import ROOT

from flux_edu.configs import configs
from flux_edu.model import Flux
from flux_edu.schedule import get_lin_function, get_schedule, time_shift
from flux_edu.train.objectives import shift_logit_normal

DOCS = ROOT / "docs"
PAGE = (DOCS / "QUESTIONS.md").read_text("utf-8")
ANSWERS = dict(QUESTION.findall(PAGE))
each_question = pytest.mark.parametrize("question", ANSWERS)
LINK = re.compile(r"\]\((?!https:)([^)\s#]*)(?:#([^)\s]*))?\)")


@cache
def text_of(name):
    path = DOCS / name
    if path.suffix == ".md":
        return path.read_text("utf-8")
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells)


def anchors(name):
    titles = re.findall(r"^#+ (.+)$", text_of(name), re.MULTILINE)
    return {title.replace("`", "").replace(" ", "-") for title in titles}


# ---------------------------------------------------------------- docs/QUESTIONS.md


def test_forty_five_are_asked():
    assert len(ANSWERS) == PAGE.count("\n### ") == 45


@each_question
def test_an_answer_is_short_says_how_it_is_known_and_leads_on(question):
    also, answer = ANSWERS[question].split("\n\n", 1)
    said, _, links = answer.partition("\n→ ")
    assert re.fullmatch(r"\*Also asked: .+\.\*", also) and "?" in question
    assert 25 <= len(said.split()) <= 120
    assert links and LINK.search(links)
    if re.search(r"\b(FLUX|dev|schnell|klein|ComfyUI|diffusers|makers)\b", said):
        assert re.search(r"\b(code|paper|cards?|threads?|guess|tiny|published|H200)\b", said), "how is this known?"


@pytest.mark.parametrize("name", ["QUESTIONS.md", "NAMES.md", "WHAT_FLUX_IS_NOT.md", "WHAT_FLUX_IS_NOT.zh.md"])
def test_links_lead_to_headings(name):
    for target, fragment in LINK.findall(text_of(name)):
        assert (DOCS / target).exists(), f"{name} links {target}"
        assert not fragment or unquote(fragment) in anchors(target or name), f"{target} has no heading for #{fragment}"


@cache
def computed():
    """The numbers of the answers that no linked section holds, each from the formula or the constant behind it."""
    mu = get_lin_function()
    fp8 = torch.finfo(torch.float8_e4m3fn), torch.finfo(torch.float8_e5m2)
    values = [math.exp(mu(4096)), mu(16384), 1 / 0.3611, get_schedule(50, 4096)[25], torch.finfo(torch.float16).max]
    with torch.device("meta"):
        schnell = Flux(configs["flux-schnell"].params)
    values += [*(f.max for f in fp8), len(schnell.state_dict())]
    return {f"{x:.{digits}f}" for x in values for digits in (0, 2, 4)}


CARD = (ROOT / "flux_edu" / "weights" / "MODEL_CARD.md").read_text("utf-8")


@each_question
def test_every_number_is_borne_out(question):
    """By a section that the answer links, by the model card, which is a logged run, or by a computation here."""
    answer = ANSWERS[question]
    linked = "\n".join(text_of(target or "QUESTIONS.md") for target, _ in LINK.findall(answer))
    words = ELSEWHERE.sub(" ", re.sub(r"\]\([^)]*\)", "]", answer))
    loose = numbers(words) - numbers(linked) - numbers(CARD) - computed()
    assert not loose, f"nothing bears out {loose}"


# ---------------------------------------------------------------- docs/NAMES.md


def test_comfyui_picks_the_schedules_levels_from_a_table():
    """`simple` with ModelSamplingFlux: 10,000 levels shifted by μ, of which every (10,000/N)th is taken, and 0."""
    table = time_shift(1.15, 1.0, torch.arange(1, 10_001, dtype=torch.float64) / 10_000)
    for N in (4, 20, 25):
        levels = [table[-1 - int(i * 10_000 / N)].item() for i in range(N)] + [0.0]
        assert levels == pytest.approx(get_schedule(N, 4096), abs=1e-6)


def test_denoise_is_the_end_of_a_longer_schedule():
    """ComfyUI's BasicScheduler: all N steps, the last ones of int(N/d); strength runs a share of N."""
    N, d = 20, 0.5
    comfy, ours = get_schedule(int(N / d), 4096)[-N - 1 :], get_schedule(N, 4096)[N // 2 :]
    assert len(comfy) == N + 1 and len(ours) == N // 2 + 1 and comfy[0] == pytest.approx(ours[0])


def test_the_shifts_of_the_trainers():
    """kohya's `shift`: α t / (1 + (α − 1) t); 3.1582 is e^1.15. ai-toolkit's 1.16 beside 1.15."""
    t = torch.linspace(0.01, 0.99, 99)
    alpha = 3.1582
    assert torch.allclose(alpha * t / (1 + (alpha - 1) * t), time_shift(1.15, 1.0, t), atol=1e-4)
    assert shift_logit_normal(0.0, 1.0, math.log(alpha), 1.0)[0] == pytest.approx(1.15, abs=1e-4)
    apart = (time_shift(1.16, 1.0, t) - time_shift(1.15, 1.0, t)).abs().max().item()
    assert 0.0024 < apart <= 0.0025


# ---------------------------------------------------------------- docs/WHAT_FLUX_IS_NOT.md


def rows(name):
    return re.findall(r"^\| (\d+) \| .* \| (.+) \|$", text_of(name), re.MULTILINE)


def test_both_languages_refute_the_same_by_the_same_checks():
    english, chinese = rows("WHAT_FLUX_IS_NOT.md"), rows("WHAT_FLUX_IS_NOT.zh.md")
    assert [number for number, _ in english] == [str(i + 1) for i in range(len(english))]
    checks = [[(number, check) for number, check in table if check[0] == "`"] for table in (english, chinese)]
    assert checks[0] == checks[1] and len(checks[0]) == len(english) - 1


def test_every_check_is_a_test():
    for _, check in rows("WHAT_FLUX_IS_NOT.md"):
        if match := re.fullmatch(r"`(tests/\w+\.py) -k (\w+)`", check):
            source = (ROOT / match[1]).read_text("utf-8")
            assert f"def test_{match[2]}" in source, f"{match[1]} has no test_{match[2]}"


# ---------------------------------------------------------------- the book's search (`python run.py book` asks all 45)


@pytest.mark.skipif(not find_spec("sphinx"), reason="the extra `book` is not installed")
def test_a_wording_must_find_its_question_among_the_first_three(tmp_path):
    pages = ["docs/questions/01", "docs/questions/02", "notebooks/a", "notebooks/b"]
    index = {
        "docnames": pages,
        "titles": ["Black pictures?", "Red pictures?", "Pictures", "More"],
        "alltitles": {"Black pictures?": [[0, None]], "Red pictures?": [[1, None]], "Pictures": [[2, None], [3, "#p"]]},
        "terms": {"fp16": [0, 3], "nan": 0, "overflow": [0, 2]},
        "titleterms": {"black": 0, "pictur": [0, 1, 2, 3], "red": 1},
    }
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(index)})", "utf-8")
    search = Search(tmp_path)
    assert search.find("black pictures?") == ["docs/questions/01"]
    assert search.find("the picture")[:2] == ["docs/questions/01", "docs/questions/02"]
    assert search.find("overflowing pictures") == ["docs/questions/01", "notebooks/a"], "both words, on one page"
    assert search.find("NaN in fp16") == ["docs/questions/01"] and search.find("fp8 nan") == []
    asked = [("Black pictures?", "*Also asked: NaN in fp16, fp8 nan.*\n\nSo."), ("Red pictures?", "*Also asked: red.*")]
    [line] = unfound(tmp_path, asked)
    assert line.startswith("the search for 'fp8 nan' finds [], not question 1: Black pictures?")
