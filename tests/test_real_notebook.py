"""Chapter 13: its figures at their sliders' ends, and the wrong answers to its exercises."""

import re

import pytest
import torch

from flux_edu.teaching.plots import chapter_13 as plots


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(), ["33.7 GB", "transformer 23.8", "2,082 TFLOP", "20% of it attention", "3.47 seconds"]),
        (dict(variant="flux-schnell", steps=4, text_tokens=256), ["transformer 23.8", "278 TFLOP"]),
        (dict(precision="4 bits", tflops=1000), ["8.4 GB", "2.08 seconds"]),
        (dict(width=256, height=256, steps=1), ["10 TFLOP", "4% of it attention"]),
        (dict(width=2048, height=2048, steps=1), ["418 TFLOP", "48% of it attention"]),
    ],
)
def test_the_cost_of_a_picture(options, told):
    label = plots.cost_of_a_picture(**options).get_label()
    assert all(each in label for each in told), label


def test_attention_overtakes_the_matrices_at_18432_tokens():
    assert "20% at 1024 and overtakes the matrices at 2142 pixels" in plots.scaling().get_label()
    assert "at 2172 pixels" in plots.scaling(text_tokens=0).get_label()


def test_modulation_is_a_quarter_of_one_and_nothing_of_the_other():
    label = plots.parameters_and_work().get_label()
    assert "modulation 27.1% of the parameters, 0.0% of the arithmetic" in label
    assert "single blocks 36.2% of the parameters, 66.7% of the arithmetic" in label


def test_what_bfloat16_does():
    assert "the two give 988 and 992 instead of 990" in plots.bfloat16_times().get_label()
    assert "instead of 900" in plots.bfloat16_times(t=0.9).get_label()
    first = {
        side: int(re.search(r"(\d+) % in the first", plots.lost_steps(50, side).get_label())[1]) for side in (256, 2048)
    }
    assert first[256] > 70 and first[2048] < 25
    assert "4 steps" in plots.lost_steps(steps=4).get_label()


# ---------------------------------------------------------------- exercises


def tflop(W, H, T, N, linear=24, square=4, text=True, pixels=256, steps=True):
    D, L = 3072, W * H // pixels + T * text
    return (N if steps else 1) * 57 * (linear * D**2 * L + square * D * L**2) / 1e12


def shapes_of_either(wanted, found):
    names = wanted | found
    missing = [name for name in wanted if name not in found]
    return missing, [n for n in found if n not in wanted], [n for n in names if wanted.get(n) != found.get(n)]


def exchanged(wanted, found):
    missing, extra = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    return extra, missing, [n for n in wanted if n in found and wanted[n] != found[n]]


def names_only(wanted, found):
    return [n for n in wanted if n not in found], [n for n in found if n not in wanted], []


WRONG = {
    "13.1": [
        (lambda W, H, T, N: tflop(W, H, T, N, square=0), "attention is missing"),
        (lambda W, H, T, N: tflop(W, H, T, N, linear=12), "counts as two"),
        (lambda W, H, T, N: tflop(W, H, T, N, square=2), "attention multiplies twice"),
        (lambda W, H, T, N: tflop(W, H, T, N, text=False), "text tokens go through every block"),
        (lambda W, H, T, N: tflop(W, H, T, N, pixels=64), "one token is 16 × 16 pixels"),
        (lambda W, H, T, N: tflop(W, H, T, N, steps=False), "that is one step"),
        (lambda W, H, T, N: N * 2 * 11_901_408_320 * (W * H // 256 + T) / 1e12, "2 · parameters · tokens"),
        (lambda W, H, T, N: tflop(W, H, T, N) * 1.1, "expected 74.36"),
    ],
    "13.2": [
        (lambda x: x, "this loads, and paints something else"),
        (lambda x: x.flip(0), "all rows are reversed"),
        (lambda x: x.flip(1), "outputs are the rows"),
        (lambda x: torch.cat([x[1::2], x[::2]]), "the halves are the first five and the last five"),
        (lambda x: x[:5], "has shape (5, 3), expected that of the matrix"),
    ],
    "13.3": [
        (exchanged, "missing and extra are exchanged"),
        (names_only, "compare shapes, not only names"),
        (shapes_of_either, "a name that one side does not have cannot be misshapen"),
    ],
}


@pytest.mark.parametrize(("number", "i"), [(number, i) for number, cases in WRONG.items() for i in range(len(cases))])
def test_wrong_answers_are_diagnosed(number, i):
    from answers import told

    answer, words = WRONG[number][i]
    assert words in told(number, answer)
