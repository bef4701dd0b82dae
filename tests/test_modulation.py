"""Chapter 4, second part: shift, scale, gate, and the norm they act on. Eq. (4.4) and (4.5)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_edu import modulation


def random_modulation(dim: int, double: bool) -> modulation.Modulation:
    torch.manual_seed(2)
    m = modulation.Modulation(dim, double).double()
    with torch.no_grad():
        for p in m.parameters():
            p.normal_()
    return m.requires_grad_(False)


# ---------------------------------------------------------------- Eq. (4.4)


@pytest.mark.equation("4.4")
@pytest.mark.parametrize("double", [True, False])
def test_shift_scale_gate_from_one_linear_layer(double):
    m, D, vec = random_modulation(7, double), 7, torch.randn(3, 7, dtype=torch.float64)
    v = vec.numpy()
    numbers = (v / (1 + np.exp(-v))) @ m.lin.weight.numpy().T + m.lin.bias.numpy()
    first, second = m(vec)
    parts = [first.shift, first.scale, first.gate] + ([second.shift, second.scale, second.gate] if double else [])
    assert second is None or double
    assert numbers.shape == (3, len(parts) * D)
    for i, part in enumerate(parts):
        assert part.shape == (3, 1, D)  # one number a picture and channel, the same for all tokens
        assert np.abs(part[:, 0].numpy() - numbers[:, i * D : (i + 1) * D]).max() < 1e-12


def test_gates_are_not_bounded():
    """Notes item 9: not a scalar, and no sigmoid holds it between 0 and 1."""
    first, second = random_modulation(11, True)(torch.randn(5, 11, dtype=torch.float64))
    gates = torch.cat([first.gate, second.gate], dim=-1)
    assert gates.min() < -1 and gates.max() > 2
    assert gates.std(dim=-1).min() > 0.5


def test_the_silu_stands_before_the_linear_layer():
    m, vec = random_modulation(7, False), torch.randn(3, 7, dtype=torch.float64)
    forgotten = torch.nn.functional.linear(vec, m.lin.weight, m.lin.bias)[:, None].chunk(3, dim=-1)
    assert (m(vec)[0].gate - forgotten[2]).norm() / forgotten[2].norm() > 0.3


# ---------------------------------------------------------------- Eq. (4.5)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return modulation.modulate(x, modulation.ModulationOut(shift, scale))


@pytest.mark.equation("4.5")
def test_modulate_by_hand():
    torch.manual_seed(3)
    x = 5 + 2 * torch.randn(2, 3, 7, dtype=torch.float64)
    shift, scale = torch.randn(2, 2, 1, 7, dtype=torch.float64)
    out = modulate(x, shift, scale)
    for b in range(2):
        for token in range(3):
            numbers = x[b, token].numpy()
            norm = (numbers - numbers.mean()) / np.sqrt(((numbers - numbers.mean()) ** 2).mean() + 1e-6)
            expected = (1 + scale[b, 0].numpy()) * norm + shift[b, 0].numpy()
            assert np.abs(out[b, token].numpy() - expected).max() < 1e-12


@settings(max_examples=20, deadline=None)
@given(D=st.integers(2, 40), stretch=st.floats(0.5, 50), move=st.floats(-9, 9), seed=st.integers(0, 9))
def test_only_the_pattern_of_a_token_comes_through(D, stretch, move, seed):
    """A layer norm forgets a token's mean and length: it has no numbers of its own to bring them back."""
    g = torch.Generator().manual_seed(seed)
    x, shift, scale = (torch.randn(1, n, D, generator=g, dtype=torch.float64) for n in (3, 1, 1))
    x = x.sigmoid() + 4 * torch.arange(D)  # never nearly equal
    out, moved = (modulate(tokens, shift, scale) for tokens in (x, stretch * x + move))
    assert torch.allclose(out, moved, atol=1e-4)  # not exact: ε = 1e-6 stands under the root


def test_no_shift_and_no_scale_leave_the_plain_norm():
    x, zero = torch.randn(2, 3, 11, dtype=torch.float64), torch.zeros(2, 1, 11, dtype=torch.float64)
    out = modulate(x, zero, zero)
    assert out.mean(-1).abs().max() < 1e-12 and (out.var(-1, correction=0) - 1).abs().max() < 1e-4


def test_swapped_shift_and_scale_have_the_same_shapes_and_another_result():
    torch.manual_seed(4)
    x = torch.randn(2, 3, 11, dtype=torch.float64)
    shift, scale = torch.randn(2, 2, 1, 11, dtype=torch.float64)
    right, wrong = modulate(x, shift, scale), modulate(x, scale, shift)
    assert right.shape == wrong.shape and (right - wrong).norm() / right.norm() > 0.5
