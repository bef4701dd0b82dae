"""Chapter 11: its exercises name the usual mistakes, its figures draw at their sliders' ends."""

import io

import pytest
import torch

from flux_edu.teaching.exercises.chapter_11 import segment_target
from flux_edu.teaching.panel import explore
from flux_edu.teaching.plots import chapter_11 as plots
from flux_edu.train.objectives import euler_rollout, mean_velocity


def test_the_target_is_that_of_the_training():
    x, t, t_next = torch.randn(3, 7, 5), torch.full((3,), 0.75), torch.full((3,), 0.5)
    end = euler_rollout(lambda x, t: x.square() * t[:, None, None], x, t, t_next, 6)
    mine = segment_target(lambda x, t: x.square() * t, x, 0.75, 0.5, 6)
    torch.testing.assert_close(mine, mean_velocity(x, end, t, t_next))


def test_one_step_of_the_toy_ends_at_the_mean_of_the_data():
    ends = plots.toy_walk(1)[-1]
    torch.testing.assert_close(ends, torch.tensor([0.5, -0.25]).expand_as(ends))


DRAWN = [
    *((plots.few_step_walks, {"steps": steps}) for steps in (1, 28)),
    (plots.off_the_chord, {"curves": {"a walk": ([1.0, 0.5], [0.3, 0.1])}}),
    (plots.distance_by_steps, {"curves": {"base": {8: 0.1, 1: 2.0}}}),
]


@pytest.mark.parametrize(("draw", "values"), DRAWN)
def test_figures_are_drawn_and_described(draw, values):
    figure = draw(**values)
    figure.savefig(io.BytesIO(), format="png", dpi=20)
    assert len(figure.get_label()) > 40
    assert all(ax.get_xlabel() for ax in figure.axes)


def test_the_slider_moves_without_an_error():
    panel = explore(plots.few_step_walks, steps=(1, 28, 1))
    assert all(move.error is None for move in panel.sweep())
