"""Every exercise of every notebook: its solution is right, its mistakes are named, nonsense is not right.

All of it follows from the declarations in flux_edu/teaching/exercises.
"""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from functools import cache

import mutation
import pytest
import torch
import torch.nn.functional as F
from tables import ROOT, cells

from flux_edu.embeddings import timestep_embedding
from flux_edu.flux2.model import SwiGLU
from flux_edu.patchify import make_img_ids, patchify
from flux_edu.sampling import guide
from flux_edu.teaching import check
from flux_edu.teaching.exercise import find
from flux_edu.teaching.exercises import CHAPTERS, chapter, chapter_01
from flux_edu.teaching.exercises.chapter_12 import reference_ids
from flux_edu.teaching.exercises.exercise import Exercise, normal
from flux_edu.teaching.labs import attention_maps
from flux_edu.tools import pack_mask
from flux_edu.train.objectives import guidance_loss

EXERCISES = [exercise for name in CHAPTERS for exercise in chapter(name).EXERCISES]
NUMBERS = [exercise.number for exercise in EXERCISES]
NOTEBOOKS = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
CHECKED = re.compile(r'^check\("(\d+\.\d+)", (\w+)\)', re.MULTILINE)
WHOLE_NUMBERS = (
    "2.1",
    "2.4",
    "4.4",
    "5.3",
    "6.2",
    "7.1",
    "13.3",
    "14.1",
    "16.1",
    "18.1",
)  # or names: 1 % changes nothing
FOLDED = {
    what: re.compile(rf"<details><summary>{what}</summary>\n\n(.+?)</details>", re.DOTALL)
    for what in ("Hint", "Solution")
}
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=NUMBERS)


def printed(number, answer):
    """What `check` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        check(number, answer)
    return out.getvalue()


# ---------------------------------------------------------------- the declarations


def test_every_chapter_is_known():
    assert CHAPTERS == sorted(p.stem[-2:] for p in (ROOT / "flux_edu/teaching/exercises").glob("chapter_*.py"))
    assert len(set(NUMBERS)) == len(NUMBERS)


@each_exercise
def test_the_solution_is_right(exercise):
    assert printed(exercise.number, exercise.solution) == f"✓ {exercise.number}  right\n"


@pytest.mark.parametrize(
    ("exercise", "diagnosis"),
    [pytest.param(e, diagnosis, id=f"{e.number} {diagnosis[:40]}") for e in EXERCISES for diagnosis in e.mistakes],
)
def test_a_mistake_is_named(exercise, diagnosis):
    assert printed(exercise.number, exercise.mistakes[diagnosis]) == f"✗ {exercise.number}  {diagnosis}\n"


@each_exercise
def test_an_exercise_knows_three_mistakes_and_tries_two_inputs(exercise):
    assert len(exercise.mistakes) >= 3 and len(exercise.inputs) >= 2
    assert all(len(diagnosis) >= 20 for diagnosis in exercise.mistakes), "a diagnosis says what to look for"


@each_exercise
def test_an_unwritten_answer_is_told_what_to_do(exercise):
    def unwritten(*inputs):
        raise NotImplementedError

    assert printed(exercise.number, unwritten).startswith(f"○ {exercise.number}  not written yet")


@each_exercise
def test_an_answer_of_nothing_lacks_its_return(exercise):
    assert "forget `return`" in printed(exercise.number, lambda *inputs: None)


@pytest.mark.parametrize("exercise", [e for e in EXERCISES if e.number not in WHOLE_NUMBERS], ids=lambda e: e.number)
def test_a_nearly_right_answer_is_wrong(exercise):
    """One that is 1 % too large."""
    assert printed(exercise.number, mutation.perturbed(exercise.solution)).startswith("✗")


def test_no_answer_is_right_when_python_leaves_out_asserts():
    code = """
import contextlib, io, json, sys, torch
from flux_edu.teaching import check
assert False, "this line must not run"
answers = [lambda *_: "nonsense", lambda *_: None, lambda *_: torch.zeros(3)]
with contextlib.redirect_stdout(io.StringIO()) as out:
    right = [number for number in json.loads(sys.argv[1]) for answer in answers if check(number, answer)]
print(right, out.getvalue().count("✗"))
"""
    command = [sys.executable, "-O", "-c", code, json.dumps(NUMBERS)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert run.stdout.strip() == f"[] {3 * len(NUMBERS)}", run.stdout + run.stderr


# ---------------------------------------------------------------- how an answer is compared


@pytest.fixture
def number(monkeypatch):
    """An exercise about a pair: the double, and the number of entries."""
    exercise = Exercise(
        "1.9",
        lambda x: (2 * x, len(x)),
        inputs=[(normal(3),), (normal(5),)],
        mistakes={"that is the square": lambda x: (x**2, len(x)), "one entry too many": lambda x: (2 * x, len(x) + 1)},
        advice="Double it.",
    )
    monkeypatch.setattr(chapter_01, "EXERCISES", [exercise])
    return "1.9"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: (x + x, len(x)), "✓ 1.9  right"),
        (lambda x: [2 * x.double(), len(x)], "✓ 1.9  right"),
        (lambda x: (x**2, len(x)), "✗ 1.9  that is the square"),
        (lambda x: (x**2 if len(x) > 3 else 2 * x, len(x)), "that is the square"),
        (lambda x: (x**2, len(x) + 1), "for x of shape (3,): entry 0: at [0] the result is"),
        (lambda x: (2 * x, len(x) + 2), "entry 1: your function gives 5, expected 3. Double it."),
        (lambda x: (2 * x, float(len(x))), "your function gives the float 3.0, expected an int"),
        (lambda x: (2 * x[:2], len(x)), "the result has shape (2,), expected (3,)"),
        (lambda x: (2 * x.long(), len(x)), "the result is torch.int64, expected torch.float32"),
        (lambda x: (x.tolist(), len(x)), "your function gives a list, expected a tensor"),
        (lambda x: 2 * x, "your function gives a Tensor, expected a tuple"),
        (lambda x: (2 * x,), "the result has 1 entries, expected 2"),
        (lambda x: (x.mul_(2), len(x)), "your function changes what it is given"),
        (lambda x: 1 / 0, "your function divides by zero"),
        (lambda x: torch.cat([x, x[None]]), "✗ 1.9  your function stopped with RuntimeError: Tensors must have"),
    ],
)
def test_what_a_reader_is_told(number, answer, words):
    assert words in printed(number, answer)


def test_check_says_whether_the_answer_is_right(number):
    assert check(number, lambda x: (2 * x, len(x))) is True
    assert check(number, lambda x: x) is False


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1.1, 'there is no exercise 1.1: chapter 1 has "1.1", "1.2", "1.3", "1.4", numbers in quotes'),
        ("4.9", "there is no exercise '4.9': chapter 4 has \"4.1\", "),
        ("99.1", "there is no exercise '99.1': chapters 1 to 18 have some"),
        ("", "there is no exercise '': chapters 1 to 18"),
        (None, "there is no exercise None: chapters 1 to 18"),
    ],
)
def test_a_number_that_there_is_not(number, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        check(number, lambda: 42)


# ---------------------------------------------------------------- in the notebooks


@cache
def stubs(name):
    """Of each exercise of a notebook: number, name of its function, index of its cell."""
    sources = [cell["source"] for cell in cells(NOTEBOOKS[name])]
    return [(*match.groups(), i) for i, source in enumerate(sources) for match in CHECKED.finditer(source)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_the_exercises_of_its_chapter(name):
    declared = [exercise.number for exercise in chapter(name).EXERCISES] if name in CHAPTERS else []
    text = "\n".join(cell["source"] for cell in cells(NOTEBOOKS[name]))
    headings = re.findall(r"^### Exercise (\d+\.\d+) · .+\((?:difficulty )?[●○]+, \d+ min\)", text, re.MULTILINE)
    assert headings == [number for number, _, _ in stubs(name)] == declared
    assert len(declared) in ((2, 3, 4) if name in CHAPTERS else (0,))


def imports(sources):
    """The imports of some cells, run."""
    namespace = {}
    nodes = [node for source in sources for node in ast.parse(source).body]
    nodes = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(nodes, []), "imports", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(("name", "stub"), [(name, stub) for name in CHAPTERS for stub in stubs(name)], ids=str)
def test_an_exercise_is_whole_and_its_solution_runs_when_it_is_pasted(name, stub):
    """Heading, typed stub, hint, solution; the solution takes the place of the line that raises."""
    number, function, i = stub
    above = [cell["source"] for cell in cells(NOTEBOOKS[name])[:i] if cell["cell_type"] == "code"]
    heading, code, folded = (cells(NOTEBOOKS[name])[j]["source"] for j in (i - 1, i, i + 1))
    assert re.search(rf"^### Exercise {re.escape(number)} · ", heading, re.MULTILINE)
    assert re.search(rf'def {function}\(.*\)\s*->.*:\n    """', code, re.DOTALL)
    hint, solution = (FOLDED[what].search(folded)[1] for what in ("Hint", "Solution"))
    assert len(hint.strip()) > 20
    body = textwrap.indent(re.search(r"```python\n(.+?)```", solution, re.DOTALL)[1], "    ")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.replace("    raise NotImplementedError\n", body), imports(above) | {"check": check})
    assert out.getvalue() == f"✓ {number}  right\n"


# ---------------------------------------------------------------- answers against the package, and other right ones


def test_no_check_rests_on_a_statement_that_python_may_leave_out():
    for path in sorted((ROOT / "flux_edu/teaching/exercises").glob("*.py")):
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text("utf-8")))), path.name


@pytest.mark.parametrize("number, answer", [
    ("5.1", lambda attn, act, W, c: F.linear(torch.cat([attn, act], dim=-1), W, c)),
    ("7.2", lambda q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)),
    ("8.1", lambda moments, scale, shift: scale * moments.chunk(2, 1)[0] - scale * shift),
    ("8.4", lambda x, groups: F.group_norm(x, groups, eps=1e-6)),
    ("3.3", lambda h, w: torch.cat([make_img_ids(1, h, w), reference_ids(h, w, 1)[None]], dim=1)),
    ("4.1", timestep_embedding),
    ("2.2", patchify),
    ("12.1", lambda mask: patchify(pack_mask(mask))),
    ("10.1", lambda v_uncond, v_cond, w: guide(v_uncond, v_cond, w[:, None, None])),
    ("10.2", guidance_loss),
    ("16.2", SwiGLU()),
    ("15.1", attention_maps.quadrant_shares),
    ("15.2", lambda A, tokens, L_txt, grid: attention_maps.word_map(A.mean(0), tokens, L_txt, grid)),
])  # fmt: skip
def test_the_packages_own_function_is_an_answer(number, answer):
    assert printed(number, answer) == f"✓ {number}  right\n"


def test_counts_of_the_published_model():
    assert find("4.4").solution(3072, 19, 38) == 3_228_567_552
    assert find("5.3").solution(3072, 128, 4.0) == 141_591_808
    assert find("16.1").solution(3072, 19, 38) == 3_086_963_712
    assert find("14.1").solution(50) == [34, 56, 68, 78, 80, 90, 92]
