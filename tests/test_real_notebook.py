"""Chapter 13: its figures at their sliders' ends."""

import pytest

from flux_edu.teaching.plots import chapter_13 as plots


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (dict(), ["33.7 GB", "transformer 23.8", "3,718 TFLOP", "20% of it attention", "6.20 seconds"]),
        (dict(variant="flux-schnell", steps=4, text_tokens=256), ["transformer 23.8", "278 TFLOP"]),
        (dict(precision="4 bits", tflops=1000), ["8.4 GB", "3.72 seconds"]),
        (dict(width=256, height=256, steps=1), ["10 TFLOP", "4% of it attention"]),
        (dict(width=2048, height=2048, steps=1), ["418 TFLOP", "48% of it attention"]),
    ],
)
def test_the_cost_of_a_picture(options, labels):
    label = plots.cost_of_a_picture(**options).get_label()
    assert all(part in label for part in labels), label


def test_attention_overtakes_the_matrices_at_18432_tokens():
    assert "20% at 1024 and overtakes the matrices at 2142 pixels" in plots.scaling().get_label()
    assert "at 2172 pixels" in plots.scaling(text_tokens=0).get_label()


def test_modulation_is_a_quarter_of_one_and_nothing_of_the_other():
    label = plots.parameters_and_work().get_label()
    assert "modulation 27.1% of the parameters, 0.0% of the arithmetic" in label
    assert "single blocks 36.2% of the parameters, 66.7% of the arithmetic" in label
