"""Chapter 11: its exercises name the usual mistakes, its figures draw at their sliders' ends."""

import torch

from flux_edu.teaching.exercises.chapter_11 import segment_target
from flux_edu.teaching.labs import toy_flows
from flux_edu.train.objectives import euler_rollout, mean_velocity


def test_the_target_is_that_of_the_training():
    x, t, t_next = torch.randn(3, 7, 5), torch.full((3,), 0.75), torch.full((3,), 0.5)
    end = euler_rollout(lambda x, t: x.square() * t[:, None, None], x, t, t_next, 6)
    mine = segment_target(lambda x, t: x.square() * t, x, 0.75, 0.5, 6)
    torch.testing.assert_close(mine, mean_velocity(x, end, t, t_next))


def test_one_step_of_the_toy_ends_at_the_mean_of_the_data():
    ends = toy_flows.toy_walk(1)[-1]
    torch.testing.assert_close(ends, torch.tensor([0.5, -0.25]).expand_as(ends))
