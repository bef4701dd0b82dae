"""The solver laboratory: steps against closed forms, observed orders, straightness, inversion, and its figures."""

import pytest
import torch

from flux_edu.schedule import get_schedule
from flux_edu.teaching.labs import solvers, toy_flows
from flux_edu.teaching.plots import chapter_06 as plots

X = torch.linspace(-2, 2, 9, dtype=torch.float64)
LEVELS = torch.linspace(1, 0, 17, dtype=torch.float64).tolist()


def test_steps_by_hand_for_a_velocity_that_depends_on_both():
    velocity = lambda x, t: 3 * x * t  # noqa: E731
    x, t, t_next = torch.tensor([2.0], dtype=torch.float64), 0.8, 0.6
    h, v = -0.2, 3 * 2.0 * 0.8
    assert solvers.euler(velocity, x, t, t_next).item() == pytest.approx(2 + h * v)
    assert solvers.heun_step(velocity, x, t, t_next).item() == pytest.approx(2 + h / 2 * (v + 3 * (2 + h * v) * 0.6))
    assert solvers.midpoint_step(velocity, x, t, t_next).item() == pytest.approx(2 + h * 3 * (2 + h / 2 * v) * 0.7)


@pytest.mark.parametrize("mean, deviation", [(0.5, 0.3), (-1.3, 2.0), (0.0, 0.05)])
def test_the_gaussian_path_solves_its_own_equation(mean, deviation):
    velocity = toy_flows.gaussian_velocity(mean, deviation)
    for t in (0.1, 0.5, 0.9):
        ends = [toy_flows.gaussian_end(X, mean, deviation, t + d) for d in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        assert torch.allclose(velocity(toy_flows.gaussian_end(X, mean, deviation, t), t), slope, atol=1e-6)
    assert torch.equal(toy_flows.gaussian_end(X, mean, deviation, 1.0), X)


def test_the_velocities_are_the_conditional_means():
    """Against averages over many drawn pairs whose mixture falls near x."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    spread = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    sign = (torch.rand(1_000_000, generator=generator) < 0.5).double() * 2 - 1
    t, x = 0.6, 0.3
    cases = [
        (0.5 + 0.3 * spread, toy_flows.gaussian_velocity(0.5, 0.3)),
        (sign + 0.3 * spread, toy_flows.two_blobs_velocity(0.3)),
    ]
    for data, velocity in cases:
        near = ((1 - t) * data + t * noise - x).abs() < 0.02
        expected = (noise - data)[near].mean().item()
        assert velocity(torch.tensor([x], dtype=torch.float64), t).item() == pytest.approx(expected, abs=0.05)


def orders(data):
    return {name: solvers.order(e, plots.COUNTS)[-1] for name, e in plots.solver_errors(data).items()}


def test_observed_orders_are_one_and_two_and_three_by_accident():
    assert orders("two blobs") == pytest.approx({"Euler": 1, "Heun": 2, "midpoint": 2}, abs=0.25)
    assert orders("Gaussian") == pytest.approx({"Euler": 1, "Heun": 2, "midpoint": 3}, abs=0.1)


def test_order_of_known_errors():
    assert solvers.order([8.0, 2.0, 0.25], [4, 8, 16]) == pytest.approx([2, 3])


@pytest.mark.parametrize("step", [step for step, _ in solvers.STEPS.values()])
def test_the_velocity_is_never_asked_at_zero_and_a_straight_path_is_exact(step):
    asked = []

    def velocity(x, t):
        asked.append(t)
        return torch.full_like(x, 0.7)

    down = solvers.solve(velocity, X, LEVELS, step)
    assert torch.allclose(down, X - 0.7)
    assert torch.allclose(solvers.solve(velocity, down, LEVELS[::-1], step), X)
    assert min(asked) > 0


def test_a_round_trip_is_better_with_a_better_step():
    velocity = toy_flows.gaussian_velocity(0.5, 0.3)
    off = {}
    for name, (step, _) in solvers.STEPS.items():
        down = solvers.solve(velocity, X, LEVELS, step)
        again = solvers.solve(velocity, solvers.solve(velocity, down, LEVELS[::-1], step), LEVELS, step)
        off[name] = (again - down).abs().max().item()
    assert off["Heun"] < 0.1 * off["Euler"] and off["midpoint"] < 0.8 * off["Euler"], (
        off
    )  # its first step up is Euler's


def test_straightness_is_zero_for_a_point_and_grows_with_the_bend():
    timesteps = get_schedule(400, 64)
    values = [solvers.straightness(toy_flows.gaussian_velocity(0.5, s), X, timesteps) for s in (0.0, 0.3, 1.0)]
    assert values[0] < 1e-12 < values[1] < values[2]


def test_the_shift_that_helps_depends_on_the_data():
    mus = [-2.0, -1.0, 0.0, 1.0]
    errors = {f"s = {s}": [plots.solver_errors("Gaussian", m, s)["Euler"][2] for m in mus] for s in (0.1, 3.0)}
    fig = plots.shift_errors(errors, mus)
    assert "s = 0.1: best" in fig.get_label() and min(errors["s = 0.1"]) == errors["s = 0.1"][0]
    assert min(errors["s = 3.0"]) == errors["s = 3.0"][-1]
