"""Checks of the exercises of notebook 05: fused matrices, counting parameters, the block, the last layer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flux_edu.modulation import ModulationOut, modulate


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def must_be_tensor(out: object, shape: tuple[int, ...]) -> None:
    assert isinstance(out, Tensor), f"your function returned {type(out).__name__}, it should return a tensor"
    assert out.shape == shape, f"your result has shape {tuple(out.shape)}, it should have shape {shape}"


# ---------------------------------------------------------------- 5.1


def two_linears(attn: Tensor, act: Tensor, W: Tensor, c: Tensor) -> Tensor:
    """linear2 without the concatenation: a matrix for what attention found, one for what the MLP made."""
    D = attn.shape[-1]
    return F.linear(attn, W[:, :D]) + F.linear(act, W[:, D:]) + c


def check_two_linears(answer: Callable) -> None:
    make = torch.Generator().manual_seed(51)
    attn, act, W, c = (torch.randn(s, generator=make).double() for s in ((2, 5, 6), (2, 5, 11), (6, 17), (6,)))
    right = two_linears(attn, act, W, c)
    out = answer(attn, act, W, c)
    must_be_tensor(out, right.shape)
    if close(out, right):
        return
    if close(out, right - c):
        raise AssertionError("the bias c is missing: concatenation and matrix are the sum of two products, plus c once")
    if close(out, right + c):
        raise AssertionError("the bias c is added twice: linear2 has one bias, not one a part")
    if close(out, F.linear(attn, W[:, -6:]) + F.linear(act, W[:, :-6]) + c):
        raise AssertionError("you gave the last columns to attention: attention comes first, so its columns are 0 to D")
    raise AssertionError("not the same numbers: which columns of W meet attn, and which meet act?")


# ---------------------------------------------------------------- 5.2


def single_block(
    x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, linear1: Callable, attend: Callable, linear2: Callable
) -> Tensor:
    """Eq. (5.1) to (5.4) around a given attention: `attend` takes q, k, v in one tensor (3D) and returns D."""
    D = x.shape[-1]
    qkvm = linear1(modulate(x, ModulationOut(shift, scale)))
    qkv, m = qkvm[..., : 3 * D], qkvm[..., 3 * D :]
    o = linear2(torch.cat([attend(qkv), F.gelu(m, approximate="tanh")], dim=-1))
    return x + gate * o


def check_single_block(answer: Callable) -> None:
    torch_state = torch.get_rng_state()
    try:
        torch.manual_seed(53)
        D, M = 6, 14
        x, (b, s, g) = torch.randn(2, 5, D).double(), torch.randn(3, 2, 1, D).double()
        linear1, linear2 = nn.Linear(D, 3 * D + M).double(), nn.Linear(D + M, D).double()
    finally:
        torch.set_rng_state(torch_state)

    def attend(qkv):
        assert qkv.shape[-1] == 3 * D, (
            f"attend was given {qkv.shape[-1]} channels, it takes q, k and v: the first 3D = {3 * D}"
        )
        q, k, v = qkv.chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v)

    def block(read=None, act=lambda m: F.gelu(m, approximate="tanh"), mlp_first=False, m_first=False):
        tilde = modulate(x, ModulationOut(b, s)) if read is None else read
        qkvm = linear1(tilde)
        m, qkv = qkvm.split([M, 3 * D], dim=-1) if m_first else qkvm.split([3 * D, M], dim=-1)[::-1]
        parts = [attend(qkv), act(m)]
        return linear2(torch.cat(parts[::-1] if mlp_first else parts, dim=-1))

    with torch.no_grad():
        right, out = x + g * block(), answer(x, b, s, g, linear1, attend, linear2)
        must_be_tensor(out, x.shape)
        if close(out, right):
            return
        for wrong, diagnosis in (
            (g * block(), "the residual is missing: the block adds to x, it does not replace it (5.4)"),
            (x + block(), "the gate is missing: x ← x + g ⊙ o (5.4)"),
            (x + g * block(act=lambda m: m), "the GELU is missing: only m passes through it, not the attention (5.3)"),
            (x + g * block(act=F.gelu), "that is the exact GELU; FLUX was trained with approximate='tanh'"),
            (x + g * block(act=F.silu), "that is SiLU; the MLP of a block has GELU, SiLU stands before the modulation"),
            (x + g * block(mlp_first=True), "you concatenated the MLP first: linear2's first D columns read attention"),
            (x + g * block(m_first=True), "you cut m off the front: linear1 gives q, k, v first and m last (5.2)"),
            (x + g * block(read=x), "x went into linear1 as it is: modulate it first (5.1)"),
            (modulate(x, ModulationOut(b, s)) + g * block(), "the residual carries x itself, not the modulated x̃"),
            (
                x + g * block(read=modulate(x, ModulationOut(s, b))),
                "shift and scale are swapped: it is ModulationOut(shift, scale)",
            ),
            (
                x + g * block(read=s * F.layer_norm(x, (D,), eps=1e-6) + b),
                "the 1 + before the scale is missing: x̃ = (1 + s) ⊙ LN(x) + b",
            ),
            (x + g * block(read=(1 + s) * x + b), "the layer norm is missing: x̃ = (1 + s) ⊙ LN(x) + b"),
        ):
            assert not close(out, wrong), diagnosis
    raise AssertionError("not the same numbers; go through (5.1) to (5.4) line by line and compare shapes")


# ---------------------------------------------------------------- 5.3


def count_single_block(D: int, K: int, ratio: float) -> int:
    """How many numbers a single-stream block holds: width D, heads of width K, MLP `ratio` times as wide."""
    M = int(ratio * D)
    linear1 = (3 * D + M) * D + (3 * D + M)
    linear2 = D * (D + M) + D
    modulation = 3 * D * D + 3 * D
    return linear1 + linear2 + modulation + 2 * K


def check_count_single_block(answer: Callable) -> None:
    for D, K, ratio in ((3072, 128, 4.0), (320, 64, 4.0), (60, 6, 2.5)):
        right, out = count_single_block(D, K, ratio), answer(D, K, ratio)
        off, M = right - out, int(ratio * D)
        told = f"for D = {D}, K = {K}, ratio = {ratio} you count {out:,}"
        assert off != 3 * D + M + D + 3 * D and out != right - (7 * D + M + 2 * K), (
            f"{told}: the biases are missing, every linear layer of the block has one"
        )
        assert off not in (2 * K, K, -2 * K), (
            f"{told}: look at QK norm again; the norms hold one scale of K numbers for queries and one for keys, "
            "shared by all heads"
        )
        assert off != 3 * D * (D + 1), f"{told}: the modulation is missing (3D × D and its bias)"
        assert -off != 3 * D * (D + 1), (
            f"{told}: you gave the block six modulations; a single block has one branch: three"
        )
        assert ratio == 4.0 or out != count_single_block(D, K, 4.0), f"{told}: the MLP's ratio is not always 4"
        assert off == 0, (
            f"{told}, it is {right:,}; sum linear1 (D → 3D + ratio·D), linear2 (D + ratio·D → D), modulation (D → 3D)"
            " and two scales of K, biases included"
        )


# ---------------------------------------------------------------- 5.4


def last_layer(x: Tensor, vec: Tensor, W_a: Tensor, c_a: Tensor, W: Tensor, c: Tensor) -> Tensor:
    """Eq. (5.5) with bare matrices."""
    shift, scale = F.linear(F.silu(vec), W_a, c_a)[:, None].chunk(2, dim=-1)
    return F.linear(modulate(x, ModulationOut(shift, scale)), W, c)


def check_last_layer(answer: Callable) -> None:
    make = torch.Generator().manual_seed(54)
    shapes = ((2, 5, 6), (2, 6), (12, 6), (12,), (7, 6), (7,))
    x, vec, W_a, c_a, W, c = (torch.randn(s, generator=make).double() for s in shapes)

    def variant(silu=True, one=1.0, swap=False, norm=True, bias=True):
        b, s = F.linear(F.silu(vec) if silu else vec, W_a, c_a)[:, None].chunk(2, dim=-1)
        b, s = (s, b) if swap else (b, s)
        normed = F.layer_norm(x, (6,), eps=1e-6) if norm else x
        return F.linear((one + s) * normed + b, W, c if bias else None)

    right, out = variant(), answer(x, vec, W_a, c_a, W, c)
    must_be_tensor(out, right.shape)
    if close(out, right):
        return
    for wrong, diagnosis in (
        (
            variant(swap=True),
            "shift and scale are swapped: the first half of the modulation is the shift (diffusers' is not)",
        ),
        (variant(silu=False), "the SiLU is missing: the modulation reads SiLU(vec)"),
        (variant(one=0.0), "the 1 + before the scale is missing: (1 + s) ⊙ LN(x) + b"),
        (variant(norm=False), "the layer norm is missing"),
        (variant(bias=False), "the bias c of the last linear layer is missing"),
    ):
        assert not close(out, wrong), diagnosis
    raise AssertionError("not the same numbers; chunk W_a SiLU(vec) + c_a in two, modulate, then W and c")


CHECKS = {
    "5.1": check_two_linears,
    "5.2": check_single_block,
    "5.3": check_count_single_block,
    "5.4": check_last_layer,
}
SOLUTIONS = {"5.1": two_linears, "5.2": single_block, "5.3": count_single_block, "5.4": last_layer}
