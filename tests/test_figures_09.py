"""Chapter 9: its exercises name the usual mistakes, its toy's formula is the true one, its figures draw everywhere."""

import numpy as np
import pytest
import torch
from torch import nn

from flux_edu.schedule import get_lin_function, interpolate, time_shift
from flux_edu.teaching.exercises.chapter_09 import best_guess, training_levels, training_pair
from flux_edu.teaching.labs import toy_flows
from flux_edu.teaching.plots import chapter_09 as plots
from flux_edu.train import data
from flux_edu.train.objectives import flow_loss


class Answer(nn.Module):
    """A function in the clothes of a network, as `flow_loss` wants it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


# ---------------------------------------------------------------- the answers against what they stand for


def test_the_pair_is_what_the_loss_uses():
    x_0, noise, t = torch.randn(5, 7, 3), torch.randn(5, 7, 3), torch.rand(5)
    x_t, target = training_pair(x_0, noise, t)
    seen = {}

    def zero(x, level):
        seen["x"] = x
        return torch.zeros_like(x)

    torch.testing.assert_close(flow_loss(Answer(zero), x_0, noise, t), target.square().mean())
    torch.testing.assert_close(seen["x"], x_t)


@pytest.mark.parametrize(("t", "s"), [(0.2, 1.0), (0.5, 1.7), (0.9, 0.3)])
def test_no_other_factor_beats_the_best_guess_and_its_loss_is_the_floor(t, s):
    generator = torch.Generator().manual_seed(1)
    x_0, noise = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    x_0, level = s * x_0, torch.full((200_000,), t, dtype=torch.float64)

    def loss_of(factor):
        return flow_loss(Answer(lambda x, _: factor * best_guess(x, t, s)), x_0, noise, level).item()

    loss = loss_of(1.0)
    if (t - (1 - t) * s**2) ** 2 > 1e-3:  # else the best guess is 0 and its factor does not matter
        assert loss < min(loss_of(0.9), loss_of(1.1))
    assert loss == pytest.approx(toy_flows.gaussian_floor(torch.tensor([t]), s).item(), rel=0.01)


def test_training_levels_are_the_shifted_logit_normal_ones():
    normals = torch.randn(1000, dtype=torch.float64)
    shifted = time_shift(get_lin_function()(63 * 32), 1.0, torch.sigmoid(0.3 + 0.8 * normals))
    torch.testing.assert_close(training_levels(normals, 0.3, 0.8, 1000, 512), shifted)


# ---------------------------------------------------------------- the toy


@pytest.mark.parametrize("t", [0.05, 0.4, 0.75, 1.0])
def test_the_blobs_velocity_is_the_mean_of_the_targets(t):
    """At places where many pairs pass, and orthogonality everywhere: the rest has nothing in common with the answer."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    x_0, noise = toy_flows.draw_blobs(n, generator), torch.randn(n, 2, generator=generator)
    level = torch.full((n,), t)
    x_t = interpolate(x_0, noise, level)
    v = toy_flows.blob_velocity(x_t, level)
    rest = noise - x_0 - v
    assert rest.mean(0).abs().max() < 0.02
    for known in (x_t, v, x_t.sin(), x_t.square()):
        assert (rest * known).mean(0).abs().max() < 0.04


def test_near_either_end_the_best_answer_is_known():
    x = torch.tensor([[0.3, -0.8]])
    at_noise = toy_flows.blob_velocity(x, torch.ones(1))
    torch.testing.assert_close(at_noise, x - toy_flows.CENTRES.mean(0))  # the picture to expect is the mean of all
    x = toy_flows.CENTRES[1:] + 0.1
    torch.testing.assert_close(toy_flows.blob_velocity(x, torch.zeros(1)), -x)  # the noise to expect is 0


def test_the_share_on_the_data():
    assert toy_flows.share_on_data(toy_flows.draw_blobs(20_000)) == pytest.approx(0.989, abs=0.004)
    assert toy_flows.share_on_data(torch.zeros(9, 2)) == 0


# ---------------------------------------------------------------- noise levels and scenes


def test_the_density_is_one_in_all_and_its_tail_is_the_share():
    t = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    for a, c in ((0.0, 1.0), (1.15, 0.7)):
        p = plots.logit_normal_density(t, a, c)
        assert p.sum().item() / 1000 == pytest.approx(1, abs=1e-3)
        assert p[t > 0.7].sum().item() / 1000 == pytest.approx(plots.share_above(0.7, a, c), abs=2e-3)


def test_a_composed_scene_says_what_is_held_out():
    assert plots.why_held_out("one", "flat", "pizza", "fox", "yellow") == ["pizza on yellow"]
    assert plots.why_held_out("above", "sticker", "fox", "guitar", "blue") == ["sticker guitar"]
    label = plots.composed("left of", "flat", "fox", "dog face", "black").get_label()
    assert "Held out: dog face on black, fox with dog face." in label
    assert "Training may see this" in plots.composed().get_label()
    scene, caption = plots.compose("above", "noto", "rocket", "house", "black")
    assert caption == "a noto rocket above a house on a black background"
    picture = data.render(plots.drawings(), scene)[0]
    assert picture[:, 32, 64].min() > -0.9 and picture.shape == (3, 128, 128)


# ---------------------------------------------------------------- figures


def test_the_full_run_is_read_whole():
    run = plots.full_run()
    assert (
        list(run)[:4] == ["step", "seconds", "loss", "held-out"] and len({len(column) for column in run.values()}) == 1
    )
    assert all(np.all(np.diff(run[name]) > 0) for name in ("step", "seconds"))
    levels = np.array([column[3:] for name, column in run.items() if name[0].isdigit()])
    assert levels.min() < run["held-out"][-1] < levels.max()  # a mean over levels lies between them


def test_the_floor_is_a_hill_for_unit_variance():
    floor = toy_flows.gaussian_floor(torch.linspace(0, 1, 101))
    assert np.allclose(floor[[0, 50, 100]], [1, 2, 1]) and floor.max() == 2
