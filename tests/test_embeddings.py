"""Chapter 4, first part: sinusoids, the small MLPs and the conditioning vector. Eq. (4.1) to (4.3)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import embeddings, model
from flux_edu.model import FluxParams


def sinusoids(t: float, dim: int) -> np.ndarray:
    """Eq. (4.1) one number at a time, in float64."""
    angles = [1000 * t * 10_000 ** (-i / (dim // 2)) for i in range(dim // 2)]
    return np.array([math.cos(a) for a in angles] + [math.sin(a) for a in angles])


def two_layers(m: embeddings.MLPEmbedder, x: np.ndarray) -> np.ndarray:
    """Eq. (4.2) in numpy."""
    W_1, c_1, W_2, c_2 = (p.detach().numpy() for p in m.parameters())
    hidden = x @ W_1.T + c_1
    return (hidden / (1 + np.exp(-hidden))) @ W_2.T + c_2


def random_flux(guidance_embed: bool, **changes) -> model.Flux:
    """A small FLUX in float64 whose every parameter is drawn at random; all sizes differ."""
    torch.manual_seed(5)
    sizes = dict(in_channels=12, out_channels=20, vec_in_dim=13, context_in_dim=17, hidden_size=42, num_heads=3)
    rest = dict(mlp_ratio=2.0, depth=1, depth_single_blocks=1, axes_dim=(2, 4, 8), theta=10_000, qkv_bias=True)
    flux = model.Flux(FluxParams(**(sizes | rest | changes), guidance_embed=guidance_embed)).double()
    with torch.no_grad():
        for p in flux.parameters():
            p.normal_(0, 0.3)
    return flux.requires_grad_(False)


# ---------------------------------------------------------------- Eq. (4.1)


@pytest.mark.equation("4.1")
@pytest.mark.parametrize("dim", [256, 22])
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.31, 0.987, 1.0, 3.5])  # 3.5 is a guidance
def test_cosines_then_sines_of_a_thousand_t(t, dim):
    emb = embeddings.timestep_embedding(torch.tensor([t, 0.5]), dim)
    assert emb.dtype == torch.float32
    # float32 angles of up to 3,500 radians are known to about 3500 · 6e-8
    assert np.abs(emb[0].numpy() - sinusoids(t, dim)).max() < 5e-4
    assert np.abs(emb[1].numpy() - sinusoids(0.5, dim)).max() < 5e-4


def test_time_zero_is_ones_then_zeros():
    emb = embeddings.timestep_embedding(torch.zeros(1), 10)
    assert emb[0].tolist() == [1.0] * 5 + [0.0] * 5, "cosines first: sines first would give zeros, then ones"


@settings(max_examples=20, deadline=None)
@given(t=st.floats(0, 1, width=32), half=st.integers(1, 70))
def test_every_pair_lies_on_the_unit_circle(t, half):
    cos, sin = embeddings.timestep_embedding(torch.tensor([t]), 2 * half).chunk(2, dim=-1)
    assert torch.allclose(cos**2 + sin**2, torch.ones(1, half), atol=1e-5)


def test_only_the_difference_of_two_times_tells_in_their_similarity():
    """emb(t) · emb(u) is a sum of cos(1000 (t - u) f_i): the same for every pair with the same distance."""
    t = torch.tensor([0.1, 0.4, 0.9])
    for gap in (0.002, 0.05):
        a, b = (embeddings.timestep_embedding(x, 256) for x in (t, t + gap))
        similar = (a * b).sum(-1) / 128
        assert torch.allclose(similar, similar[:1].expand(3), atol=1e-4)


def test_bfloat16_times_are_rounded():
    """Notes item 31: 0.99 becomes 988 when t is bfloat16, 992 when it is rounded after the multiplication."""
    assert (1000 * torch.tensor(0.99, dtype=torch.bfloat16)).item() == 988
    assert torch.tensor(1000 * 0.99).bfloat16().item() == 992
    assert (1000 * torch.tensor(0.987, dtype=torch.bfloat16)).item() == 988
    assert (1000 * torch.tensor(3.5, dtype=torch.bfloat16)).item() == 3504  # the number is exact, the product is not
    exact, first, after = embeddings.timestep_embedding(torch.tensor([0.99, 0.988, 0.992]), 256)
    for rounded in (first, after):
        assert 0.15 < (rounded - exact).norm() / exact.norm() < 0.5


def test_a_half_precision_time_is_embedded_in_float32():
    t = torch.tensor([0.75], dtype=torch.bfloat16)  # exact in bfloat16, and so is 750
    assert torch.equal(embeddings.timestep_embedding(t, 256), embeddings.timestep_embedding(t.float(), 256))


def test_an_odd_width_is_refused():
    with pytest.raises(AssertionError, match="dim = 7: must be even"):
        embeddings.timestep_embedding(torch.zeros(1), 7)


# ---------------------------------------------------------------- Eq. (4.2)


@pytest.mark.equation("4.2")
def test_two_linear_layers_with_a_silu_between():
    torch.manual_seed(1)
    m = embeddings.MLPEmbedder(11, 7).double()
    x = 3 * torch.randn(5, 11, dtype=torch.float64)
    assert np.abs(m(x).detach().numpy() - two_layers(m, x.numpy())).max() < 1e-12


# ---------------------------------------------------------------- Eq. (4.3)


@pytest.mark.equation("4.3")
@pytest.mark.parametrize("guidance_embed", [True, False])
def test_the_vector_is_the_sum_of_the_parts(guidance_embed):
    flux = random_flux(guidance_embed)
    t, w, y = torch.tensor([0.2, 0.9]), torch.tensor([3.5, 1.0]), torch.randn(2, 13, dtype=torch.float64)
    emb_t, emb_w = (embeddings.timestep_embedding(x, 256).double().numpy() for x in (t, w))
    expected = two_layers(flux.time_in, emb_t) + two_layers(flux.vector_in, y.numpy())
    if guidance_embed:
        expected = expected + two_layers(flux.guidance_in, emb_w)
    assert np.abs(flux.conditioning(t, y, w).numpy() - expected).max() < 1e-12


def test_every_term_of_the_vector_is_heard():
    flux = random_flux(True)
    t, w, y = torch.tensor([0.3]), torch.tensor([3.5]), torch.randn(1, 13, dtype=torch.float64)
    vec = flux.conditioning(t, y, w)
    for other in (flux.conditioning(t + 0.01, y, w), flux.conditioning(t, y + 1, w), flux.conditioning(t, y, w + 0.5)):
        assert (other - vec).norm() / vec.norm() > 0.01


def test_sines_before_cosines_loads_and_changes_the_vector():
    flux = random_flux(False)
    t, y = torch.tensor([0.7]), torch.randn(1, 13, dtype=torch.float64)
    right = flux.conditioning(t, y)
    halves = flux.time_in.in_layer.weight.chunk(2, dim=1)
    flux.load_state_dict({**flux.state_dict(), "time_in.in_layer.weight": torch.cat(halves[::-1], dim=1)}, strict=True)
    assert (flux.conditioning(t, y) - right).norm() / right.norm() > 0.3
