"""What the measure is made of: the strict judge, intervals and paired differences."""

import math

import numpy as np
import pytest
import torch
from evaluate import as_square, blurred, prompt_scenes
from nearest_drawing import NearestDrawing, painted_region
from reports import cell, mean_with_interval, paired_difference, score_table, wilson

from flux_edu.train.data import Scenes, draw_scenes, load_drawings, render
from flux_edu.train.metrics import fine_detail

# ---------------------------------------------------------------- the strict judge


def test_the_strict_judge_knows_real_pictures():
    drawings = load_drawings()
    strict, scenes = NearestDrawing(drawings), draw_scenes(drawings, 40, seed=21, unseen=True)
    scenes.colour %= 2  # two backgrounds are enough here
    pictures = render(drawings, scenes)
    right = strict.verdict(pictures, scenes)
    assert right["strict object"].mean() >= 0.95 and right["strict style"].mean() >= 0.95
    wrong = Scenes(scenes.layout, np.roll(scenes.drawing, 1, axis=0), scenes.place, scenes.colour)
    assert strict.verdict(pictures, wrong)["strict object"].mean() < 0.2


def test_the_painted_region_is_the_box_of_what_is_there():
    ground = torch.tensor([[-1.0, 0.0, 1.0]])
    x = ground[:, :, None, None].repeat(1, 1, 64, 64)
    x[:, :, 10:40, 20:30] = 0.5
    x[:, :, 3, 60] = 0.5  # one pixel alone is no drawing
    region = painted_region(x, ground)
    inside = region[:, :, 2:-2, 2:-2]  # at the very edge neighbours are mixed in
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5))
    empty = ground[:, :, None, None].repeat(1, 1, 64, 64)
    torch.testing.assert_close(painted_region(empty, ground), empty[:, :, :20, :20])


# ---------------------------------------------------------------- fine detail


def test_fine_detail_is_the_share_of_variance_above_a_fifth_of_a_cycle_a_pixel():
    across, down = torch.arange(60) / 60, torch.arange(40)[:, None] / 40
    fast, slow = torch.cos(2 * math.pi * 15 * across), 2 * torch.sin(2 * math.pi * 4 * down)  # 0.25 and 0.1 a pixel
    diagonal = torch.cos(2 * math.pi * (9 * across + 6 * down))  # 0.15 along both sides, 0.212 in its direction
    plain = torch.ones(40, 60)
    pictures = torch.stack([plain, plain + slow, plain + fast, fast + slow, diagonal])[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(fine_detail(pictures), torch.tensor([0, 0, 1, 0.2, 1]).double(), atol=1e-6, rtol=0)
    drawings = load_drawings()
    real = render(drawings, draw_scenes(drawings, 8, seed=22))
    assert (fine_detail(blurred(real)) < 0.1 * fine_detail(real)).all()


def test_numbers_have_the_interval_of_their_mean():
    values = np.array([0.01, 0.03, 0.02, 0.06])
    assert mean_with_interval(values) == pytest.approx((0.03, 0.03 - 0.01833, 0.03 + 0.01833), abs=1e-5)
    assert mean_with_interval(values > 0.025) == (0.5, *wilson(2, 4))
    scenes = draw_scenes(load_drawings(), 4, seed=23, pairs=0.0)
    row, *others = score_table("a", {"fine detail": values}, scenes, minus={"fine detail": values - 0.01})
    assert not others and (row["share"], row["low"], row["high"]) == pytest.approx((0.01,) * 3)
    assert cell(row) == "10.0 (10.0 to 10.0)" and cell(None) == ""


def test_judges_see_things_of_a_wide_or_tall_picture_where_they_look_for_them():
    drawings = load_drawings()
    strict = NearestDrawing(drawings)
    for width, height in ((256, 128), (128, 256), (192, 192)):
        scenes = prompt_scenes(drawings, 12, seed=5, width=width, height=height)
        scenes.colour %= 2
        pictures = render(drawings, scenes, width=width, height=height)
        assert strict.verdict(as_square(pictures, scenes), scenes)["strict object"].mean() > 0.9


# ---------------------------------------------------------------- numbers


def test_wilson_against_published_values():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    table = [((81, 263), (0.2553, 0.3662)), ((15, 148), (0.0624, 0.1605)), ((0, 20), (0.0, 0.1611))]
    table += [((1, 29), (0.0061, 0.1718))]
    for (right, n), interval in table:
        assert wilson(right, n) == pytest.approx(interval, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_paired_difference_knows_only_prompts_that_differ():
    one, other = np.ones(1000, bool), np.ones(1000, bool)
    share, low, high = paired_difference(one, other)
    assert share == 0 and low == pytest.approx(-high) and 0 < high < 0.003
    other[:40] = False
    share, low, high = paired_difference(one, other)
    assert share == pytest.approx(0.04) and 0.025 < low < 0.04 < high < 0.055
    back = paired_difference(other, one)
    assert back == pytest.approx((-share, -high, -low))
    generator = np.random.default_rng(0)  # the interval covers the truth about 95 times in 100
    covered = 0
    for _ in range(400):
        a, b = generator.random(300) < 0.9, generator.random(300) < 0.85
        _, low, high = paired_difference(a, b)
        covered += low <= 0.05 <= high
    assert 0.92 <= covered / 400 <= 0.98
