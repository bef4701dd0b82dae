"""Chapter 1: the path, the line μ(L), the time shift and the schedule, Eq. (1.1) to (1.5)."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import schedule
from flux_edu.teaching.plots import chapter_01 as plots

few = settings(max_examples=40, deadline=None)
timesteps = st.floats(0, 1)
mus = st.floats(-4, 4)
sigmas = st.floats(0.05, 8)


def f64(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# ---------------------------------------------------------------- 1.1


@pytest.mark.equation("1.1")
def test_interpolate_is_the_weighted_sum_with_one_level_a_sample():
    x_0, noise = torch.randn(2, 3, 5, 7, 11, dtype=torch.float64)
    t = f64(0.0, 0.3, 1.0)
    x_t = schedule.interpolate(x_0, noise, t)
    for i, t_i in enumerate(t.tolist()):
        torch.testing.assert_close(x_t[i], x_0[i] * (1 - t_i) + noise[i] * t_i)
    assert torch.equal(x_t[0], x_0[0]) and torch.equal(x_t[2], noise[2]), "t = 0 is the picture, t = 1 the noise"


@pytest.mark.equation("1.1")
def test_velocity_is_noise_minus_picture():
    x_0, noise = torch.randn(2, 2, 5, 3, dtype=torch.float64)
    t = f64(0.2, 0.7).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.interpolate(x_0, noise, t).sum(), t)
    torch.testing.assert_close(slope, (noise - x_0).sum((1, 2)))


def test_interpolate_refuses_two_shapes():
    with pytest.raises(AssertionError, match="picture .*, but noise"):
        schedule.interpolate(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2))


# ---------------------------------------------------------------- 1.2


@pytest.mark.equation("1.2")
@pytest.mark.parametrize(
    "L, mu", [(256, 0.5), (4096, 1.15), (16384, 3.23), (1024, 0.63), (4080, 1.1472916666666666), (0, 0.45666666666)]
)
def test_mu_lies_on_the_published_line_and_goes_beyond_max_shift(L, mu):
    assert math.isclose(schedule.get_lin_function()(L), mu, rel_tol=1e-9)


@pytest.mark.equation("1.2")
@few
@given(st.floats(-50, 50), st.floats(-5, 5), st.floats(51, 90), st.floats(-5, 5), st.floats(-2, 2))
def test_any_line_passes_its_points(x1, y1, x2, y2, share):
    line = schedule.get_lin_function(x1, y1, x2, y2)
    for s in (0, 1, share):
        assert math.isclose(line(x1 + s * (x2 - x1)), y1 + s * (y2 - y1), abs_tol=1e-9)


def test_two_equal_points_give_no_line():
    with pytest.raises(AssertionError, match="two points at x = 256 give no line"):
        schedule.get_lin_function(256, 0.5, 256, 1.15)


# ---------------------------------------------------------------- 1.3


@pytest.mark.equation("1.3")
@few
@given(st.floats(-5, 5), sigmas, st.floats(1e-6, 1))
def test_time_shift_is_the_formula_wherever_that_has_a_value(mu, sigma, t):
    formula = math.exp(mu) / (math.exp(mu) + ((1 - t) / t) ** sigma)  # 1 / t - 1, without losing its digits near t = 1
    shifted = schedule.time_shift(mu, sigma, f64(t)).item()
    assert abs(shifted - formula) <= 2e-15 and math.isclose(shifted, formula, rel_tol=1e-9, abs_tol=1e-300)


@pytest.mark.equation("1.3")
@pytest.mark.parametrize("mu, star", [(0.0, 0.5), (0.5, 0.3775406687981454), (1.15, 0.24048908305088898)])
def test_half_point_moves_left_as_mu_grows(mu, star):
    assert math.isclose(schedule.time_shift(mu, 1.0, f64(star)).item(), 0.5, rel_tol=1e-12)
    assert math.isclose(schedule.time_shift(2 * mu, 2.0, f64(star)).item(), 0.5, rel_tol=1e-12), "only μ/σ counts"


@pytest.mark.equation("1.3")
def test_time_shift_is_the_shift_of_stable_diffusion_3():
    t, alpha = torch.linspace(0, 1, 101, dtype=torch.float64), 3.158
    torch.testing.assert_close(schedule.time_shift(math.log(alpha), 1.0, t), alpha * t / (1 + (alpha - 1) * t))


@few
@given(mus, sigmas)
def test_ends_stay_and_nothing_else_is_lost(mu, sigma):
    for dtype in (torch.float32, torch.float64):
        t = torch.linspace(0, 1, 129, dtype=dtype)
        shifted = schedule.time_shift(mu, sigma, t)
        assert shifted.dtype == dtype and shifted.isfinite().all()
        assert shifted[0] == 0 and shifted[-1] == 1
        assert (shifted.diff() >= 0).all(), "a shift keeps the order of the levels"


@few
@given(mus, st.floats(1, 8))
def test_gradient_is_finite_on_the_closed_interval_for_sigma_from_one_up(mu, sigma):
    t = torch.linspace(0, 1, 33, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.time_shift(mu, sigma, t).sum(), t)
    assert slope.isfinite().all() and (slope >= 0).all()
    ends = (math.exp(mu), math.exp(-mu)) if sigma == 1 else (0, 0)
    if sigma == 1 or sigma > 1.01:
        assert math.isclose(slope[0], ends[0], abs_tol=1e-9) and math.isclose(slope[-1], ends[1], abs_tol=1e-9)


@few
@given(mus, sigmas, st.floats(0.01, 0.99))
def test_slope_is_sigma_times_the_ratio_of_variances(mu, sigma, t):
    x = f64(t).requires_grad_()
    shifted = schedule.time_shift(mu, sigma, x)
    (slope,) = torch.autograd.grad(shifted.sum(), x)
    s = shifted.item()
    assert math.isclose(slope.item(), sigma * s * (1 - s) / (t * (1 - t)), rel_tol=1e-6, abs_tol=1e-12)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 0.9])
def test_below_sigma_one_the_curve_is_vertical_at_its_ends(sigma):
    rise = [(schedule.time_shift(0.3, sigma, f64(e)) / e).item() for e in (1e-3, 1e-6, 1e-12)]
    assert rise[0] < rise[1] < rise[2] and rise[2] > 10


def test_the_notes_form_is_nan_at_the_picture():
    t = f64(0.0, 0.5).requires_grad_()
    (slope,) = torch.autograd.grad((math.e / (math.e + (1 / t - 1) ** 1.0)).sum(), t)
    assert slope[0].isnan() and not slope[1].isnan()


@few
@given(mus, mus, timesteps)
def test_shifts_add_their_mu(mu, more, t):
    twice = schedule.time_shift(more, 1.0, schedule.time_shift(mu, 1.0, f64(t)))
    torch.testing.assert_close(twice, schedule.time_shift(mu + more, 1.0, f64(t)), atol=1e-12, rtol=0)


@few
@given(mus, st.floats(0.3, 3), st.floats(0.01, 0.99))
def test_a_shift_can_be_undone(mu, sigma, t):
    there = schedule.time_shift(mu, sigma, f64(t))
    if 1e-9 < there < 1 - 1e-9:
        torch.testing.assert_close(schedule.time_shift(-mu / sigma, 1 / sigma, there), f64(t), atol=1e-4, rtol=0)


def test_time_shift_keeps_any_shape_and_none():
    assert schedule.time_shift(1.0, 1.0, torch.zeros(2, 3, 0)).shape == (2, 3, 0)
    assert schedule.time_shift(1.0, 1.0, torch.zeros(())).shape == ()


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(AssertionError, match=f"σ = {sigma}: must be positive"):
        schedule.time_shift(1.0, sigma, f64(0.5))


@pytest.mark.parametrize("t", [-0.01, 1.01, 988.0, math.nan])
def test_levels_outside_the_interval_are_named(t):
    with pytest.raises(AssertionError, match=r"not in \[0, 1\]"):
        schedule.time_shift(1.0, 1.0, f64(0.5, t))


# ---------------------------------------------------------------- 1.4


@pytest.mark.equation("1.4")
@few
@given(mus, sigmas, st.floats(0.001, 0.999))
def test_between_logits_the_shift_is_a_line(mu, sigma, t):
    line = mu + sigma * math.log(t / (1 - t))
    assert math.isclose(schedule.time_shift_logit(mu, sigma, f64(t)).item(), 1 / (1 + math.exp(-line)), rel_tol=1e-9)


@few
@given(mus, sigmas)
def test_both_forms_agree_ends_included(mu, sigma):
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    a, b = schedule.time_shift(mu, sigma, t), schedule.time_shift_logit(mu, sigma, t)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_a_logit_normal_level_stays_logit_normal():
    mean, deviation = 0.3, 1.7
    x = mean + deviation * torch.randn(200_000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    moved = torch.logit(schedule.time_shift(1.15, 0.8, torch.sigmoid(x)))
    assert math.isclose(moved.mean(), 1.15 + 0.8 * mean, abs_tol=0.02)
    assert math.isclose(moved.std(), 0.8 * deviation, abs_tol=0.02)


# ---------------------------------------------------------------- 1.5


@pytest.mark.equation("1.5")
@pytest.mark.parametrize("N, L", [(1, 1), (4, 256), (28, 4096), (50, 4080), (7, 16384)])
def test_schedule_is_the_shifted_even_spacing(N, L):
    mu = 0.5 + 0.65 * (L - 256) / 3840
    odds = [(1 - i / N) / (i / N) if i else math.inf for i in range(N + 1)]
    expected = [1 / (1 + math.exp(-mu) / o) if o else 0.0 for o in odds]
    assert schedule.get_schedule(N, L) == pytest.approx(expected, abs=1e-12)


@pytest.mark.equation("1.5")
def test_schnell_is_evenly_spaced_whatever_the_size():
    assert schedule.get_schedule(4, 4096, shift=False) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert schedule.get_schedule(4, 4096, shift=False) == schedule.get_schedule(4, 17, shift=False)


@few
@given(st.integers(1, 60), st.integers(1, 20_000), st.booleans())
def test_schedule_falls_from_one_to_zero_in_n_steps(N, L, shift):
    t = schedule.get_schedule(N, L, shift=shift)
    assert len(t) == N + 1, "N steps have N + 1 points"
    assert t[0] == 1 and t[-1] == 0
    assert all(a > b for a, b in pairwise(t))


@few
@given(st.integers(2, 50), st.integers(1, 16_000), st.integers(1, 5_000))
def test_a_larger_picture_stays_noisier_for_longer(N, L, more):
    small, large = schedule.get_schedule(N, L), schedule.get_schedule(N, L + more)
    assert all(a < b for a, b in zip(small[1:-1], large[1:-1], strict=True))


def test_other_shifts_move_the_line():
    assert schedule.get_schedule(2, 256, base_shift=0.0)[1] == pytest.approx(0.5)
    assert schedule.get_schedule(2, 4096, max_shift=math.log(3))[1] == pytest.approx(0.75)


@pytest.mark.parametrize("N, L, message", [(0, 256, "num_steps = 0"), (4, 0, "image_seq_len = 0")])
def test_impossible_schedules_are_refused(N, L, message):
    with pytest.raises(AssertionError, match=message):
        schedule.get_schedule(N, L)


def test_mistakes_that_load_silently_are_far_off():
    right = schedule.get_schedule(4, 64 * 64)
    assert right[3] == pytest.approx(0.5128, abs=1e-4)
    assert schedule.get_schedule(4, 1024 * 1024)[3] > 0.9999, "pixels for tokens: one jump from noise to picture"
    assert schedule.get_schedule(4, 128 * 128)[3] > 0.89, "latent places for tokens"
    assert len(torch.tensor(schedule.get_schedule(50, 128 * 128)).bfloat16().unique()) < 40, "bfloat16 merges levels"


# ---------------------------------------------------------------- figures


def test_the_figure_says_tokens_and_mu_of_the_size():
    fig = plots.schedule(width=1360, height=768)
    assert "L = 48 × 85 = 4080, μ(L) = 1.147" in fig.axes[1].get_title()
    assert "(L = 4080, μ = 1.147, σ = 1)" in fig.get_label()


@pytest.mark.parametrize("mu", [-0.7, 0.0, 1.15, 3.2])
def test_the_parabola_of_the_steps_is_the_slope_of_the_shift(mu):
    t = torch.linspace(0.01, 0.99, 37, dtype=torch.float64, requires_grad=True)
    shifted = schedule.time_shift(mu, 1.0, t)
    (slope,) = torch.autograd.grad(shifted.sum(), t)
    drawn = plots.step_size(shifted.detach().numpy(), mu, steps=7) * 7
    assert drawn == pytest.approx(slope.numpy(), rel=1e-9)


@pytest.mark.parametrize("mu", [-0.7, 0.0, 1.15, 3.2])
def test_shares_of_the_bands_are_what_a_long_schedule_counts(mu):
    timesteps = schedule.time_shift(mu, 1.0, torch.linspace(1, 0, 20_001, dtype=torch.float64))[:-1]
    counted = [
        ((timesteps <= a) & (timesteps > b)).double().mean().item()
        for a, b in ((1, 0.9), (0.9, 0.7), (0.7, 0.4), (0.4, 0))
    ]
    assert plots.band_shares(mu) == pytest.approx(counted, abs=2e-4)
