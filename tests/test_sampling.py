"""Chapter 6, sampling: x̂_0, Euler's step, image to image's start, guidance, and the loop around them."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import FLUX, random_flux, random_inputs

from flux_edu import sampling
from flux_edu.model import Flux
from flux_edu.patchify import make_img_ids
from flux_edu.schedule import get_schedule
from flux_edu.teaching.labs import toy_flows
from flux_edu.teaching.plots import chapter_06 as plots

B, ROWS, COLUMNS, L_TXT, C = 2, 3, 5, 7, 11

SMALL = replace(FLUX, in_channels=C, out_channels=C, depth=1, depth_single_blocks=1, guidance_embed=False)


def small_flux(**changes) -> Flux:
    return random_flux(replace(SMALL, **changes), seed=6)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return random_inputs(SMALL, B, ROWS, COLUMNS, L_TXT)


@pytest.fixture
def uncond() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(8)
    return torch.randn(1, L_TXT, 13), torch.randn(1, 11)


class Known(Flux):
    """A model whose velocity is known: a function of x and t; keeps what it was asked."""

    def __init__(self, velocity):
        super().__init__(SMALL)
        self.velocity, self.asked = velocity, []

    def forward(self, img, img_ids, txt, txt_ids, timesteps, y, guidance=None):
        self.asked.append((timesteps.clone(), tuple(img.shape), guidance))
        return self.velocity(img, timesteps[:, None, None])


# ---------------------------------------------------------------- 6.1


@pytest.mark.equation("6.1")
def test_the_picture_in_mind_is_the_picture_on_a_straight_path():
    rng = np.random.default_rng(0)
    x_0, noise = rng.normal(size=(2, 3, 5, 7))
    for t in (1.0, 0.73, 0.2, 0.0):
        x = (1 - t) * x_0 + t * noise
        got = sampling.predict_x0(torch.from_numpy(x), torch.from_numpy(noise - x_0), t)
        np.testing.assert_allclose(got.numpy(), x_0, atol=1e-14)


@pytest.mark.equation("6.1")
@settings(max_examples=25, deadline=None)
@given(t=st.floats(0, 1), x=st.floats(-3, 3), v=st.floats(-3, 3))
def test_picture_and_noise_in_mind_mix_to_the_state(t, x, v):
    x_0 = sampling.predict_x0(*torch.tensor([[x], [v]], dtype=torch.float64), t).item()
    noise = x + (1 - t) * v
    assert (1 - t) * x_0 + t * noise == pytest.approx(x, abs=1e-12)
    assert noise - x_0 == pytest.approx(v, abs=1e-12)


# ---------------------------------------------------------------- 6.2


@pytest.mark.equation("6.2")
def test_one_euler_step_by_hand():
    got = sampling.euler_step(torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 4.0, -2.0]]), t=0.75, t_next=0.5)
    assert got.tolist() == [[1.75, -2.0, 1.0]]


@pytest.mark.equation("6.2")
def test_denoise_is_the_sum_of_its_steps(inputs):
    """Against a loop in NumPy, with a velocity that depends on x and on t."""
    timesteps = get_schedule(5, ROWS * COLUMNS)
    x = inputs["img"].double().numpy()
    for t, t_next in pairwise(timesteps):
        x = x + (t_next - t) * (np.cos(x) + t * x + 0.5)
    model = Known(lambda x, t: torch.cos(x) + t * x + 0.5)
    got = sampling.denoise(model, **inputs, timesteps=timesteps)
    np.testing.assert_allclose(got.numpy(), x, atol=1e-5)


@pytest.mark.equation("6.2")
@settings(max_examples=12, deadline=None)
@given(num_steps=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_constant_target_is_reached_exactly_in_any_number_of_steps(num_steps, seed):
    """v = ε - x_0 with both fixed is a straight path, on which Euler makes no error; the notes' sign ends elsewhere."""
    torch.manual_seed(seed)
    noise, x_0 = torch.randn(2, 1, 6, C, dtype=torch.float64)
    x, wrong = noise, noise
    timesteps = get_schedule(num_steps, 6)
    for t, t_next in pairwise(timesteps):
        x = sampling.euler_step(x, noise - x_0, t, t_next)
        wrong = sampling.euler_step(wrong, -(noise - x_0), t, t_next)
    assert torch.allclose(x, x_0, atol=1e-12)
    assert torch.allclose(wrong, 2 * noise - x_0, atol=1e-12)  # as far again, away from the picture


def test_n_steps_ask_the_model_n_times_and_never_at_zero(inputs):
    timesteps = get_schedule(4, ROWS * COLUMNS)
    seen = []
    model = Known(lambda x, t: x * 0 + 1)
    end = sampling.denoise(
        model, **inputs, timesteps=timesteps, callback=lambda i, t, x, v: seen.append((i, t, x.clone(), v))
    )
    assert [i for i, *_ in seen] == [0, 1, 2, 3]
    assert [t for _, t, *_ in seen] == timesteps[:-1] and timesteps[-1] == 0
    assert [t.tolist() for t, *_ in model.asked] == [pytest.approx([t] * B) for t in timesteps[:-1]]
    assert torch.equal(seen[0][2], inputs["img"]) and all(torch.equal(v, torch.ones_like(v)) for *_, v in seen)
    assert torch.allclose(end, inputs["img"] - 1, atol=1e-6)


def test_one_timestep_is_no_step_and_none_is_an_error(inputs):
    model = Known(lambda x, t: 1 / 0)
    assert torch.equal(sampling.denoise(model, **inputs, timesteps=[0.0]), inputs["img"])
    with pytest.raises(AssertionError, match=r"timesteps is empty"):
        sampling.denoise(model, **inputs, timesteps=[])


def test_the_sum_is_float32_whatever_the_model(inputs):
    """A bfloat16 model gets bfloat16 tokens, but t, ids and the sum stay float32."""
    model = small_flux().bfloat16()
    seen = []
    model.register_forward_pre_hook(lambda _, args: seen.append([x.dtype for x in args]))
    x = sampling.denoise(model, **inputs, timesteps=[1.0, 0.9, 0.0])
    img, img_ids, txt, txt_ids, t, y, w = seen[0]
    assert (img, txt, y) == (torch.bfloat16,) * 3
    assert (img_ids, txt_ids, t, w) == (torch.float32,) * 4
    assert x.dtype == torch.float32


def test_the_first_steps_of_a_bfloat16_sum_are_lost():
    """At 2048 × 2048 and 50 steps the velocity of x̂_0 = 0, v = x, changes no number of a unit Gaussian state."""
    timesteps = get_schedule(50, 128 * 128)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert timesteps[0] - timesteps[1] < 2**-9  # half the distance of two bfloat16 numbers, relative to the number
    assert torch.equal(sampling.euler_step(x, x, *timesteps[:2]), x)
    assert not torch.equal(sampling.euler_step(x.float(), x.float(), *timesteps[:2]), x.float())
    free, expected = plots.bf16_changes(128 * 128, 50)
    assert 0.15 < free[0] < 0.25 and expected[0] == 0 and expected[18] == 0 and free[-1] > 0.98


# ---------------------------------------------------------------- 6.3


def start_index(strength: float, num_steps: int) -> int:
    timesteps = torch.linspace(1, 0, num_steps + 1).tolist()
    return num_steps + 1 - len(sampling.image_to_image_start(torch.zeros(1), torch.zeros(1), timesteps, strength)[1])


@pytest.mark.equation("6.3")
def test_the_start_of_image_to_image_by_hand():
    z, noise = torch.tensor([[4.0, 0.0], [2.0, -8.0]]), torch.tensor([[0.0, 2.0], [-2.0, 4.0]])
    x, rest = sampling.image_to_image_start(z, noise, [1.0, 0.75, 0.5, 0.25, 0.0], strength=0.75)
    assert rest == [0.75, 0.5, 0.25, 0.0]
    assert x.tolist() == [[1.0, 1.5], [-1.0, 1.0]]


@pytest.mark.equation("6.3")
@settings(max_examples=60, deadline=None)
@given(num_steps=st.integers(1, 60), percent=st.integers(0, 100), tokens=st.integers(1, 5000))
def test_the_index_is_rounded_as_if_there_were_no_float_error(num_steps, percent, tokens):
    """Against whole numbers: (100 - p) N / 100 rounded half up, and at least one step unless the strength is 0."""
    timesteps = get_schedule(num_steps, tokens)
    exact = (2 * (100 - percent) * num_steps + 100) // 200
    exact = exact if percent == 0 else min(exact, num_steps - 1)
    x, rest = sampling.image_to_image_start(torch.full((1, 3), 2.0), torch.ones(1, 3), timesteps, percent / 100)
    assert rest == timesteps[exact:]
    assert x.tolist() == [pytest.approx([2 - timesteps[exact]] * 3, abs=1e-6)]


def test_truncation_would_lose_a_step():
    """What int((1 - strength) * num_steps) of the reference gives, beside the rounded index."""
    lost = [
        (s, n) for n in (5, 20, 25, 30, 40, 50) for s in (0.8, 0.9) if int((1 - s) * n) < round((1 - s) * n, 6) // 1
    ]
    assert (0.8, 50) in lost and int((1 - 0.8) * 50) == 9 and start_index(0.8, 50) == 10
    assert int((1 - 0.9) * 50) == 4 and start_index(0.9, 50) == 5
    assert start_index(0.9, 5) == 1  # (1 - 0.9) * 5 is a hair under one half


@pytest.mark.parametrize("num_steps", [1, 4, 28, 50])
def test_strength_1_is_text_to_image_and_strength_0_takes_no_step(num_steps):
    timesteps = get_schedule(num_steps, 64)
    z, noise = torch.randn(2, 1, 16, 6, 10)
    x, rest = sampling.image_to_image_start(z, noise, timesteps, 1.0)
    assert torch.equal(x, noise) and rest == timesteps
    x, rest = sampling.image_to_image_start(z, noise, timesteps, 0.0)
    assert torch.equal(x, z) and rest == [0.0]
    _, rest = sampling.image_to_image_start(z, noise, timesteps, 1e-6)
    assert len(rest) == 2  # at least one step


def test_strength_counts_steps_not_noise():
    starts = {L: plots.start_level(0.3, get_schedule(50, L)) for L in (64, 4096)}
    assert starts[64] == (35, pytest.approx(0.4067, abs=1e-3)) and starts[4096] == (35, pytest.approx(0.5752, abs=1e-3))
    assert plots.start_level(0.5, get_schedule(50, 4096))[1] == pytest.approx(0.7595, abs=1e-3)


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_outside_0_and_1_is_an_error(strength):
    with pytest.raises(AssertionError, match=r"ς = .*: must lie in \[0, 1\]"):
        sampling.image_to_image_start(torch.zeros(1), torch.zeros(1), [1.0, 0.0], strength)


def test_a_start_of_another_size_is_an_error():
    with pytest.raises(AssertionError, match="picture .*, but noise"):
        sampling.image_to_image_start(torch.zeros(1, 16, 9, 8), torch.zeros(1, 16, 10, 8), [1.0, 0.0], 0.5)


# ---------------------------------------------------------------- 6.4


@pytest.mark.equation("6.4")
@settings(max_examples=25, deadline=None)
@given(w=st.floats(0, 8), seed=st.integers(0, 99))
def test_guidance_goes_on_along_the_line_through_both_velocities(w, seed):
    empty, prompted = np.random.default_rng(seed).normal(size=(2, 2, 3, 5))
    got = sampling.guide(torch.from_numpy(empty), torch.from_numpy(prompted), w).numpy()
    np.testing.assert_allclose(got, (1 - w) * empty + w * prompted, atol=1e-12)


@pytest.mark.equation("6.4")
@pytest.mark.parametrize("w", [0.0, 2.5, 7.0])
def test_two_passes_in_one_batch_are_two_passes(inputs, uncond, w):
    """Each step against two separate evaluations of the model, mixed by hand."""
    model, timesteps = small_flux(), [1.0, 0.7, 0.3, 0.0]
    x = inputs["img"]
    empty = {"txt": uncond[0].expand(B, -1, -1), "y": uncond[1].expand(B, -1)}
    prompted = {"txt": inputs["txt"], "y": inputs["vec"]}
    with torch.inference_mode():
        for t, t_next in pairwise(timesteps):
            v_empty, v_prompted = (
                model(x, inputs["img_ids"], txt_ids=inputs["txt_ids"], timesteps=torch.full((B,), t), **text)
                for text in (empty, prompted)
            )
            x = x + (t_next - t) * ((1 - w) * v_empty + w * v_prompted)
    got = sampling.denoise(model, **inputs, timesteps=timesteps, guidance=w, uncond=uncond)
    assert torch.allclose(got, x, atol=1e-4, rtol=1e-4)


def test_guidance_1_is_one_pass_without_the_empty_prompt(inputs, uncond):
    model, timesteps = small_flux(), [1.0, 0.5, 0.0]
    two = sampling.denoise(model, **inputs, timesteps=timesteps, guidance=1.0, uncond=uncond)
    one = sampling.denoise(model, **inputs, timesteps=timesteps)
    assert torch.equal(one, two)
    counting = Known(lambda x, t: x)
    for w in (1.0, 3.0):
        sampling.denoise(counting, **inputs, timesteps=[1.0, 0.0], guidance=w, uncond=uncond)
    assert [shape[0] for _, shape, _ in counting.asked] == [B, 2 * B]


def test_guidance_0_does_not_hear_the_prompt(inputs, uncond):
    model = small_flux()
    other = inputs | {"txt": inputs["txt"].flip(0), "vec": -inputs["vec"]}
    runs = [sampling.denoise(model, **x, timesteps=[1.0, 0.0], guidance=0.0, uncond=uncond) for x in (inputs, other)]
    assert torch.allclose(*runs, atol=1e-5)


def test_a_distilled_model_is_told_w_and_evaluated_once(inputs):
    model = small_flux(guidance_embed=True)
    ends = [sampling.denoise(model, **inputs, timesteps=[1.0, 0.0], guidance=w) for w in (1.0, 4.0)]
    assert (ends[0] - ends[1]).abs().max() > 1e-3
    counting = Known(lambda x, t: x)
    sampling.denoise(counting, **inputs, timesteps=[1.0, 0.0], guidance=3.5)
    [(_, shape, w)] = counting.asked
    assert shape[0] == B and w.tolist() == [3.5] * B and w.dtype == torch.float32


def test_an_undistilled_model_ignores_the_number(inputs):
    model = small_flux()
    ends = [sampling.denoise(model, **inputs, timesteps=[1.0, 0.0], guidance=w) for w in (1.0, 100.0)]
    assert torch.equal(*ends)


# ---------------------------------------------------------------- the velocity as a function


def test_the_field_takes_one_noise_level_or_one_for_each_picture(inputs, uncond):
    model = small_flux()
    field = sampling.velocity_field(model, inputs, 2.0, uncond=uncond)
    together = field(inputs["img"], torch.tensor([0.9, 0.3]))
    for i, t in enumerate((0.9, 0.3)):
        assert torch.allclose(together[i], field(inputs["img"], t)[i], atol=1e-5)
    assert (field(inputs["img"], 0.9) - field(inputs["img"], 0.3)).abs().max() > 1e-2


def test_one_picture_beside_serves_every_prompt(inputs, uncond):
    extra, reference = torch.randn(1, ROWS * COLUMNS, 4), (torch.randn(1, 6, C + 4), make_img_ids(1, 2, 3) + 1)
    model = small_flux(in_channels=C + 4)
    both = [x.expand(B, -1, -1) for x in (extra, *reference)]
    one = sampling.velocity_field(model, inputs, 2.0, img_cond=extra, img_cond_seq=reference, uncond=uncond)
    two = sampling.velocity_field(model, inputs, 2.0, img_cond=both[0], img_cond_seq=tuple(both[1:]), uncond=uncond)
    assert torch.equal(one(inputs["img"], 0.5), two(inputs["img"], 0.5))
    assert one(inputs["img"], 0.5).shape == (B, ROWS * COLUMNS, C)


# ---------------------------------------------------------------- the notes' img_cond


def test_img_cond_is_joined_to_the_channels_of_every_token(inputs, uncond):
    extra = torch.randn(B, ROWS * COLUMNS, 4)
    model = small_flux(in_channels=C + 4)
    got = sampling.denoise(model, **inputs, timesteps=[1.0, 0.0], img_cond=extra)
    ids, txt, txt_ids, vec = (inputs[key] for key in ("img_ids", "txt", "txt_ids", "vec"))
    by_hand = model(torch.cat([inputs["img"], extra], dim=2), ids, txt, txt_ids, torch.ones(B), vec)
    assert torch.allclose(got, inputs["img"] - by_hand, atol=1e-5)
    two_passes = sampling.denoise(model, **inputs, timesteps=[1.0, 0.0], img_cond=extra, guidance=2.0, uncond=uncond)
    assert two_passes.shape == got.shape
    with pytest.raises(AssertionError, match=r"have \[11, .*\] channels, not \[15, "):
        sampling.denoise(model, **inputs, timesteps=[1.0, 0.0])


# ---------------------------------------------------------------- figures


def test_the_two_point_velocity_is_the_mean_of_its_two_straight_paths():
    """v(x, t) = Σ p_k (ε_k - d_k), p_k by Bayes from the density of ε_k = (x - (1 - t) d_k) / t."""
    x, t = torch.linspace(-3, 3, 13, dtype=torch.float64), 0.4
    noise = [(x - (1 - t) * d) / t for d in (-1, 1)]
    weight = [torch.exp(-(e**2) / 2) for e in noise]
    mean = sum(w * (e - d) for w, e, d in zip(weight, noise, (-1, 1), strict=True)) / sum(weight)
    assert torch.allclose(toy_flows.two_blobs_velocity(0.0)(x, t), mean)


def test_one_euler_step_ends_at_the_mean_and_many_at_the_data():
    assert "farthest end is 1.000 away" in plots.euler_paths(1).get_label()
    assert "farthest end is 0.000 away" in plots.euler_paths(20).get_label()
