"""Exercises of chapter 3: wavelengths, rotation by complex numbers, ids of a reference picture, half-split pairs."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flux_edu.patchify import make_img_ids
from flux_edu.rope import rope_frequencies


def _close(answer: Tensor, right: Tensor) -> bool:
    return answer.shape == right.shape and torch.allclose(answer.to(right.dtype), right, rtol=1e-4, atol=1e-5)


def _is_tensor(answer: object, shape: tuple[int, ...]) -> Tensor:
    assert isinstance(answer, Tensor), f"return a tensor; this is a {type(answer).__name__}"
    assert answer.shape == shape, f"the shape is {tuple(answer.shape)}, it should be {shape}"
    assert answer.isfinite().all(), "some numbers are not finite"
    return answer


# ---------------------------------------------------------------- 3.1


def wavelengths(dim: int, theta: float) -> Tensor:
    return 2 * math.pi / rope_frequencies(dim, theta)


def check_wavelengths(answer: Callable[[int, float], Tensor]) -> None:
    for dim, theta in ((56, 10_000.0), (14, 700.0)):
        j = torch.arange(dim // 2, dtype=torch.float64)
        right = 2 * math.pi * theta ** (2 * j / dim)
        got = _is_tensor(answer(dim, theta), (dim // 2,)).double()
        assert not _close(got, right / (2 * math.pi)), (
            "you gave 1/ω_j: that turns one radian, a full turn has 2π of them"
        )
        assert not _close(got, 4 * math.pi**2 / right), "you gave 2π ω_j: a wavelength is 2π divided by the frequency"
        assert not _close(got, 1 / right * 2 * math.pi), "you gave the frequencies ω_j; the wavelength is 2π / ω_j"
        assert not _close(got, 2 * math.pi * theta ** (j / dim)), (
            "your exponent is j/dim: Eq. (3.1) has 2j/dim, so that the pairs of one axis span all of θ"
        )
        assert _close(got, right), f"for dim={dim}, theta={theta:g} pair 1 should need {right[1]:.4f}, not {got[1]:.4f}"


# ---------------------------------------------------------------- 3.2


def rotate_pairs(x: Tensor, pos: Tensor, theta: float) -> Tensor:
    a, b = x[:, 0::2], x[:, 1::2]
    angle = pos[:, None] * rope_frequencies(x.shape[1], theta).to(x.dtype)
    return torch.stack([angle.cos() * a - angle.sin() * b, angle.sin() * a + angle.cos() * b], dim=-1).flatten(-2)


def check_rotate_pairs(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    L, K, theta = 5, 14, 700.0
    x = torch.randn(L, K, generator=generator, dtype=torch.float64)
    pos = torch.tensor([0.0, 1, 2, 11, 30], dtype=torch.float64)
    angle = pos[:, None] * rope_frequencies(K, theta)
    c, s = angle.cos(), angle.sin()
    got = _is_tensor(answer(x.clone(), pos, theta), (L, K))
    assert not got.is_complex(), "the result is still complex: torch.view_as_real makes pairs of it again"
    got = got.double()

    def turned(a: Tensor, b: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return c * a - s * b, s * a + c * b

    def adjacent(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([a, b], dim=-1).flatten(-2)

    a, b = x[:, 0::2], x[:, 1::2]
    assert not _close(got, x), "nothing has turned: every pair turns by the angle p ω_j"
    assert not _close(got, torch.cat(turned(x[:, : K // 2], x[:, K // 2 :], c, s), dim=-1)), (
        "you paired channel j with j + K/2, half-split, as transformers' Llama does; FLUX pairs the neighbours 2j and"
        " 2j+1"
    )
    assert not _close(got, torch.cat(turned(a, b, c, s), dim=-1)), (
        "the rotation is right, but all first halves now stand before all second halves: interleave the pairs again"
    )
    assert not _close(got, adjacent(*turned(a, b, c, -s))), (
        "you turned the wrong way round: (a, b) becomes (cos a - sin b, sin a + cos b)"
    )
    assert not _close(got, adjacent(*turned(a, b, s, c))), "sine and cosine are swapped: at angle 0 nothing may turn"
    assert not _close(got, adjacent(*turned(a, b, c[1:2], s[1:2]))), (
        "every token turned by ω_j alone: the angle is position times frequency"
    )
    assert _close(got, adjacent(*turned(a, b, c, s))), "the numbers differ from R(p) x of Eq. (3.3)"


# ---------------------------------------------------------------- 3.3


def kontext_ids(h: int, w: int) -> Tensor:
    target, reference = make_img_ids(1, h, w), make_img_ids(1, h, w)
    reference[..., 0] = 1
    return torch.cat([target, reference], dim=1)


def check_kontext_ids(answer: Callable[[int, int], Tensor]) -> None:
    h, w = 3, 5
    got = _is_tensor(answer(h, w), (1, 2 * h * w, 3)).float()
    first, second = got[0, : h * w], got[0, h * w :]
    right = make_img_ids(1, h, w)[0]
    assert not torch.equal(first, right[:, [0, 2, 1]]), "row and column are swapped: an id is (axis 0, row, column)"
    assert not (torch.equal(second, right) and (first[:, 0] == 1).all()), (
        "the order is the other way: the picture being painted comes first and keeps 0 on axis 0"
    )
    assert torch.equal(first, right), "the first h·w ids are those of the picture being painted: (0, row, column)"
    assert not torch.equal(second, right), (
        "both pictures have the same ids: every token of the reference would be confused with the one it stands on;"
        " axis 0 tells them apart"
    )
    assert (second[:, 0] != 0).any(), (
        "axis 0 of the reference is still 0 and its places are moved instead: FLUX.1 Kontext keeps the places and sets"
        " axis 0 to 1"
    )
    assert torch.equal(second, torch.cat([torch.ones(h * w, 1), right[:, 1:]], dim=1)), (
        "the reference's ids should be (1, row, column)"
    )


# ---------------------------------------------------------------- 3.4


def halves_to_neighbours(W: Tensor) -> Tensor:
    return rearrange(W, "(half j) d -> (j half) d", half=2)


def check_halves_to_neighbours(answer: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(4)
    K, D = 12, 7
    W = torch.randn(K, D, generator=generator)
    got = _is_tensor(answer(W.clone()), (K, D))
    assert not torch.equal(got, W), "the rows have not moved: channel j + K/2 must become the neighbour of channel j"
    assert not torch.equal(got, rearrange(W, "(j half) d -> (half j) d", half=2)), (
        "that is the way back, from adjacent pairs to halves: new row 2j is old row j, new row 2j+1 is old row j + K/2"
    )
    assert not torch.equal(got, rearrange(W, "(half j) d -> (j half) d", half=2).roll(1, 0)), (
        "right but for one row: the pairs begin with an even channel"
    )
    rows = {tuple(row) for row in got.tolist()}
    assert rows == {tuple(row) for row in W.tolist()}, "the rows are not W's rows any more: only their order may change"
    assert torch.equal(got, halves_to_neighbours(W)), (
        "the rows are all there in another order: new row 2j is old row j, new row 2j+1 is old row j + K/2"
    )


CHECKS = {
    "3.1": check_wavelengths,
    "3.2": check_rotate_pairs,
    "3.3": check_kontext_ids,
    "3.4": check_halves_to_neighbours,
}
SOLUTIONS = {"3.1": wavelengths, "3.2": rotate_pairs, "3.3": kontext_ids, "3.4": halves_to_neighbours}
